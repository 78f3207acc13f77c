"""The world that the agents act in."""
