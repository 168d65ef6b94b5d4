"""The start of a job: who takes part, where the first process is, and what each of them has.

Found from explicit settings, or from the environment that SLURM, Open MPI, a TPU pod or Kubernetes
gives (JAX's own detection).
"""

import importlib.util
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from jax._src import distributed as jax_distributed  # the only way to its key-value store

from ptft_jax.errors import ConfigError, PeerError
from ptft_jax.training.cluster.job import NOT_ALL_CAME, Job

# JAX notices the end of a peer too, but only aborts: it comes after the control channel.
_AFTER_US_SECONDS = 15
_CONTROL_KEY = "ptft_jax/control"

# Launcher → (variables that all have to be there, the one that counts processes).
_LAUNCHERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "SLURM": (
        ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"),
        "SLURM_NTASKS",
    ),
    "Open MPI": (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"), "OMPI_COMM_WORLD_SIZE"),
}


@dataclass(frozen=True)
class JobConfig:
    """How a process finds its job; None: from the environment.

    Attributes:
        coordinator_address: HOST:PORT of the first process.
        num_processes, process_id: how many processes there are, and which this is.
        local_device_ids: accelerators of this process; None: those that the launcher gives it.
        start_timeout_seconds: how long to wait for all processes to come.
        heartbeat_seconds: how long a process may be silent before the others give it up.
        control_port: port of the first process for the control channel; 0: any free one.
        watchdog_seconds: see `Job`; 0: no watchdog.
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: tuple[int, ...] | None = None
    start_timeout_seconds: int = 300
    heartbeat_seconds: int = 100
    control_port: int = 0
    watchdog_seconds: int = 1800

    def __post_init__(self):
        address, count, index = self.coordinator_address, self.num_processes, self.process_id
        if address is not None:
            host, _, port = address.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ConfigError(
                    f"--coordinator_address={address}: expected HOST:PORT of the first process, "
                    "like node001:8476."
                )
        if index is not None and count is None:
            raise ConfigError(f"--process_id={index}: expected --num_processes beside it.")
        for name, least, most in (
            ("num_processes", 1, None),
            ("process_id", 0, (count or 1) - 1),
            ("start_timeout_seconds", 1, None),
            ("heartbeat_seconds", 1, None),
            ("watchdog_seconds", 0, None),
            ("control_port", 0, 65535),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= (value if most is None else most):
                expected = f"at least {least}" if most is None else f"from {least} to {most}"
                raise ConfigError(f"--{name}={value}: expected {expected}.")
        if index is not None and address is None and count != 1:
            raise ConfigError(
                "--coordinator_address is missing: expected HOST:PORT of the first process beside "
                "--num_processes and --process_id."
            )


@contextmanager
def join_job(config: JobConfig, environment: Mapping[str, str] = os.environ) -> Iterator[Job]:
    """Joins this process to its job, before JAX is used; a job of one process where there is none.

    Raises:
        ConfigError: the settings do not fit together, or the launcher's do not suffice.
        PeerError: not all processes came in time.
    """
    found = _explicit(config, environment)
    with Job(config.heartbeat_seconds, config.watchdog_seconds or None) as job:
        if found[1] != 1:
            _join(job, config, *found)
        yield job


def _join(
    job: Job,
    config: JobConfig,
    address: str | None,
    count: int | None,
    index: int | None,
    devices: tuple[int, ...] | None,
) -> None:
    # Must come before the first use of a device; the other platforms do not look at it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # The job handles SIGTERM; JAX's service would take it away from Python.
    jax.config.update("jax_enable_preemption_service", False)
    job.joins(config.start_timeout_seconds)
    try:
        jax.distributed.initialize(
            address,
            count,
            index,
            local_device_ids=devices,
            # JAX aborts where not all come; the job is there first, and says so.
            initialization_timeout=config.start_timeout_seconds + _AFTER_US_SECONDS,
            heartbeat_timeout_seconds=config.heartbeat_seconds + _AFTER_US_SECONDS,
            cluster_detection_method="deactivate" if None not in (address, count, index) else None,
        )
    except ValueError as error:
        if count is None and index is None and address is None:
            job.stays_alone()  # a TPU that is no pod
            return
        raise ConfigError(
            f"the launcher's environment does not say who takes part ({error}): expected "
            "--coordinator_address, --num_processes and --process_id."
        ) from error
    except RuntimeError as error:
        if "mpi4py" in str(error):
            raise ConfigError(
                "Open MPI 5 and later do not say where the first process is: expected "
                "--coordinator_address=HOST:PORT of rank 0, or the package mpi4py."
            ) from error
        raise PeerError(f"{str(error).strip().splitlines()[0]}: {NOT_ALL_CAME}") from error
    state = jax_distributed.global_state
    if state.num_processes == 1:
        job.stays_alone()
    else:
        _open_channel(job, config, state)


def _explicit(
    config: JobConfig, environment: Mapping[str, str]
) -> tuple[str | None, int | None, int | None, tuple[int, ...] | None]:
    """Returns address, count, index and devices; count 1 for no job, None for JAX to find out."""
    address, count, index = config.coordinator_address, config.num_processes, config.process_id
    devices = config.local_device_ids
    if index is not None or count == 1:
        return address, count, index, devices
    for needed, counter in _LAUNCHERS.values():
        if all(name in environment for name in (*needed, counter)):
            if int(environment[counter]) == 1:
                return None, 1, None, devices
            if counter.startswith("OMPI") and address is not None:
                # JAX asks mpi4py under Open MPI 5; with an address the variables are enough.
                # A process has the accelerator of its number on the host, as JAX would have it.
                own = devices or (int(environment[needed[1]]),)
                return address, int(environment[counter]), int(environment[needed[0]]), own
            return address, int(environment[counter]), None, devices
    if address is not None:
        raise ConfigError(
            f"--coordinator_address={address}: expected --num_processes and --process_id beside "
            "it, since no launcher (SLURM, Open MPI) says which process this is."
        )
    asked = environment.get("JAX_PLATFORMS") in (None, "", "tpu")
    on_tpu = asked and importlib.util.find_spec("libtpu")
    return None, None if on_tpu else 1, None, devices


def _open_channel(job: Job, config: JobConfig, state: Any) -> None:
    """Joins the control channel; the first process says where it is through JAX's key-value store.

    Whoever reached the coordinator's host once reaches it again, so its name is used here as well.
    """
    # A job of one process does not need it.
    from ptft_jax.training.cluster.control_channel import Server, connect

    server = None
    index, count = state.process_id, state.num_processes
    if index == 0:
        token = secrets.token_hex(16)
        try:
            server = Server(count, token, config.heartbeat_seconds, config.control_port)
        except OSError as error:
            raise ConfigError(
                f"--control_port={config.control_port}: {error.strerror}; expected a free port, "
                "or 0 for any."
            ) from error
        state.client.key_value_set(_CONTROL_KEY, json.dumps({"port": server.port, "token": token}))
    try:
        wait = config.start_timeout_seconds * 1000
        control = json.loads(state.client.blocking_key_value_get(_CONTROL_KEY, wait))
        host = "localhost" if index == 0 else state.coordinator_address.rpartition(":")[0]
        hello = {"token": control["token"], "process": index, "host": job.host}
        address = (host.strip("[]"), control["port"])
        link = connect(address, hello, config.start_timeout_seconds)
    except (OSError, RuntimeError) as error:
        raise PeerError(f"{str(error).strip().splitlines()[0]}: {NOT_ALL_CAME}") from error
    job.joined(index, count, link, server)


def process_map(job: Job) -> list[dict[str, Any]]:
    """Returns, for every process of the job, its host, process number and devices."""
    devices = jax.local_devices()
    kind = devices[0].device_kind
    mine = {"host": job.host, "pid": os.getpid(), "devices": len(devices), "kind": kind}
    return job.gather("process map", mine)
