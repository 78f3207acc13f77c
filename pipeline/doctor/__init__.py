"""`igpo doctor`: what makes a run worth starting."""
