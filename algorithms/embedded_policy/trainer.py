"""Makes an embedded policy: look-up practice until it can read, then phases of mixed kinds of sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from algorithms.embedded_policy.parts import Parts, PlanParts
from algorithms.embedded_policy.plans import PlanSequences
from algorithms.embedded_policy.sequences import Sequence, SequenceMaker
from envs.search.protocols.tiny import TinyProtocol
from envs.world.config import WorldSettings
from envs.world.expert import Habits
from envs.world.world import World, build_world


class LookupFailed(RuntimeError):
    """The policy did not learn to read facts in documents, so training on demonstrations would be useless."""


@dataclass(frozen=True)
class Part:
    """The number of sequences of a kind in a batch, and the weight of their mean loss."""

    sequences: int
    weight: float = 1.0


@dataclass(frozen=True)
class Phase:
    """A phase of training. The keys of `parts` are methods of `algorithms.embedded_policy.parts.Parts`."""

    name: str
    steps: int
    parts: dict[str, Part]


@dataclass(frozen=True)
class Recipe:
    """How an embedded policy is made. The defaults are those of `tiny`.

    Attributes:
        seed: decides worlds and sequences.
        max_lookup_steps: limit on the steps of look-up practice; 0 skips it.
        phases: the phases after it.
        batch_size: sequences per batch of look-up practice.
        entities: entities of each world.
        graded_evidence: `graded_evidence` of a share `graded_worlds` of the worlds; the others have none.
        graded_worlds: that share.
        unordered: whether questions are told out of order, in half of the worlds with a side chain.
        hops: shares of questions by hops.
        habits: the expert's bad habits; reinforcement learning has to correct them.
        matrix_learning_rate: Muon's, for matrices.
        other_learning_rate: AdamW's, for the rest.
        warm_up_steps: steps over which the learning rates rise.
        decay: the learning rates fall to 0 over the last 1 / `decay` of the phases.
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
    unordered: bool = False
    hops: dict[int, float] = field(default_factory=lambda: {1: 0.2, 2: 0.35, 3: 0.25, 4: 0.2})
    habits: Habits = Habits(
        give_up=0.1, give_up_bored=0.65, repeat=0.05, stray=0.08, overshoot=0.05, misread=0.1
    )
    matrix_learning_rate: float = 0.02
    other_learning_rate: float = 3e-3
    warm_up_steps: int = 0
    decay: float = 1.5


_KEPT = {"searches": Part(6), "leads": Part(6), "short_lookups": Part(3)}
GRADED = Recipe(
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
    habits=replace(Recipe().habits, give_up=0.8, give_up_bored=0.8),
    warm_up_steps=20,
    decay=2.0,
)
"""The recipe of `tiny_graded`, which starts from `tiny`. The policy learns how graded evidence narrows the
answer, and gives up four times in five."""

