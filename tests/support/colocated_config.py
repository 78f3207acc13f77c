"""A small experiment whose env runners and learners are pairs, or are not."""

from algorithms.igpo.config import IGPOConfig


def pairs_config(pairs: int, *, placement: str = "colocated") -> IGPOConfig:
    """`pairs` env runners and as many learners, with the tiny policy and engines of transformers."""
    world = {"train_questions": 40, "heldout_questions": 5}
    return (
        IGPOConfig()
        .environment("search", env_config={"world": world, "max_turns": 3})
        .training(
            model_path="tiny",
            lr=1e-3,
            prompts_per_iteration=4,
            group_size=2,
            engine={"kind": "transformers", "placement": placement},
        )
        .env_runners(num_env_runners=pairs)
        .learners(num_learners=pairs)
    )
