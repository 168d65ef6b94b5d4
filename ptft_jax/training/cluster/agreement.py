"""What the processes of a job ask each other before anything is compiled or written."""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ptft_jax.errors import ConfigError, StorageError
from ptft_jax.training.mesh import AXES

if TYPE_CHECKING:
    from ptft_jax.training.cluster.job import Job

# Hands a JSON value to all processes of the job and returns those of all, by process. The same tags
# in the same order on all of them; also a barrier.
Gather = Callable[[str, Any], list[Any]]

# Network file systems show what another host writes a little later.
_APPEARS_SECONDS = 10.0
# Float32 values in the all-reduce that is timed, on each device.
_REDUCED = 4 << 20
_SHOWN_DIFFERENCES = 8


def alone(tag: str, value: Any) -> list[Any]:
    """The `Gather` of a process without others."""
    return [value]


def check_shared(gather: Gather, folder: Path, is_first: bool, called: str | None = None) -> None:
    """Checks that all processes see what the first one writes in a folder, which it has made.

    Raises ConfigError, naming process and host, where one does not; `called` is how the message
    names the folder, None: by its path.
    """
    name = f".seen-by-all-{os.getpid()}" if is_first else None
    if name is not None:
        (folder / name).touch()
    name = gather("shared folder: name", name)[0]
    sees = gather("shared folder: seen", [socket.gethostname(), _appears(folder / name)])
    if is_first:
        (folder / name).unlink(missing_ok=True)
    blind = [f"process {index} on host {host}" for index, (host, ok) in enumerate(sees) if not ok]
    if blind:
        raise ConfigError(
            f"{called or folder}: {', '.join(blind[:4])} does not see what process 0 on host "
            f"{sees[0][0]} writes there; expected a folder on a file system that all hosts share."
        )


def _appears(path: Path) -> bool:
    until = time.monotonic() + _APPEARS_SECONDS
    while not path.exists():
        if time.monotonic() > until:
            return False
        os.scandir(path.parent).close()
        time.sleep(0.1)
    return True


def agree(job: "Job", what: str, facts: Mapping[str, Any]) -> None:
    """Lets all processes go on if they have the same facts.

    Args:
        job: the job.
        what: what the facts are about, a name of its own in each run ("command line").
        facts: JSON values by name; may be nested.

    Raises:
        ConfigError: they differ; it names the facts, and the processes with their values.
    """
    own = {
        name: json.dumps(value, default=str)
        for name, value in flatten_dict(dict(facts), sep=".").items()
    }
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
    if len(set(job.gather(f"{what}: digest", digest))) == 1:
        return
    everything = job.gather(f"{what}: facts", {"host": job.host, "facts": own})
    names = sorted({name for entry in everything for name in entry["facts"]})
    differ = [n for n in names if len({entry["facts"].get(n) for entry in everything}) > 1]
    lines = [f"  {name}: {_who_has_what(name, everything)}" for name in differ]
    more = len(lines) - _SHOWN_DIFFERENCES
    raise ConfigError(
        f"the processes of this job differ in their {what}:\n"
        + "\n".join(lines[:_SHOWN_DIFFERENCES])
        + (f"\n  and {more} more" if more > 0 else "")
        + "\nExpected the same on every host: start all of them with one command line, one version "
        "of the code and one copy of the data."
    )


def _who_has_what(name: str, everything: list[dict[str, Any]]) -> str:
    """Returns 'A at processes 0, 1, 3 (host a); B at process 2 (host b)'."""
    holders: dict[str, list[int]] = {}
    for process, entry in enumerate(everything):
        holders.setdefault(entry["facts"].get(name, "absent"), []).append(process)
    parts = []
    for value, processes in sorted(holders.items(), key=lambda item: -len(item[1])):
        listed = ", ".join(map(str, processes[:4])) + (", …" if len(processes) > 4 else "")
        word = "process" if len(processes) == 1 else "processes"
        hosts = sorted({everything[process]["host"] for process in processes[:4]})
        parts.append(f"{value} at {word} {listed} (host {', '.join(hosts)})")
    return "; ".join(parts)


@cache
def software() -> dict[str, str]:
    """Returns a SHA-256 of this package's code, and the versions that decide what is computed."""
    package = Path(__file__).resolve().parents[2]
    sha256 = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        sha256.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"code of ptft_jax": sha256.hexdigest()[:16], "python": python, **versions}


def check_run_place(job: "Job", folder: Path, state_bytes: int, what: str = "run_dir") -> None:
    """Checks that all processes write to one folder, and that it has room for two checkpoints.

    Args:
        job: the job.
        folder: the run's folder; made if it is not there.
        state_bytes: size of a checkpoint.
        what: the flag that names the folder.

    Raises:
        ConfigError: a process does not see what the first one writes.
        StorageError: the disk has too little room.
    """
    problem = None
    if job.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < 2 * state_bytes:
            problem = (
                f"--{what}={folder}: its disk has {free / 1e9:.2f} GB left, expected at least "
                f"{2 * state_bytes / 1e9:.2f} GB, the size of two checkpoints: make room, or name "
                "a folder on another disk."
            )
    problem = job.gather("room on disk", problem)[0]
    if problem is not None:
        raise StorageError(problem)
    if job.process_count > 1:
        check_shared(job.gather, folder, job.is_first, f"--{what}={folder}")


def time_all_reduce(mesh: Mesh) -> str:
    """Adds up an array over all devices, and returns in words how long that took."""
    size = mesh.devices.size
    sharding = NamedSharding(mesh, P(AXES))
    with jax.set_mesh(mesh):
        ones = jax.jit(lambda: jnp.ones((size, _REDUCED), jnp.float32), out_shardings=sharding)()
        add_up = jax.jit(lambda x: jnp.sum(x, axis=0), out_shardings=NamedSharding(mesh, P()))
        seconds = []
        for _ in range(3):
            began = time.monotonic()
            jax.block_until_ready(add_up(ones))
            seconds.append(time.monotonic() - began)
    took = min(seconds[1:])
    size_bytes = 4 * _REDUCED
    return (
        f"all-reduce of {size_bytes / 1e6:.0f} MB over {size} devices: {took * 1e3:.1f} ms, "
        f"{size_bytes / took / 1e9:.2f} GB/s"
    )
