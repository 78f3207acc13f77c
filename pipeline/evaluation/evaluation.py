"""`rllib evaluate`: held-out questions answered by a saved policy, greedily; or sampled k times for avg@k and
pass@k.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from envs.data.question import Question
from envs.data.questions import named
from envs.durable import write_text
from envs.errors import InputError
from envs.search.trajectory import Rollout
from pipeline.evaluation.benchmark_table import Cell, benchmark_row, benchmark_table
from pipeline.evaluation.intervals import bootstrap_interval
from pipeline.evaluation.selection import Selection, selection_of, told
from pipeline.run_directory.checkpoints import iteration_of
from pipeline.terminal import Console

if TYPE_CHECKING:
    from pipeline.evaluation.saved_policy import Policy

METRICS = ("em_squad", "f1_squad", "em_paper", "f1_paper", "f1_chars")


@dataclass(frozen=True)
class Evaluation:
    """Rollouts of every question, `samples` each, in the order of the questions."""

    policy: str
    samples: int
    groups: list[list[Rollout]]
    selection: Selection | None = None
    """How the policy was chosen, if it is the `best` of a run."""
    iteration: int | None = None
    """The iteration after which the policy was saved, if it is a checkpoint."""

    @property
    def chosen(self) -> dict[str, Any] | None:
        """How the policy was chosen, and how many of these questions chose it."""
        if self.selection is None:
            return None
        return self.selection.on(group[0].question for group in self.groups)

    def values(self, metric: str, *, best: bool = False, hops: int | None = None) -> list[float]:
        """Returns one value per question (of `hops`, if given): the mean over its samples, or the best of
        them.
        """
        combine: Callable = max if best else np.mean
        groups = [group for group in self.groups if hops is None or group[0].question.hops == hops]
        return [float(combine([rollout.metrics[metric] for rollout in group])) for group in groups]

    @property
    def hops(self) -> list[int]:
        """The numbers of hops that occur, where they are known."""
        return sorted({group[0].question.hops for group in self.groups if group[0].question.hops is not None})

    @property
    def data_sources(self) -> list[str]:
        """The data sets that the questions are of, in the order in which they come."""
        return list(dict.fromkeys(group[0].question.data_source for group in self.groups))

    def by_data_source(self) -> dict[str, dict[str, list[float]]]:
        """Metric to data set to one value per question, the mean over its samples; the paper's own metric
        first.
        """
        sources = [group[0].question.data_source for group in self.groups]
        return {
            metric: {
                source: [
                    value for value, of in zip(self.values(metric), sources, strict=True) if of == source
                ]
                for source in self.data_sources
            }
            for metric in sorted(METRICS, key=lambda metric: metric != "f1_paper")
        }

    @property
    def rollouts(self) -> list[Rollout]:
        return [rollout for group in self.groups for rollout in group]

    @property
    def too_long(self) -> list[str]:
        """Ids of the questions whose prompt left no room for a decision; they count as unanswered."""
        return [group[0].question.id for group in self.groups if not group[0].turns]

    def rows(self) -> list[tuple[str, list[float]]]:
        """(label, value per question) of everything that is reported about answers."""
        prefix = f"avg@{self.samples} " if self.samples > 1 else ""
        rows = [(prefix + metric, self.values(metric)) for metric in METRICS]
        if self.samples > 1:
            rows += [
                (f"pass@{self.samples} {metric}", self.values(metric, best=True))
                for metric in ("em_squad", "em_paper")
            ]
        rows += [(f"{prefix}em_squad, {hops}-hop", self.values("em_squad", hops=hops)) for hops in self.hops]
        return rows

    @cached_property
    def benchmark(self) -> dict[str, dict[str, Cell]]:
        """Metric to one cell per data set and for their average; the paper's own metric first."""
        return {metric: benchmark_row(values) for metric, values in self.by_data_source().items()}

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The means with their 95% bootstrap intervals, and how rollouts ended."""
        from algorithms.igpo.metrics import ending_metrics

        scores = {
            label: dict(
                zip(
                    ("mean", "low", "high"),
                    (float(np.mean(values)), *bootstrap_interval(values)),
                    strict=True,
                )
            )
            for label, values in self.rows()
        }
        counts = {
            "questions": len(self.groups),
            "samples": self.samples,
            "too_long": len(self.too_long),
        }
        benchmark = {
            metric: {source: asdict(cell) for source, cell in row.items()}
            for metric, row in self.benchmark.items()
        }
        endings = ending_metrics(self.rollouts)
        about = {"policy": self.policy, "iteration": self.iteration, "chosen": self.chosen, **counts}
        return {**about, "scores": scores, "by_data_source": benchmark, **endings}

    def save(self, path: Path) -> None:
        """Summary and every episode as JSON."""
        content = {"summary": self.summary, "episodes": [_episode(rollout) for rollout in self.rollouts]}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False))


def evaluate(
    policy: Policy,
    questions: list[Question],
    *,
    samples: int = 1,
    seed: int = 0,
    on_done: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Greedy rollouts of `questions`, or `samples` > 1 sampled ones each at temperature 1. `on_done` gets the
    questions done.

    Raises InputError where more tool calls of a batch failed than `max_tool_error_share` allows: scores would
    say nothing.
    """
    from algorithms.igpo.guards import check_tools
    from algorithms.igpo.sampling import heldout_jobs

    per_batch = max(1, 512 // samples)
    groups: list[list[Rollout]] = []
    for start in range(0, len(questions), per_batch):
        temperature = 0.0 if samples == 1 else 1.0
        batch = questions[start : start + per_batch]
        per_question = heldout_jobs(batch, samples=samples, temperature=temperature, seed=seed, first=start)
        records, _ = policy.loop.run([job for jobs in per_question for job in jobs])
        rollouts = [record.rollout for record in records]
        try:
            check_tools(rollouts, policy.config.max_tool_error_share, "while answering")
        except RuntimeError as error:
            raise InputError(str(error)) from error
        groups += [rollouts[at : at + samples] for at in range(0, len(rollouts), samples)]
        on_done(len(groups))
    source = policy.source
    return Evaluation(source, samples, groups, selection_of(source), iteration_of(source))


def select_questions(policy: Policy, sources: list[str], episodes: int | None) -> list[Question]:
    """Returns the experiment's held-out questions or those of `sources`, the first `episodes` of each."""
    from envs.data.questions import load_questions, resolve_gold_documents

    if not sources:
        return policy.task.heldout_questions[:episodes]
    names = policy.task.settings.fields
    questions = [question for source in sources for question in load_questions(source, names)[:episodes]]
    return questions if policy.task.corpus is None else resolve_gold_documents(questions, policy.task.corpus)


def report(evaluation: Evaluation, console: Console) -> None:
    """The scores as a table, and one line about how rollouts ended."""
    summary = evaluation.summary
    how = "greedy" if evaluation.samples == 1 else f"{evaluation.samples} samples each at temperature 1"
    saved = "" if evaluation.iteration is None else f" (iteration {evaluation.iteration})"
    table = Table(
        title=f"{evaluation.policy}{saved}: {len(evaluation.groups)} questions, {how}", title_justify="left"
    )
    for column in ("", "score", "95% interval", "questions"):
        table.add_column(column, justify="right" if column else "left")
    for label, values in evaluation.rows():
        score = summary["scores"][label]
        interval = f"[{score['low']:.3f}, {score['high']:.3f}]"
        table.add_row(
            label,
            f"{score['mean']:.3f}",
            interval,
            str(len(values)),
            style="bold" if label == "em_squad" else None,
        )
    console.print(table)
    if len(evaluation.data_sources) > 1:
        console.print(
            benchmark_table(
                evaluation.benchmark,
                f"{evaluation.policy}: % by data set, 95% interval below",
                console.width,
            )
        )
    endings = ", ".join(
        f"{name} {summary[f'{name}_share']:.1%}" for name in ("answered", "truncated", "malformed")
    )
    turns, errors = f"{summary['turns_mean']:.2f} turns on average", f"{summary['tool_error_share']:.1%}"
    console.print(f"rollouts: {endings}; {turns}; errors in {errors} of tool calls")
    if evaluation.too_long:
        console.print(
            f"{len(evaluation.too_long)} of {len(evaluation.groups)} questions count as unanswered, their "
            f"prompts leave no room in max_context_tokens: {named(evaluation.too_long)}"
        )
    if evaluation.chosen is not None:
        console.print(told(evaluation.chosen))


def _episode(rollout: Rollout) -> dict[str, Any]:
    question = rollout.question
    return {
        "question_id": question.id,
        "question": question.text,
        "data_source": question.data_source,
        "golden_answers": question.golds,
        "hops": question.hops,
        "answer": rollout.answer,
        "termination": str(rollout.termination),
        **rollout.metrics,
        "turns": [
            {"agent": turn.agent, "decision": turn.decision_text, "observation": turn.observation_text}
            for turn in rollout.turns
        ],
    }
