"""The keys of an experiment file. Unknown ones are errors that name the nearest known one.

RLlib takes any key of a config dictionary in silence (a typo becomes a new attribute that nothing reads), so
every key of an experiment is checked here, before Ray starts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ValidationError

from algorithms.igpo.setting_names import CODE, FIXED, OF_ONE_POLICY, RENAMED, RLLIB_WORDS, WITHOUT_EFFECT
from envs.engine.lora import LoraSettings
from envs.errors import InputError
from pipeline.experiment.catalogue import catalogue, config_keys, model_in
from pipeline.experiment.peers import here

EXPERIMENT_KEYS = {
    "run",
    "env",
    "stop",
    "config",
    "num_samples",
    "checkpoint_config",
    "restore",
    "storage_path",
    "rollout_log",
    "mlflow",
    "time_budget_s",
}
TUNE_ONLY_KEYS = {
    "resources_per_trial",
    "sync_config",
    "trial_name_creator",
    "trial_dirname_creator",
    "log_to_file",
    "export_formats",
    "max_failures",
    "upload_dir",
    "local_dir",
}

LONGEST = 300
"""Characters of an error."""


def shown(value: Any) -> str:
    """`value` for an error: `repr`, with the middle of a long one left out."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"a {type(value).__name__} of too many digits"
    return text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}"


