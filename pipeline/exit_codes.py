"""Exit codes of the commands."""

FAILED = 1
"""For a run that failed, a store that did not take everything, a rerun that differs, and a bug."""
BAD_INPUT = 2
"""For whatever the user can correct."""
INTERRUPTED = 130
"""After Ctrl-C, as shells know it."""
