"""The learner's weights as plain Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms.igpo.remote import on_learners

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup


def export_hf(learners: LearnerGroup, module_ids: list[str], tokenizer: Any, folder: Path) -> None:
    """Writes `folder/MODULE_ID/` for each module: weights, configuration and tokenizer.

    Args:
        learners: the learners; the first one writes the weights.
        module_ids: ids of the modules.
        tokenizer: the tokenizer that all modules share.
        folder: where to write; made where it is missing.
    """
    target = str(Path(folder).absolute())

    def export(learner):
        for module_id in learner.module.keys():  # noqa: SIM118 (not a dict)
            module = learner.module[module_id].unwrapped()
            if not learner._learner_index:
                module.save_pretrained(f"{target}/{module_id}")
            elif learner.config.shard_learner:
                module.save_pretrained(None)  # takes part in gathering the weights

    on_learners(learners, export)
    for module_id in module_ids:
        tokenizer.save_pretrained(f"{target}/{module_id}")
