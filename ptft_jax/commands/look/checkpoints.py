"""ptft ckpt ls, verify and rewind: the checkpoints of a run from the command line."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptft_jax.commands.parsing import required
from ptft_jax.commands.screen import (
    count,
    flag,
    made,
    make_console,
    progress_bars,
    resume_command,
    short,
)
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.lock import check_free
from ptft_jax.training.checkpoints import retention
from ptft_jax.training.checkpoints.manifest import DamagedCheckpointError, verify
from ptft_jax.training.checkpoints.rewind import rewind
from ptft_jax.training.resources.storage import folder_size, size_text

_UNLIMITED = 10_000
# What the columns beside the metrics take: step, when, size, marks, state.
_OTHER_COLUMNS = 62


class Ls:
    """ptft ckpt ls --run_dir=RUN

    Lists the checkpoints of a run, what was set aside, and what a killed run has left.

    Names and sizes of all files are compared with each manifest, contents are not: that is
    `ptft ckpt verify`.
    """

    @staticmethod
    def define_flags(values: flags.FlagValues) -> None:
        """Defines the command's flags."""
        flags.DEFINE_string("run_dir", None, "Folder of the run.", flag_values=values)

    @staticmethod
    def run(values: flags.FlagValues) -> None:
        """Runs the command."""
        folder = _run_folder(values)
        checkpoints, best = folder.path / "checkpoints", folder.record().best
        manifests = retention.complete(checkpoints)
        best_step = retention.best_of({s: held.metrics for s, held in manifests.items()}, best)
        console = make_console()
        table = Table("step", "when", "size", "metrics", "marks", "state", box=SIMPLE_HEAD)

        def row(path: Path, metrics: str, marks: str, state: str) -> None:
            try:
                at = datetime.datetime.fromtimestamp(path.lstat().st_mtime)
                when = at.isoformat(" ", "minutes")
            except FileNotFoundError:  # a run that is training has deleted or renamed it meanwhile
                when = "gone now"
            step, size = path.name.partition(".")[0], size_text(folder_size(path))
            _add_row(table, step, when, size, metrics, marks, state)

        numbers = retention.numbered(checkpoints)
        for step in numbers:
            path, held = checkpoints / str(step), manifests.get(step)
            words = _metrics(held.metrics if held else {}, best and best[0], console)
            marks = ["best"] * (step == best_step)
            marks += ["last"] * (step == max(manifests, default=None))
            due = held is not None and held.evaluation_due
            row(path, "evaluation due" if due else words, ", ".join(marks), _state(path))
        for path in retention.leftovers(checkpoints):
            row(path, "-", "", "being deleted" if path.suffix == ".deleting" else "unfinished")
        aside = retention.aside(checkpoints)
        for path in aside:
            row(path, "-", "", f"set aside as {path.name}")
        _show(console, table)
        listed = {"run": str(folder.path), "checkpoints": count(len(manifests))}
        if aside:
            size = sum(map(folder_size, aside))
            listed["set aside"] = f"{len(aside)}, {size_text(size)}; delete them when you wish"
        following = [f"ptft ckpt verify {flag('run_dir', folder.path)}"] if numbers else []
        made(console, "listed", listed, following)


class Verify:
    """ptft ckpt verify --run_dir=RUN [--checkpoint=all|last|best|STEP]

    Compares every file of a run's checkpoints with the SHA-256 in their manifests.

    Nothing is changed. The exit code is 65 when something is damaged: a run that goes on from there
    would set that checkpoint aside and use the one before.
    """

    @staticmethod
    def define_flags(values: flags.FlagValues) -> None:
        """Defines the command's flags."""
        Ls.define_flags(values)
        flags.DEFINE_string(
            "checkpoint", "all", "Which checkpoint: all, last, best or a step.", flag_values=values
        )

    @staticmethod
    def run(values: flags.FlagValues) -> None:
        """Runs the command."""
        folder = _run_folder(values)
        places = _chosen(folder, values.checkpoint)
        console = make_console()
        found: dict[Path, DamagedCheckpointError | None] = {}
        with progress_bars(console) as progress:
            for number, place in enumerate(places, start=1):
                found[place] = None
                try:
                    verify(place)
                except DamagedCheckpointError as error:
                    found[place] = error
                progress("Hashing", number, len(places))
        # A run that is training deletes what it no longer needs.
        found = {place: error for place, error in found.items() if place.exists()}
        table = Table("step", "size", "state", box=SIMPLE_HEAD)
        for place, error in found.items():
            state = "whole" if error is None else _without_path(error)
            _add_row(table, place.name, size_text(folder_size(place)), state)
        _show(console, table)
        damaged = [str(error) for error in found.values() if error]
        whole = f"{count(len(found) - len(damaged))} of {count(len(found))} whole"
        following = [f"ptft ckpt ls {flag('run_dir', folder.path)}"] if damaged else []
        made(console, "verified", {"run": str(folder.path), "checkpoints": whole}, following)
        if damaged:
            raise DataError(
                f"{'; '.join(damaged)}. A run that goes on sets such a checkpoint aside and uses "
                "the one before; or bring the file back from a copy"
            )


