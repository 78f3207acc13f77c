"""RLlib algorithm: config, training step, connectors, learner, loss, module."""
