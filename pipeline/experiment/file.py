"""Reading an experiment file: YAML as people write it, `extends`, `--set` overrides, `grid_search` and
`num_samples`.

Plain PyYAML would change what an experiment says: `1e-6` (YAML 1.2's float) becomes a string, `1:30` becomes
90, `010` becomes 8, and of a key given twice the first is dropped without a word. The loader here does not.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
import yaml.constructor
import yaml.scanner

from envs.errors import InputError
from pipeline.experiment.conf_files import is_file, packaged_file
from pipeline.experiment.keys import cut, shown

GRID = "grid_search"
EXTENDS = "extends"
"""Key of an experiment that names the file of another one, whose keys it inherits: relative to its own file,
else packaged."""
MOST_VALUES, DEEPEST, MOST_RUNS = 100_000, 50, 1000
"""Bounds of a file: values (what an alias names counts each time), levels of nesting, and runs."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 numbers that refuses duplicate keys."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """PyYAML's, which fails in many ways at a value that is not of its tag: `2020-99-99`, `!!int x`."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{shown(node.value)} is no {kind} that can be read", node.start_mark
            ) from error

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803 (PyYAML's name)
        # PyYAML's time grows with the square of the depth.
        if self.flow_level >= DEEPEST:
            raise yaml.scanner.ScannerError(
                None, None, f"it is nested more than {DEEPEST} levels deep", self.get_mark()
            )
        super().fetch_flow_collection_start(TokenClass)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep=deep)  # raises
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain value, not a mapping or a list", key_node.start_mark
                )
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"`{key}` is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_MERGE = "tag:yaml.org,2002:merge"
_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+",
    "tag:yaml.org,2002:float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"
    r"|[-+]?\.inf|\.nan",
}
_Loader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list("-+0123456789."))


def parse_yaml(text: str, where: str) -> Any:
    """The value of the YAML `text`. `where` names the source in an `InputError` about its syntax."""
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except RecursionError:
        raise InputError(f"{where}: this YAML is nested too deeply; {DEEPEST} levels can be read.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise InputError(f"{where}{line}: this is not YAML that can be used: {problem}.") from error
    _check_size(value, where)
    return value


def _check_size(value: Any, where: str) -> None:
    """Raises InputError for a value without end (an anchor that names itself), one that is too large, and for
    text with NUL or half a surrogate pair, which no path, JSON or database takes.

    It is walked as later steps walk it, so that they end.
    """
    level, count = [value], 0
    for _ in range(DEEPEST):
        children: list[Any] = []
        for node in level:
            if isinstance(node, str) and ("\0" in node or any("\ud800" <= c <= "\udfff" for c in node)):
                raise InputError(
                    f"{where}: the text {shown(node)} holds a character that no setting can hold."
                )
            if isinstance(node, dict | list | tuple | set):
                children += [*node, *node.values()] if isinstance(node, dict) else node
            if count + len(children) > MOST_VALUES:
                raise InputError(
                    f"{where}: this YAML holds more than {MOST_VALUES} values, aliases counted each "
                    "time; write less, or give the data as a file."
                )
        if not children:
            return
        count += len(children)
        level = children
    raise InputError(
        f"{where}: this YAML is nested more than {DEEPEST} levels deep, or an anchor in it names itself."
    )


def read_experiment_file(path: Path) -> dict[str, dict]:
    """The experiments of a YAML file: name -> its keys, not yet validated. `extends` is resolved."""
    return _read_file(path, ())


def _read_file(path: Path, extended_by: tuple[Path, ...]) -> dict[str, dict]:
    """`extended_by` are the files whose `extends` led here."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: the experiment file cannot be read: {reason}.") from error
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{path}: an experiment file holds `NAME: {{run: IGPO, config: ...}}`, found {_kind(content)}."
        )
    for name, keys in content.items():
        if not isinstance(keys, dict):
            raise InputError(
                f"{path}: experiment `{name}` must hold keys like `run`, `stop` and `config`, found "
                f"{_kind(keys)}. The first level of the file is the experiment's name."
            )
    return {
        str(name): _extended(keys, path, (*extended_by, path.resolve())) for name, keys in content.items()
    }


