"""What commands show: tables, boxes, progress bars and readable numbers."""

import errno
import os
import re
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ptft_jax.data.progress import duration

if TYPE_CHECKING:
    from ptft_jax.runs.record import RunRecord

_PIPE_WIDTH = 120
# In a log, a long task says how far it is this often.
_LINE_SECONDS = 60.0


_silent = False


def silence() -> None:
    """Makes the consoles from now on print nothing: another process of the job speaks."""
    global _silent
    _silent = True


def make_console() -> Console:
    """Returns the console that a command prints to."""
    # Into a file or a pipe, lines are as long as they are: nobody's window sets a limit.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    # What is printed are texts, labels and paths of users: brackets and colons are no markup.
    return Console(highlight=False, markup=False, emoji=False, width=width, quiet=_silent)


class _Output:
    """Standard output whose reader may go away: a pipe into `head`, a terminal that is closed.

    Then what comes is thrown away, and the process gets SIGHUP, as from a terminal that closes.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._while_read():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._while_read():
            self._stream.flush()

    @contextmanager
    def _while_read(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            with suppress(OSError):
                print("ptft: nobody reads the output any more", file=sys.stderr, flush=True)
            signal.raise_signal(signal.SIGHUP)


@contextmanager
def output_may_end() -> Iterator[None]:
    """Lets the job stop and save, as after SIGHUP, where nobody reads the output any more."""
    before = sys.stdout
    sys.stdout = cast(TextIO, _Output(before))
    try:
        yield
    finally:
        sys.stdout = before


def say(console: Console, text: str) -> None:
    """Prints a line that the terminal may wrap but that stays one line when it is copied."""
    console.print(text, soft_wrap=True)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Prints warnings to standard error without the place in the code that they come from."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)
        yield


def count(number: int) -> str:
    """Writes 12345678 as 12,345,678."""
    return f"{number:,}"


def results_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns metrics by split as a table, one row per split, and per part of it (f1/PER)."""
    rows: dict[str, dict[str, Any]] = {}
    for split, metrics in results.items():
        for name, value in metrics.items():
            metric, _, part = name.partition("/")
            rows.setdefault(f"{split} {part}".rstrip(), {})[metric] = value
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table("split", *names, box=SIMPLE_HEAD)
    for split, row in rows.items():
        table.add_row(split, *(short(row[name]) if name in row else "" for name in names))
    return table


def short(value: Any) -> str:
    """Writes a metric with four digits; None (not defined) as a dash."""
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def facts(console: Console, rows: Mapping[str, str]) -> None:
    """Prints what a command is about to do, a line per fact; a window breaks long ones into two."""
    if console.is_terminal:
        console.print(_named(rows))
        return
    width = max(map(len, rows))
    for name, value in rows.items():
        console.print(Text.assemble((f"{name:<{width}}  ", "bold"), value), soft_wrap=True)


def made(console: Console, title: str, what: Mapping[str, str], following: Sequence[str]) -> None:
    """Prints the box that ends a command, what it made, and below it which commands come next.

    `following` are lines of a shell; `flag` quotes what a person has named. They stand outside the
    box: one that is copied from it has the box in it.
    """
    if what:
        box = Panel(_named(what), title=title, title_align="left", box=ROUNDED, expand=False)
        console.print(box)
    if following := [command for command in following if command]:
        console.print("next", style="bold")
        for command in following:
            say(console, f"  {_continued(command, max(40, console.width - 4))}")


def _named(rows: Mapping[str, str]) -> Table:
    """Returns names with their values, in which long ones go on below their beginning."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    return table


def flag(name: str, value: object) -> str:
    """Writes a flag as a shell reads it: `--run_dir=RUN`, in quotes where it needs them."""
    return shlex.quote(f"--{name}={value}")


def resume_command(command: str, run_dir: Path) -> str:
    """Returns the command line with which a run goes on as it was last started."""
    from ptft_jax.training.tracking.trackers import services_of

    tracked = "".join(f" --track={name}" for name in [*services_of(run_dir)][:1])
    return f"ptft {command} {flag('config', run_dir)} {flag('run_dir', run_dir)}{tracked}"


def exporting(record: "RunRecord", run_dir: object, name: str, *more: str) -> str:
    """Returns the command line that exports a run to `hf/NAME`; of an adapter the adapter, where
    PEFT can have it, or all of it where it can be folded in. "" where neither can be. Of several
    tasks it is the last one.
    """
    form = [f"--task={record.tasks[-1]}"] if record.tasks else []
    if (adapter := record.encoder_config.adapter) is not None:
        from ptft_jax.convert.adapters.names import FORMS
        from ptft_jax.models.config import ADAPTERS
        from ptft_jax.runs.record import is_run

        if adapter.name not in FORMS:
            return ""
        source, config = Path(str(record.init_from)), record.config
        alone = config["trainable"] in ("all", "head") and not config["init_layers"]
        alone = alone and not (source.is_dir() and is_run(source, str(source)))
        if not alone and not ADAPTERS[adapter.name]:
            return ""
        form.append("--format=peft" if alone else "--merge")
    words = flag("run_dir", run_dir), *more, *form, flag("out_dir", f"hf/{name}")
    return f"ptft export {' '.join(words)}"


# A word of a command line: up to a space that is in no quotes.
_WORD = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""")


def _continued(command: str, width: int) -> str:
    """Breaks a long command into lines that a shell joins again, so that it can be copied."""
    lines, line = [], ""
    for word in _WORD.findall(command):
        if line and len(line) + len(word) + 1 > width:
            lines.append(line)
            line = "    " + word
        else:
            line = f"{line} {word}" if line else word
    return " \\\n  ".join([*lines, line])


class _RateColumn(ProgressColumn):
    """Megabytes a second; nothing for a task that counts something smaller than a megabyte."""

    def render(self, task: Task) -> Text:
        if not task.total or task.total < 1e6 or not task.speed:
            return Text("")
        return Text(f"{task.speed / 1e6:.1f} MB/s", style="progress.data.speed")


@contextmanager
def progress_bars(console: Console) -> Iterator[Any]:
    """Gives a callable (description, done, total) that draws one bar per description.

    Without a terminal each description prints one line when it is complete, and one every minute
    before that.
    """
    if not console.is_terminal:
        yield _progress_lines(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        _RateColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, speed_estimate_period=60) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(description: str, done: int, total: int) -> None:
            if description not in tasks:
                tasks[description] = bars.add_task(description, total=total)
            bars.update(tasks[description], completed=done, total=total)

        yield draw


def _progress_lines(console: Console) -> Any:
    complete: set[str] = set()
    # Description → when it began, and how far it was then.
    begun: dict[str, tuple[float, int]] = {}
    last = time.monotonic()

    def draw(description: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        began, at = begun.setdefault(description, (now, done))
        if done >= total and description not in complete:
            complete.add(description)
            last = now
            console.print(f"{description}: done")
        elif done < total and now - last >= _LINE_SECONDS and done > at:
            last = now
            left = (total - done) / (done - at) * (now - began)
            console.print(f"{description}: {done / total:.0%}, {duration(left)} left")

    return draw
