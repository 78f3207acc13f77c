"""Whether iterations of a run come out again, bit by bit."""
