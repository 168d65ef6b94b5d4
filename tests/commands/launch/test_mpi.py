"""launch/mpi.sh under the real Open MPI: ranks, exit codes, signals, real training.

Most jobs start a small program in place of ptft that records what it was given and ends as told.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import losses
from processes import gone

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(
    shutil.which("mpirun") is None, reason="needs mpirun (bash launch/cluster_tools.sh)"
)
# mpirun asks root for this twice; users of clusters are not root.
ENVIRONMENT = {
    **os.environ,
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
COORDINATOR = "--coordinator_address=127.0.0.1:9"

# Stands for ptft: records, then does what BEHAVIOUR names.
RECORDER = """#!{python} -S
import json, os, signal, sys, time
rank = int(sys.argv[-1].removeprefix("--process_id="))
def record(**what):
    with open(os.environ["RECORD"], "a") as file:
        file.write(json.dumps(dict(rank=rank, **what)) + "\\n")
def stop(*_):
    time.sleep(2)  # longer than mpirun's own patience
    record(got="SIGTERM")
    os._exit(75)
signal.signal(signal.SIGTERM, stop)
record(args=sys.argv[1:], pid=os.getpid())
behaviour = os.environ["BEHAVIOUR"]
if behaviour.isdigit():
    sys.exit(int(behaviour))
if behaviour == "die" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""


class MpiJob:
    """A job of the recorder in two processes on this machine."""

    def __init__(self, place: Path, behaviour: str, *words: str):
        ptft = place / "ptft"
        ptft.write_text(RECORDER.format(python=sys.executable))
        ptft.chmod(0o755)
        self._record = place / "record.jsonl"
        variables = {"PTFT": str(ptft), "RECORD": str(self._record), "BEHAVIOUR": behaviour}
        script = ["bash", str(ROOT / "launch" / "mpi.sh"), COORDINATOR, "-np", "2"]
        self.popen = subprocess.Popen(
            [*script, "--oversubscribe", "--", "pretrain", *words],
            env=ENVIRONMENT | variables,
            start_new_session=True,
        )

    def records(self, key: str) -> list[dict]:
        """The records that have a key, in the order of the ranks."""
        lines = self._record.read_text().splitlines() if self._record.exists() else []
        found = [entry for line in lines if key in (entry := json.loads(line))]
        return sorted(found, key=lambda entry: entry["rank"])

    def wait_for_start(self) -> None:
        until = time.monotonic() + 20
        while len(self.records("args")) < 2:
            assert time.monotonic() < until
            time.sleep(0.05)

    def end(self) -> int:
        """Waits for the end; returns the exit code when no process is left."""
        code = self.popen.wait(30)
        assert gone([entry["pid"] for entry in self.records("args")])
        return code


def test_ranks_become_flags(tmp_path):
    """Each process knows its place, and gets the words as they were given."""
    words = ("a b", "it's", "$HOME", "[MASK]", '"')
    job = MpiJob(tmp_path, "0", *words)
    assert job.end() == 0
    for rank, entry in enumerate(job.records("args")):
        assert entry["args"] == [
            *("pretrain", *words, COORDINATOR, f"--local_device_ids={rank}"),
            *("--num_processes=2", f"--process_id={rank}"),
        ]


@pytest.mark.parametrize(("behaviour", "code"), [("65", 65), ("75", 75), ("die", 137)])
def test_exit_codes_are_handed_on(tmp_path, behaviour, code):
    """Whatever starts the job again decides by its code; a dead rank ends those that wait for it.

    Who names the devices knows better than the local rank.
    """
    job = MpiJob(tmp_path, behaviour, "--local_device_ids=3")
    assert job.end() == code
    for entry in job.records("args"):
        assert [word for word in entry["args"] if "device_ids" in word] == ["--local_device_ids=3"]


@pytest.mark.parametrize("to_group", [False, True], ids=["SIGTERM", "Ctrl-C"])
def test_a_job_that_is_told_to_stop_can_save(tmp_path, to_group):
    """mpirun would kill all ranks a second after SIGTERM; saving takes longer."""
    job = MpiJob(tmp_path, "wait")
    job.wait_for_start()
    if to_group:
        os.killpg(job.popen.pid, signal.SIGINT)  # as a terminal does
    else:
        job.popen.send_signal(signal.SIGTERM)
    assert job.end() == 75
    assert [entry["rank"] for entry in job.records("got")] == [0, 1]


def test_real_training_under_mpirun(tmp_path, one_process):
    """Two processes find each other and train as one does, from the command line to the losses."""
    words = one_process.flags(tmp_path / "two", steps=3)
    command = [sys.executable, "-m", "ptft_jax", "launch", "mpi", "--processes=2", "--", *words]
    environment = ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": "1"}
    subprocess.run(command, env=environment, cwd=ROOT, check=True)
    expected = {step: one_process.losses[step] for step in (1, 2, 3)}
    assert losses(tmp_path / "two") == pytest.approx(expected, rel=1e-5)
