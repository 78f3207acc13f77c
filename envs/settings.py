"""The base of every section of an experiment file."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

_PATH = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
ImportPath = Annotated[str, StringConstraints(pattern=f"^{_PATH}$")]
"""`module:function`, a part of one's own."""


class Settings(BaseModel):
    """A section of an experiment file.

    Unknown keys are errors. Error messages do not show values, which could be secrets.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses `max_turns: yes`, which pydantic would take for 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {int, float} & {kind, *get_args(kind)}:
            raise ValueError("it must be a number, not true or false")
        return value


def dotted(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys: `{"a": {"b": 1}}` becomes `{"a.b": 1}`. An empty mapping stays.

    Args:
        values: settings, with mappings among the values.
        prefix: what every key begins with.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def tracked_name(name: str) -> str:
    """The name as a tracker gets it: MLflow knows letters, digits and `_-.:/ `; others become `_`."""
    return re.sub(r"[^\w\-.:/ ]", "_", name)


def known_or_own(*known: str) -> BeforeValidator:
    """Refuses a value that is neither one of `known` nor an import path; the error names the nearest one."""

    def check(value: Any) -> Any:
        if value in known or (isinstance(value, str) and re.fullmatch(_PATH, value)):
            return value
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise ValueError(
            f"`{str(value)[:40]}` is unknown: {hint}Known: {', '.join(known)}, or `module:function` for your "
            "own"
        )

    return BeforeValidator(check)


class Declared(NamedTuple):
    """A setting as its source declares it."""

    type: str
    """The annotation."""
    default: Any
    """The value; the source text where it is no plain value, None where there is none."""
    meaning: str
    """The docstring below it, in one line."""


def declared_settings(module: str, owner: str) -> dict[str, Declared]:
    """Reads the annotated attributes of a class out of the source of its module, without importing that.

    Args:
        module: dotted name.
        owner: a class: its attributes, or those that its `__init__` gives to `self`.
    """
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, module
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == owner]
    bodies = [
        found.body,
        *(f.body for f in found.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"),
    ]
    declared: dict[str, Declared] = {}
    for body in bodies:
        for node, after in zip(body, [*body[1:], None], strict=True):
            if not isinstance(node, ast.AnnAssign):
                continue
            target = node.target
            is_own = isinstance(target, ast.Name) or (
                isinstance(target, ast.Attribute) and getattr(target.value, "id", "") == "self"
            )
            if is_own and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                name = target.id if isinstance(target, ast.Name) else target.attr
                declared[name] = Declared(
                    ast.unparse(node.annotation), _plain(node.value), " ".join(str(after.value.value).split())
                )
    return declared


def _plain(node: ast.expr | None) -> Any:
    if node is None:
        return None
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def with_declared(docstring: str, sections: dict[str, dict[str, Declared]]) -> str:
    """Completes the docstring of a method by the settings that its dictionaries may hold.

    Args:
        docstring: the method's own.
        sections: the settings, by the argument that holds them.
    """
    lines = [inspect.cleandoc(docstring)]
    for argument, settings in sections.items():
        lines += ["", f"Fields of `{argument}`, with the values that hold where the preset says nothing:"]
        lines += [
            f"    {name} ({one.type} = {one.default!r}): {one.meaning}" for name, one in settings.items()
        ]
    return "\n".join(lines)
