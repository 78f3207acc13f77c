"""The directory of a run: metadata, checkpoints, provenance."""
