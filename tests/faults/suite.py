"""The scenarios by name, each in a quick form for the tests and a full one beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from faults import ends, layouts, states
from faults.jobs import Result


class Scenario(NamedTuple):
    """Both forms of a scenario; `minutes` is about what the full one takes on two cores.

    None for the quick form: that of another scenario, or another test, shows as much.
    """

    quick: Callable[[Path], Result] | None
    full: Callable[[Path], Result]
    minutes: float
    needs_root: bool = False


_STAGES = ("data", "compile", "evaluation", "training", "saving")

SCENARIOS = {
    "equality": Scenario(
        None,  # elastic
        lambda place: layouts.equality(place, 100, tuple(layouts.LAYOUTS), (1, 2, 4)),
        5,
    ),
    "elastic": Scenario(
        lambda place: layouts.elastic(place, 4, ((2, "fsdp"), (1, "data"))),
        lambda place: layouts.elastic(
            place, 20, ((4, "data"), (2, "fsdp"), (1, "tensor"), (4, "fsdp"), (2, "data x tensor"))
        ),
        1,
    ),
    "two_hosts": Scenario(
        lambda place: layouts.two_hosts(place, 6),
        lambda place: layouts.two_hosts(place, 100),
        0.5,
        needs_root=True,
    ),
    "kills_1": Scenario(
        None,  # kills_2
        lambda place: ends.kills(place, 60, 1, seed=1),
        7.5,
    ),
    "kills_2": Scenario(
        lambda place: ends.kills(place, 1, 2),
        lambda place: ends.kills(place, 40, 2, seed=2),
        6,
    ),
    "stops": Scenario(
        lambda place: ends.stops(place, ["compile"]),
        lambda place: ends.stops(place, [*_STAGES] * 4),
        3,
    ),
    "peers": Scenario(
        # A frozen one is as silent as the host of two_hosts whose cable is cut.
        lambda place: ends.peers(place, ("coordinator killed",)),
        lambda place: ends.peers(place, ends.LOSSES * 3),
        1.5,
    ),
    "watchdog": Scenario(
        lambda place: ends.watchdog(place, 1),
        lambda place: ends.watchdog(place, 4),
        1,
    ),
    "full_disk": Scenario(
        lambda place: states.full_disk(place, goes_on=False),
        lambda place: states.full_disk(place),
        0.5,
        needs_root=True,
    ),
    "nonfinite": Scenario(
        None,  # training/test_skipped_updates, commands/test_commands
        lambda place: states.nonfinite(place, ("nan", "inf", "-inf")),
        1,
    ),
    "rewind": Scenario(
        None,  # training/checkpoints/test_rewind, commands/test_resume_lines
        states.rewinding,
        0.5,
    ),
    "wrong_restores": Scenario(
        lambda place: states.wrong_restores(place, ("vocabulary",)),
        lambda place: states.wrong_restores(place),
        0.5,
    ),
    "different_configs": Scenario(
        None,  # training/cluster/test_distributed
        lambda place: states.different_configs(place),
        0.5,
    ),
}
