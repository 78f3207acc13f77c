"""How rollouts become updates."""
