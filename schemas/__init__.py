"""The records that flow between stages, and what they are made of. Knows nothing else."""
