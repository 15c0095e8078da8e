"""The run directory: manifest, records, checkpoints, and what resuming needs."""
