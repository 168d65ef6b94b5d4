"""The scenarios by name, each in a quick form for the tests and a full one beside it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from faults import ends, layouts, states
from faults.jobs import Result


class Scenario(NamedTuple):
    """Both forms of a scenario; `minutes` is about what the full one takes on two cores.

    `quick` None: other tests show the same in less time.
    """

    quick: Callable[[Path], Result] | None
    full: Callable[[Path], Result]
    minutes: float
    needs_root: bool = False


def by_pytest(place: Path, name: str, tries: int, select: str, **environment: str) -> Result:
    """Runs the full form of a test of tests/training/checkpoints/test_checkpoint_damage.py."""
    file = Path(__file__).resolve().parents[1] / "training/checkpoints/test_checkpoint_damage.py"
    command = [sys.executable, "-m", "pytest", "-q", str(file), "-k", select]
    command += ["-p", "no:cacheprovider", f"--basetemp={place / 'pytest'}"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    result = Result(name, tries=tries)
    result.expect(done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:])
    return result


def retention_kills(place: Path, count: int) -> Result:
    """Kills a process at random moments while it completes checkpoints and deletes older ones."""
    script = Path(__file__).resolve().parents[1] / "killed_retention.py"
    folder = place / "retention"
    folder.mkdir()
    command = [sys.executable, str(script), str(folder), str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    result = Result("SIGKILL while a checkpoint is completed and older ones deleted")
    if result.expect(done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]):
        found = json.loads(done.stdout.splitlines()[-1])
        result.tries, result.failures = found["tried"], found["lost"]
    return result


_STAGES = ("data", "compile", "evaluation", "training", "saving")

SCENARIOS = {
    "equality": Scenario(
        lambda place: layouts.equality(place, 12, ("fsdp",), (2,)),
        lambda place: layouts.equality(place, 100, tuple(layouts.LAYOUTS), (1, 2, 4)),
        5,
    ),
    "elastic": Scenario(
        lambda place: layouts.elastic(place, 4, ((2, "data"), (1, "tensor"))),
        lambda place: layouts.elastic(
            place, 20, ((4, "data"), (2, "fsdp"), (1, "tensor"), (4, "fsdp"), (2, "data x tensor"))
        ),
        1,
    ),
    "same_mesh": Scenario(
        None,  # as `kills_2` does
        lambda place: layouts.same_mesh(place, 40, ((2, 2), (4, 2), (2, 4), (4, 4))),
        2,
    ),
    "two_hosts": Scenario(
        lambda place: layouts.two_hosts(place, 6),
        lambda place: layouts.two_hosts(place, 100),
        0.5,
        needs_root=True,
    ),
    "kills_1": Scenario(
        lambda place: ends.kills(place, 2, 1),
        lambda place: ends.kills(place, 60, 1, seed=1),
        7.5,
    ),
    "kills_2": Scenario(
        lambda place: ends.kills(place, 1, 2),
        lambda place: ends.kills(place, 40, 2, seed=2),
        6,
    ),
    "stops": Scenario(
        lambda place: ends.stops(place, ["evaluation", "compile"]),
        lambda place: ends.stops(place, [*_STAGES] * 4),
        3,
    ),
    "peers": Scenario(
        lambda place: ends.peers(place, ("coordinator killed", "worker frozen")),
        lambda place: ends.peers(place, ends.LOSSES * 3),
        1.5,
    ),
    "watchdog": Scenario(
        lambda place: ends.watchdog(place, 1),
        lambda place: ends.watchdog(place, 4),
        1,
    ),
    "bit_flips": Scenario(
        None,
        lambda place: by_pytest(
            place, "200 flipped bits in checkpoints", 200, "flipped_bits", PTFT_FULL_FLIPS="200"
        ),
        0.5,
    ),
    "retention": Scenario(
        None,
        lambda place: retention_kills(place, 50),
        0.5,
    ),
    "flips": Scenario(
        None,  # as tests/training/checkpoints/test_checkpoint_damage.py does, in one process
        lambda place: states.flips(place, 20),
        1.5,
    ),
    "full_disk": Scenario(
        lambda place: states.full_disk(place, goes_on=False),
        lambda place: states.full_disk(place),
        0.5,
        needs_root=True,
    ),
    "nonfinite": Scenario(
        lambda place: states.nonfinite(place, ("nan",)),
        lambda place: states.nonfinite(place, ("nan", "inf", "-inf")),
        1,
    ),
    "rewind": Scenario(
        lambda place: states.rewinding(place, killed=False),
        lambda place: states.rewinding(place),
        0.5,
    ),
    "wrong_restores": Scenario(
        lambda place: states.wrong_restores(place, ("optimizer", "vocabulary")),
        lambda place: states.wrong_restores(place),
        0.5,
    ),
    "different_configs": Scenario(
        lambda place: states.different_configs(place, ("learning rate",)),
        lambda place: states.different_configs(place),
        0.5,
    ),
}
