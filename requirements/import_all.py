"""Imports what training, an env runner, tracking and the report import, so that their bytecode is written."""

from __future__ import annotations

import importlib

MODULES = (
    "pipeline.training.launch",
    "envs.runner.env_runner",
    "pipeline.analysis.report",
    "pipeline.viewer.browse",
    "algorithms.igpo.learner.learner",
    "mlflow.tracking.client",
    "mlflow.store.tracking.sqlalchemy_store",
    "ray.dashboard.agent",
    "ray.autoscaler._private.monitor",
    "transformers.models.llama.modeling_llama",
)


def main() -> None:
    from envs.engine.vllm import import_vllm

    for name in MODULES:
        importlib.import_module(name)
    import_vllm("float32")


if __name__ == "__main__":
    main()
