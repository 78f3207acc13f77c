"""Readers of questions and corpora, the prompt cursor, and the generated multi-hop world."""
