"""What the launchers' real trainings are compared with."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from command_line import DROPOUT, losses, prepare_corpus, pretrain_flags
from processes import ROOT

STEPS = 100


class OneProcess(NamedTuple):
    """A corpus, and the loss of each of `STEPS` updates on it in one process."""

    data: Path
    losses: dict[int, float]

    def flags(self, run_dir: Path, **changes: Any) -> list[str]:
        """The same training over all devices; of fewer steps it is the beginning of this one."""
        settings = DROPOUT | {"mesh.fsdp": 1, "mesh.data": -1, "steps": STEPS, "eval_every": 0}
        settings |= {"schedule.name": "constant", "schedule.warmup_ratio": 0}
        return pretrain_flags(self.data, run_dir, **(settings | changes))


@pytest.fixture(scope="session")
def one_process(tmp_path_factory) -> OneProcess:
    """Trained once, for all launchers."""
    place = tmp_path_factory.mktemp("one_process")
    reference = OneProcess(prepare_corpus(place), {})
    # On a device of its own: a hundred updates over eight would take three times as long.
    command = [sys.executable, "-m", "ptft_jax", *reference.flags(place / "run")]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    subprocess.run(command, env=environment, cwd=ROOT, check=True)
    reference.losses.update(losses(place / "run"))
    return reference
