"""The warm start: look-up practice until the skill is there, then batches of several kinds of sequences,
phase by phase.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from algorithms.embedded_policy.parts import Parts
from algorithms.embedded_policy.sequences import Sequence, SequenceMaker
from envs.search.protocols.tiny import TinyProtocol
from envs.world.config import WorldSettings
from envs.world.expert import Habits
from envs.world.world import World, build_world


class LookupFailed(RuntimeError):
    """The policy did not learn to read facts out of documents: training on demonstrations would be
    of no use.
    """


@dataclass(frozen=True)
class Part:
    """How many sequences of a kind a batch holds, and what their mean loss weighs in the batch's."""

    sequences: int
    weight: float = 1.0


@dataclass(frozen=True)
class Phase:
    """`parts` by kind: the methods of `algorithms.embedded_policy.parts.Parts`."""

    name: str
    steps: int
    parts: dict[str, Part]


@dataclass(frozen=True)
class WarmStartSettings:
    """Defaults are the `tiny` policy's.

    `graded_evidence` is that of a share `graded_worlds` of the worlds; the rest have none. `habits` are the
    expert's in
    demonstrations: how much is left for reinforcement learning to mend. `hops` are the shares of questions by
    hops in training. Learning rates rise over `warm_up_steps` and fall to 0 over the last 1 / `decay` of the
    phases.
    """

    seed: int = 0
    max_lookup_steps: int = 600
    phases: tuple[Phase, ...] = (
        Phase(
            "demonstrations",
            steps=1500,
            parts={
                "demonstrations": Part(10),
                "leads": Part(6),
                "leads_through_notes": Part(3),
                "beliefs": Part(8),
                "lookups": Part(4),
            },
        ),
    )
    batch_size: int = 32
    entities: int = 60
    graded_evidence: float = 0.8
    graded_worlds: float = 0.5
    hops: dict[int, float] = field(default_factory=lambda: {1: 0.2, 2: 0.35, 3: 0.25, 4: 0.2})
    habits: Habits = Habits(
        give_up=0.1, give_up_bored=0.65, repeat=0.05, stray=0.08, overshoot=0.05, misread=0.1
    )
    matrix_learning_rate: float = 0.02
    other_learning_rate: float = 3e-3
    warm_up_steps: int = 0
    decay: float = 1.5


_KEPT = {"searches": Part(6), "leads": Part(6), "short_lookups": Part(3)}
GRADED = WarmStartSettings(
    max_lookup_steps=0,
    phases=(
        Phase("forecasts", steps=350, parts={"forecasts": Part(24, weight=3.0), **_KEPT}),
        Phase(
            "early beliefs",
            steps=450,
            parts={
                "early_beliefs": Part(48, weight=3.0),
                "own_beliefs": Part(8),
                "forecasts": Part(3),
                **_KEPT,
            },
        ),
    ),
    graded_evidence=1.0,
    graded_worlds=1.0,
    habits=replace(WarmStartSettings().habits, give_up=0.8, give_up_bored=0.8),
    warm_up_steps=20,
    decay=2.0,
)
"""The `tiny_graded` policy's, from `tiny`. It learns what a document says of those it leads to, where
evidence is graded, and gives up four times in five."""

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Called after each step with phase, step, number of steps, and measures."""


class Trainer:
    """Trains `model` in place. Deterministic for given settings, machine type and number of threads.

    Matrices are trained with Muon, which shortens the look-up plateau several times; embeddings, norms and
    biases with AdamW.
    """

    def __init__(self, model: Any, protocol: TinyProtocol, settings: WarmStartSettings, progress: Progress):
        self.model = model
        self.protocol = protocol
        self.settings = settings
        self.progress = progress
        self.rng = np.random.Generator(np.random.PCG64(settings.seed))
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in named if p.ndim != 2 or "embed" in name]
        self._optimizers = {
            torch.optim.Muon(matrices, weight_decay=0.01): settings.matrix_learning_rate,
            torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01): settings.other_learning_rate,
        }

    def run(self) -> None:
        """All phases.

        Raises:
            LookupFailed: the look-up accuracy stayed below 97% for `max_lookup_steps`.
        """
        self.model.train()
        self.learn_lookup()
        self.learn_phases()
        self.model.eval()

    def learn_lookup(self) -> None:
        """Facts of one document at a time, until 97 of 100 are read right.

        At most 0 steps: the policy knows how already.
        """
        total, recent = self.settings.max_lookup_steps, 0.0
        if total == 0:
            return
        for step in range(total):
            maker = SequenceMaker(self.protocol, self._world(), self.rng, self.settings.habits)
            batch = [maker.lookups(documents=1, lookups=8) for _ in range(self.settings.batch_size)]
            measures = self._step({"lookups": batch}, rate=min(1.0, (step + 1) / 50))
            recent = 0.8 * recent + 0.2 * measures["lookups"]
            self.progress("look-up", step + 1, total, measures | {"lookups": recent})
            if recent > 0.97:
                return
        raise LookupFailed(
            f"after {total} steps only {recent:.0%} of facts are read right: train longer (--lookup-steps) "
            "or try another --seed"
        )

    def learn_phases(self) -> None:
        """Batches of each phase's parts, every batch in a world of its own."""
        total, step = sum(phase.steps for phase in self.settings.phases), 0
        warm_up = max(self.settings.warm_up_steps, 1)
        for phase in self.settings.phases:
            for number in range(phase.steps):
                world = self._world()
                maker = SequenceMaker(self.protocol, world, self.rng, self.settings.habits)
                make = Parts(maker, world, self.rng, self.settings.hops)
                parts = {name: getattr(make, name)(part.sequences) for name, part in phase.parts.items()}
                weights = {name: part.weight for name, part in phase.parts.items()}
                rate = min(1.0, (step + 1) / warm_up, self.settings.decay * (1 - step / total))
                self.progress(phase.name, number + 1, phase.steps, self._step(parts, rate, weights))
                step += 1

    def _world(self) -> World:
        grade = self.settings.graded_evidence * int(self.rng.random() < self.settings.graded_worlds)
        seed = int(self.rng.integers(2**31))
        return build_world(WorldSettings(seed=seed, entities=self.settings.entities, graded_evidence=grade))

    def _step(
        self, parts: dict[str, list[Sequence]], rate: float, weights: dict[str, float] | None = None
    ) -> dict[str, float]:
        """One update on the weighted sum over `parts` of the mean loss of learned tokens; returns it and each
        part's accuracy.
        """
        measures, total = {}, 0.0
        for name, part in parts.items():
            length = max(len(sequence.ids) for sequence in part)
            ids_BL = torch.zeros(len(part), length, dtype=torch.long)
            learned_BL = torch.zeros(len(part), length, dtype=torch.bool)
            for row, sequence in enumerate(part):
                ids_BL[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
                learned_BL[row, : len(sequence.ids)] = torch.tensor(sequence.learned)
            # Padding stands on the right, so the causal mask alone keeps it out of every learned position.
            hidden = self.model.model(input_ids=ids_BL).last_hidden_state[:, :-1][learned_BL[:, 1:]]
            logits, targets = self.model.lm_head(hidden), ids_BL[:, 1:][learned_BL[:, 1:]]
            loss = cross_entropy(logits, targets) * (weights or {}).get(name, 1.0)
            loss.backward()
            total += loss.item()
            measures[name] = (logits.argmax(-1) == targets).float().mean().item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, error_if_nonfinite=True)
        for optimizer, full_rate in self._optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = full_rate * rate
            optimizer.step()
            optimizer.zero_grad()
        return {"loss": total} | measures