def cut(text: str, most: int = 200) -> str:
    """`text` with the middle of a long one left out."""
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-(most // 2 - 3) :]}"


def shortened(text: str, most: int = 200) -> str:
    """A sentence in at most `most` characters: long quoted values and lists go first, then its end."""
    if len(text) > most:
        text = _LONG_VALUE.sub(lambda value: f"{value[0][:20]}...{value[0][-9:]}", text)
    return text if len(text) <= most else f"{text[: most - 3].rpartition(' ')[0].rstrip(' ,;:')}..."


_LONG_VALUE = re.compile(r"""(?<!\w)(?:'[^']{33,}'|"[^"]{33,}"|\[[^][]{33,}\])(?!\w)""")


@contextmanager
def usable(where: str) -> Generator[None]:
    """Raises whatever the configuration refuses in the block as an InputError of one line about `where`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {shortened(str(error), 260)}") from error
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        begin = f"{where}: `config` is not usable: "
        text = shortened(" ".join(str(error).split()), max(160, LONGEST - len(begin)))
        raise InputError(begin + text) from error


def nearest(key: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known key that looks most like `key`, or None if none does as much as `cutoff` (0 to 1)."""
    candidates = sorted(set(known))
    found = difflib.get_close_matches(str(key), candidates, n=1, cutoff=cutoff)
    if found:
        return found[0]
    parts = [name for name in candidates if str(key) in name.replace("/", "_").split("_")]
    return parts[0] if len(parts) == 1 else None


def unknown_key(path: str, key: str, known: Iterable[str], where: str) -> InputError:
    """The error about `key` at YAML path `path` (dotted, "" for the top) of file `where`.

    Another trainer's word is answered with the word here; then a name here of almost the same letters, a
    setting of the same name in another section, the nearest name here, the nearest of all sections, and
    RLlib's last.
    """
    known = list(known)
    name = str(key) if len(str(key)) <= 60 and str(key).isprintable() else shown(key)
    full = f"{path}.{name}" if path else name
    is_experiment = path.partition(".")[0] in ("config", "checkpoint_config", "mlflow")
    hint = None
    if is_experiment or EXPERIMENT_KEYS.issuperset(known):
        hint = here(str(key)) or _sibling(str(key), known) or _elsewhere(path, str(key))
        hint = hint or _alike(path, str(key), known)
    elif guess := nearest(key, known):
        hint = f"Did you mean `{guess}`?"
    if hint is None and len(known) <= 20:
        hint = "Known keys here: " + ", ".join(f"`{name}`" for name in sorted(known)) + "."
    return InputError(
        f"{where}: unknown key `{full}`. {hint or 'No known key looks like it: `igpo settings` lists all.'}"
    )


def _sibling(key: str, known: Iterable[str]) -> str | None:
    """The key here that differs from `key` in a letter or two: `question` for `questions`."""
    found = difflib.get_close_matches(key, sorted(map(str, known)), n=1, cutoff=0.92)
    return f"Did you mean `{found[0]}`?" if found else None


def _elsewhere(path: str, key: str) -> str | None:
    """The places of other sections where a setting is called `key`."""
    inside = re.sub(r"\.\d+\b", ".N", path)
    places = [one.place for one in catalogue().values() if one.name == key]
    places = [f"`{place}`" for place in places if place.rpartition(".")[0] != inside]
    return f"It belongs elsewhere: {' or '.join(places[:3])}." if places else None


def _alike(path: str, key: str, known: Iterable[str]) -> str | None:
    """The setting that looks most like `key`: here, in any section, or RLlib's, in this order.

    One here with the same letters in another order comes first.
    """
    own = {one.name: one.place for one in reversed(catalogue().values()) if not one.is_rllib}
    theirs = {one.name for one in catalogue().values() if one.is_rllib}
    inside = set(known) - theirs if path == "config" else set(known)
    swapped = [name for name in sorted(inside) if sorted(name) == sorted(key)]
    if swapped:
        return f"Did you mean `{swapped[0]}`?"
    for cutoff in (0.8, 0.6):
        for names in (inside, own, set(known) & theirs):
            if guess := nearest(key, names, cutoff):
                return f"Did you mean `{guess if guess in known else own[guess]}`?"
    return None


def check_keys(given: Iterable[str], known: Iterable[str], path: str, where: str) -> None:
    """Raises the error of `unknown_key` for the first of `given` that is not in `known`."""
    known = set(known)
    for key in given:
        if key not in known:
            raise unknown_key(path, key, known, where)


def check_config_keys(config: dict, where: str) -> None:
    """Raises InputError for a key of `config:` that is unknown, would do nothing, or holds code."""
    known = config_keys()
    for key in config:
        name = RLLIB_WORDS.get(str(key), str(key))
        if str(key) in WITHOUT_EFFECT:
            raise InputError(f"{where}: `config.{key}` has no effect here: {WITHOUT_EFFECT[str(key)]}.")
        if name in CODE:
            raise InputError(f"{where}: `config.{key}` is code: set it in a Python experiment file.")
        if name not in known | FIXED | RENAMED.keys():
            raise unknown_key("config", key, known, where)


def check_policies(config: dict, where: str) -> None:
    """Raises InputError for settings of one policy alone that it can't have, or that its adapters can't."""
    for name in ("policies", "algorithm_config_overrides_per_module"):
        by_policy = {} if config.get(name) is None else config[name]
        for policy, own in [(None, by_policy), *(by_policy.items() if isinstance(by_policy, dict) else ())]:
            path = f"config.{name}" if policy is None else f"config.{name}.{policy}"
            if not isinstance(own, dict):
                raise InputError(f"{where}: `{path}` must hold keys, found {shown(own)}.")
            if policy is not None:
                check_keys(own, OF_ONE_POLICY, path, where)
                if own.get("lora") is not None:
                    validated(LoraSettings, own["lora"], f"{path}.lora", where)


def check_types(given: dict, defaults: dict, where: str) -> None:
    """Raises InputError for a value whose type differs from the default's: `lr: fast`, `shuffle: 3`."""
    for key, value in given.items():
        default = defaults.get(key)
        number = isinstance(default, int | float) and not isinstance(default, bool)
        if isinstance(default, bool) and not isinstance(value, bool):
            raise InputError(f"{where}: `config.{key}` must be true or false, found {shown(value)}.")
        if number and (isinstance(value, bool) or (isinstance(value, str) and value != "auto")):
            raise InputError(f"{where}: `config.{key}` must be a number, found {shown(value)}.")
        if callable(default):
            raise InputError(f"{where}: `config.{key}` is code: set it in a Python experiment file.")
        if isinstance(default, dict) and key != "policies" and not isinstance(value, dict):
            raise InputError(f"{where}: `config.{key}` must hold keys, found {shown(value)}.")


def validated(model: type[BaseModel], data: Any, path: str, where: str) -> Any:
    """`model(**data)`.

    Raises:
        InputError: pydantic refused a value; it names the YAML path and, for an unknown key, the nearest one.
    """
    if not isinstance(data, dict):
        raise InputError(f"{where}: `{path}` must hold keys, found {shown(data)}.")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        location = [*filter(None, [path]), *(str(part)[:60] for part in first["loc"])]
        if first["type"] == "extra_forbidden":
            inner = _model_at(model, first["loc"][:-1])
            raise unknown_key(
                ".".join(location[:-1]), location[-1], inner.model_fields if inner else (), where
            ) from error
        message = shortened(first["msg"].removeprefix("Value error, "))
        got = f" (got {shown(first['input'])})" if first["type"] not in ("missing", "value_error") else ""
        place = f" `{'.'.join(location)}`:" if location else ""
        raise InputError(f"{where}:{place} {message}{got}.") from error


def _model_at(model: type[BaseModel], location: tuple) -> type[BaseModel] | None:
    """The pydantic model that the value at `location` is validated by."""
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part) if current else None
        current = model_in(field.annotation) if field else None
    return current
