"""From experiments to finished runs."""
