// The reference overlay engine on payloads of a file, with a storage in memory.
// node submit.mjs FILE: a payload a line, in hexadecimal, each for one overlay topic, which stands before it.
// Reads lines from standard input, `no-spv` or `whole`, and submits all payloads anew for each; writes a line of JSON:
// {submitted, admitted, seconds, cpu_s}. The first line it writes names what it is.
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { Engine } from '@bsv/overlay'
import { Transaction } from '@bsv/sdk'

const versionOf = name => JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version

const place = (topic, txid, outputIndex) => `${topic} ${txid} ${outputIndex}`

// What the engine's own storage keeps in tables, in maps: outputs by topic and outpoint, and payloads by txid, once.
class MemoryStorage {
  outputs = new Map()
  places = new Map() // by txid
  unspent = new Map() // by topic
  beefs = new Map()
  applied = new Set()
  interactions = new Map()

  #shown (output, includeBEEF) {
    return includeBEEF ? { ...output, beef: this.beefs.get(output.txid) } : output
  }

  #of (txid) {
    return [...(this.places.get(txid) ?? [])].map(at => this.outputs.get(at))
  }

  async insertOutput ({ beef, ...output }) {
    const { topic, txid, outputIndex } = output
    const at = place(topic, txid, outputIndex)
    if (!this.beefs.has(txid)) this.beefs.set(txid, beef)
    if (!this.places.has(txid)) this.places.set(txid, new Set())
    if (!this.unspent.has(topic)) this.unspent.set(topic, new Set())
    this.outputs.set(at, output)
    this.places.get(txid).add(at)
    if (!output.spent) this.unspent.get(topic).add(at)
  }

  async findOutput (txid, outputIndex, topic, spent, includeBEEF = false) {
    const found = topic !== undefined
      ? this.outputs.get(place(topic, txid, outputIndex))
      : this.#of(txid).find(output => output.outputIndex === outputIndex)
    if (found === undefined || (spent !== undefined && found.spent !== spent)) return null
    return this.#shown(found, includeBEEF)
  }

  async findOutputsForTransaction (txid, includeBEEF = false) {
    return this.#of(txid).map(output => this.#shown(output, includeBEEF))
  }

  async findUTXOsForTopic (topic, since = 0, limit = Infinity, includeBEEF = false) {
    const found = [...(this.unspent.get(topic) ?? [])].map(at => this.outputs.get(at))
    return found
      .filter(output => output.score >= since)
      .sort((one, other) => one.score - other.score)
      .slice(0, limit)
      .map(output => this.#shown(output, includeBEEF))
  }

  async deleteOutput (txid, outputIndex, topic) {
    const at = place(topic, txid, outputIndex)
    this.outputs.delete(at)
    this.unspent.get(topic)?.delete(at)
    this.places.get(txid)?.delete(at)
    if (this.places.get(txid)?.size === 0) {
      this.places.delete(txid)
      this.beefs.delete(txid)
    }
  }

  async markUTXOAsSpent (txid, outputIndex, topic) {
    const at = place(topic, txid, outputIndex)
    const output = this.outputs.get(at)
    if (output !== undefined) output.spent = true
    this.unspent.get(topic)?.delete(at)
  }

  async updateConsumedBy (txid, outputIndex, topic, consumedBy) {
    const output = this.outputs.get(place(topic, txid, outputIndex))
    if (output !== undefined) output.consumedBy = consumedBy
  }

  async updateTransactionBEEF (txid, beef) {
    this.beefs.set(txid, beef)
  }

  async updateOutputBlockHeight (txid, outputIndex, topic, blockHeight) {
    const output = this.outputs.get(place(topic, txid, outputIndex))
    if (output !== undefined) output.blockHeight = blockHeight
  }

  async insertAppliedTransaction ({ txid, topic }) {
    this.applied.add(`${topic} ${txid}`)
  }

  async doesAppliedTransactionExist ({ txid, topic }) {
    return this.applied.has(`${topic} ${txid}`)
  }

  async updateLastInteraction (host, topic, since) {
    this.interactions.set(`${topic} ${host}`, since)
  }

  async getLastInteraction (host, topic) {
    return this.interactions.get(`${topic} ${host}`) ?? 0
  }
}

// The rule of tm_anytx, as a manager of the engine learns of a transaction.
const anyTx = {
  identifyAdmissibleOutputs: async beef => ({
    outputsToAdmit: Transaction.fromBEEF(beef).outputs.map((_, vout) => vout),
    coinsToRetain: []
  }),
  getDocumentation: async () => '',
  getMetaData: async () => ({ name: 'anytx', shortDescription: 'Every output.' })
}

const tracker = { isValidRootForHeight: async () => true, currentHeight: async () => 10_000_000 }

// The engine logs what fails, and goes on.
const logger = {
  ...console,
  error: (...said) => {
    console.error(...said)
    process.exitCode = 1
    process.exit()
  }
}

const payloads = readFileSync(process.argv[2], 'utf8').trim().split('\n').map(line => {
  const [topic, hex] = line.split(' ')
  return { beef: Array.from(Buffer.from(hex, 'hex')), topics: [topic] }
})
const managers = Object.fromEntries(payloads.map(({ topics: [topic] }) => [topic, anyTx]))
const verify = Transaction.prototype.verify

const submitAll = async mode => {
  const engine = new Engine(managers, {}, new MemoryStorage(), tracker)
  engine.logger = logger
  let admitted = 0
  const used = process.cpuUsage()
  const began = process.hrtime.bigint()
  for (const payload of payloads) {
    const steak = await engine.submit(payload, undefined, mode)
    admitted += steak[payload.topics[0]].outputsToAdmit.length
  }
  const seconds = Number(process.hrtime.bigint() - began) / 1e9
  const { user, system } = process.cpuUsage(used)
  return { submitted: payloads.length, admitted, seconds, cpu_s: (user + system) / 1e6 }
}

const write = value => process.stdout.write(JSON.stringify(value) + '\n')

write(`@bsv/overlay ${versionOf('@bsv/overlay')}, @bsv/sdk ${versionOf('@bsv/sdk')}, Node ${process.versions.node}`)
for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  // What `historical-tx-no-spv` leaves out is the call of `verify`. Versions before that mode have no way to say so.
  Transaction.prototype.verify = line === 'no-spv' ? async () => true : verify
  write(await submitAll(line === 'no-spv' ? 'historical-tx-no-spv' : 'current-tx'))
}
