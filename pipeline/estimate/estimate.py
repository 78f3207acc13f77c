"""`igpo estimate`: prints the capacity model's answer for each kind of machine."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from envs.errors import InputError
from pipeline.estimate.capacity import Estimate, estimate
from pipeline.estimate.machines import GIB, GPUS, Device, this_cpu
from pipeline.estimate.workload import Expected, Workload, model_of, workload_of
from pipeline.experiment.experiment import Experiment
from pipeline.fitted_table import Column, print_fitted
from pipeline.terminal import Console

CPU = "cpu"


def show(experiment: Experiment, device_name: str | None, expected: Expected, console: Console) -> None:
    """Prints the estimate for every kind of machine, or one of them in detail."""
    config = experiment.algorithm_config()
    model = model_of(config)
    devices = dict(GPUS) | {CPU: this_cpu(config.num_cpus_per_env_runner or 1, config.model_dtype)}
    if device_name is not None and device_name not in devices:
        raise InputError(f"--device {device_name}: it must be one of {', '.join(devices)}")
    chosen = {device_name: devices[device_name]} if device_name is not None else devices
    works = {name: workload_of(config, expected, on_cpu=name == CPU) for name in chosen}
    found = {name: (device, estimate(model, works[name], device)) for name, device in chosen.items()}
    iterations = experiment.stop.get("training_iteration")
    work = next(iter(works.values()))
    share = "" if model.trained == model.parameters else f" ({model.trained / 1e6:,.4g} million trained)"
    console.print(
        f"{experiment.name}: {model.parameters / 1e6:,.4g} million parameters{share}, {work.rollouts} "
        "rollouts of at most "
        f"{work.sequence_tokens:,.0f} tokens per iteration"
    )
    print_fitted(console, _overview(found, work, iterations))
    if device_name is not None:
        console.print(_details(*found[device_name]))
    console.print(
        "An estimate by arithmetic and memory traffic, every turn as long as it may be (--turns, "
        "--turn-tokens, "
        "--observation-tokens and others say otherwise). Not yet run on a GPU: no GPU's numbers have been "
        "checked against a run.",
        style="dim",
    )


def _overview(
    found: dict[str, tuple[Device, Estimate]], work: Workload, iterations: float | None
) -> list[Column]:
    """A row per machine."""
    rows = []
    for name, (device, answer) in found.items():
        seconds = answer.seconds_per_iteration
        rollout_seconds = seconds - answer.seconds["learn"] - answer.seconds["push"] - answer.seconds["swap"]
        rows.append(
            {
                "machine": f"{name}: {device.name}",
                "fits": Text("yes") if answer.fits else Text("no", style="red"),
                "engine": f"{answer.memory.engine / GIB:.1f} GiB",
                "learner": f"{answer.memory.learner / GIB:.1f} GiB",
                "has": f"{device.memory / GIB:.0f} GiB",
                "s / iteration": f"{seconds:,.1f}",
                "hours": "" if iterations is None else f"{seconds * iterations / 3600:,.2f}",
                "written tokens/s": f"{work.rollouts * work.written_tokens / rollout_seconds:,.0f}",
                "sequences in cache": f"{answer.memory.engine_capacity:,.0f}",
            }
        )
    return [
        Column(
            name,
            [value if isinstance(value := row[name], Text) else Text(value) for row in rows],
            is_number=name not in ("machine", "fits"),
        )
        for name in rows[0]
    ]


def _details(device: Device, answer: Estimate) -> Table:
    table = Table(
        header_style="bold", title=f"{device.name} (speeds from {device.source})", title_justify="left"
    )
    for name, justify in (("part", "left"), ("memory", "right"), ("phase", "left"), ("seconds", "right")):
        table.add_column(name, justify=justify)
    memory = [(part, f"{size / GIB:.2f} GiB") for part, size in answer.memory.parts.items()]
    seconds = [(phase, f"{value:,.2f}") for phase, value in answer.seconds.items()]
    for k in range(max(len(memory), len(seconds))):
        table.add_row(
            *(memory[k] if k < len(memory) else ("", "")), *(seconds[k] if k < len(seconds) else ("", ""))
        )
    return table
