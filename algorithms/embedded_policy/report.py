"""Measures what an embedded policy can do: accuracy, format, room for learning, and belief.

Rollouts and belief come from the same parts as in training: the rollout loop over the engine of transformers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from algorithms.embedded_policy.policy import load_policy
from envs.data.question import Question
from envs.engine.base import EngineSettings, RolloutEngine
from envs.engine.transformers import TransformersEngine
from envs.runner.belief import BeliefQuery, PrefixScorer
from envs.runner.job import RolloutJob
from envs.runner.rollout_loop import RolloutLoop
from envs.search.config import SearchEnvSettings
from envs.search.episode import SearchEpisode
from envs.search.protocols.base import Action
from envs.search.roles import RoleSettings
from envs.search.task import SearchTask
from envs.search.trajectory import ActionKind, Rollout
from envs.world.chain import Chain
from envs.world.config import WorldSettings
from envs.world.expert import Expert, Habits
from envs.world.words import ATTRIBUTES, RELATIONS
from envs.world.world import World, build_world

EVEN_HOPS = {1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25}
GROUP_SIZE = 8
TEAM = [RoleSettings(name="planner", actions=["message"], to="searcher"), RoleSettings(name="searcher")]


def measure(
    folder: Path, questions: int = 500, groups: int = 32, graded_evidence: float = 0.0
) -> dict[str, float]:
    """Measures a policy on held-out questions of the default world, as many of 1, 2, 3 and 4 hops.

    Args:
        folder: Hugging Face folder of the policy, with its tokenizer.
        questions: the number of questions that are answered greedily, and that belief is measured on.
        groups: the number of questions that are answered `GROUP_SIZE` times each at temperature 1.
        graded_evidence: the world's `graded_evidence`, in [0, 1].

    Returns:
        Measures by name, rounded to 4 digits:

        - `greedy_em`, `greedy_em_N_hops`: exact match (SQuAD) at temperature 0.
        - `sampled_em`, `format_validity` (share of well-formed turns), `mixed_groups` (share of groups whose
          rollouts differ in outcome): at temperature 1.
        - `belief_N_hops_k`: mean belief in the gold answer after k of the question's N evidence documents, in
          hop order.
    """
    settings = SearchEnvSettings(
        tokenizer=str(folder),
        world=WorldSettings(hops=EVEN_HOPS, train_questions=1000, graded_evidence=graded_evidence),
        max_turns=7,
    )
    task, engine = SearchTask(settings), _engine(folder, settings)
    measures = _answers(task, engine, questions, groups)
    measures |= _beliefs(task, engine, task.heldout_questions[:questions])
    return {name: round(value, 4) for name, value in measures.items()}


def measure_planning(folder: Path) -> dict[str, float]:
    """Measures a policy on questions of 2 and 3 hops that are told out of order, each with a side chain.

    Args:
        folder: Hugging Face folder of the policy, with its tokenizer.

    Returns:
        The measures of `measure` but belief: `alone_NAME` of one agent, `planned_NAME` of a planner and a
        searcher, rounded to 4 digits.
    """
    world = WorldSettings(hops={2: 0.5, 3: 0.5}, train_questions=1000, unordered=1.0, side_chains=1)
    measures = {}
    for name, roles in (("alone", [RoleSettings(name="searcher")]), ("planned", TEAM)):
        settings = SearchEnvSettings(tokenizer=str(folder), world=world, max_turns=5, roles=roles)
        found = _answers(SearchTask(settings), _engine(folder, settings), questions=300, groups=32)
        measures |= {f"{name}_{measure}": round(value, 4) for measure, value in found.items()}
    return measures


def _answers(task: SearchTask, engine: RolloutEngine, questions: int, groups: int) -> dict[str, float]:
    heldout = task.heldout_questions[:questions]
    measures: dict[str, float] = {}
    by_hops = defaultdict(list)
    for rollout in _play(task, engine, heldout, temperature=0.0):
        by_hops[rollout.question.hops].append(rollout.metrics["em_squad"])
    measures["greedy_em"] = float(np.mean([em for ems in by_hops.values() for em in ems]))
    measures |= {f"greedy_em_{hops}_hops": float(np.mean(by_hops[hops])) for hops in sorted(by_hops)}
    repeated = [question for question in heldout[:groups] for _ in range(GROUP_SIZE)]
    sampled = _play(task, engine, repeated, temperature=1.0)
    em_PG = np.array([rollout.metrics["em_squad"] for rollout in sampled]).reshape(-1, GROUP_SIZE)
    turns = [turn for rollout in sampled for turn in rollout.turns]
    measures["sampled_em"] = float(em_PG.mean())
    measures["mixed_groups"] = float((em_PG.max(1) > em_PG.min(1)).mean())
    measures["format_validity"] = float(
        np.mean([turn.action not in (ActionKind.MALFORMED, ActionKind.CUT_OFF) for turn in turns])
    )
    return measures


def _engine(folder: Path, settings: SearchEnvSettings) -> RolloutEngine:
    engine = TransformersEngine(
        str(folder),
        EngineSettings(kind="transformers"),
        max_model_len=settings.max_context_tokens + 1,
        dtype="float32",
    )
    engine.load_weights(load_policy(folder).state_dict(), version=0)
    return engine


def _play(
    task: SearchTask, engine: RolloutEngine, questions: Sequence[Question], *, temperature: float
) -> list[Rollout]:
    """Makes one rollout per question, without belief."""
    jobs = [
        RolloutJob(
            question,
            rollout_id=f"{question.id}/{k}",
            group_id=question.id,
            seed_parts=(k,),
            split="heldout",
            temperature=temperature,
            score_beliefs=False,
        )
        for k, question in enumerate(questions)
    ]
    loop = RolloutLoop(task, dict.fromkeys(set(task.policy_of.policy_of.values()), engine))
    return [record.rollout for record in loop.run(jobs)[0]]


def _beliefs(task: SearchTask, engine: RolloutEngine, questions: Sequence[Question]) -> dict[str, float]:
    """Computes the mean belief in the gold answer along the searches of an expert without bad habits."""
    world = build_world(task.settings.world)
    expert = Expert(world, np.random.Generator(np.random.PCG64(0)), Habits())
    queries = []
    for question in questions:
        episode = SearchEpisode(task, question, rollout_id="", group_id="")
        episode.start()
        contexts = [np.asarray(episode.history)]
        for step in expert.demonstrate(chain_of(world, question)):
            if step.kind == "search":
                search = Action(ActionKind.TOOL, tool="search", arguments={"query": step.text})
                for call in episode.decide(task.protocol.decision(search), completed=True):
                    task.tools(call)
                episode.observe()
                contexts.append(np.asarray(episode.history))
        queries.append(BeliefQuery(contexts, episode.templates.suffixes_K))
    grouped = defaultdict(list)
    for question, scores_T1K in zip(questions, PrefixScorer(engine).score(queries), strict=True):
        for seen, belief in enumerate(np.exp(scores_T1K[:, 0])):
            grouped[f"belief_{question.hops}_hops_{seen}"].append(belief)
    return {key: float(np.mean(grouped[key])) for key in sorted(grouped)}


def chain_of(world: World, question: Question) -> Chain:
    """Returns the chain from which a question of this world was made."""
    *relations, attribute = question.metadata["keys"]
    entity = world.names.index(question.metadata["entity"])
    return Chain(entity, tuple(RELATIONS.index(r) for r in relations), ATTRIBUTES.index(attribute))


def report_table(measures: dict[str, float]):
    """Makes a rich table of the measures."""
    from rich.table import Table

    table = Table("measure", "value", title="The policy on held-out questions")
    for name, value in measures.items():
        table.add_row(name.replace("_", " "), f"{value:.3f}")
    return table
