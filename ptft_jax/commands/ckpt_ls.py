"""ptft ckpt ls --run_dir=RUN

Lists the checkpoints of a run, and what else lies beside them.

Names and sizes of all files are compared with each manifest, contents are not: that is
`ptft ckpt verify`. What was set aside, and what a killed run has left, is listed too.
"""

import datetime
from collections.abc import Mapping
from pathlib import Path

from absl import flags
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptft_jax.commands.run_folder import RunFolder
from ptft_jax.commands.screen import count, made, make_console, short
from ptft_jax.errors import ConfigError
from ptft_jax.training import retention
from ptft_jax.training.checkpoint_manifest import (
    DamagedCheckpointError,
    read_manifest,
    structure_damage,
)
from ptft_jax.training.storage import folder_size, size_text

_UNLIMITED = 10_000


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("run_dir", None, "Folder of the run.", flag_values=values)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    folder = checked_run(values.run_dir, positional)
    checkpoints = folder.path / "checkpoints"
    best = folder.record().best
    manifests = retention.complete(checkpoints)
    best_step = retention.best_of({s: held.metrics for s, held in manifests.items()}, best)
    table = Table("step", "when", "size", "metrics", "marks", "state", box=SIMPLE_HEAD)
    damaged = False
    for step in retention.numbered(checkpoints):
        path = checkpoints / str(step)
        state = _state(path)
        damaged |= state != "whole"
        held = manifests.get(step)
        metrics = _metrics(held.metrics) if held else "-"
        if held and held.evaluation_due:
            metrics = "evaluation due"
        marks = ["best"] * (step == best_step) + ["last"] * (step == max(manifests, default=None))
        add_row(table, *_columns(str(step), path), metrics, ", ".join(marks), state)
    for path in retention.leftovers(checkpoints):
        step, _, what = path.name.partition(".")
        state = "being deleted" if what == "deleting" else "unfinished"
        add_row(table, *_columns(step, path), "-", "", state)
    aside = retention.aside(checkpoints)
    for step, _, path in aside:
        add_row(table, *_columns(str(step), path), "-", "", f"set aside as {path.name}")
    console = make_console()
    if table.row_count:
        show(console, table)
    listed = {"run": str(folder.path), "checkpoints": count(len(manifests))}
    if aside:
        size = sum(folder_size(path) for _, _, path in aside)
        listed["set aside"] = f"{count(len(aside))}, {size_text(size)}; delete them when you wish"
    following = [f"ptft ckpt verify --run_dir={folder.path}"] if manifests or damaged else []
    made(console, "listed", listed, following)


def checked_run(run_dir: str | None, positional: list[str]) -> RunFolder:
    """Returns the run that a flag names.

    Raises:
        ConfigError: no --run_dir, no run there, or a stray argument.
    """
    if positional:
        raise ConfigError(f"{positional[0]!r}: expected flags only, like --run_dir=RUN.")
    if not run_dir:
        raise ConfigError("--run_dir is missing: name the folder of the run.")
    folder = RunFolder(run_dir)
    folder.record()
    return folder


def add_row(table: Table, *cells: str) -> None:
    """Adds a row of plain texts, in which brackets are no markup."""
    table.add_row(*map(Text, cells))


def show(console: Console, table: Table) -> None:
    """Prints a table; into a file or a pipe a line for each row, so that it can be searched."""
    if not console.is_terminal:
        console = Console(highlight=False, width=_UNLIMITED)
    console.print(table)


def _state(path: Path) -> str:
    try:
        damage = structure_damage(path, read_manifest(path))
    except DamagedCheckpointError as error:
        return f"damaged: {str(error).partition(str(path))[2].lstrip(': ')}"
    if not damage:
        return "whole"
    more = f" and {len(damage) - 1} more" if len(damage) > 1 else ""
    return f"damaged: {damage[0]}{more}"


def _columns(step: str, path: Path) -> tuple[str, str, str]:
    try:
        when = datetime.datetime.fromtimestamp(path.lstat().st_mtime).isoformat(" ", "minutes")
    except FileNotFoundError:  # a run that is training has deleted or renamed it meanwhile
        when = "gone now"
    return step, when, size_text(folder_size(path))


def _metrics(metrics: Mapping[str, float | None]) -> str:
    return "  ".join(f"{name} {short(value)}" for name, value in metrics.items()) or "-"
