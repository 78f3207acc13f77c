"""Rollouts: the engine, belief scoring and the RLlib env runner."""
