"""Tools that a decision may call."""
