"""What a warm-started policy can do: held-out accuracy, format, room for learning, and belief with and
without evidence.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from algorithms.embedded_policy.play import beliefs, play
from envs.data.question import Question
from envs.search.config import SearchEnvSettings
from envs.search.episode import SearchEpisode
from envs.search.task import SearchTask
from envs.search.trajectory import ActionKind
from envs.world.chain import Chain
from envs.world.config import WorldSettings
from envs.world.expert import Expert, Habits
from envs.world.words import ATTRIBUTES, RELATIONS
from envs.world.world import World, build_world

if TYPE_CHECKING:
    from transformers import PreTrainedModel


EVEN_HOPS = {1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25}


def measure(
    policy: PreTrainedModel,
    folder: Path,
    questions: int = 500,
    groups: int = 32,
    graded_evidence: float = 0.0,
) -> dict[str, float]:
    """Measures on held-out questions of 1 to 4 hops, as many of each, of the default world; `folder` holds
    the tokenizer.

    `greedy_em*` greedy exact match, by hops; `sampled_em`, `format_validity` (share of well-formed turns) and
    `mixed_groups` (share of prompts whose 8 sampled rollouts differ in outcome) at temperature 1;
    `belief_*hops_k` the mean belief in the gold answer after k of its evidence documents, in the expert's
    order.
    """
    policy.eval()
    task = SearchTask(
        SearchEnvSettings(
            tokenizer=str(folder),
            world=WorldSettings(hops=EVEN_HOPS, train_questions=1000, graded_evidence=graded_evidence),
            max_turns=7,
        )
    )
    heldout = task.heldout_questions[:questions]
    measures: dict[str, float] = {}
    by_hops = defaultdict(list)
    for rollout in play(policy, task, heldout):
        by_hops[rollout.episode.rollout.question.hops].append(rollout.episode.rollout.metrics["em_squad"])
    measures["greedy_em"] = float(np.mean([em for ems in by_hops.values() for em in ems]))
    measures |= {f"greedy_em_{hops}_hops": float(np.mean(by_hops[hops])) for hops in sorted(by_hops)}
    sampled = [
        p.episode.rollout
        for p in play(policy, task, [q for q in heldout[:groups] for _ in range(8)], temperature=1.0)
    ]
    em_G8 = np.array([rollout.metrics["em_squad"] for rollout in sampled]).reshape(-1, 8)
    turns = [turn for rollout in sampled for turn in rollout.turns]
    measures["sampled_em"] = float(em_G8.mean())
    measures["mixed_groups"] = float((em_G8.max(1) > em_G8.min(1)).mean())
    measures["format_validity"] = float(
        np.mean([turn.action not in (ActionKind.MALFORMED, ActionKind.CUT_OFF) for turn in turns])
    )
    return {name: round(value, 4) for name, value in (measures | _beliefs(policy, task, heldout)).items()}


def _beliefs(policy: PreTrainedModel, task: SearchTask, questions: list[Question]) -> dict[str, float]:
    world = build_world(task.settings.world)
    expert = Expert(world, np.random.Generator(np.random.PCG64(0)), Habits())
    contexts, suffixes, keys = [], [], []
    for question in questions:
        episode = SearchEpisode(task, question, rollout_id="", group_id="")
        episode.start()
        (suffix,) = episode.templates.suffixes_K
        steps = expert.demonstrate(chain_of(world, question))
        for seen, step in enumerate(steps):
            contexts.append(list(episode.history))
            suffixes.append(suffix)
            keys.append(f"belief_{question.hops}_hops_{seen}")
            if step.kind == "search":
                decision = task.protocol.tokenizer.convert_tokens_to_ids(
                    ["<search>", *step.text.split(), "<end>"]
                )
                for call in episode.decide(decision, completed=True):
                    task.tools(call)
                episode.observe()
    grouped = defaultdict(list)
    for key, belief in zip(keys, beliefs(policy, contexts, suffixes), strict=True):
        grouped[key].append(belief)
    return {key: float(np.mean(grouped[key])) for key in sorted(grouped)}


def chain_of(world: World, question: Question) -> Chain:
    """The chain that made a question of this world."""
    *relations, attribute = question.metadata["keys"]
    entity = world.names.index(question.metadata["entity"])
    return Chain(entity, tuple(RELATIONS.index(r) for r in relations), ATTRIBUTES.index(attribute))


def report_table(measures: dict[str, float]):
    """The measures as a rich table."""
    from rich.table import Table

    table = Table("measure", "value", title="The policy on held-out questions")
    for name, value in measures.items():
        table.add_row(name.replace("_", " "), f"{value:.3f}")
    return table
