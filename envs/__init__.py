"""The environment side: data, generated world, retrieval, engines, the search environment, and rollouts."""
