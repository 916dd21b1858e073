"""What verbs print: tables or one JSON object on stdout, progress and notes on stderr."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table


def print_json(document: Any) -> None:
    """Print one JSON object to stdout: in UTF-8, or in ASCII where stdout takes no UTF-8."""
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    # One write with its line end: several boxes of a trial on one machine share a stdout, which may
    # be unbuffered, where `print` writes the two apart.
    sys.stdout.write(json.dumps(document, ensure_ascii=ascii_only, allow_nan=False) + "\n")


def print_line(text: str) -> None:
    """Print one line to stdout, as it is."""
    print(text)


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, left: int = 1
) -> None:
    """Print a table to stdout; the first ``left`` columns are text, the others numbers."""
    table = Table(
        title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console(soft_wrap=False, highlight=False, markup=False)
    # Into a pipe or a file a table is as wide as it needs to be: nothing is cut or folded. A width
    # given to `print` would not do: rich takes no more of it than the console has, which is 80.
    if not console.is_terminal:
        console.width = 400
    console.print(table)


class ProgressReporter:
    """Progress bars on stderr, only where it is a terminal and nobody asked for quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if not quiet and self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )

    def __enter__(self) -> Self:
        """Start the bars."""
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the bars; what they showed stays."""
        if self._bars is not None:
            self._bars.stop()

    def advance(self, name: str, done: int, total: int, text: str = "") -> None:
        """Show that ``done`` of ``total`` of a task are done."""
        if self._bars is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
        self._bars.update(
            self._tasks[name], completed=done, total=total, description=f"{name}{text}"
        )

    def decoding(self, done: int, total: int) -> None:
        """Show how far reading the images is."""
        self.advance("reading images", done, total)

    def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:
        """Show how far training a branch is."""
        self.advance(f"training {branch}", done, total, f"  epoch {epoch + 1}  loss {loss:.3f}")

    def note(self, text: str) -> None:
        """Print a note to stderr."""
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.console.print(text, markup=False)
        else:
            print(text, file=sys.stderr)


def percent(share: float | None) -> str:
    """Return a share of 0..1 as a percentage with two decimals."""
    return "-" if share is None else f"{100 * share:.2f} %"
