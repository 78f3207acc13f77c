"""The warm start's two phases: look-up practice until the skill is there, then demonstrations, answers and harder look-ups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from algorithms.warm_start.sequences import Sequence, SequenceMaker
from envs.data.expert import Habits
from envs.data.world import Chain, World, build_world
from envs.search.config import WorldSettings
from envs.search.protocols.tiny import TinyProtocol


class LookupFailed(RuntimeError):
    """The policy did not learn to read facts out of documents: training on demonstrations would be of no use."""


@dataclass(frozen=True)
class WarmStartSettings:
    """Defaults are the shipped policy's.

    `graded_evidence` is that of every other world, so that belief learns to move with what a document says of the answer's kind;
    the rest have none. `habits` are the expert's in demonstrations: how much is left for reinforcement learning to mend. `hops`
    are the shares of questions by hops in training.
    """

    seed: int = 0
    max_lookup_steps: int = 600
    demonstration_steps: int = 1500
    batch_size: int = 32
    entities: int = 60
    graded_evidence: float = 0.8
    hops: dict[int, float] = field(default_factory=lambda: {1: 0.2, 2: 0.35, 3: 0.25, 4: 0.2})
    habits: Habits = Habits(give_up=0.1, give_up_bored=0.65, repeat=0.05, stray=0.08, overshoot=0.05, misread=0.1)
    matrix_learning_rate: float = 0.02
    other_learning_rate: float = 3e-3


PART_SIZES = {"demonstrations": 10, "leads": 6, "leads_through_notes": 3, "beliefs": 8, "lookups": 4}
"""Sequences of each kind in a second-phase batch; the losses of the parts count the same."""
DEMONSTRATIONS = {"searcher": 0.6, "searcher_with_notes": 0.2, "reader": 0.2}
BELIEFS = {"belief": 0.75, "belief_through_reader": 0.25}
"""Shares of the kinds of sequences (methods of `SequenceMaker`) within a part."""

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Called after each step with phase, step, number of steps, and measures."""


class Trainer:
    """Trains `model` in place. Deterministic for given settings, machine type and number of threads.

    Matrices are trained with Muon, which shortens the look-up plateau several times; embeddings, norms and biases with AdamW.
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
        """Both phases.

        Raises:
            LookupFailed: the look-up accuracy stayed below 97% for `max_lookup_steps`.
        """
        self.model.train()
        self.learn_lookup()
        self.learn_demonstrations()
        self.model.eval()

    def learn_lookup(self) -> None:
        """Facts of one document at a time, until 97 of 100 are read right. At most 0 steps: the policy knows how already."""
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
            f"after {total} steps only {recent:.0%} of facts are read right: train longer (--lookup-steps) or try another --seed"
        )

    def learn_demonstrations(self) -> None:
        """Demonstrations, leads, gold answers after random prefixes of searches, and facts of two documents; the rate
        falls to 0 over the last two thirds."""
        total = self.settings.demonstration_steps
        for step in range(total):
            world = self._world()
            maker = SequenceMaker(self.protocol, world, self.rng, self.settings.habits)
            parts = {
                "demonstrations": self._draw(maker, world, DEMONSTRATIONS, PART_SIZES["demonstrations"]),
                "leads": self._leads(maker.lead, world, PART_SIZES["leads"]),
                "leads_through_notes": self._leads(maker.lead_through_notes, world, PART_SIZES["leads_through_notes"]),
                "beliefs": self._draw(maker, world, BELIEFS, PART_SIZES["beliefs"]),
                "lookups": [maker.lookups(documents=2, lookups=12) for _ in range(PART_SIZES["lookups"])],
            }
            measures = self._step(parts, rate=min(1.0, 1.5 * (1 - step / total)))
            self.progress("demonstrations", step + 1, total, measures)

    def _draw(self, maker: SequenceMaker, world: World, kinds: dict[str, float], count: int) -> list[Sequence]:
        hops = self.rng.choice(list(self.settings.hops), p=list(self.settings.hops.values()), size=count)
        chosen = self.rng.choice(list(kinds), p=list(kinds.values()), size=count)
        return [getattr(maker, kind)(world.draw_chain(int(hop), self.rng)) for kind, hop in zip(chosen, hops, strict=True)]

    def _leads(self, make: Callable[[Chain], Sequence], world: World, count: int) -> list[Sequence]:
        """Chains of 2, 3, 4, 2, ... hops."""
        return [make(world.draw_chain(2 + k % 3, self.rng)) for k in range(count)]

    def _world(self) -> World:
        grade = self.settings.graded_evidence * int(self.rng.integers(2))
        seed = int(self.rng.integers(2**31))
        return build_world(WorldSettings(seed=seed, entities=self.settings.entities, graded_evidence=grade))

    def _step(self, parts: dict[str, list[Sequence]], rate: float) -> dict[str, float]:
        """One update on the sum over `parts` of the mean loss of learned tokens; returns it and each part's accuracy."""
        sequences = [sequence for part in parts.values() for sequence in part]
        length = max(len(sequence.ids) for sequence in sequences)
        ids_BL = torch.zeros(len(sequences), length, dtype=torch.long)
        weight_BL = torch.zeros(len(sequences), length)
        part_BL = torch.zeros(len(sequences), length, dtype=torch.long)
        row = 0
        for number, part in enumerate(parts.values()):
            weight = 1.0 / sum(sum(sequence.learned) for sequence in part)
            for sequence in part:
                ids_BL[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
                weight_BL[row, : len(sequence.ids)] = torch.tensor(sequence.learned, dtype=torch.float32) * weight
                part_BL[row] = number
                row += 1
        learned = weight_BL[:, 1:] > 0
        # Padding stands on the right, so the causal mask alone keeps it out of every learned position.
        hidden = self.model.model(input_ids=ids_BL).last_hidden_state[:, :-1][learned]
        logits, targets = self.model.lm_head(hidden), ids_BL[:, 1:][learned]
        loss = (cross_entropy(logits, targets, reduction="none") * weight_BL[:, 1:][learned]).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, error_if_nonfinite=True)
        for optimizer, full_rate in self._optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = full_rate * rate
            optimizer.step()
            optimizer.zero_grad()
        right, part_of = (logits.argmax(-1) == targets).float(), part_BL[:, 1:][learned]
        return {"loss": loss.item()} | {name: right[part_of == k].mean().item() for k, name in enumerate(parts)}
