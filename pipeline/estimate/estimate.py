"""`igpo estimate`: prints the capacity model's answer for each kind of machine, within 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from envs.errors import InputError
from pipeline.estimate.capacity import Estimate, estimate
from pipeline.estimate.machines import GIB, GPUS, Device, this_cpu
from pipeline.estimate.model import model_of
from pipeline.estimate.placement import Placement, propose
from pipeline.estimate.workload import Expected, Workload, workload_of
from pipeline.experiment.experiment import Experiment
from pipeline.terminal import Console

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

CPU = "cpu"
WIDTH = 80
"""Columns of the page, where it goes into a pipe too."""


def show(
    experiment: Experiment,
    device_name: str | None,
    expected: Expected,
    console: Console,
    *,
    gpus: int | None = None,
) -> None:
    """Prints the estimate for every kind of machine, or one of them in detail.

    Args:
        experiment: what to estimate.
        device_name: one kind of machine; None: all.
        expected: an average rollout.
        console: where to print.
        gpus: propose a placement on so many GPUs, of every kind or of `device_name`.
    """
    config = experiment.algorithm_config()
    model = model_of(config)
    devices = dict(GPUS) | {CPU: this_cpu(config.num_cpus_per_env_runner or 1, config.model_dtype)}
    if device_name is not None and device_name not in devices:
        raise InputError(f"--device {device_name}: it must be one of {', '.join(devices)}")
    if gpus is not None and device_name == CPU:
        raise InputError("--gpus is about GPUs: leave --device cpu out")
    chosen = {device_name: devices[device_name]} if device_name is not None else devices
    works = {name: workload_of(config, expected, on_cpu=name == CPU) for name in chosen}
    found = {name: (device, estimate(model, works[name], device)) for name, device in chosen.items()}
    work = next(iter(works.values()))
    share = "" if model.trained == model.parameters else f" ({_millions(model.trained)} million trained)"
    console.print(
        f"{experiment.name}: {_millions(model.parameters)} million parameters{share}, {work.rollouts} "
        f"rollouts of {'at most' if expected == Expected() else 'about'} {work.sequence_tokens:,.0f} tokens "
        f"per iteration. {_asked(config)}"
    )
    console.print(_overview(found, work, experiment.stop.get("training_iteration")))
    console.print(
        "GiB: what one GPU of an engine and one of a learner needs, and what it has (cpu: all together, and "
        "the machine). cache: whole rollouts that an engine holds at once. tokens/s: written.",
        style="dim",
    )
    if device_name is not None:
        console.print(_details(*found[device_name]))
    for name, device in chosen.items():
        if gpus is not None and name != CPU:
            console.print()
            _show_placement(propose(config, model, works[name], device, gpus), device, gpus, console)
    console.print(
        "An estimate by arithmetic and memory traffic, every turn as long as it may be unless --like RUN, "
        "--turns, --turn-tokens, --observation-tokens and others say otherwise. Of GPUs one H200 was "
        "measured, alone (docs/gpu.md).",
        style="dim",
    )
    for name, device in chosen.items():
        console.print(f"{name}: {device.name}, {device.memory / GIB:.1f} GiB", style="dim")


def _show_placement(placement: Placement | None, device: Device, gpus: int, console: Console) -> None:
    if placement is None:
        console.print(f"{gpus} x {device.name}: no placement fits; take `lora`, or more GPUs")
        return
    engines = f"{_count(placement.engines, 'engine')} on {_count(placement.gpus_per_engine, 'GPU')} each"
    answer = placement.found
    host = f"; {answer.memory.host / GIB:.0f} GiB of host memory" if answer.memory.host else ""
    console.print(
        f"{gpus} x {device.name}: {engines}, {_count(placement.learners, 'learner')}; "
        f"{answer.memory.by_role()} of {device.memory / GIB:.1f} GiB{host}; "
        f"{_duration(answer.seconds_per_iteration)} an iteration. Write:"
    )
    console.print(placement.lines, soft_wrap=True, end="")


def _asked(config: IGPOConfig) -> str:
    """Says what the experiment's file asks of Ray."""
    runners, learners = config.num_env_runners or 0, config.num_learners
    gpus = runners * config.num_gpus_per_env_runner + max(1, learners) * config.num_gpus_per_learner
    if not gpus:
        return "The file asks for no GPU."
    return (
        f"The file asks for {_count(gpus, 'GPU')}: {_count(runners, 'engine')} with "
        f"{config.num_gpus_per_env_runner:g} each, {_count(max(1, learners), 'learner')} with "
        f"{config.num_gpus_per_learner:g} each."
    )


def _overview(found: dict[str, tuple[Device, Estimate]], work: Workload, iterations: float | None) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("machine")
    for name in ("engine", "learner", "has", "cache", "tokens/s", "iteration", "run"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("fits")
    for name, (_, answer) in found.items():
        seconds = answer.seconds_per_iteration
        rollout_seconds = seconds - answer.seconds["learn"] - answer.seconds["push"] - answer.seconds["swap"]
        device = found[name][0]
        table.add_row(
            name,
            f"{answer.memory.engine / GIB:.1f}",
            f"{answer.memory.learner / GIB:.1f}",
            f"{device.memory / GIB:.1f}",
            f"{answer.memory.engine_capacity:,.0f}",
            _number(work.rollouts * work.written_tokens / rollout_seconds),
            _duration(seconds),
            "" if iterations is None else _duration(seconds * iterations),
            "yes" if answer.fits else Text("no", style="red"),
        )
    return table


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}" + ("" if number == 1 else "s")


def _millions(number: float) -> str:
    return f"{number / 1e6:,.0f}" if number >= 1e9 else f"{number / 1e6:.4g}"


def _number(value: float) -> str:
    """The value with the digits that an estimate has: 6.47, 125, 19,777, 7.1M, 120M."""
    if value >= 1e6:
        return f"{value / 1e6:,.0f}M" if value >= 1e7 else f"{value / 1e6:.1f}M"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    """The time in a unit that keeps the number small: 3 ms, 6.47 s, 12.5 min, 31 h, 12 days."""
    if seconds < 0.1:
        return f"{_number(seconds * 1000)} ms"
    for unit, size, following in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 86400)):
        if seconds < 2 * following:
            return f"{_number(seconds / size)} {unit}"
    return f"{_number(seconds / 86400)} days"


def _details(device: Device, answer: Estimate) -> Table:
    table = Table(
        header_style="bold", title=f"{device.name} (speeds from {device.source})", title_justify="left"
    )
    for name, justify in (("part", "left"), ("memory", "right"), ("phase", "left"), ("seconds", "right")):
        table.add_column(name, justify=justify)
    memory = [(part, f"{size / GIB:.2f} GiB") for part, size in answer.memory.parts.items()]
    if answer.memory.host:
        memory.append(("host memory, all learners", f"{answer.memory.host / GIB:.2f} GiB"))
    seconds = [(phase, f"{value:,.2f}") for phase, value in answer.seconds.items()]
    for k in range(max(len(memory), len(seconds))):
        table.add_row(
            *(memory[k] if k < len(memory) else ("", "")), *(seconds[k] if k < len(seconds) else ("", ""))
        )
    return table
