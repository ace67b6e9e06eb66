// Submit one BEEF with KafkaJS: the bytes in the value, the request in the headers.
//
//   node producer.mjs ../payloads/generated-hello.beef tm_helloworld
import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { Kafka, Partitioners, logLevel } from 'kafkajs'

const brokers = (process.env.BEEFLINE_KAFKA_BOOTSTRAP ?? '127.0.0.1:9092').split(',')
const prefix = process.env.BEEFLINE_TOPICS_PREFIX ?? 'beef.'
const [file, ...topics] = process.argv.slice(2)

// The value is bytes: no hexadecimal, no base64, no JSON.
const beef = Buffer.from((await readFile(file, 'utf8')).trim(), 'hex')
// Yours to choose; every result about this request names it.
const requestId = randomUUID()

const kafka = new Kafka({ clientId: 'beefline-example', brokers, logLevel: logLevel.ERROR })
const producer = kafka.producer({
  createPartitioner: Partitioners.DefaultPartitioner, // murmur2, as Java clients: one key, one partition
  idempotent: true, // implies acks=all: confirmed means kept, and a retry does not write twice
  maxInFlightRequests: 1
})

await producer.connect()
try {
  const headers = { 'request-id': requestId }
  if (topics.length > 0) headers.topics = JSON.stringify(topics) // without: what the installation takes by default
  const [written] = await producer.send({
    topic: `${prefix}ingest`,
    messages: [{ key: requestId, value: beef, headers }]
  })
  console.log(`request ${requestId} is ${written.topicName}/${written.partition}/${written.baseOffset}`)
} finally {
  await producer.disconnect()
}
