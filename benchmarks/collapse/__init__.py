"""How early and how truly the collapse watch warns: runs that fell and runs that did not, and a report."""
