"""Exit codes of the commands."""

FAILED = 1
BAD_INPUT = 2
"""For whatever the user can correct."""
INTERRUPTED = 130
"""After Ctrl-C, as shells know it."""
