"""What commands show: tables, boxes, progress bars and readable numbers."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 120


def make_console() -> Console:
    """Returns the console that a command prints to."""
    # Into a file or a pipe, lines are as long as they are: nobody's window sets a limit.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(highlight=False, width=width)


def say(console: Console, text: str) -> None:
    """Prints a line that the terminal may wrap but that stays one line when it is copied."""
    console.print(text, soft_wrap=True, markup=False)


def count(number: int) -> str:
    """Writes 12345678 as 12,345,678."""
    return f"{number:,}"


def results_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns metrics by split as a table, one row per split."""
    names = list(dict.fromkeys(name for metrics in results.values() for name in metrics))
    table = Table("split", *names, box=SIMPLE_HEAD)
    for split, metrics in results.items():
        table.add_row(split, *(short(metrics.get(name)) for name in names))
    return table


def short(value: Any) -> str:
    """Writes a metric with four digits; None (not defined) as a dash."""
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def facts(console: Console, rows: Mapping[str, str]) -> None:
    """Prints what a command is about to do, a line per fact."""
    width = max(map(len, rows))
    for name, value in rows.items():
        console.print(Text.assemble((f"{name:<{width}}  ", "bold"), value), soft_wrap=True)


def made(console: Console, title: str, what: Mapping[str, str], following: Sequence[str]) -> None:
    """Prints the box that ends a command: what it made, and which commands come next."""
    lines = Text()
    width = max((len(name) for name in what), default=0)
    for name, value in what.items():
        lines.append(f"{name:<{width}}  ", "bold")
        lines.append(f"{value}\n")
    if following:
        lines.append("\nnext\n", "bold")
        room = max(40, console.width - 8)
        lines.append("\n".join(f"  {_continued(command, room)}" for command in following))
    lines.rstrip()
    console.print(Panel(lines, title=title, title_align="left", box=ROUNDED, expand=False))


def _continued(command: str, width: int) -> str:
    """Breaks a long command into lines that a shell joins again, so that it can be copied."""
    lines, line = [], ""
    for word in command.split(" "):
        if line and len(line) + len(word) + 1 > width:
            lines.append(line)
            line = "    " + word
        else:
            line = f"{line} {word}" if line else word
    return " \\\n  ".join([*lines, line])


@contextmanager
def progress_bars(console: Console) -> Iterator[Any]:
    """Gives a callable (description, done, total) that draws one bar per description.

    Without a terminal each description prints one line when it is complete.
    """
    if not console.is_terminal:
        said = set()

        def plain(description: str, done: int, total: int) -> None:
            if done >= total and description not in said:
                said.add(description)
                console.print(f"{description}: done")

        yield plain
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(description: str, done: int, total: int) -> None:
            if description not in tasks:
                tasks[description] = bars.add_task(description, total=total)
            bars.update(tasks[description], completed=done, total=total)

        yield draw
