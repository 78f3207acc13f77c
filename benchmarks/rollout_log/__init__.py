"""What the rollout log costs a run, and how fast its named queries are."""
