"""Commands over the logs of runs: ask, look, compute again, verify."""
