"""The Kafka topics: each declared once, with its reasons."""
