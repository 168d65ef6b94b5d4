"""The folder in which a corpus is made: locked, with a journal, so that a killed run can go on.

Its files only grow. The journal says how long each of them was when it was written, after they had
been synced; going on means cutting them back to that.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO, Self

from ptft_jax.data.progress import Message
from ptft_jax.errors import ConfigError

_JOURNAL = "journal.json"
_LOCK = "lock"


class AppendFile:
    """A file that grows at its end. Attributes: `path`; `size` in bytes."""

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


class WorkFolder:
    """A hidden folder beside the one to be made; a context manager that holds its lock.

    Attributes: `path`; `corpus`, the folder inside that takes the place of the target at the end;
    `has_journal`, whether there is something to go on from.
    """

    def __init__(self, target: Path) -> None:
        """`target` is the folder to be made; nothing is written before the context is entered."""
        self._target = Path(os.path.abspath(target))  # "." has no name
        self.path = self._target.parent / f".{self._target.name}.partial"
        self.corpus = self.path / "corpus"
        self.has_journal = False
        self._lock: int | None = None
        self._open: dict[str, AppendFile] = {}
        # What the journal says, or will say, of all files.
        self._sizes: dict[str, int] = {}
        self._dropped: list[str] = []

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
        """Close the files and give the lock back."""
        self._close_all()
        assert self._lock is not None
        os.close(self._lock)
        self._lock = None

    def _close_all(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def begin(self, fingerprint: dict[str, Any], say: Message) -> dict[str, Any]:
        """What a run with the same fingerprint has committed; {} in an empty folder otherwise.

        A journal that cannot be read, or whose files are gone or too short, is of no use.
        """
        try:
            journal = json.loads((self.path / _JOURNAL).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self._clear()
            return {}
        before = journal["fingerprint"]
        why = "was begun with other inputs or settings"
        keys = fingerprint | before
        differences = [name for name in keys if fingerprint.get(name) != before.get(name)]
        if not differences:
            why = "is damaged"
            for name, size in journal["sizes"].items():
                path = self.path / name
                if not path.is_file() or path.stat().st_size < size:
                    differences.append(name)
        if differences:
            say(f"{self.path} {why} ({', '.join(differences)}): starting anew.")
            self._clear()
            return {}
        say(f"Going on with what an interrupted run left in {self.path}.")
        self.has_journal = True
        self._sizes = journal["sizes"]
        for name, size in self._sizes.items():
            os.truncate(self.path / name, size)
        return journal["state"]

    def _clear(self) -> None:
        """Remove everything but the lock."""
        # The journal first: what is left of a half-removed folder must not be taken for progress.
        (self.path / _JOURNAL).unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()

    def open(self, name: str) -> AppendFile:
        """A file of the folder, with what the journal knows of it, to append to."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open[name] = AppendFile(path, self._sizes.get(name, 0))
        return self._open[name]

    def finish(self, name: str) -> None:
        """Sync and close a file: it grows no more."""
        file = self._open.pop(name)
        file.sync()
        file.close()
        self._sizes[name] = file.size

    def drop(self, name: str) -> None:
        """Close a file that is not needed any more; the next commit removes it."""
        self._open.pop(name).close()
        self._sizes.pop(name, None)
        self._dropped.append(name)

    def commit(self, fingerprint: dict[str, Any], state: dict[str, Any]) -> None:
        """Make `state` what `begin` gives, now and after a crash at any moment."""
        for name, file in self._open.items():
            file.sync()
            self._sizes[name] = file.size
        paths = [self.path / name for name in self._sizes]
        for folder in {self.path, *(parent for path in paths for parent in path.parents)}:
            if folder.is_relative_to(self.path):
                sync_folder(folder)
        content = {"fingerprint": fingerprint, "state": state, "sizes": self._sizes}
        temporary = self.path / f"{_JOURNAL}.new"
        temporary.write_text(json.dumps(content), encoding="utf-8")
        sync_file(temporary)
        os.replace(temporary, self.path / _JOURNAL)
        sync_folder(self.path)
        self.has_journal = True
        while self._dropped:  # now that no journal speaks of them
            (self.path / self._dropped.pop()).unlink(missing_ok=True)

    def publish(self) -> None:
        """Let the finished corpus take the place of the target, and remove the folder."""
        self._close_all()
        sync_folder(self.corpus)
        os.replace(self.corpus, self._target)
        sync_folder(self._target.parent)
        self.remove()

    def remove(self) -> None:
        """Remove the folder; the lock is held until the context is left."""
        # Another process that looks for the lock may put one there just now.
        shutil.rmtree(self.path, ignore_errors=True)


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
