"""manifest.json of a checkpoint: size and SHA-256 of every file, and what is known of the step.

It is the last file to come into a checkpoint; a folder without it is none. Orbax and TensorStore
restore a flipped bit without a word. The manifest holds the SHA-256 of its own content too, and
must be spelt exactly as it is written here. Nothing here imports JAX.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import stat
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ptft_jax.errors import ConfigError, DataError
from ptft_jax.training.resources.storage import replacing, sync_folder

MANIFEST = "manifest.json"
FORMAT = "ptft_jax checkpoint"
FORMAT_VERSION = 1
_THREADS = min(8, os.cpu_count() or 1)


class DamagedCheckpointError(DataError):
    """A checkpoint's files are not those that were written."""


class FileRecord(NamedTuple):
    """What one file has to be: its SHA-256 in lower-case hexadecimal, and its size in bytes."""

    sha256: str
    bytes: int


class Damage(NamedTuple):
    """One thing that is wrong: `file` is a path inside the checkpoint, `kind` says what it is."""

    file: str
    kind: str

    def __str__(self) -> str:
        return f"{self.file} {self.kind}"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    Attributes:
        step: of the checkpoint.
        files: every file but manifest.json, by its path inside the checkpoint ("params/_METADATA").
        metrics: of an evaluation at this step, None where a value was not finite; {} without one.
        evaluation_due: whether the step was to be evaluated and has not been.
    """

    step: int
    files: Mapping[str, FileRecord]
    metrics: Mapping[str, float | None]
    evaluation_due: bool

    def holds(self, item: str) -> bool:
        """Says whether the checkpoint has an item ("opt_state")."""
        return any(name.startswith(f"{item}/") for name in self.files)

    @property
    def sha256(self) -> str:
        """SHA-256 of the content, as the file holds it."""
        return _digest(self._content())

    def to_bytes(self) -> bytes:
        """Returns the file's content."""
        return _spelt({**self._content(), "sha256": self.sha256})

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "step": self.step,
            "metrics": dict(self.metrics),
            "evaluation_due": self.evaluation_due,
            "files": {name: record._asdict() for name, record in self.files.items()},
        }


