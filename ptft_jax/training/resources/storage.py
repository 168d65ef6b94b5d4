"""Files that have to last: written whole or not at all, removed whole; what a full disk says."""

import contextlib
import errno
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ptft_jax.errors import StorageError

# What a disk, a quota or a file server answers when it does not take what it is given.
_REFUSALS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
    errno.ENODEV,
    errno.ENXIO,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
)
# TensorStore hands on numbers as text: "[OS error 28: ENOSPC No space left on device]".
_TEXTS = {
    re.compile(rf"\b(?:{errno.errorcode[number]}|{os.strerror(number)})\b"): os.strerror(number)
    for number in _REFUSALS
}
# So does a bucket; a device says the same of its memory.
_EXHAUSTED = re.compile(r"\bRESOURCE_EXHAUSTED\b")


def refusal(error: BaseException) -> str | None:
    """Returns in a few words why storage refused to take data; None for an error of another kind.

    Looks through causes, contexts and groups: Orbax and TensorStore wrap what the disk said.
    """
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _REFUSALS:
            return os.strerror(cause.errno)
        # An OSError of another number (permission denied, say) has its own meaning.
        if not isinstance(cause, OSError):
            for text, reason in _TEXTS.items():
                if text.search(str(cause)):
                    return reason
            # By name: commands that only read files do not load JAX.
            if _EXHAUSTED.search(str(cause)) and type(cause).__name__ != "JaxRuntimeError":
                return "out of space or quota"
    return None


def expected_of(error: OSError) -> str:
    """Returns what a disk that refused has to be like, and how to mend it."""
    if error.errno == errno.EROFS:
        return "Expected a file system that can be written: name another folder"
    return "Expected room on its disk: make some"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            waiting.extend(cause.exceptions)
        waiting += [cause.__cause__, cause.__context__]


def size_text(count: int) -> str:
    """Writes a number of bytes as "1.3 GB", with powers of ten as disks are sold."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def sync_folder(path: Path) -> None:
    """Forces a folder's list of names to the disk, where its file system can do that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no such thing; they keep names on the server.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[IO[bytes]]:
    """Gives a file to write, which takes the place of that at `path` in one move.

    A power cut leaves the move done or not done, an error the file as before. `temporary` is a path
    on the same file system that nothing else uses; None: one beside it.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file at `path` by `text`; see `replacing`.

    Raises StorageError when the disk does not take it.
    """
    with storing(path), replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns what a full or broken disk answers to writing at `path` into StorageError."""
    try:
        yield
    except OSError as error:
        reason = refusal(error)
        if reason is None:
            raise
        raise StorageError(
            f"{path} could not be written: {reason}. {expected_of(error)}, and start the same "
            "command again; what was saved before is whole."
        ) from error


def json_ready(value: Any) -> Any:
    """Returns `value` in JSON's own types: NumPy scalars as numbers, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    # By what it has: every command loads this module, and few load NumPy.
    if hasattr(value, "dtype"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def remove(path: Path) -> None:
    """Removes a file, a link (never what it points to) or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def folder_size(path: Path) -> int:
    """Returns the bytes of all files at and below `path`, links not followed.

    What vanishes meanwhile does not count.
    """
    size = 0
    for place, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(os.path.join(place, name)).st_size
    return size
