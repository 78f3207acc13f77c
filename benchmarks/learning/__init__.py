"""What the learner's side costs: credit, the update, adapters, and a whole step beside TRL's."""
