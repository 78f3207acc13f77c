"""Fills the answers of docs/asking_questions.md from a run.

    python docs/fill_answers.py RUN [--runs-dir runs]

Every block of SQL is asked of RUN (a folder, a name, a run id, `last`), and what `igpo sql` shows is put
behind it, in place of the answer that was there.
"""

from __future__ import annotations

import argparse
import datetime
import io
import re
from pathlib import Path

from rich.console import Console

from pipeline.analysis import Run, open_run
from pipeline.cli.output import print_table

PAGE = Path(__file__).parent / "asking_questions.md"
SOURCE = re.compile(r"<!-- answers -->\n(?:[^\n]+\n)*")
QUESTION = re.compile(r"```sql\n(?P<sql>.*?)\n```\n(?:```text\n.*?\n```\n)?", re.DOTALL)
WIDTH = 120


def questions(page: str) -> list[str]:
    """The page's SQL, in order."""
    return [found["sql"] for found in QUESTION.finditer(page)]


def fill(page: str, run: Run, today: datetime.date) -> str:
    """The page with the answers of `run` behind its questions.

    Raises AnalysisError where a question is wrong.
    """
    page = SOURCE.sub(lambda found: f"<!-- answers -->\n{_source(run, today)}\n", page)
    return QUESTION.sub(
        lambda found: f"```sql\n{found['sql']}\n```\n```text\n{_answer(run, found['sql'])}\n```\n", page
    )


def _answer(run: Run, sql: str) -> str:
    text = io.StringIO()
    print_table(run.sql(sql), 0, Console(file=text, width=WIDTH, highlight=False))
    return "\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines())


def _source(run: Run, today: datetime.date) -> str:
    """One line that says whose answers these are."""
    name, preset, iterations, episodes, turns = run.sql(
        """
        SELECT any_value(name), any_value(config->>'$.config.preset'),
            (SELECT max(iteration) FROM iterations),
               (SELECT count(*) FROM episodes), (SELECT count(*) FROM turns)
        FROM runs
        """
    ).fetchall()[0]
    return (
        f"The answers: experiment `{name}`, preset `{preset}`, {iterations} iterations, {episodes:,} "
        f"rollouts, {turns:,} turns; "
        f"filled in on {today} by `python docs/fill_answers.py RUN`."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--runs-dir", default="runs")
    args = parser.parse_args()
    with open_run(args.run, runs_dir=args.runs_dir) as run:
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), run, datetime.date.today()), encoding="utf-8")
    print(f"{len(questions(PAGE.read_text(encoding='utf-8')))} answers in {PAGE}")


if __name__ == "__main__":
    main()
