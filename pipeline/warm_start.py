"""`igpo warm-start`: supervised fine-tuning of an experiment's model on demonstrations, before reinforcement
learning.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from envs.durable import write_folder
from envs.errors import InputError

if TYPE_CHECKING:
    from algorithms.igpo.learner.token_batch import Row
    from algorithms.igpo.model.causal_lm import HFCausalLM
    from algorithms.warm_start.fine_tune import FineTuner, FineTuneSettings
    from envs.demonstrations.demonstration import Demonstration
    from envs.search.task import SearchTask
    from pipeline.experiment.experiment import Experiment

NOTE = "warm_start.json"


@dataclass
class WarmStart:
    """A warm start that is ready to run."""

    task: SearchTask
    tuner: FineTuner
    """Holds the model and the demonstrations to train on."""
    heldout: list[Row]
    """Demonstrations that only measure."""
    note: dict[str, Any]
    """Facts about the warm start, stored with the model."""
    losses: list[float] = field(default_factory=list)
    """Mean loss of the held-out demonstrations: before, then after each epoch."""

    @property
    def num_updates(self) -> int:
        return self.tuner.num_updates

    def measure(self) -> float:
        """Measures the held-out loss, nats per token, and appends it to `losses`."""
        from algorithms.igpo.learner.token_batch import join_rows

        self.losses.append(self.tuner.loss(join_rows(self.heldout)))
        return self.losses[-1]

    def save(self, folder: Path, updates: int) -> None:
        """A Hugging Face folder with tokenizer, and `warm_start.json`; whole or not at all."""
        note = self.note | {
            "updates": updates,
            "updates_planned": self.num_updates,
            "heldout_loss": self.losses,
        }

        def fill(partial: Path) -> None:
            self.tuner.module.save_pretrained(str(partial))
            self.task.protocol.tokenizer.save_pretrained(partial)
            (partial / NOTE).write_text(json.dumps(note, indent=1, ensure_ascii=False), encoding="utf-8")

        write_folder(folder, fill)


def prepare(
    experiment: Experiment,
    source: str,
    settings: FineTuneSettings,
    *,
    heldout_share: float,
    status: Callable[[str], None],
) -> WarmStart:
    """Reads the demonstrations of `source`, plays them in the experiment's environment and loads its model.

    Raises:
        InputError: an error in the experiment or the demonstrations, or a demonstration of a held-out
            question.
    """
    import torch

    from algorithms.igpo.learner.token_batch import join_rows
    from algorithms.warm_start.demonstrated import play_all
    from algorithms.warm_start.fine_tune import FineTuner
    from envs.demonstrations.demonstration import load_demonstrations
    from envs.search.task import SearchTask

    status("reading the demonstrations ...")
    demonstrations = load_demonstrations(source, experiment.env_settings.fields)
    config = experiment.algorithm_config()
    if len(config.policies) > 1:
        raise InputError("a warm start trains one model: give an experiment whose roles share a policy")
    task = SearchTask(config.env_settings())
    _refuse_heldout_questions(demonstrations, task, source)
    status(f"playing {len(demonstrations)} demonstrations ...")
    rows, dropped = play_all(task, demonstrations)
    train, heldout = _split(rows, heldout_share, settings.seed)
    status(f"loading {config.model_path} ...")
    spec = config.get_default_rl_module_spec()
    spec.observation_space = spec.action_space = config.observation_space
    try:
        module = cast("HFCausalLM", spec.build())
    except (OSError, ValueError) as error:
        raise InputError(
            f"the model {config.model_path} can't be loaded: {' '.join(str(error).split())}"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    note = {
        "model": config.model_path,
        "demonstrations": source,
        "played": len(rows),
        "heldout": len(heldout),
        "dropped": dict(dropped),
        "settings": asdict(settings),
        "task": task.settings.model_dump(mode="json", exclude={"tokenizer"}),
    }
    return WarmStart(task, FineTuner(module, join_rows(train), settings, device), heldout, note)


def check_folder(folder: Path) -> None:
    """Makes the parent of `folder`. Raises InputError where `folder` exists or can't be written."""
    if folder.exists():
        raise InputError(f"{folder} exists: give a folder that does not")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder.parent} can't be made: {error.strerror}") from error
    if not os.access(folder.parent, os.W_OK):
        raise InputError(f"{folder.parent} can't be written to: give another folder")


def _refuse_heldout_questions(demonstrations: list[Demonstration], task: SearchTask, source: str) -> None:
    from envs.data.questions import folded

    heldout = {folded(question.text) for question in task.heldout_questions}
    shared = [one.question.text for one in demonstrations if folded(one.question.text) in heldout]
    if shared:
        raise InputError(
            f"{len(shared)} demonstrations of {source} are held-out questions of the experiment (first: "
            f"{shared[0]!r}): what is taught there could not be measured afterwards; set "
            "env_config.heldout_questions to other ones"
        )


def _split(rows: list[Row], heldout_share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(to train on, held out), each numbered from 0."""
    import numpy as np

    size = round(heldout_share * len(rows))
    if not 0 < size < len(rows):
        raise InputError(
            f"{len(rows)} demonstrations with --heldout-share {heldout_share:g} leave {len(rows) - size} to "
            f"train on and {size} held out: give more, or another share"
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    heldout, train = ([rows[k] for k in part] for part in np.split(order, [size]))
    for part in (train, heldout):
        for number, row in enumerate(part):
            row.sequence_id = number
    return train, heldout
