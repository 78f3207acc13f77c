"""Credit computed again over logged rollouts, and what a turn was worth."""
