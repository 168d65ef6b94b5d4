"""Ways to damage the files of a checkpoint, and to put them right again."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def files_of(checkpoint: Path) -> list[Path]:
    """Returns all files of a checkpoint, the manifest among them."""
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


@contextmanager
def damaged(path: Path, content: bytes | None) -> Iterator[None]:
    """Gives a file other content, or removes it for None; brings it back at the end."""
    before = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    try:
        yield
    finally:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(before)


def flipped(content: bytes, bit: int) -> bytes:
    """Returns `content` with one bit changed, counted from the lowest of the first byte."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def single_flips(checkpoint: Path, count: int, seed: int) -> Iterator[tuple[Path, bytes]]:
    """Yields `count` single flipped bits as (file, its content then): every file of the manifest
    gets one, then random ones among all their bits."""
    rng = random.Random(seed)
    files = [path for path in files_of(checkpoint) if path.name != "manifest.json"]
    sizes = [path.stat().st_size for path in files]
    assert all(sizes), "an empty file has no bit to flip"
    chosen = [*files, *rng.choices(files, sizes, k=max(0, count - len(files)))]
    for path in chosen[: max(count, len(files))]:
        content = path.read_bytes()
        yield path, flipped(content, rng.randrange(8 * len(content)))
