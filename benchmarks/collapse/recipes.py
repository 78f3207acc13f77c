"""Runs of the embedded world that test the watch: ways to ruin a run, and ways that should go well.

The thresholds were there before any of these was trained.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from pipeline.experiment.experiment import Experiment, load_experiment

ITERATIONS = 24
HARD = {
    "model_path": "tiny_graded",
    "env_config.world.graded_evidence": 1.0,
    "env_config.world.hops": {3: 0.5, 4: 0.5},
    "env_config.max_turns": 7,
}
"""The study's hardest world (conf/study.yaml)."""
NO_BOUNDS = {"grad_clip": None, "num_epochs": 4, "clip_low": 100.0, "clip_high": 100.0, "kl_coeff": 0.0}
NEGATIVE = "benchmarks.collapse.estimators:negative_only"
REVERSED = "benchmarks.collapse.estimators:reversed_outcome"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to train: an experiment file, and settings (dotted keys) laid over it."""

    name: str
    config: str
    settings: dict[str, Any] = field(default_factory=dict)

    def experiment(self, seed: int) -> Experiment:
        """Makes the experiment of one seed, which is also another world."""
        settings = self.settings | {
            "evaluation_interval": None,
            "seed": seed,
            "env_config.world.seed": 1000 + seed,
        }
        return load_experiment(self.config, [f"{key}={json.dumps(value)}" for key, value in settings.items()])


RECIPES = [
    Recipe("igpo", "conf/igpo.yaml"),
    Recipe("igpo_lr_1e-2", "conf/igpo.yaml", {"lr": 1e-2}),
    Recipe("entropy_bonus", "conf/igpo.yaml", {"entropy_coeff": 0.3, "lr": 1e-3}),
    Recipe("negative_only", "conf/igpo.yaml", {"preset": NEGATIVE, "lr": 1e-3}),
    Recipe("no_bounds", "conf/igpo.yaml", {**NO_BOUNDS, "lr": 2e-3}),
    Recipe("ig_only", "conf/presets/ig_only.yaml", {"lr": 2e-3}),
    Recipe("reversed", "conf/igpo.yaml", {"preset": REVERSED, "lr": 5e-4}),
    Recipe("grpo_lr_1e-2", "conf/presets/grpo.yaml", {"lr": 1e-2}),
    Recipe("igpo_lr_1e-3", "conf/igpo.yaml", {"lr": 1e-3}),
    Recipe("grpo", "conf/presets/grpo.yaml"),
    Recipe("dapo", "conf/presets/dapo.yaml"),
    Recipe("igpo_returns", "conf/presets/igpo_returns.yaml"),
    Recipe("hard_grpo_lr_1e-3", "conf/presets/grpo.yaml", {**HARD, "lr": 1e-3}),
    Recipe("hard_ig_only_lr_1e-3", "conf/presets/ig_only.yaml", {**HARD, "lr": 1e-3}),
]
