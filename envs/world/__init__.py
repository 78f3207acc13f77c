"""The generated multi-hop world."""
