"""The learner: from rollouts to token batches, losses and optimizer steps."""
