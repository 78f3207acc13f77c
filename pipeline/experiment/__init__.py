"""From an experiment file to validated experiments."""