class Rewind:
    """ptft ckpt rewind --run_dir=RUN --step=STEP [--skip_batches=K]

    Takes a run back to an earlier checkpoint; with K it then leaves out the K batches that follow.

    Later checkpoints are renamed to N.rewound-1 and not deleted. The command line with which the
    run goes on from STEP is shown at the end. For a loss spike: STEP is a checkpoint before it, K
    is large enough to pass the batches that caused it.
    """

    @staticmethod
    def define_flags(values: flags.FlagValues) -> None:
        """Defines the command's flags."""
        Ls.define_flags(values)
        flags.DEFINE_integer("step", None, "Checkpoint to go back to.", flag_values=values)
        flags.DEFINE_integer(
            "skip_batches", 0, "How many batches to leave out from there on.", flag_values=values
        )

    @staticmethod
    def run(values: flags.FlagValues) -> None:
        """Runs the command."""
        folder = _run_folder(values)
        required(values, "step")
        check_free(folder.path)
        aside = rewind(folder.path, values.step, values.skip_batches)
        what = {
            "run": str(folder.path),
            "last checkpoint": str(values.step),
            "left out from there": f"{count(values.skip_batches)} batches",
            "set aside": ", ".join(path.name for path in aside) or "nothing",
        }
        following = [
            f"ptft ckpt ls {flag('run_dir', folder.path)}",
            resume_command(folder.record().command, folder.path),
        ]
        made(make_console(), "rewound", what, following)


def _run_folder(values: flags.FlagValues) -> RunFolder:
    """Returns the run that a flag names."""
    required(values, "run_dir")
    folder = RunFolder(values.run_dir)
    folder.record()
    return folder


def _chosen(folder: RunFolder, which: str) -> list[Path]:
    checkpoints = folder.checkpoints(folder.record())
    steps = retention.numbered(checkpoints.folder)
    if not steps:
        raise ConfigError(f"{checkpoints.folder} holds no checkpoint yet: let the run save one.")
    if which != "all":
        # A damaged one can be named, which `choose` would not find.
        named = which.isdecimal() and int(which) in steps
        steps = [int(which) if named else checkpoints.choose(which)]
    return [checkpoints.folder / str(step) for step in steps]


def _state(path: Path) -> str:
    """Says whether names and sizes of a checkpoint's files are right."""
    try:
        verify(path, hashes=False)
    except DamagedCheckpointError as error:
        return _without_path(error)
    return "whole"


def _without_path(text: object) -> str:
    """Leaves out of what is said of a damaged checkpoint which one it is: its row says that."""
    return f"damaged: {str(text).partition('is damaged: ')[2]}"


def _metrics(metrics: Mapping[str, Any], first: str | None, console: Console) -> str:
    """Returns metrics, the one that decides which is best before the others.

    On a terminal as many as fit in a line; `ptft ckpt ls | cat` shows all.
    """
    names = sorted(metrics, key=lambda name: name != first)
    words = [f"{name} {short(metrics[name])}" for name in names]
    room = console.width - _OTHER_COLUMNS if console.is_terminal else _UNLIMITED
    for end in range(len(words), 1, -1):
        line = "  ".join([*words[:end], *["…"] * (end < len(words))])
        if len(line) <= room:
            return line
    return words[0] if words else "-"


def _add_row(table: Table, *cells: str) -> None:
    """Adds a row of plain texts, in which brackets are no markup."""
    table.add_row(*map(Text, cells))


def _show(console: Console, table: Table) -> None:
    """Prints a table; into a file or a pipe a line for each row, so that it can be searched."""
    if not console.is_terminal:
        console = Console(highlight=False, width=_UNLIMITED)
    console.print(table)
