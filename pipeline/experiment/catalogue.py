"""Every setting of an experiment file, as the code declares it: type, default, bounds, meaning, presets.

Nothing is written down twice: types, bounds and meanings come from the settings' classes. Imports no Ray.
"""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticUndefined

from algorithms.credit import PRESETS, CreditConfig
from algorithms.igpo.bounds import bounds
from algorithms.igpo.loss_settings import LossSettings
from algorithms.igpo.setting_names import FROM_RLLIB
from envs.engine.base import EngineSettings
from envs.engine.lora import LoraSettings
from envs.runner.belief import ScoringMethod, ScoringPolicy
from envs.search.config import SearchEnvSettings
from envs.settings import declared_settings
from pipeline.experiment.run_settings import CheckpointSettings, OtherKeys, RunSettings
from pipeline.tracking.settings import TrackingSettings

PRESET_NAMES = " The presets:"
"""Begins the list of presets in the meaning of `preset`."""
TOP = "experiment"
"""The section of the keys beside `config`."""
CONFIG_SECTIONS: dict[str, type[BaseModel]] = {
    "lora": LoraSettings,
    "engine": EngineSettings,
    "env_config": SearchEnvSettings,
}
"""Sections inside `config`."""
TOP_SECTIONS: dict[str, type[BaseModel]] = {
    "checkpoint_config": CheckpointSettings,
    "mlflow": TrackingSettings,
}
_NAMES = {"Any": Any, "Literal": Literal, "ScoringPolicy": ScoringPolicy, "ScoringMethod": ScoringMethod}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "whole number": {"type": "integer"},
    "number": {"type": "number"},
    "text": {"type": "string"},
    "true or false": {"type": "boolean"},
    "keys": {"type": "object"},
    "list of text": {"type": "array", "items": {"type": "string"}},
    "number or auto": {"anyOf": [{"type": "number"}, {"const": "auto"}]},
}


@dataclass(frozen=True)
class Setting:
    """One setting."""

    path: str
    """As `--set` takes it: `lr`, `env_config.max_turns`, `checkpoint_config.num_to_keep`."""
    section: str
    """`config`, a section inside it, or `experiment`."""
    schema: dict[str, Any]
    """JSON schema of its value, without `$ref`."""
    default: Any
    meaning: str
    limits: str = ""
    """Bounds, in words."""
    presets: dict[str, Any] = field(default_factory=dict)
    """The presets that give it another value."""
    is_rllib: bool = False
    """Whether it is RLlib's own."""
    required: bool = False
    """Whether its section must hold it."""

    def __post_init__(self):
        # A file writes null.
        object.__setattr__(self, "meaning", re.sub(r"\bNone\b", "null", self.meaning))

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition(".")[2]

    @property
    def place(self) -> str:
        """Where it stands in an experiment file: `config.lr`, `mlflow.register_model`."""
        return self.path if self.section == TOP else f"config.{self.path}"

    @property
    def type(self) -> str:
        """Its type, in words."""
        return type_in_words(self.schema)


@cache
def catalogue() -> dict[str, Setting]:
    """Returns every setting by its path, in the order of the page."""
    found = [*_own(), *_estimator(), *_from_rllib()]
    for prefix, model in CONFIG_SECTIONS.items():
        found += _of_model(model, f"{prefix}.", prefix)
    for model in (OtherKeys, RunSettings):
        found += _of_model(model, "", TOP)
    for prefix, model in TOP_SECTIONS.items():
        found += _of_model(model, f"{prefix}.", TOP)
    return {setting.path: setting for setting in found}


def config_keys() -> set[str]:
    """Returns the keys that `config:` may hold in a file, its sections included."""
    return {path.partition(".")[0] for path, one in catalogue().items() if one.section != TOP}


def _own() -> list[Setting]:
    settings = []
    for name, known in declared_settings("algorithms.igpo.settings", "IGPOSettings").items():
        kind = eval(known.type, dict(_NAMES))  # the annotation of a setting of this package
        more = f"{PRESET_NAMES} {', '.join(PRESETS)}." if name == "preset" else ""
        settings.append(_setting(name, kind, known.default, known.meaning + more))
    return settings


