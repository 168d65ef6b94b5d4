"""Files that others have made: JSON within bounds, and folders that do not lead out of themselves.

A folder that was fetched or unpacked can hold links to any file of this machine, and JSON that is
nested or long enough to stop a program. Both are refused before anything is made of the content.
"""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from ptft_jax.errors import DataError

# The largest of its kind, the tokenizer.json of a vocabulary of 256,000 tokens, has 33 MB.
MAX_JSON_BYTES = 1 << 28
_SIGNATURES = (
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "a zip archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a rar archive"),
    (0, b"\x1f\x8b", "compressed with gzip"),
    (0, b"\xfd7zXZ\x00", "compressed with xz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (0, b"BZh91AY&SY", "compressed with bzip2"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"%PDF-", "a PDF file"),
    *((0, mark, "UTF-16 text") for mark in (b"\xff\xfe", b"\xfe\xff")),
    *((0, bytes([0x80, protocol]), "a pickle") for protocol in range(2, 6)),
)


def read_json_object(path: Path, mend: str = "fetch or make it again") -> dict[str, Any]:
    """Reads a file that holds one JSON object; raises DataError for another value (`read_json`)."""
    content = read_json(path, mend)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, expected a JSON object; {mend}")
    return content


def read_json(path: Path, mend: str = "fetch or make it again") -> Any:
    """Reads a JSON file.

    `mend` ends the message of the DataError that is raised for anything else: text that is no JSON,
    nesting of thousands of levels, numbers of thousands of digits, half a surrogate pair (which no
    file can be written with), or a file of more than 256 MiB.
    """
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise DataError(
            f"{path} has {size} bytes, expected at most {MAX_JSON_BYTES} in a JSON file; {mend}"
        )
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply for a JSON file of its kind; {mend}") from (
            error
        )
    except ValueError as error:  # no UTF-8, no JSON, or a number that Python refuses to convert
        raise DataError(f"{path} is not JSON ({error}); {mend}") from error
    return content


def refuse_ways_out(folder: Path) -> None:
    """Raises DataError for anything in a folder that is not a file or folder of its own.

    That is a symbolic link to a place outside, a pipe, a socket or a device, at any depth. `folder`
    may be a link itself. A hub cache keeps its files in `blobs` and links to them from
    `snapshots/REVISION`: links to there stay inside, too.
    """
    root = folder.resolve()
    roots = [root]
    if root.parent.name == "snapshots":
        roots.append(root.parent.parent / "blobs")
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(place, name)
            problem = _way_out(path, roots)
            if problem:
                raise DataError(f"{str(folder / path.relative_to(root))!r} is {problem}")


def _way_out(path: Path, roots: list[Path]) -> str:
    """Says what is wrong with an entry of a folder, and how to mend it; "" when nothing is."""
    if path.is_symlink():
        target = Path(os.path.realpath(path))
        if not any(target.is_relative_to(root) for root in roots):
            return (
                f"a symbolic link that leads out of its folder, to {str(target)!r}: expected files "
                "of its own. Put a copy of the file in its place"
            )
    try:
        mode = path.stat().st_mode
    except OSError:  # a link to nothing, or a file that has just gone
        return ""
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return "a pipe, socket or device: expected files and folders. Remove it"


def inner_paths(names: Iterable[str], source: Path) -> None:
    """Raises DataError unless all names are plain relative paths to files inside a folder.

    `source`, the list that they come from, is named in the error.
    """
    for name in names:
        path = PurePosixPath(name)
        is_plain = name.isprintable() and str(path) == name and name != "." and "\\" not in name
        if not is_plain or path.is_absolute() or ".." in path.parts:
            raise DataError(
                f"{source}: {name!r} is no file of its folder: expected a relative path without "
                "'..' or control characters. Fetch or make the folder again"
            )


def kind_of(head: bytes) -> str:
    """Says what a file is that begins with `head`, of 512 bytes or more; "" for anything else.

    Only kinds that are never UTF-8 text: archives, pickles and the like.
    """
    return next((kind for at, mark, kind in _SIGNATURES if head.startswith(mark, at)), "")
