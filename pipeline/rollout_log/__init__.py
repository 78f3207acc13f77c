"""The rollout log: rollouts and the credit that training used, as Parquet tables down to the grain
of a turn."""
