"""`python -m algorithms.embedded_policy --out DIR` makes the embedded policy's folder and measures the
policy.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from algorithms.embedded_policy.policy import build_policy, load_policy
from algorithms.embedded_policy.report import measure, measure_planning, report_table
from algorithms.embedded_policy.trainer import GRADED, PLANNING, LookupFailed, Recipe, Trainer
from envs.engine.models import resolve_model
from envs.errors import InputError
from envs.search.protocols.tiny import TinyProtocol, build_tokenizer
from envs.world.words import vocabulary

RECIPES = {"graded": GRADED, "planning": PLANNING}

CARD = """# The embedded policy

A 0.68M-parameter Llama with a word-level tokenizer for the generated multi-hop world (`envs/world/world.py`).
It was trained on demonstrations of a noisy expert, each in a fresh random world, so it knows how to read and
search but no fact. It also learned the expert's bad habits, which reinforcement learning has to correct.
Their probabilities per search:
{habits}.

Made{start} by `{command}` with torch {torch}.

Measured on held-out questions of {measured}:

```json
{measures}
```
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m algorithms.embedded_policy", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, must not exist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads", type=int, default=2, help="CPU threads; results depend on it in the last digits"
    )
    parser.add_argument("--lookup-steps", type=int, default=Recipe.max_lookup_steps, help="at most")
    parser.add_argument("--steps", type=int, help="after look-ups, in place of the recipe's")
    parser.add_argument(
        "--start", help="go on from this policy, which can look facts up: its folder, or `tiny`"
    )
    parser.add_argument(
        "--graded", action="store_true", help="the recipe for worlds of graded evidence; needs --start"
    )
    parser.add_argument(
        "--planning",
        action="store_true",
        help="the recipe for questions told out of order; needs --start",
    )
    parser.add_argument(
        "--give-up", type=float, help="chance that the expert gives up after a search, whatever is asked for"
    )
    options = parser.parse_args(arguments)
    console = Console(markup=False)
    named = [name for name in RECIPES if getattr(options, name)]
    if len(named) > 1:
        console.print("--graded and --planning are two recipes: give one of them", style="red")
        return 2
    if named and not options.start:
        console.print(
            f"--{named[0]} teaches a policy that reads and searches already: name one with --start",
            style="red",
        )
        return 2
    if options.out.exists():
        console.print(f"{options.out} exists: give a folder that does not", style="red")
        return 2
    try:
        start = Path(resolve_model(options.start)) if options.start else None
    except InputError as error:
        console.print(f"--start: {error}", style="red")
        return 2
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    tokenizer = build_tokenizer(vocabulary())
    protocol = TinyProtocol(tokenizer)
    policy = load_policy(start) if start else build_policy(len(tokenizer), options.seed)
    settings = replace(RECIPES[named[0]] if named else Recipe(), seed=options.seed)
    settings = replace(settings, max_lookup_steps=0 if start else options.lookup_steps)
    if options.steps is not None:
        share = options.steps / sum(phase.steps for phase in settings.phases)
        phases = tuple(replace(phase, steps=max(round(phase.steps * share), 1)) for phase in settings.phases)
        settings = replace(settings, phases=phases)
    if options.give_up is not None:
        habits = replace(settings.habits, give_up=options.give_up, give_up_bored=options.give_up)
        settings = replace(settings, habits=habits)
    try:
        with _progress(console) as progress:
            Trainer(policy, protocol, settings, _show_steps(progress)).run()
    except LookupFailed as error:
        console.print(str(error), style="red")
        return 1
    policy.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    if options.planning:
        measures = measure_planning(options.out)
    else:
        measures = measure(options.out, graded_evidence=settings.graded_evidence if options.graded else 0.0)
    card = CARD.format(
        command=shlex.join(
            [
                "python",
                "-m",
                "algorithms.embedded_policy",
                *(sys.argv[1:] if arguments is None else arguments),
            ]
        ),
        start=f" from `{start.name}`" if start else "",
        measured=_measured(options),
        habits=", ".join(f"{name} {chance:g}" for name, chance in asdict(settings.habits).items()),
        torch=torch.__version__,
        measures=json.dumps(measures, indent=1),
    )
    (options.out / "README.md").write_text(card)
    console.print(report_table(measures))
    return 0


def _measured(options: argparse.Namespace) -> str:
    if options.planning:
        return "2 and 3 hops told out of order, each with a side chain, by one agent and with a planner"
    graded = f" at `graded_evidence` {GRADED.graded_evidence:g}" if options.graded else ""
    return f"the default world{graded}, as many of 1, 2, 3 and 4 hops"


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[measures]}"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)


def _show_steps(progress: Progress):
    tasks: dict[str, TaskID] = {}

    def show(phase: str, step: int, total: int, measures: dict[str, float]) -> None:
        text = "  ".join(f"{name} {value:.3g}" for name, value in measures.items())
        if phase not in tasks:
            tasks[phase] = progress.add_task(phase, total=total, measures=text)
        progress.update(tasks[phase], completed=step, measures=f"step {step}  {text}")
        if not progress.console.is_terminal and step % 50 == 0:
            progress.console.print(f"{phase} {step}/{total}  {text}")

    return show


if __name__ == "__main__":
    sys.exit(main())
