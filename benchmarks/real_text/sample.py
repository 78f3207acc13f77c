"""Samples groups of rollouts of a policy as it is, with belief, for `benchmarks.real_text.push`.

    python -m benchmarks.real_text.sample conf/smollm2_warm.yaml --model warm_6 --out warm_6.jsonl

A row of the file is a rollout: what credit reads of it, and what each turn did. Questions are taken in the
order of their file, and again with other seeds where they run out. A file that is there is continued.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import Progress

from algorithms.igpo.learner.credit_input import rollout_facts, scored_rollout
from envs.durable import write_file
from envs.runner.job import RolloutJob
from envs.search.trajectory import Rollout
from pipeline.evaluation.saved_policy import Policy, open_policy

GROUPS_AT_ONCE = 8
"""Groups whose rollouts are made together, and written."""


def row_of(rollout: Rollout) -> dict[str, Any]:
    """What credit reads of a rollout, facts for an estimator of one's own (without log-probabilities), and
    by turn: what it did, and whether a gold answer is part of the text that it read, in any case.
    """
    golds = [gold.lower() for gold in rollout.question.golds]
    scored = asdict(scored_rollout(rollout))
    facts = asdict(rollout_facts(rollout, [None] * len(rollout.turns)))
    return scored | {
        "facts": facts,
        "initial_scores_K": _floats(scored["initial_scores_K"]),
        "scores_T1K": [_floats(scores_K) for scores_K in scored["scores_T1K"]],
        "em": rollout.metrics.get("em_squad", 0.0),
        "actions_T": [str(turn.action) for turn in rollout.turns],
        "names_gold_T": [
            any(gold in turn.observation_text.lower() for gold in golds) for turn in rollout.turns
        ],
    }


def _floats(scores_K: Any) -> list[float] | None:
    return None if scores_K is None else [float(score) for score in scores_K]


def jobs_of(
    policy: Policy, groups: int, group_size: int, seed: int, *, first: int
) -> Iterator[list[RolloutJob]]:
    """The jobs of groups `first` to `groups`, the rollouts of one after the other."""
    questions = [question for question in policy.task.train_questions if policy.task.room(question) >= 1]
    for number in range(first, groups):
        question, group = (
            questions[number % len(questions)],
            f"{number:06d}/{questions[number % len(questions)].id}",
        )
        yield [RolloutJob(question, f"{group}/{k}", group, (seed, -5, number, k)) for k in range(group_size)]


def sample(policy: Policy, groups: int, group_size: int, seed: int, out: Path) -> None:
    """Appends the rollouts of all groups that `out` has not got whole."""
    lines = out.read_text().splitlines(keepends=True) if out.exists() else []
    done = sum(line.endswith("\n") for line in lines) // group_size
    write_file(out, lambda file: file.writelines(line.encode() for line in lines[: done * group_size]))
    wanted = list(jobs_of(policy, groups, group_size, seed, first=done))
    with Progress() as progress, out.open("a") as file:
        task = progress.add_task("sampling groups", total=groups, completed=done)
        for start in range(0, len(wanted), GROUPS_AT_ONCE):
            jobs = [job for group in wanted[start : start + GROUPS_AT_ONCE] for job in group]
            records, _ = policy.loop.run(jobs)
            file.writelines(f"{json.dumps(row_of(record.rollout))}\n" for record in records)
            file.flush()
            progress.advance(task, len(jobs) // group_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", help="experiment file of the task")
    parser.add_argument("--model", required=True, help="Hugging Face folder or checkpoint to sample from")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--groups", type=int, default=400)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    policy = open_policy(args.model, args.config, args.set)
    sample(policy, args.groups, args.group_size, args.seed, args.out)


if __name__ == "__main__":
    main()
