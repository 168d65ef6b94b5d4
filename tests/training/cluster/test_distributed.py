"""How a process finds its job, and what the processes check together before they train.

Real jobs of several processes are started in tests/test_faults.py.
"""

import shutil
from types import SimpleNamespace

import jax
import pytest

from ptft_jax.errors import ConfigError, StorageError
from ptft_jax.training.cluster import agreement as preflight
from ptft_jax.training.cluster import start as distributed
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.cluster.start import JobConfig, join_job

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "2",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
}


@pytest.fixture
def asked(monkeypatch):
    """Records how JAX is asked to join, in place of joining."""
    calls = []
    monkeypatch.setattr(distributed, "_join", lambda job, config, *found: calls.append(found))
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: None)
    return calls


@pytest.mark.parametrize(
    ("settings", "environment", "found"),
    [
        # None: JAX reads the rest from the launcher's variables.
        ({}, SLURM, (None, 2, None, None)),
        ({}, OPEN_MPI, (None, 4, None, None)),
        # Open MPI 5 gives no address: with one, its variables suffice.
        ({"coordinator_address": "a:1"}, OPEN_MPI, ("a:1", 4, 3, (1,))),
        (
            {"coordinator_address": "a:1", "num_processes": 3, "process_id": 2},
            {**SLURM, **OPEN_MPI},
            ("a:1", 3, 2, None),
        ),
    ],
)
def test_a_job_is_found(asked, settings, environment, found):
    """Flags come before the launcher's variables."""
    with join_job(JobConfig(**settings), environment):
        assert asked == [found]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {**SLURM, "SLURM_NTASKS": "1"},
        # A batch script of SLURM, outside srun: no task of a job.
        {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"},
        {**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_a_process_by_itself(asked, environment):
    """Nobody to wait for: JAX is not asked at all."""
    with join_job(JobConfig(), environment) as job:
        assert job.process_count == 1
        assert job.is_first
    assert asked == []
    with join_job(JobConfig(num_processes=1, process_id=0), SLURM):
        assert asked == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coordinator_address": "host"}, "--coordinator_address=host: expected HOST:PORT"),
        ({"num_processes": 0}, "--num_processes=0: expected at least 1"),
        ({"process_id": 1}, "--process_id=1: expected --num_processes"),
        ({"num_processes": 2, "process_id": 2}, "--process_id=2: expected from 0 to 1"),
        ({"num_processes": 2, "process_id": 0}, "--coordinator_address is missing"),
        ({"heartbeat_seconds": 0}, "--heartbeat_seconds=0"),
        ({"control_port": 70000}, "--control_port=70000"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    """Said before anything waits for anybody."""
    with pytest.raises(ConfigError, match=message):
        JobConfig(**settings)


class Processes(Job):
    """A job of several processes whose other members give what `others` says, by tag."""

    def __init__(self, others, process_index=0):
        super().__init__()
        self.others = others
        self.process_index, self.process_count = process_index, 3

    def gather(self, tag, value):
        return [value, *self.others(tag, value)]


def test_the_process_that_differs_is_named():
    """Of many processes and keys, the message shows what to look at."""

    def other(tag, value):
        if tag.endswith("digest"):
            return [value, "another"]
        changed = {**value["facts"], "config.steps": "200", "config.new": "1"}
        return [value, {"host": "b", "facts": changed}]

    job = Processes(other)
    job.host = "a"
    facts = {"config": {"steps": 100, "batch_size": 8}}
    with pytest.raises(ConfigError) as caught:
        preflight.agree(job, "command line", facts)
    said = str(caught.value)
    assert "config.steps: 100 at processes 0, 1 (host a); 200 at process 2 (host b)" in said
    assert "config.new: absent at processes 0, 1 (host a); 1 at process 2 (host b)" in said
    assert "batch_size" not in said


def test_the_code_is_among_what_has_to_agree():
    """Hosts with different versions would train different models without noticing."""
    software = preflight.software()
    assert len(software["code of ptft_jax"]) == 16
    assert software["jax"] == jax.__version__


def test_room_for_two_checkpoints(tmp_path, monkeypatch):
    """A run that would fill the disk is refused before it trains, by all processes."""
    usage = SimpleNamespace(free=1_999)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="size of two checkpoints"):
        preflight.check_run_place(Job(), tmp_path / "run", state_bytes=1_000)
    usage.free = 2_000
    preflight.check_run_place(Job(), tmp_path / "run", state_bytes=1_000)


def test_a_folder_that_is_not_shared(tmp_path):
    """A host that writes to a disk of its own would lose its part of every checkpoint."""

    def blind(tag, value):
        return [["b", True], ["c", False]] if tag.endswith("seen") else [value, value]

    with pytest.raises(ConfigError, match="process 2 on host c does not see"):
        preflight.check_run_place(Processes(blind), tmp_path, state_bytes=1)
    assert list(tmp_path.iterdir()) == []
