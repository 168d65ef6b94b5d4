"""ptft ckpt verify --run_dir=RUN [--checkpoint=all|last|best|STEP]

Compares every file of a run's checkpoints with the SHA-256 in their manifests.

Nothing is changed. The exit code is 65 when something is damaged: a run that goes on from there
would set that checkpoint aside and use the one before.
"""

from collections.abc import Callable
from pathlib import Path

from absl import flags
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ptft_jax.commands.ckpt_ls import add_row, checked_run, show
from ptft_jax.commands.run_folder import RunFolder
from ptft_jax.commands.screen import count, made, make_console, progress_bars
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.training import retention
from ptft_jax.training.checkpoint_manifest import (
    MANIFEST,
    Damage,
    DamagedCheckpointError,
    Manifest,
    content_damage,
    read_manifest,
    structure_damage,
)
from ptft_jax.training.storage import size_text


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("run_dir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_string(
        "checkpoint", "all", "Which checkpoint: all, last, best or a step.", flag_values=values
    )


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    folder = checked_run(values.run_dir, positional)
    places = _chosen(folder, values.checkpoint)
    console = make_console()
    manifests: dict[Path, Manifest] = {}
    found: dict[Path, list[Damage]] = {}
    for place in places:
        try:
            manifests[place] = read_manifest(place)
        except DamagedCheckpointError as error:
            kind = str(error).rpartition(f"{MANIFEST} ")[2] or str(error)
            found[place] = [Damage(MANIFEST, kind)]
    with progress_bars(console) as progress:
        total = sum(held.size for held in manifests.values())
        done = 0

        def advance(size: int) -> None:
            nonlocal done
            done += size
            progress("Hashing", done, total)

        for place, held in manifests.items():
            found[place] = _damage(place, held, advance)
    # A run that is training deletes what it no longer needs.
    places = [place for place in places if place.exists()]
    table = Table("step", "files", "size", "file", "what is wrong", box=SIMPLE_HEAD)
    for place in places:
        held = manifests.get(place)
        size = (count(len(held.files)), size_text(held.size)) if held else ("-", "-")
        for file, kind in found[place] or [("", "nothing")]:
            add_row(table, place.name, *size, file, kind)
    show(console, table)
    damaged = [place for place in places if found[place]]
    whole = f"{count(len(places) - len(damaged))} of {count(len(places))} whole"
    following = [f"ptft ckpt ls --run_dir={folder.path}"] if damaged else []
    made(console, "verified", {"run": str(folder.path), "checkpoints": whole}, following)
    if damaged:
        first = "; ".join(
            f"{place / one.file} {one.kind}" for place in damaged for one in found[place][:1]
        )
        raise DataError(
            f"damaged: {first} (the table above has all). A run that goes on sets such a "
            "checkpoint aside and uses the one before; or bring the file back from a copy"
        )


def _chosen(folder: RunFolder, which: str) -> list[Path]:
    checkpoints = folder.checkpoints(best=folder.record().best)
    steps = retention.numbered(checkpoints.folder)
    if not steps:
        raise ConfigError(f"{checkpoints.folder} holds no checkpoint yet: let the run save one.")
    if which != "all":
        # A damaged one can be named, which `choose` would not find.
        named = which.isdecimal() and int(which) in steps
        steps = [int(which) if named else checkpoints.choose(which)]
    return [checkpoints.folder / str(step) for step in steps]


def _damage(place: Path, held: Manifest, advance: Callable[[int], None]) -> list[Damage]:
    """Everything that is wrong: files that are as long as they should be are hashed."""
    damage = structure_damage(place, held)
    names = held.files.keys() - {one.file for one in damage}
    return sorted([*damage, *content_damage(place, held, sorted(names), advance)])