def _estimator() -> list[Setting]:
    settings = []
    for owner in (CreditConfig, LossSettings):
        kinds = typing.get_type_hints(owner)
        declared = declared_settings(owner.__module__, owner.__name__)
        settings += [_setting(name, kinds[name], d.default, d.meaning) for name, d in declared.items()]
    return settings


def _setting(name: str, kind: Any, default: Any, meaning: str) -> Setting:
    presets = {preset.name: preset.changes[name] for preset in PRESETS.values() if name in preset.changes}
    schema = TypeAdapter(kind).json_schema()
    return Setting(name, "config", schema, default, meaning, bounds(name), presets)


def _from_rllib() -> list[Setting]:
    return [
        Setting(name, "config", _SCHEMAS[kind], default, meaning, bounds(name), is_rllib=True)
        for name, (kind, default, meaning) in FROM_RLLIB.items()
    ]


def _of_model(model: type[BaseModel], prefix: str, section: str) -> list[Setting]:
    """The settings of a pydantic class, those of the classes inside it after each."""
    whole = model.model_json_schema()
    found: list[Setting] = []
    for name, info in model.model_fields.items():
        schema = _without_refs(whole["properties"][name], whole.get("$defs", {}))
        default = info.get_default(call_default_factory=True)
        inner = model_in(info.annotation)
        is_section = inner is not None and schema.get("type") != "array"
        if default is PydanticUndefined:
            default = None
        elif is_section:
            default = {} if default is not None else None
        elif isinstance(default, list):
            default = [
                one.model_dump(exclude_defaults=True) if isinstance(one, BaseModel) else one
                for one in default
            ]
        presets = {
            preset.name: preset.env[name]
            for preset in PRESETS.values()
            if section == "env_config" and prefix == "env_config." and name in preset.env
        }
        meaning = info.description or (" ".join((inner.__doc__ or "").split()) if inner else "")
        path = prefix + name
        found.append(
            Setting(
                path,
                section,
                schema,
                default,
                meaning,
                limits_in_words(schema),
                presets,
                required=info.is_required(),
            )
        )
        if inner is not None:
            found += _of_model(inner, f"{path}." if is_section else f"{path}.N.", section)
    return found


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic class in an annotation, such as that of `list[Role] | None`; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        if found := model_in(argument):
            return found
    return None


def _without_refs(schema: Any, named: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_without_refs(one, named) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        found = named[schema["$ref"].rpartition("/")[2]]
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return _without_refs({**found, **rest}, named)
    return {key: _without_refs(value, named) for key, value in schema.items()}


def type_in_words(schema: dict[str, Any]) -> str:
    """Says what a JSON schema takes: `whole number`, `one of a, b`, `text or null`."""
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        parts = [type_in_words(one) for one in schema["anyOf"]]
        return " or ".join(sorted(dict.fromkeys(parts), key=lambda part: part == "null"))
    if "pattern" in schema:
        return "module:function"
    kind = schema.get("type")
    if kind == "array" and "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])} {type_in_words(schema['prefixItems'][0])}s"
    if kind == "array":
        inner = schema.get("items") or {}
        return f"list of {type_in_words(inner)}" if inner else "list"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    return {**words, "object": "keys", "null": "null"}.get(kind or "", "any value")


def limits_in_words(schema: dict[str, Any]) -> str:
    """Says between which values a JSON schema's numbers lie; empty where nothing bounds them."""
    for one in [schema, *schema.get("anyOf", [])]:
        words = [
            text.format(f"{one[key]:g}")
            for key, text in (
                ("exclusiveMinimum", "above {}"),
                ("minimum", "{} or more"),
                ("exclusiveMaximum", "below {}"),
                ("maximum", "at most {}"),
            )
            if key in one
        ]
        if words:
            return ", ".join(words)
    return ""
