"""The terminal: text from outside is printed as it is written, and nothing in it acts.

A path, an id, a question or an error may hold `[/x]`, which Rich would take for markup, or control
characters, which the terminal would obey. The `Console` here knows no markup and makes control characters
visible; style is given beside the text (`style=`, `Text`). Every command prints through it or through `say`,
which also mask credentials.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from typing import IO, Any

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from envs.credentials import masked

_HIDDEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)"
)
"""Control characters but tab and line ends; marks that turn the direction of writing; and the halves of
characters by which Python stands for bytes of a file name that are not UTF-8."""


def visible(text: str) -> str:
    r"""`text` with every character that a terminal would obey or cannot show as an escape: `\x1b[31m`."""
    return _HIDDEN.sub(_escape, text)


def say(text: str, *, error: bool = False) -> None:
    """Prints a line to stdout, or as an error in red to stderr, for commands that need no table."""
    import typer

    text = visible(masked(text))
    if error:
        typer.secho(text, fg="red", err=True)
    else:
        typer.echo(text)


class Console(rich.console.Console):
    """Rich's console for text from outside: no markup, no emoji codes, no highlighting, no control
    characters.

    Args: those of Rich's console.
    """

    def __init__(
        self,
        *,
        file: IO[str] | None = None,
        stderr: bool = False,
        width: int | None = None,
        force_terminal: bool | None = None,
    ):
        super().__init__(
            file=file,
            stderr=stderr,
            width=width,
            force_terminal=force_terminal,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints as Rich's console does; credentials in texts are masked."""
        super().print(*(masked(thing) if isinstance(thing, str) else thing for thing in objects), **options)

    def print_exception(self, **_: Any) -> None:
        """Prints the traceback of the exception that is being handled."""
        self.print(traceback.format_exc(), style="red", soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        if isinstance(renderable, Text):
            renderable = _visible_text(renderable)
        return super().render(renderable, options)

    def out(self, *objects: Any, sep: str = " ", end: str = "\n", **_: Any) -> None:
        """Prints for a program, every character as it is; a terminal gets control characters made visible."""
        text = sep.join(map(str, objects)) + end
        self.file.write(visible(text) if self.is_terminal else text)

    def status(self, status: RenderableType, **options: Any) -> Status:
        return _Status(status, console=self, **options)


class _Status(Status):
    """Rich's spinner, which would read a line as markup whatever its console says."""

    def __init__(self, status: RenderableType, **options: Any):
        super().__init__(_plain(status), **options)

    def update(self, status: RenderableType | None = None, **options: Any) -> None:
        super().update(None if status is None else _plain(status), **options)


def _plain(words: RenderableType) -> RenderableType:
    return Text(visible(words)) if isinstance(words, str) else words


def _visible_text(text: Text) -> Text:
    """`text`, and its styles, with the hidden characters escaped; the same object where there are none."""
    if not _HIDDEN.search(text.plain):
        return text
    shown, end = text.blank_copy(), 0
    for found in _HIDDEN.finditer(text.plain):
        shown.append_text(text[end : found.start()])
        shown.append(_escape(found))
        end = found.end()
    return shown.append_text(text[end:])


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
