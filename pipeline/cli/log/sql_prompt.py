"""The prompt of `igpo sql RUN`: questions end with `;`, history is kept between sessions."""

from __future__ import annotations

import cmd
import readline
from pathlib import Path

import duckdb
from rich.text import Text

from pipeline.analysis import AnalysisError, Run, named_queries
from pipeline.analysis.named_queries import named_query
from pipeline.analysis.partial_recredits import partial_recredits
from pipeline.analysis.run import COLUMNS
from pipeline.cli.output import interruptibly, print_table
from pipeline.terminal import Console

HISTORY = Path.home() / ".igpo_sql_history"
HISTORY_LINES = 2000
HELP = f"""Ask in SQL, ending with `;`. Tables: {", ".join(COLUMNS)}.
`.named` lists the shipped questions, `.named NAME` asks one;
`.columns TABLE` names columns; `.quit` (or Ctrl-D) ends."""


class SqlPrompt(cmd.Cmd):
    """Reads lines until `;`, then shows the answer. Tab completes table, column and query names."""

    prompt = "igpo> "

    def __init__(self, run: Run, rows: int, console: Console):
        super().__init__()
        self._run = run
        self._rows = rows
        self._console = console
        self._lines: list[str] = []
        self._names = sorted(
            {*COLUMNS, *(name for columns in COLUMNS.values() for name in columns), *named_queries()}
        )

    def postloop(self) -> None:
        readline.write_history_file(HISTORY)

    def cmdloop(self, intro: str | None = None) -> None:
        if HISTORY.exists():
            readline.read_history_file(HISTORY)
        readline.set_history_length(HISTORY_LINES)
        self._console.print(HELP)
        while True:  # once for the start and once for every Ctrl-C
            try:
                super().cmdloop(intro)
                return
            except KeyboardInterrupt:  # Ctrl-C drops the question, or stops a long one; Ctrl-D ends.
                self._lines = []
                self.prompt = "igpo> "
                self._console.print()

    def onecmd(self, line: str) -> bool:
        text = line.strip()
        if line == "EOF" or text in (".quit", ".exit"):
            return True
        if not self._lines and text.startswith("."):
            self._dot(text)
        elif text or self._lines:
            self._lines.append(line)
            if text.endswith(";"):
                query, self._lines = "\n".join(self._lines), []
                self._show(query)
        self.prompt = "  ... " if self._lines else "igpo> "
        return False

    def completenames(self, text: str, *ignored) -> list[str]:
        return [name for name in self._names if name.startswith(text.lower())]

    def completedefault(self, *ignored) -> list[str]:
        return self.completenames(str(ignored[0]))

    def _dot(self, text: str) -> None:
        command, _, argument = text.partition(" ")
        argument = argument.strip()
        if command == ".named" and argument:
            self._show(argument, is_name=True)
        elif command == ".named":
            for query in named_queries().values():
                self._console.print(Text.assemble((query.name, "bold"), "  ", query.question))
        elif command == ".columns" and argument in COLUMNS:
            self._console.print(", ".join(COLUMNS[argument]))
        else:
            self._console.print(HELP)

    def _show(self, query: str, is_name: bool = False) -> None:
        def answer() -> None:
            asked = named_query(query).sql if is_name else query
            print_table(self._run.sql(asked), self._rows, self._console)
            for sentence in partial_recredits(self._run, asked):
                self._console.print(sentence, style="red")

        try:
            interruptibly(answer, self._run.interrupt)
        except (AnalysisError, duckdb.Error) as error:
            self._console.print(str(error), style="red")
