"""The catalogue of settings as a page of Markdown, as lines of text and as a JSON schema for editors."""

from __future__ import annotations

import json
import re
import textwrap
from typing import Any

from algorithms.credit import PRESETS
from algorithms.igpo.setting_names import CODE
from pipeline.experiment.catalogue import CONFIG_SECTIONS, PRESET_NAMES, TOP, TOP_SECTIONS, Setting, catalogue
from pipeline.experiment.keys import nearest
from pipeline.experiment.peers import here

HEAD = """\
# Settings

Every key of an experiment file. This page is made from the code, and a test compares them
(`igpo settings --markdown > docs/settings.md`).

```bash
igpo settings lr                       # what it means, its bounds, which preset sets it
igpo settings engine                   # a whole section
igpo settings lr --config conf/igpo.yaml   # beside the default, what an experiment sets
igpo settings --json-schema > igpo.schema.json
rllib train file conf/igpo.yaml --set lr=1e-5 --set env_config.max_turns=4 --set stop.training_iteration=10
```

A key of `--set` is written as in the first column; N counts the entries of a list from 0. With the JSON
schema, an editor completes and checks keys: put `# yaml-language-server: $schema=igpo.schema.json` on the
first line of an experiment file. In place of any value of `config:` may stand
`{grid_search: [value, value]}`: a run of each.

A preset's value holds where the file says nothing; the column *presets* names those that differ from the
default. Parts of your own, by `module:function`: [your_own_parts.md](your_own_parts.md).
"""
SECTIONS = (
    (TOP, "Beside `config`", "Keys of the experiment itself."),
    ("config", "`config`", "IGPO's own settings; then those of RLlib that act here."),
    ("lora", "`config.lora`", "Low-rank adapters; without the section all weights are trained."),
    ("engine", "`config.engine`", "What samples and scores tokens."),
    ("env_config", "`config.env_config`", "The task."),
)
CODE_NOTE = """\
A Python experiment file (a variable `config`, an `IGPOConfig`) may also set what holds code: {}.
All other settings of RLlib do nothing here and are refused with what to set instead."""


def markdown() -> str:
    """Returns docs/settings.md."""
    parts = [HEAD]
    for section, title, what in SECTIONS:
        rows = [one for one in catalogue().values() if one.section == section]
        parts.append(f"## {title}\n\n{what}\n")
        parts.append("| key | type | default | meaning | presets |\n|---|---|---|---|---|")
        parts += [_row(one) for one in rows]
        parts.append("")
    parts.append(CODE_NOTE.format(", ".join(f"`{name}`" for name in sorted(CODE))))
    return "\n".join(parts) + "\n"


