// Another opinion: what the TypeScript SDK says of a payload.
// Reads lines of JSON {beef: hex, roots: [[height, root as display hex]], tip: height}, writes one line for each:
// {txid, ef} where it verifies, {txid, error} where it is read and refused, {error} where it is not read.
import { createInterface } from 'node:readline'
import { Transaction, Utils } from '@bsv/sdk'

const opinion = async ({ beef, roots, tip }) => {
  const known = new Set(roots.map(([height, root]) => `${height}:${root}`))
  const tracker = {
    isValidRootForHeight: async (root, height) => known.has(`${height}:${root}`),
    currentHeight: async () => tip
  }
  let tx
  try {
    tx = Transaction.fromBEEF(Uint8Array.from(Buffer.from(beef, 'hex')))
  } catch (error) {
    return { error: String(error?.message ?? error) }
  }
  const txid = tx.id('hex')
  try {
    if (!(await tx.verify(tracker))) return { txid, error: 'verify says false' }
    return { txid, ef: tx.merklePath === undefined ? Utils.toHex(tx.toEF()) : '' }
  } catch (error) {
    return { txid, error: String(error?.message ?? error) }
  }
}

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  process.stdout.write(JSON.stringify(await opinion(JSON.parse(line))) + '\n')
}
