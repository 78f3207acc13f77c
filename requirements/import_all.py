"""Imports what training, an env runner, tracking and the report import, so that their bytecode is written."""

from __future__ import annotations

import importlib
import tempfile

MODULES = (
    "pipeline.training.launch",
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
    from envs.runner.ahead import import_ahead

    for name in MODULES:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        import_ahead({"folder": folder, "runners": 1, "cpus": 1, "engine": "vllm"})


if __name__ == "__main__":
    main()
