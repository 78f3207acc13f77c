"""The maker of the embedded policies: `python -m algorithms.embedded_policy`."""