PLANNING = Recipe(
    max_lookup_steps=0,
    phases=(
        Phase(
            "hops told",
            steps=200,
            parts={"told_lookups": Part(16), "searches": Part(2), "short_lookups": Part(4)},
        ),
        Phase(
            "plans",
            steps=120,
            parts={
                "told_lookups": Part(4),
                "plans": Part(16),
                "first_queries": Part(16),
                "leads": Part(3),
                "planned_leads": Part(3),
                "short_lookups": Part(3),
            },
        ),
        Phase(
            "searches",
            steps=250,
            parts={
                "plans": Part(8),
                "first_queries": Part(8),
                "leads": Part(6),
                "planned_leads": Part(6),
                "searches": Part(4),
                "planned_searches": Part(4),
                "own_beliefs": Part(2),
                "planned_beliefs": Part(2),
                "short_lookups": Part(2),
            },
        ),
    ),
    graded_worlds=0.0,
    unordered=True,
    hops={2: 0.3, 3: 0.7},
    habits=replace(Recipe().habits, give_up_bored=0.3),
    warm_up_steps=20,
)
"""The recipe of a policy for questions told out of order.

It starts from `tiny` and learns to search alone, to write plans, and to search by a plan. A batch holds as
many sequences of one agent as of the planner and its searcher, or more."""

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Called after each step with phase, step, number of steps, and measures."""


class Trainer:
    """Trains `model` in place. Deterministic for the same settings, machine type and number of threads.

    Muon trains the matrices, which shortens the look-up plateau several times. AdamW trains embeddings, norms
    and biases.

    Args:
        model: a Llama from `build_policy` or `load_policy`.
        protocol: makes the tokens of the sequences.
        settings: the recipe.
        progress: called after each step.
    """

    def __init__(self, model: Any, protocol: TinyProtocol, settings: Recipe, progress: Progress):
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
        """Runs look-up practice and all phases.

        Raises:
            LookupFailed: the look-up accuracy stayed below 97% for `max_lookup_steps`.
        """
        self.model.train()
        self.learn_lookup()
        self.learn_phases()
        self.model.eval()

    def learn_lookup(self) -> None:
        """Practises facts of one document at a time, until 97 of 100 are read correctly.

        With `max_lookup_steps` 0 the policy can read already.

        Raises:
            LookupFailed: the accuracy stayed below 97% for `max_lookup_steps`.
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
        """Trains on batches of each phase's parts, each batch in a world of its own."""
        total, step = sum(phase.steps for phase in self.settings.phases), 0
        warm_up = max(self.settings.warm_up_steps, 1)
        for phase in self.settings.phases:
            for number in range(phase.steps):
                world = self._world()
                make = self._parts(world)
                parts = {name: getattr(make, name)(part.sequences) for name, part in phase.parts.items()}
                weights = {name: part.weight for name, part in phase.parts.items()}
                rate = min(1.0, (step + 1) / warm_up, self.settings.decay * (1 - step / total))
                self.progress(phase.name, number + 1, phase.steps, self._step(parts, rate, weights))
                step += 1

    def _parts(self, world: World) -> Parts:
        settings = self.settings
        if settings.unordered:
            maker = PlanSequences(self.protocol, world, self.rng, settings.habits)
            return PlanParts(maker, world, self.rng, settings.hops)
        maker = SequenceMaker(self.protocol, world, self.rng, settings.habits)
        return Parts(maker, world, self.rng, settings.hops)

    def _world(self) -> World:
        grade = self.settings.graded_evidence * int(self.rng.random() < self.settings.graded_worlds)
        seed = int(self.rng.integers(2**31))
        settings = WorldSettings(
            seed=seed,
            entities=self.settings.entities,
            graded_evidence=grade,
            unordered=float(self.settings.unordered),
            side_chains=int(self.rng.integers(2)) if self.settings.unordered else 0,
        )
        return build_world(settings)

    def _step(
        self, parts: dict[str, list[Sequence]], rate: float, weights: dict[str, float] | None = None
    ) -> dict[str, float]:
        """Makes one update on the weighted sum, over `parts`, of the mean loss of their learned tokens.

        Returns:
            The loss, and the accuracy of each part.
        """
        measures, total = {}, 0.0
        for name, part in parts.items():
            length = max(len(sequence.ids) for sequence in part)
            ids_RL = torch.zeros(len(part), length, dtype=torch.long)
            learned_RL = torch.zeros(len(part), length, dtype=torch.bool)
            for row, sequence in enumerate(part):
                ids_RL[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
                learned_RL[row, : len(sequence.ids)] = torch.tensor(sequence.learned)
            # Padding is on the right, so the causal mask alone keeps it out of every learned position.
            hidden = self.model.model(input_ids=ids_RL).last_hidden_state[:, :-1][learned_RL[:, 1:]]
            logits, targets = self.model.lm_head(hidden), ids_RL[:, 1:][learned_RL[:, 1:]]
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
