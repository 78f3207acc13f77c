"""Tables that fit the terminal: every cell shown is whole, and what is not shown is named below the table.

An answer may have more columns than the terminal has room for (`SELECT * FROM turns`). Squeezing all of them
would leave none readable. So text is folded at its spaces first. Then columns that hold one value in every
row are said below, the columns that fit are shown (the first identity, then from the left), and the others
are named. A single row that does not fit is written downwards, a line per column. Numbers and identities
are never cut or broken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from pipeline.terminal import Console

FOLDED = 16
"""Cells of the terminal that a text column keeps at least, where it has as many."""
LONGEST_WORD = 48
"""A word may be broken where it is longer, unless it is an identity."""
SAID = 40
"""Characters of a value that all rows share."""
BORDER = 3
"""Cells that a column takes besides its content; the table takes one more."""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and one cell per row."""

    name: str
    cells: Sequence[Text]
    is_number: bool = False
    stays: bool = False
    """Whether it is shown before all others, and as a column even where all its cells are equal."""

    @property
    def is_identity(self) -> bool:
        """Whether other commands take the cells as they are: `episode_id`, `episode`, `id`, `run`."""
        return bool(re.search(r"(^|_)(id|run|episode|name)$", self.name))

    @property
    def natural(self) -> int:
        """Cells of the terminal that it takes unfolded."""
        return max([cell_len(self.name), *self._lines()])

    @property
    def least(self) -> int:
        """Cells below which a number, an identity or a word would be broken."""
        heading = max(map(cell_len, _folded(self.name).split("\n")))
        if self.is_number or self.is_identity:
            return max([heading, *self._lines()])
        words = [cell_len(word) for cell in self.cells for word in cell.plain.split()]
        word = min(max(words, default=0), LONGEST_WORD)
        return max(heading, word, min(FOLDED, max(self._lines(), default=0)))

    @property
    def constant(self) -> str | None:
        """The value that all rows share; None if they differ."""
        values = {cell.plain for cell in self.cells}
        return values.pop() if len(values) == 1 else None

    def _lines(self) -> Iterable[int]:
        return (cell_len(line) for cell in self.cells for line in cell.plain.split("\n"))


def print_fitted(console: Console, columns: Sequence[Column], *, title: str = "", more: str = "") -> None:
    """Prints the columns that fit the console's width, and a line for those that do not.

    Args:
        console: where to print; a wide one (a pipe) gets all columns.
        columns: the table, column by column.
        title: a line above it.
        more: what shows the other columns, for the line below: `igpo sql RUN ... --format csv`.
    """
    room = console.width - 1
    if title:
        console.print(title, style="bold", soft_wrap=True)
    if sum(column.natural + BORDER for column in columns) <= room:
        console.print(_table(columns))
        return
    if columns and len(columns[0].cells) == 1 and sum(c.least + BORDER for c in columns) > room:
        _print_downwards(console, columns)
        return
    shown, same, hidden = _choose(columns, room)
    console.print(_table(shown, room))
    values = [f"{column.name} {_short(column.constant)}" for column in same if column.constant]
    if values:
        console.print(f"the same in every row: {', '.join(values)}", style="dim")
    if empty := [column.name for column in same if not column.constant]:
        console.print(f"empty in every row: {', '.join(empty)}", style="dim")
    if hidden:
        names = ", ".join(column.name for column in hidden)
        what = "1 more column does" if len(hidden) == 1 else f"{len(hidden)} more columns do"
        console.print(f"{what} not fit: {names}", style="dim")
        if more:
            console.print(more, style="dim")


def _choose(columns: Sequence[Column], room: int) -> tuple[list[Column], list[Column], list[Column]]:
    """Splits the columns into those to show, those that hold one value, and those without room."""
    if sum(column.least + BORDER for column in columns) <= room:
        return list(columns), [], []
    several = bool(columns) and len(columns[0].cells) > 1
    same = [column for column in columns if several and not column.stays and column.constant is not None]
    varied = [column for column in columns if column not in same] or list(columns)
    names = [column for column in varied if column.is_identity]
    chosen: list[Column] = []
    stay = sorted((c for c in varied if c.stays), key=lambda c: c.least)  # so that one long name is left out
    for column in [*stay, *names[:1], *(c for c in varied if not c.is_identity), *names[1:]]:
        if column in chosen:
            continue
        if not chosen or sum(c.least + BORDER for c in [*chosen, column]) <= room:
            chosen.append(column)
    shown = [column for column in varied if column in chosen]
    hidden = [column for column in varied if column not in chosen]
    return shown, [column for column in same if column not in shown], hidden


def _table(columns: Sequence[Column], room: int | None = None) -> Table:
    table = Table(header_style="bold")
    spare = None if room is None else room - sum(column.least + BORDER for column in columns)
    for column in columns:
        width = column.natural
        if spare is not None:
            extra = max(0, min(spare, column.natural - column.least))
            spare -= extra
            width = column.least + extra
        name = column.name if width >= cell_len(column.name) else _folded(column.name)
        justify = "right" if column.is_number else "left"
        table.add_column(Text(name), justify=justify, overflow="fold", width=max(width, 1))
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    return table


def _print_downwards(console: Console, columns: Sequence[Column]) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for column in columns:
        grid.add_row(Text(column.name, style="bold"), column.cells[0])
    console.print(grid)


def _short(text: str) -> str:
    return text if len(text) <= SAID else f"{text[:SAID]}…"


def _folded(name: str) -> str:
    """A heading with a line for each of its words, `collapse_share` as `collapse_` over `share`."""
    return re.sub(r"(?<=\w_)(?=[^\W_])| (?=\S)", "\n", name)
