"""What processes ask each other, and the folder that all of them have to see."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptft_jax.errors import ConfigError

# Hands a JSON value to all processes of the job and returns those of all, by process. The same tags
# in the same order on all of them; also a barrier.
Gather = Callable[[str, Any], list[Any]]

# Network file systems show what another host writes a little later.
_APPEARS_SECONDS = 10.0


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
