"""`igpo settings`: every key of an experiment file. `igpo` mounts this function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import experiment_file


def settings_command(
    name: Annotated[
        str | None,
        typer.Argument(help="A key, a section, or another trainer's word for it.  [default: all]"),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config", metavar="FILE", help="Experiment file: show its values beside the defaults."
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/settings.md.")] = False,
    schema: Annotated[
        bool, typer.Option("--json-schema", help="Print a JSON schema of experiment files, for editors.")
    ] = False,
) -> None:
    """Say what a key of an experiment file means: type, default, bounds, meaning, and which preset sets it.

    Examples:

    - `igpo settings lr`
    - `igpo settings lr --config conf/igpo.yaml` (what this experiment sets)
    - `igpo settings env_config.retriever`
    - `igpo settings learning_rate` (TRL's word)
    - `igpo settings --json-schema > igpo.schema.json`
    """
    from envs.errors import InputError
    from pipeline.experiment import settings_page
    from pipeline.experiment.file import read_experiment_file
    from pipeline.terminal import Console, say

    if (name is not None or config is not None) and (markdown or schema):
        raise InputError(
            "--markdown and --json-schema are about all settings: leave the name and --config out."
        )
    experiments = None
    if config is not None:
        path = Path(experiment_file(config))
        if path.suffix == ".py":
            raise InputError(f"{path}: values are shown of a YAML file; a Python file holds them itself.")
        experiments = read_experiment_file(path)
    if markdown:
        Console().out(settings_page.markdown(), end="")
    elif schema:
        Console().out(json.dumps(settings_page.json_schema(), indent=2))
    elif name is None:
        for line in settings_page.listed(experiments):
            say(line)
    else:
        lines = settings_page.described(name, experiments)
        if not lines:
            near = settings_page.similar(name)
            named = ", ".join(f"`{path}`" for path in near)
            hint = f"did you mean {named}? " if near else ""
            raise InputError(f"there is no setting `{name[:60]}`: {hint}`igpo settings` lists all.")
        for line in lines:
            say(line)
