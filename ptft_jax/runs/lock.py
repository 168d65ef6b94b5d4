"""One job at a time in a run's folder: a lock that ends with the process that holds it."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ptft_jax.errors import ConfigError
from ptft_jax.training.accounting.heartbeat import read_heartbeats

_FILE = "lock"
# File systems that know no locks; there, nobody is kept out.
_UNKNOWN = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
# A file server keeps the lock of a host that has died for a while (NFS: 90 s).
_SILENT_SECONDS, _WAIT_SECONDS = 60.0, 120.0


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Keeps other jobs out of a run's folder, which is made if it is not there.

    The lock is the kernel's (flock), on NFS also between hosts: it ends with this process, however
    that ends. The file `lock` says who holds it, and is removed at the end.

    Raises:
        ConfigError: another process holds it; it says which, where and since when.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path, until = run_dir / _FILE, time.monotonic() + _WAIT_SECONDS
    while (file := _locked(path)) is None:
        if time.monotonic() > until or not _is_silent(run_dir):
            raise _refused(run_dir)
        time.sleep(1.0)
    with file:
        about = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        file.truncate(0)
        file.write(json.dumps(about) + "\n")
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def check_free(run_dir: Path) -> None:
    """Raises ConfigError where a job trains in the folder at this moment."""
    path = run_dir / _FILE
    if path.is_file():
        file = _locked(path)
        if file is not None:
            file.close()
        elif not _is_silent(run_dir):
            raise _refused(run_dir)


def _locked(path: Path) -> IO[str] | None:
    """Returns the locked file, None where another one holds the lock."""
    while True:
        file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _UNKNOWN:
                return file
            file.close()
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return None
            raise
        # Who held it before may have removed the file after it was opened here.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _is_silent(run_dir: Path) -> bool:
    """Says whether the holder is of another host and has not been heard of for a while."""
    times = [modified for beat, modified in read_heartbeats(run_dir) if beat.process == 0]
    elsewhere = _holder(run_dir).get("host") != socket.gethostname()
    return elsewhere and bool(times) and time.time() - times[0] > _SILENT_SECONDS


def _holder(run_dir: Path) -> dict[str, str | float]:
    try:
        return dict(json.loads((run_dir / _FILE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _refused(run_dir: Path) -> ConfigError:
    holder = _holder(run_dir)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(holder.get("since", 0))))
    who = "another process"
    if holder:
        who = f"process {holder.get('pid')} on host {holder.get('host')}, since {since},"
    return ConfigError(
        f"--run_dir={run_dir} is in use: {who} trains in it. Expected one job at a time: wait for "
        "its end, stop it (SIGTERM: it saves), or choose another --run_dir."
    )
