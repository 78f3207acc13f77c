"""Everything around training: commands, experiments, run directories, logs and their analysis."""

from igpo_start import check_names

check_names()
