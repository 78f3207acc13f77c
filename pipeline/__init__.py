"""Everything around training: commands, experiments, run directories, logs and their analysis."""
