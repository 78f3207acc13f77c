"""Rollouts of other frameworks in the rollout log: read as conversations, scored, credited."""
