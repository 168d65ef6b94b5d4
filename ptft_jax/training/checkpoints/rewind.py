"""Going back to an earlier checkpoint of a run, and leaving out batches from there on.

Later checkpoints are set aside as STEP.rewound-N, never deleted. RUN/rewinds.json holds what was
done, the last at the end: a list of {"step", "skip_batches", "from_step", "time"}. The data is a
function of its position, so a run that goes on from there sees what it saw before, without the
batches left out. Nothing here imports JAX.
"""

import datetime
import json
from pathlib import Path
from typing import NamedTuple

from ptft_jax.errors import ConfigError, DataError
from ptft_jax.training.checkpoints import retention
from ptft_jax.training.resources.storage import write_atomically

REWINDS = "rewinds.json"


class Rewind(NamedTuple):
    """One rewind of a run.

    `step` is where it went back to, `from_step` the last checkpoint there was; `skip_batches` are
    left out when the run goes on; `time` is in ISO 8601, UTC.
    """

    step: int
    skip_batches: int
    from_step: int
    time: str


def rewinds(run_dir: str | Path) -> list[Rewind]:
    """Returns the rewinds of a run, the earliest first.

    Raises:
        DataError: rewinds.json is damaged.
    """
    path = Path(run_dir) / REWINDS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise TypeError("it is no list")
        made = [Rewind(**entry) for entry in content]
        if not all(isinstance(number, int) for entry in made for number in entry[:3]):
            raise TypeError("a step is not a whole number")
        return made
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path} is damaged ({error}): it says which batches this run leaves out. Bring it "
            'back from a copy, or write it again: [{"step": 100, "skip_batches": 5, "from_step": '
            '200, "time": ""}]'
        ) from error


def skip_at(run_dir: str | Path, step: int) -> int:
    """Returns how many batches a run leaves out when it goes on from its checkpoint of `step`.

    The last rewind to `step` decides, unless a later one went to an earlier step: the checkpoint
    that has this number now was saved after that, and its own position in the data says all.
    """
    skip = 0
    for entry in rewinds(run_dir):
        if entry.step == step:
            skip = entry.skip_batches
        elif entry.step < step:
            skip = 0
    return skip


def rewind(run_dir: str | Path, step: int, skip_batches: int = 0) -> list[Path]:
    """Makes `step` the last checkpoint of a run; returns where the later ones are now.

    A kill in the middle leaves a run that can be rewound again. Raises ConfigError for a negative
    number, or without a complete checkpoint of this step.
    """
    if skip_batches < 0:
        raise ConfigError(f"--skip_batches={skip_batches}: expected 0 or more batches.")
    folder = Path(run_dir) / "checkpoints"
    steps = list(retention.complete(folder))
    if step not in steps:
        there = f"there are: {', '.join(map(str, steps))}" if steps else "there is none"
        raise ConfigError(f"no checkpoint of step {step} in {folder}; {there}.")
    made = rewinds(run_dir)
    later = [number for number in retention.numbered(folder) if number > step]
    aside = [retention.set_aside(folder / str(number), "rewound") for number in later[::-1]]
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    entry = Rewind(step, skip_batches, max([*later, step]), time)
    # Last, so that what is recorded has been done.
    text = json.dumps([entry._asdict() for entry in [*made, entry]], indent=1) + "\n"
    write_atomically(Path(run_dir) / REWINDS, text)
    return aside[::-1]
