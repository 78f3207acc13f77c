"""From rollouts to updates: credit, the IGPO algorithm, warm start, the makers of the embedded policies."""

from igpo_start import check_names

check_names()
