"""Belief scoring on the learner's side."""
