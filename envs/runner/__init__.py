"""Rollouts: the loop over engines and tools, the record of a rollout, and RLlib's env runner."""
