"""What every stage stands on: Faust, Kafka, local stores, HTTP, child processes."""
