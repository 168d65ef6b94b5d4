"""manifest.json of a checkpoint: size and SHA-256 of every file, and what is known of the step.

It is the last file to come into a checkpoint; a folder without it is none. Orbax and TensorStore
restore a flipped bit without a word. Links and pipes are refused where a run is opened
(`runs.record.read_record`), before anything here looks at it. Nothing here imports JAX.
"""

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ptft_jax.data.foreign_files import inner_paths, read_json_object
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.training.resources.storage import replacing, sync_folder

MANIFEST = "manifest.json"
FORMAT_VERSION = 2
_THREADS = min(8, os.cpu_count() or 1)


class DamagedCheckpointError(DataError):
    """A checkpoint's files are not those that were written."""


class FileRecord(NamedTuple):
    """What one file has to be: its SHA-256 in lower-case hexadecimal, and its size in bytes."""

    sha256: str
    bytes: int


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

    def to_bytes(self) -> bytes:
        """Returns the file's content."""
        content = {
            "format": "ptft_jax checkpoint",
            "format_version": FORMAT_VERSION,
            "step": self.step,
            "metrics": dict(self.metrics),
            "evaluation_due": self.evaluation_due,
            "files": {name: record._asdict() for name, record in self.files.items()},
        }
        return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def make_manifest(
    folder: Path, step: int, metrics: Mapping[str, float | None], evaluation_due: bool
) -> Manifest:
    """Hashes every file of a finished `folder` and forces files and folders to the disk."""
    names = sorted(_names(folder))
    with ThreadPoolExecutor(_THREADS) as pool:
        records = pool.map(lambda name: _hashed(folder / name, sync=True), names)
        files = dict(zip(names, records, strict=True))
    for place, _, _ in os.walk(folder):
        sync_folder(Path(place))
    return Manifest(step, files, metrics, evaluation_due)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes manifest.json into `folder`, whole or not at all."""
    # Beside the checkpoint, in which a kill would leave a file that belongs to no checkpoint.
    temporary = folder.with_name(f"{manifest.step}.saving-manifest")
    with replacing(folder / MANIFEST, temporary) as file:
        file.write(manifest.to_bytes())


def read_manifest(folder: Path) -> Manifest:
    """Reads manifest.json of the checkpoint at `folder`.

    Raises:
        DamagedCheckpointError: it is missing, is not what was written, or names files outside.
        ConfigError: it was written by another version of this package.
    """
    path = folder / MANIFEST
    try:
        content = read_json_object(path, "bring it back from a copy")
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise ConfigError(
                f"{path}: checkpoint format {version!r}, expected {FORMAT_VERSION}: use the "
                "version of ptft_jax that wrote it."
            )
        inner_paths(content["files"], path)
        records = content["files"].items()
        return Manifest(
            step=int(content["step"]),
            files={name: FileRecord(str(r["sha256"]), int(r["bytes"])) for name, r in records},
            metrics={n: v if v is None else float(v) for n, v in content["metrics"].items()},
            evaluation_due=bool(content["evaluation_due"]),
        )
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        problem = f"{MANIFEST} is missing"
    except DataError as error:
        problem = str(error)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        problem = f"{MANIFEST} lacks something ({type(error).__name__}: {error})"
    raise _damaged(folder, problem)


def verify(folder: Path, items: Collection[str] | None = None, *, hashes: bool = True) -> Manifest:
    """Returns the manifest of a checkpoint after comparing its files with it.

    `items` limits that to these items and the files beside them; without `hashes` names and sizes
    are compared, and no file is read.

    Raises:
        DamagedCheckpointError: they are not what was written.
        DataError: a file cannot be read for a reason that is no damage.
    """
    manifest = read_manifest(folder)
    names = sorted({*manifest.files, *_names(folder)})
    asked = [n for n in names if items is None or "/" not in n or n.partition("/")[0] in items]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda name: _problem(folder, name, manifest, hashes), asked)
        problems = [problem for problem in found if problem]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise _damaged(folder, "; ".join(problems[:3]) + more)
    return manifest


def _problem(folder: Path, name: str, manifest: Manifest, hashes: bool) -> str:
    """Says what is wrong with a file of a checkpoint; "" when nothing is."""
    path, expected = folder / name, manifest.files.get(name)
    if expected is None:
        return f"{name} is not in {MANIFEST}: it was added later"
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            return f"{name} has {size:,} bytes instead of {expected.bytes:,}"
        if hashes and _hashed(path, sync=False) != expected:
            return f"{name} has changed: its SHA-256 is not the one in {MANIFEST}"
    except (FileNotFoundError, NotADirectoryError):
        return f"{name} is missing"
    except OSError as error:
        # A file server that was away for a moment is no reason to set a checkpoint aside.
        if error.errno != errno.EIO:
            raise DataError(f"checkpoint file {path} cannot be read: {error}") from error
        return f"{name} cannot be read: {error.strerror}"
    return ""


def _names(folder: Path) -> Iterator[str]:
    """Yields the path inside `folder` of every file there but manifest.json."""
    for place, _, files in os.walk(folder):
        for name in files:
            path = (Path(place) / name).relative_to(folder).as_posix()
            if path != MANIFEST:
                yield path


def _hashed(path: Path, *, sync: bool) -> FileRecord:
    with path.open("rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
        return FileRecord(digest, file.tell())


def _damaged(folder: Path, problem: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(f"checkpoint {folder} is damaged: {problem}")
