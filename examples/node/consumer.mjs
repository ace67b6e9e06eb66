// Read what becomes of requests with KafkaJS, in a consumer group of your own.
//
//   node consumer.mjs               until Ctrl-C, going on where this group left off
//   node consumer.mjs REQUEST_ID    until that request is decided
import { Kafka, logLevel } from 'kafkajs'

const brokers = (process.env.BEEFLINE_KAFKA_BOOTSTRAP ?? '127.0.0.1:9092').split(',')
const prefix = process.env.BEEFLINE_TOPICS_PREFIX ?? 'beef.'
const awaited = process.argv[2]

const kafka = new Kafka({ clientId: 'beefline-example', brokers, logLevel: logLevel.ERROR })
const consumer = kafka.consumer({
  groupId: `${prefix}example-node`, // your application's name
  readUncommitted: false // read-committed: what was aborted never happened
})
const decided = new Set(['applied', 'rejected', 'parked'])
const revisions = new Map() // keep this with your own data, by result id

await consumer.connect()
await consumer.subscribe({ topic: `${prefix}results`, fromBeginning: true })
process.once('SIGINT', stop)

await consumer.run({
  // Offsets are committed after this has returned: what it throws on comes again.
  eachMessage: async ({ message }) => {
    const result = JSON.parse(message.value.toString())
    if (result.revision <= (revisions.get(result.id) ?? -1)) return // of one id the highest revision stands
    revisions.set(result.id, result.revision)
    console.log(result.outcome, result.txid, result.context, result.code ?? '', result.request_ids.join(','))
    if (result.request_ids.includes(awaited) && decided.has(result.outcome)) setImmediate(stop)
  }
})

async function stop () {
  await consumer.disconnect() // commits, and hands the partitions back
}
