"""The learner's health by iteration: a bad update shows here before it shows in the scores."""

from __future__ import annotations

from pipeline.analysis.answers import rows_of
from pipeline.analysis.report.charts import lines
from pipeline.analysis.report.figure import Figure
from pipeline.analysis.run import Run

METRICS = {
    "kl": ("KL to the reference", "Mean over decision tokens; measured where kl_coeff is above 0.", "nats"),
    "entropy": ("Entropy", "Mean over decision tokens. A fall to 0: the policy explores no more.", "nats"),
    "grad_norm": ("Gradient norm", "Mean over the iteration's updates, before clipping.", "norm"),
    "clip_share": ("Clipped tokens", "Share of decision tokens whose ratio is out of its bounds.", "share"),
    "logp_gap_mean": (
        "Log-prob gap of sampler and learner",
        "Mean over decision tokens at one weights version; it should be close to 0.",
        "nats",
    ),
    "loss": ("Loss", "Mean over the iteration's updates; its level says little, its jumps do.", "loss"),
}
"""Metric of an iteration: title, over what it is taken, and what the axis says."""
LENGTHS = (
    "Tokens per rollout",
    "Mean decision tokens over the iteration's training rollouts. A steady rise or fall: the policy found "
    "length, not answers.",
    "tokens",
)


def health_figures(run: Run, label_of: dict[str, str]) -> list[Figure]:
    """Draws a figure per metric that the log has, a line per run.

    Args:
        run: the open runs.
        label_of: run id to the run's label in the report.
    """
    chosen = ", ".join(f"metrics['{name}'] AS {name}" for name in METRICS)
    rows = rows_of(
        run.sql(f"SELECT run_id, iteration, {chosen} FROM iterations WHERE split = 'train' ORDER BY ALL")
    )
    figures = [
        drawn
        for name, words in METRICS.items()
        if (drawn := _figure([(row["run_id"], row["iteration"], row[name]) for row in rows], words, label_of))
    ]
    lengths = run.sql(
        "SELECT run_id, iteration, avg(decision_tokens) FROM episodes WHERE split = 'train' GROUP BY ALL "
        "ORDER BY ALL"
    ).fetchall()
    drawn = _figure(lengths, LENGTHS, label_of)
    return figures + ([drawn] if drawn else [])


def _figure(
    points: list[tuple[str, int, float | None]], words: tuple[str, str, str], label_of: dict[str, str]
) -> Figure | None:
    """Draws the points with a value; None where there is none, or only zeros."""
    rows = [
        {"run": label_of[run_id], "series": label_of[run_id], "iteration": iteration, "value": value}
        for run_id, iteration, value in points
        if value is not None
    ]
    if not any(row["value"] for row in rows):
        return None
    title, reading, axis = words
    return Figure(title, reading, lines(rows, list(label_of.values()), axis, axis == "share"))
