// Times the TypeScript SDK: microseconds to parse and to verify each payload of a set, a line of JSON a set.
// Reads one JSON document: {roots: {height: display hex}, tip, sets: {name: [beef hex, ...]}, rounds}.
import { readFileSync } from 'node:fs'
import { Transaction } from '@bsv/sdk'

const { roots, tip, sets, rounds } = JSON.parse(readFileSync(process.argv[2]))
const tracker = {
  isValidRootForHeight: async (root, height) => roots[height] === root,
  currentHeight: async () => tip
}

for (const [name, payloads] of Object.entries(sets)) {
  const beefs = payloads.map(hex => Uint8Array.from(Buffer.from(hex, 'hex')))
  let parse = Infinity
  let whole = Infinity
  for (let round = 0; round < rounds; round++) {
    let began = process.hrtime.bigint()
    for (const beef of beefs) Transaction.fromBEEF(beef)
    parse = Math.min(parse, Number(process.hrtime.bigint() - began) / 1000 / beefs.length)
    began = process.hrtime.bigint()
    for (const beef of beefs) {
      if (!(await Transaction.fromBEEF(beef).verify(tracker))) throw new Error(`${name}: not valid`)
    }
    whole = Math.min(whole, Number(process.hrtime.bigint() - began) / 1000 / beefs.length)
  }
  console.log(JSON.stringify({ name, parse, whole }))
}
