"""The folder in which a corpus is made: locked, with a journal, so that a killed run can go on."""

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO, Self

from ptft_jax.errors import ConfigError

_JOURNAL = "journal.json"
_LOCK = "lock"


class WorkFolder:
    """A hidden folder beside the one to be made; a context manager that holds its lock.

    Attributes: `path`; `corpus`, the folder inside that takes the place of the target at the end.
    """

    def __init__(self, target: Path) -> None:
        """`target` is the folder to be made; nothing is written before the context is entered."""
        self._target = Path(os.path.abspath(target))  # "." has no name
        self.path = self._target.parent / f".{self._target.name}.partial"
        self.corpus = self.path / "corpus"
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Take the lock; ConfigError when another process has it."""
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:  # the run that had the lock has just removed the folder
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(descriptor, 20).decode(errors="replace") or "?"
                os.close(descriptor)
                raise ConfigError(
                    f"{self._target} is being made by another process ({owner}); wait for it, or "
                    "choose another out_dir"
                ) from None
            if self._is_lock(descriptor):
                os.truncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                self._lock = descriptor
                return self
            os.close(descriptor)

    def _is_lock(self, descriptor: int) -> bool:
        """Whether the locked file is still the one in the folder."""
        try:
            return os.stat(self.path / _LOCK).st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            return False

    def __exit__(self, *_: object) -> None:
        """Give the lock back."""
        assert self._lock is not None
        os.close(self._lock)
        self._lock = None

    def read_journal(self) -> dict[str, Any] | None:
        """What was last committed; None when there is nothing, or nothing that can be read."""
        try:
            return json.loads((self.path / _JOURNAL).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def commit(self, state: dict[str, Any]) -> None:
        """Make `state` what `read_journal` gives, now and after a crash at any moment.

        What it speaks of must have been synced before.
        """
        temporary = self.path / f"{_JOURNAL}.new"
        with temporary.open("wb") as file:
            file.write(json.dumps(state).encode())
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.path)
        os.replace(temporary, self.path / _JOURNAL)
        sync_folder(self.path)

    def clear(self) -> None:
        """Remove everything but the lock."""
        # The journal first: what is left of a half-removed folder must not be taken for progress.
        (self.path / _JOURNAL).unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()

    def publish(self) -> None:
        """Let the finished corpus take the place of the target, and remove the folder."""
        sync_folder(self.corpus)
        os.replace(self.corpus, self._target)
        sync_folder(self._target.parent)
        self.remove()

    def remove(self) -> None:
        """Remove the folder; the lock is held until the context is left."""
        # Another process that looks for the lock may put one there just now.
        shutil.rmtree(self.path, ignore_errors=True)


class AppendFile:
    """A file that grows at its end, cut back to what the journal knows when a run goes on."""

    def __init__(self, path: Path, size: int = 0) -> None:
        """Open it with its first `size` bytes kept; it has at least so many."""
        self._file: BinaryIO = path.open("r+b" if size else "w+b")
        self._file.truncate(size)
        self._file.seek(size)
        self.path = path
        self.size = size

    def write(self, data: bytes) -> None:
        """Append."""
        self._file.write(data)
        self.size += len(data)

    def flush(self) -> None:
        """Hand what was written to the operating system, so that it can be read."""
        self._file.flush()

    def sync(self) -> None:
        """Hand what was written to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def sync_file(path: Path) -> None:
    """Hand a finished file to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Hand a folder's list of names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
