"""How fast rollouts are sampled and scored, and what keeps the engine waiting."""
