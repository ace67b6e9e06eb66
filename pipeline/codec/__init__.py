"""Bytes of the field and what they hold: transactions, Merkle paths, BEEF, Extended Format. One error: `Malformed`."""
