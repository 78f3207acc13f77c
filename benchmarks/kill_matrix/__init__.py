"""Kills processes of small training runs, lets the runs go on, and counts what was lost (`__main__`)."""