def _row(one: Setting) -> str:
    kind = f"{one.type}; {one.limits}" if one.limits and one.limits not in one.type else one.type
    meaning = f"{one.meaning} (RLlib)" if one.is_rllib else one.meaning
    presets = ", ".join(f"{name}: {_value(value)}" for name, value in one.presets.items())
    cells = (
        f"`{one.path}`",
        _kind(kind),
        "required" if one.required else f"`{_value(one.default)}`",
        meaning,
        presets,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kind(kind: str) -> str:
    """`whole number; a whole number, 1 or more` said once."""
    return kind.replace("whole number; a whole number, ", "whole number, ").replace(
        "whole number or null; a whole number, ", "whole number or null, "
    )


def _value(value: Any) -> str:
    """A value as YAML writes it."""
    return "null" if value is None else json.dumps(value, ensure_ascii=False) if value != "" else '""'


Experiments = dict[str, dict[str, Any]]
"""The experiments of a file, by name, as `file.read_experiment_file` reads them."""


def described(name: str, experiments: Experiments | None = None) -> list[str]:
    """Describes the settings that `name` means: a path, a name, a section, or another trainer's word.

    Args:
        name: the word.
        experiments: of a file, whose values are told beside the defaults.

    Returns:
        Lines of text; none where nothing is known of the name.
    """
    path = name.removeprefix("config.")
    found = [one for one in catalogue().values() if path in (one.path, one.name)]
    inside = [one for one in catalogue().values() if one.path.startswith(f"{path}.")]
    if not found and not inside:
        said = here(name.rpartition(".")[2])
        named = re.findall(r"`([\w.]+)`", said or "")
        more = (line for one in named for line in ["", *described(one, experiments)])
        return [said, *more] if said else []
    lines: list[str] = []
    for one in found:
        lines += [*_lines(one, experiments), ""]
    return [*lines, *(_line(one, experiments) for one in inside)] if inside else lines[:-1]


def listed(experiments: Experiments | None = None) -> list[str]:
    """Lists every setting, a line each, section by section, with the values of `experiments`."""
    lines = []
    for section, title, what in SECTIONS:
        lines += [f"{title.replace('`', '')}: {what}"]
        lines += [_line(one, experiments) for one in catalogue().values() if one.section == section]
        lines.append("")
    return lines[:-1]


def similar(name: str) -> list[str]:
    """Returns the paths of up to 6 settings whose names contain `name`, else of the one most like it."""
    word = name.rpartition(".")[2].lower()
    places = {one.name: path for path, one in reversed(catalogue().items())}
    containing = [one.path for one in catalogue().values() if len(word) > 2 and word in one.name]
    guess = nearest(word, places)
    return containing[:6] or ([places[guess]] if guess else [])


def _line(one: Setting, experiments: Experiments | None = None) -> str:
    default = "required" if one.required else f"= {_value(one.default)}"
    told = "".join(f"; {name}: {value}" for name, value, is_set in _told(one, experiments) if is_set)
    return f"  {one.path}  ({_kind(one.type)}) {default}{told}"


def _told(one: Setting, experiments: Experiments | None) -> list[tuple[str, str, bool]]:
    """Of each experiment its name, the value that holds there, and whether the file itself says it."""
    told = []
    for name, keys in (experiments or {}).items():
        config = keys.get("config") or {}
        node: Any = keys if one.section == TOP else config
        for part in one.path.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        preset = str(config.get("preset", "igpo"))
        value = one.presets.get(preset, one.default) if node is None else node
        told.append((name, _value(value), node is not None))
    return told


def _wrapped(label: str, text: str, width: int = 8) -> list[str]:
    """A labelled text in lines of at most 80 characters."""
    wrapper = textwrap.TextWrapper(80, break_long_words=False, break_on_hyphens=False)
    wrapper.initial_indent, wrapper.subsequent_indent = f"  {label:{width}}  ", " " * (width + 4)
    return wrapper.wrap(text)


def _lines(one: Setting, experiments: Experiments | None = None) -> list[str]:
    limits = f", {one.limits.removeprefix('a whole number, ')}" if one.limits else ""
    lines = [
        one.place,
        f"  type      {one.type}{limits}",
        f"  default   {'none: it must be given' if one.required else _value(one.default)}",
    ]
    for name, value, is_set in _told(one, experiments):
        lines += _wrapped("in file", f"{value} ({name}{'' if is_set else ', not set there'})")
    meaning = one.meaning.partition(PRESET_NAMES)[0]
    lines += _wrapped("meaning", f"{meaning}{' (a setting of RLlib)' if one.is_rllib else ''}")
    if one.presets:
        lines += _wrapped("presets", ", ".join(f"{name} {_value(v)}" for name, v in one.presets.items()))
    if one.path == "preset":
        lines += [
            line
            for preset in PRESETS.values()
            for line in _wrapped(preset.name, f"{preset.summary}; {preset.source}", 15)
        ]
    return lines


def json_schema() -> dict[str, Any]:
    """Returns a JSON schema of experiment files, for editors."""
    sections: dict[str, dict[str, Any]] = {}
    for one in catalogue().values():
        if "." not in one.path:
            sections.setdefault(one.section, {})[one.path] = _described(one)
    config = sections["config"]
    for name in CONFIG_SECTIONS:
        config[name] = _object(_inside(f"{name}."))
    config["lora"] = {"anyOf": [config["lora"], {"type": "null"}]}
    top = sections[TOP]
    for name in TOP_SECTIONS:
        top[name] = _object(_inside(f"{name}."))
    top["config"] = _object({name: _or_grid(schema) for name, schema in config.items()})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "IGPO experiment file",
        "type": "object",
        "additionalProperties": _object(top),
    }


def _inside(prefix: str) -> dict[str, Any]:
    inside = {}
    for path, one in catalogue().items():
        rest = path.removeprefix(prefix)
        if path.startswith(prefix) and "." not in rest:
            inside[rest] = _or_grid(_described(one))
    return inside


def _described(one: Setting) -> dict[str, Any]:
    schema = {key: value for key, value in one.schema.items() if key not in ("title", "default")}
    return {**schema, "description": one.meaning}


def _or_grid(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, or a grid of such values."""
    grid = {
        "type": "object",
        "properties": {"grid_search": {"type": "array", "minItems": 1}},
        "required": ["grid_search"],
        "additionalProperties": False,
    }
    described = {"description": schema["description"]} if "description" in schema else {}
    return {"anyOf": [schema, grid, {"type": "null"}], **described}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}