def _extended(keys: dict, path: Path, files: tuple[Path, ...]) -> dict:
    """`keys` of an experiment in the file `path`, over those of the experiment that it extends."""
    if EXTENDS not in keys:
        return keys
    base, own = keys[EXTENDS], {key: value for key, value in keys.items() if key != EXTENDS}
    where = f"{path}: `extends: {cut(str(base), 70)}`"
    base_path = path.parent / str(base)
    if not is_file(base_path):
        base_path = packaged_file(str(base)) or base_path
    if not isinstance(base, str) or base_path.suffix not in (".yaml", ".yml") or not is_file(base_path):
        raise InputError(
            f"{where} must name a YAML experiment file, relative to this one or one that ships with the "
            f"package; there is none at {cut(str(base_path), 90)}."
        )
    if base_path.resolve() in files:
        raise InputError(f"{where} goes round in a circle: {base_path} extends this file.")
    experiments = _read_file(base_path, files)
    if len(experiments) > 1:
        raise InputError(f"{where} must name a file of one experiment; it holds {', '.join(experiments)}.")
    return _merged(*experiments.values(), own)


def _merged(base: Any, own: Any) -> Any:
    """Mappings key by key, `own` first; everything else, lists too, is replaced."""
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    return {
        **base,
        **{key: _merged(base[key], value) if key in base else value for key, value in own.items()},
    }


def apply_override(experiment: dict, assignment: str, top_level_keys: set[str]) -> None:
    """Sets `KEY=VALUE` in `experiment`, in place.

    A key is dotted and belongs to `config` unless its head is a top-level key. VALUE is read as YAML:
    `seed=3`, `env_config.world.seed=3`, `stop.training_iteration=2`, `env_config.roles.0.name=reader`.

    Raises:
        InputError: the assignment is malformed, or names a place that does not exist.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {assignment}: write KEY=VALUE, for instance --set env_config.world.seed=3.")
    parts = key.strip().split(".")
    if parts[0] not in top_level_keys:
        parts = ["config", *parts]
    value = parse_yaml(text, f"--set {key}")
    node: Any = experiment
    for depth, part in enumerate(parts):
        place = ".".join(parts[:depth])
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise InputError(
                    f"--set {key}: `{place}` is a list of {len(node)}; `{part}` is no position in it."
                )
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
        else:
            raise InputError(f"--set {key}: `{place}` is {_kind(node)}, so it has no key `{part}`.")
        if depth == len(parts) - 1:
            node[index] = value
        else:
            if isinstance(node, dict) and node.get(index) is None:
                node[index] = {}
            node = node[index]


def expand_variants(config: dict, num_samples: int) -> Iterator[tuple[dict, dict[str, Any], int]]:
    """(config, choices, sample) of every point of the grid, `num_samples` times.

    `choices` maps the dotted key of each `{grid_search: [...]}` to the value taken. Sample k > 0 adds k to a
    `seed` that is set, because the same seed would repeat the same run.
    """
    places = list(_grid_places(config, ()))
    if (runs := num_samples * math.prod(len(options) for _, options in places)) > MOST_RUNS:
        raise InputError(
            f"grid_search and num_samples ask for {shown(runs)} runs, one after another; at most "
            f"{MOST_RUNS} are made: give fewer values or samples."
        )
    for sample in range(num_samples):
        for values in itertools.product(*(options for _, options in places)):
            variant = copy.deepcopy(config)
            for (place, _), value in zip(places, values, strict=True):
                node = variant
                for part in place[:-1]:
                    node = node[part]
                node[place[-1]] = copy.deepcopy(value)
            if sample and isinstance(variant.get("seed"), int):
                variant["seed"] += sample
            choices = {
                ".".join(map(str, place)): value for (place, _), value in zip(places, values, strict=True)
            }
            yield variant, choices, sample


def _grid_places(node: Any, place: tuple) -> Iterator[tuple[tuple, list]]:
    if isinstance(node, dict) and GRID in node:
        options = node[GRID]
        if len(node) != 1 or not isinstance(options, list) or not options:
            raise InputError(
                f"config.{'.'.join(map(str, place))}: write {{grid_search: [value, value, ...]}} with "
                "nothing beside it."
            )
        yield place, options
        return
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from _grid_places(child, (*place, key))


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return {dict: "a mapping", list: "a list", str: "a text", bool: "a truth value"}.get(
        type(value), shown(value)
    )
