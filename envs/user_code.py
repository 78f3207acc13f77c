"""Functions and classes that a user names by import path, such as an outcome or a tool."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from envs.errors import InputError

_PROJECT = ("algorithms", "benchmarks", "envs", "pipeline")
_INSTALLED = {"site-packages", "dist-packages", *sysconfig.get_paths().values()}
"""Folders, by name or path, where the packages beside a module are others' own."""


def import_function(path: str, what: str) -> Callable[..., Any]:
    """Imports the function or class at `module:function`. The current folder is searched last.

    Args:
        path: the import path.
        what: the purpose of the function, such as "outcome", for error messages.

    Raises:
        InputError: the path has another form, the module cannot be imported, or it has no such function (the
            message suggests the nearest name).
    """
    module_name, _, function_name = path.partition(":")
    if not module_name or not function_name:
        raise InputError(f"{what} {path!r} must have the form `module:function`")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's own file may fail in any way
        is_missing = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        reason = str(error) if is_missing else f"{type(error).__name__}: {error}{_place(error)}"
        cure = ": is its file in this folder, or its folder on PYTHONPATH?" if is_missing else ""
        raise InputError(
            f"{what} {path!r}: module {module_name!r} can't be imported ({reason}){cure}"
        ) from error
    function = getattr(module, function_name, None)
    if function is None:
        near = difflib.get_close_matches(function_name, vars(module), n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        file = getattr(module, "__file__", None) or "built into Python"
        raise InputError(f"{what} {path!r}: module {module_name!r} ({file}) has no {function_name!r}{hint}")
    if not callable(function):
        raise InputError(f"{what} {path!r} is not a function but {type(function).__name__}")
    return function


def _place(error: BaseException) -> str:
    """The user's own line that an import stopped at, as ", FILE, line N"; empty where that is not known."""
    for frame in traceback.extract_tb(error.__traceback__)[1:]:
        if not frame.filename.startswith("<frozen ") and frame.filename != importlib.__file__:
            return f", {os.path.basename(frame.filename)}, line {frame.lineno}"
    return ""


def called(path: str, what: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Calls a user's function at `path`.

    Raises:
        InputError: it raised an exception, which is the cause. The message has its last line in the
            function's own file.
    """
    try:
        return function(*arguments, **named)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        own = getattr(sys.modules.get(path.partition(":")[0]), "__file__", None)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
        place = f", {os.path.basename(own)}, line {lines[-1]}" if own and lines else ""
        raise InputError(f"{what} {path!r} failed ({type(error).__name__}: {error}{place})") from error


def code_hash(path: str) -> str:
    """12 hexadecimal digits of SHA-256 over the code of an imported `module:function`.

    That is its file, and the files that it imports, and these, and so on, from its own folder and from others
    on Python's path: in any function, and whether they are imported yet or not. Packages that are installed,
    and this project's, are left out.
    """
    module = sys.modules[path.partition(":")[0]]
    try:
        digest = hashlib.sha256(inspect.getsource(module).encode())
    except (OSError, TypeError):  # a module without a file
        return hashlib.sha256(path.encode()).hexdigest()[:12]
    file, depth = Path(inspect.getfile(module)), module.__name__.count(".")
    folder = file.parents[depth + (file.name == "__init__.py")]
    for name, source in sorted(_own_sources(module.__name__, folder).items()):
        if name != module.__name__ and source.strip():
            digest.update(f"\0{name}\0{source}".encode())
    return digest.hexdigest()[:12]


def _own_sources(module: str, folder: Path) -> dict[str, str]:
    """The sources of `module`, which lies in `folder`, and of what it and they import, by name."""
    only = module.partition(".")[0] if _is_installed(folder) else None
    folders = [folder] if only else [folder, *map(Path, sys.path)]
    found: dict[str, str] = {}
    wanted = [module]
    while wanted:
        name = wanted.pop()
        top = name.partition(".")[0]
        if not name or name in found or top in _PROJECT or (only and top != only):
            continue
        file = _file_of(name, folders)
        if file is None:
            continue
        found[name] = file.read_bytes().decode("utf-8", "replace")
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        wanted += [name.rpartition(".")[0], *_imported(found[name], package)]
    return found


def _file_of(name: str, folders: Sequence[Path]) -> Path | None:
    """The file of the module `name` in the first of `folders` that has one; None where that is installed."""
    for folder in folders:
        place = folder.joinpath(*name.split("."))
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                return None if folder != folders[0] and _is_installed(folder) else file
    return None


def _is_installed(folder: Path) -> bool:
    return not _INSTALLED.isdisjoint({str(folder), *folder.parts})


def _imported(source: str, package: str) -> set[str]:
    """The names that a module of `package` imports, anywhere: of modules, and of what may be one."""
    names: set[str] = set()
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):  # such a file cannot be imported either
        return names
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def taken_arguments(
    function: Callable[..., Any], path: str, what: str, offered: Sequence[str], plain: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Chooses the arguments of a user's function by the names of its parameters.

    Args:
        function: the function.
        path: its import path, for errors.
        what: its purpose, for errors.
        offered: names of the arguments that it may take.
        plain: names of what it gets in this order where its first parameters have other names.

    Returns:
        The names to give by position, and those to give by keyword.

    Raises:
        InputError: it wants something else.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a function of C says nothing
        return list(plain), []
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    parameters = [parameter for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    wanted = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    unknown = [p.name for p in wanted if p.name not in offered]
    by_place = wanted[: len(plain)] if plain and wanted[: len(plain)] == positional[: len(plain)] else []
    placed = {p.name for p in by_place}
    if unknown and len(by_place) == len(plain) and set(unknown) <= placed:
        others = [name for name in offered if name not in plain]
        others = others if takes_any else [p.name for p in parameters if p.name in offered]
        return list(plain), [name for name in others if name not in placed]
    if unknown:
        raise InputError(
            f"{what} {path!r}: its parameter `{unknown[0]}` is not known; it may take {', '.join(offered)}"
        )
    if any(p.kind is p.POSITIONAL_ONLY for p in wanted):
        raise InputError(f"{what} {path!r}: its parameters must be taken by name, without `/`")
    return [], list(offered) if takes_any else [p.name for p in parameters if p.name in offered]
