"""Demonstrations of searching, made from a corpus."""
