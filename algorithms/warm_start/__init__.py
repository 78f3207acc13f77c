"""Supervised start of the embedded policy on demonstrations of a noisy expert: `python -m algorithms.warm_start --out DIR`."""
