"""The folders of a run's checkpoints: which count, how one becomes complete, and which are kept.

In the folder `checkpoints` of a run:

    STEP                a complete checkpoint: it has a manifest.json that can be read
    STEP.saving…        being written, or left by a run that was killed meanwhile
    STEP.deleting       being deleted, or left by a run that was killed meanwhile
    STEP.incomplete-N   set aside: a numbered folder without a manifest.json
    STEP.damaged-N      set aside: its files are not those that were written
    STEP.rewound-N      set aside by a rewind to an earlier step

What is set aside is never deleted. Nothing here imports JAX.
"""

import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from ptft_jax.training.checkpoints.manifest import (
    MANIFEST,
    DamagedCheckpointError,
    Manifest,
    make_manifest,
    read_manifest,
    write_manifest,
)
from ptft_jax.training.resources.storage import remove, sync_folder

# "min" or "max" of a metric.
Best = tuple[str, str]

_LEFTOVER = re.compile(r"\d+\.(?:saving.*|deleting)")
_SET_ASIDE = re.compile(r"\d+\.(?:incomplete|damaged|rewound)-\d+")


def numbered(folder: Path) -> list[int]:
    """Returns the numbers that name something in `folder`, ascending, whatever it is."""
    if not folder.is_dir():
        return []
    names = os.listdir(folder)
    return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)


def complete(folder: Path) -> dict[int, Manifest]:
    """Returns the manifests of all complete checkpoints, by ascending step."""
    manifests = {}
    for step in numbered(folder):
        try:
            manifests[step] = read_manifest(folder / str(step))
        except DamagedCheckpointError:
            continue
    return manifests


def best_of(metrics: Mapping[int, Mapping[str, float | None]], best: Best | None) -> int | None:
    """Returns the step with the best finite value, the earlier of equal ones; None without any."""
    if best is None:
        return None
    name, mode = best
    sign = 1.0 if mode == "max" else -1.0
    values = ((step, held.get(name)) for step, held in metrics.items())
    ranked = [(sign * v, -step) for step, v in values if v is not None and math.isfinite(v)]
    return -max(ranked)[1] if ranked else None


def clear(folder: Path) -> None:
    """Removes what killed runs have left, and sets numbered folders aside that are not complete."""
    for path in leftovers(folder):
        remove(path)
    for step in numbered(folder):
        path = folder / str(step)
        try:
            read_manifest(path)
        except DamagedCheckpointError:
            set_aside(path, why_aside(path))


def leftovers(folder: Path) -> list[Path]:
    """Returns what is being written or deleted now, or was when a run was killed."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name))


def aside(folder: Path) -> list[Path]:
    """Returns what was set aside, by ascending step."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _SET_ASIDE.fullmatch(path.name)]
    return sorted(found, key=lambda path: (int(path.name.partition(".")[0]), path.name))


def why_aside(path: Path) -> str:
    """Returns the word under which a numbered folder that is not whole is set aside."""
    return "damaged" if os.path.lexists(path / MANIFEST) else "incomplete"


def set_aside(path: Path, why: str) -> Path:
    """Renames a checkpoint to STEP.`why`-N, with the first N that is free; returns its new path."""
    number = 1
    while os.path.lexists(aside_path := path.with_name(f"{path.name}.{why}-{number}")):
        number += 1
    os.rename(path, aside_path)
    sync_folder(path.parent)
    return aside_path


def finish(
    saving: Path,
    step: int,
    metrics: Mapping[str, float | None],
    evaluation_due: bool,
    last: int,
    best: Best | None,
) -> None:
    """Makes the checkpoint `step` of a folder whose files are all written, then deletes older ones.

    `metrics`, `evaluation_due`: see `Manifest`; `last`, `best`: see `keep`.
    """
    final = saving.with_name(str(step))
    write_manifest(saving, make_manifest(saving, step, metrics, evaluation_due))
    os.rename(saving, final)
    # On the disk before an older one is deleted.
    sync_folder(final.parent)
    keep(final.parent, last, best)


def keep(folder: Path, last: int, best: Best | None) -> None:
    """Deletes all complete checkpoints but the last `last` ones and the best one.

    A folder loses its number first: a kill leaves a checkpoint whole, or none at all.
    """
    manifests = complete(folder)
    kept: set[int | None] = {*list(manifests)[-last:]}
    kept.add(best_of({step: held.metrics for step, held in manifests.items()}, best))
    for step in manifests:
        if step not in kept:
            path = folder / str(step)
            doomed = path.with_name(f"{step}.deleting")
            remove(doomed)
            os.rename(path, doomed)
            shutil.rmtree(doomed)