def make_manifest(
    folder: Path, step: int, metrics: Mapping[str, float | None], evaluation_due: bool
) -> Manifest:
    """Hashes every file of a finished `folder` and forces files and folders to the disk.

    Raises RuntimeError for a link or another thing that is no file.
    """
    found, folders = _scan(folder)
    for name, status in found.items():
        if not stat.S_ISREG(status.st_mode):
            raise RuntimeError(f"{folder / name} {_odd_kind(status)}")
    names = [name for name in found if name != MANIFEST]
    with ThreadPoolExecutor(_THREADS) as pool:
        records = pool.map(lambda name: _hashed(folder / name, sync=True), names)
        files = dict(zip(names, records, strict=True))
    for path in folders:
        sync_folder(path)
    return Manifest(step, files, metrics, evaluation_due)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes manifest.json into `folder`, whole or not at all."""
    # Beside the checkpoint, in which a kill would leave a file that belongs to no checkpoint.
    temporary = folder.with_name(f"{manifest.step}.saving-manifest")
    with replacing(folder / MANIFEST, temporary) as file:
        file.write(manifest.to_bytes())


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks manifest.json of the checkpoint at `folder`.

    Raises:
        DamagedCheckpointError: it is missing, is not what was written, or names files outside.
        ConfigError: it was written by a later version of this package.
    """
    path = folder / MANIFEST
    if folder.is_symlink():
        raise DamagedCheckpointError(f"checkpoint {folder} is damaged: it is a symbolic link")
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise DamagedCheckpointError(
                f"checkpoint {folder} is damaged: {MANIFEST} {_odd_kind(status)}"
            )
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedCheckpointError(
            f"checkpoint {folder} is damaged: {MANIFEST} is missing"
        ) from error
    try:
        content = json.loads(data)
        digest = content.pop("sha256")
        if digest != _digest(content) or data != _spelt({**content, "sha256": digest}):
            raise ValueError("its SHA-256 is not that of its content")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        how = f"has changed ({type(error).__name__}: {error})" if data else "is empty"
        raise DamagedCheckpointError(f"checkpoint {folder} is damaged: {MANIFEST} {how}") from error
    if (content.get("format"), content.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise ConfigError(
            f"{path}: format {content.get('format')!r}, version "
            f"{content.get('format_version')!r}; expected {FORMAT!r}, version {FORMAT_VERSION}: "
            "use the version of ptft_jax that wrote it."
        )
    return _parsed(folder, content)


def _parsed(folder: Path, content: Mapping[str, Any]) -> Manifest:
    try:
        files = {}
        for name, record in content["files"].items():
            if not _is_inside(name):
                raise DamagedCheckpointError(
                    f"checkpoint {folder} is damaged: {MANIFEST} names {name!r}, which is no path "
                    "inside it"
                )
            files[name] = FileRecord(str(record["sha256"]), int(record["bytes"]))
        metrics = dict(content["metrics"])
        return Manifest(int(content["step"]), files, metrics, bool(content["evaluation_due"]))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise DamagedCheckpointError(
            f"checkpoint {folder} is damaged: {MANIFEST} lacks something "
            f"({type(error).__name__}: {error})"
        ) from error


def _is_inside(name: str) -> bool:
    """Says whether a path is relative, in its shortest spelling, and leads into the checkpoint."""
    path = PurePosixPath(name)
    plain = str(path) == name and "\0" not in name and "\\" not in name
    return plain and not path.is_absolute() and ".." not in path.parts and name not in (".", "")


def structure_damage(
    folder: Path, manifest: Manifest, items: Collection[str] | None = None
) -> list[Damage]:
    """Returns what names, kinds and sizes say is wrong, without reading a file.

    `items` limits that to these items and to the files beside them; None: everything.
    """
    found = {name: status for name, status in _scan(folder)[0].items() if _within(name, items)}
    wanted = {name: record for name, record in manifest.files.items() if _within(name, items)}
    damage = []
    for name in sorted((found.keys() | wanted.keys()) - {MANIFEST}):
        status = found.get(name)
        if status is None:
            damage.append(Damage(name, "is missing"))
        elif not stat.S_ISREG(status.st_mode):
            damage.append(Damage(name, _odd_kind(status)))
        elif name not in wanted:
            damage.append(Damage(name, f"is not in {MANIFEST}: it was added later"))
        elif status.st_size != wanted[name].bytes:
            damage.append(Damage(name, _size_kind(status.st_size, wanted[name].bytes)))
    return damage


def content_damage(folder: Path, manifest: Manifest, names: Collection[str]) -> list[Damage]:
    """Hashes the files `names` and returns which of them are not what was written.

    Raises:
        DataError: a file cannot be read for a reason that is no damage.
    """

    def look(name: str) -> Damage | None:
        expected = manifest.files[name]
        try:
            record = _hashed(folder / name, sync=False)
        except FileNotFoundError:
            return Damage(name, "is missing")
        except OSError as error:
            if error.errno == errno.ELOOP:
                return Damage(name, "is a symbolic link")
            if error.errno == errno.EIO:
                return Damage(name, f"cannot be read: {os.strerror(errno.EIO)}")
            if isinstance(error, PermissionError):
                raise
            raise DataError(f"checkpoint file {folder / name} cannot be read: {error}") from error
        if record.bytes != expected.bytes:
            return Damage(name, _size_kind(record.bytes, expected.bytes))
        if record.sha256 != expected.sha256:
            return Damage(name, f"has changed: its SHA-256 is not the one in {MANIFEST}")
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        return [damage for damage in pool.map(look, names) if damage is not None]


def verify(folder: Path) -> Manifest:
    """Returns the manifest of a checkpoint after comparing its files with it.

    Raises:
        DamagedCheckpointError: they are not what was written.
    """
    manifest = read_manifest(folder)
    damage = structure_damage(folder, manifest)
    wrong = {one.file for one in damage}
    damage += content_damage(
        folder, manifest, [name for name in manifest.files if name not in wrong]
    )
    if damage:
        raise DamagedCheckpointError(damage_text(folder, sorted(damage)))
    return manifest


def damage_text(folder: Path, damage: Collection[Damage]) -> str:
    """Says in one line what is wrong with the files of a checkpoint."""
    first = [str(one) for one in list(damage)[:3]]
    more = f"; and {len(damage) - 3} more" if len(damage) > 3 else ""
    return f"checkpoint {folder} is damaged: {'; '.join(first)}{more}"


def shares(manifest: Manifest, names: Collection[str], count: int) -> list[list[str]]:
    """Splits files into `count` lists of about the same size in bytes, the same everywhere."""
    lists: list[list[str]] = [[] for _ in range(count)]
    loads = [0] * count
    for name in sorted(names, key=lambda name: (-manifest.files[name].bytes, name)):
        least = loads.index(min(loads))
        lists[least].append(name)
        # A file costs something even when it is empty.
        loads[least] += manifest.files[name].bytes + 4096
    return lists


def names_in(manifest: Manifest, items: Collection[str] | None) -> list[str]:
    """Returns the files of `items` and those beside them; None: all files."""
    return [name for name in manifest.files if _within(name, items)]


def _within(name: str, items: Collection[str] | None) -> bool:
    return items is None or "/" not in name or name.partition("/")[0] in items


def _scan(folder: Path) -> tuple[dict[str, os.stat_result], list[Path]]:
    """Returns everything below a folder that is no folder, links not followed; and the folders.

    What vanishes meanwhile is not there.
    """
    found: dict[str, os.stat_result] = {}
    folders = [folder]
    for place in folders:
        try:
            names = sorted(os.listdir(place))
        except FileNotFoundError:
            continue
        for path in (place / name for name in names):
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                if stat.S_ISDIR(status.st_mode):
                    folders.append(path)
                else:
                    found[path.relative_to(folder).as_posix()] = status
    return found, folders


def _hashed(path: Path, *, sync: bool) -> FileRecord:
    # Neither a link nor a pipe that has come since the folder was looked through.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(descriptor)
        return FileRecord(digest, file.tell())


def _size_kind(size: int, expected: int) -> str:
    how = "is emptied" if size == 0 else "is truncated" if size < expected else "is too long"
    return f"{how}: {size:,} bytes instead of {expected:,}"


def _odd_kind(status: os.stat_result) -> str:
    kinds = {
        stat.S_IFLNK: "is a symbolic link",
        stat.S_IFIFO: "is a named pipe, not a file",
        stat.S_IFSOCK: "is a socket, not a file",
    }
    return kinds.get(stat.S_IFMT(status.st_mode), "is a device, not a file")


def _spelt(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_spelt(content)).hexdigest()
