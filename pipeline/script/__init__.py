"""Scripts: who may spend a coin (docs/decisions/scripts.md)."""
