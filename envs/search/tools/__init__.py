"""Tools, the functions that a decision may call."""
