"""The files of a corpus against its manifest: which are not what was written, and where.

Bytes, tokens, documents and entries count from 0, as in the files; lines from 1.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from ptft_jax.data.block_checksums import (
    BLOCK_BYTES,
    BLOCK_CHECKSUMS,
    block_count,
    flipped_bit,
    measure,
    sha256_with_flips,
)
from ptft_jax.data.corpus import MANIFEST, FileRecord, Manifest, token_file
from ptft_jax.data.findings import MOST_ALIKE, PREPARE_AGAIN, Finding, spanned
from ptft_jax.data.progress import Progress


def mapped(path: Path, dtype: str) -> np.ndarray:
    """The whole numbers in a file, mapped; a last one that is cut off is left out."""
    count = path.stat().st_size // np.dtype(dtype).itemsize
    if not count:
        return np.zeros(0, dtype)  # an empty file cannot be mapped
    return np.asarray(np.memmap(path, dtype, mode="r", shape=(count,)))


class SplitFiles:
    """The files of a split.

    Attributes: `name`; `counts`; `tokens`, the names of the token files, with the token of the
    split that each begins with in `starts`; `sentences` and `documents`, the offsets in those
    files, None where a file is not what was written.
    """

    def __init__(self, data_dir: Path, manifest: Manifest, name: str, sound: set[str]) -> None:
        """`sound` names the files that are what was written."""
        self.name = name
        self.counts = manifest.splits[name]
        self.tokens = [token_file(name, n) for n in range(len(self.counts.shard_tokens))]
        self.starts = np.cumsum([0, *self.counts.shard_tokens]).tolist()
        self.sentences, self.documents = (
            mapped(data_dir / file, "<i8") if file in sound else None
            for file in (f"{name}/sentences.bin", f"{name}/documents.bin")
        )

    @property
    def files(self) -> list[str]:
        """The names of all files."""
        return [f"{self.name}/sentences.bin", f"{self.name}/documents.bin", *self.tokens]

    def place(self, file: str, first: int, last: int) -> str:
        """Tokens `first` to `last` of a token file, with their documents, in words."""
        words = spanned("token", first, last)
        start = self.starts[self.tokens.index(file)]
        documents = [self._document(start + token) for token in (first, last)]
        if documents[0] is None or documents[1] is None:
            return words
        return f"{words}, {spanned('document', documents[0], documents[1])}"

    def _document(self, token: int) -> int | None:
        if self.sentences is None or self.documents is None:
            return None
        sentence = np.searchsorted(self.sentences, token, side="right") - 1
        return int(np.searchsorted(self.documents, sentence, side="right") - 1)


class StoredFiles:
    """All files that a manifest lists, read once.

    Attributes: `splits` by name; `measured`, the record of each file that is there; `sound`, the
    names of those that are what was written; `item`, bytes of a token.
    """

    def __init__(self, data_dir: Path, manifest: Manifest, progress: Progress) -> None:
        """Read everything."""
        self._dir = data_dir
        self._manifest = manifest
        self.item = np.dtype(manifest.token_dtype).itemsize
        self.measured: dict[str, FileRecord] = {}
        self._sums: dict[str, np.ndarray] = {}
        total = sum(record.bytes for record in manifest.files.values())
        done = 0
        for name, record in sorted(manifest.files.items()):
            if (data_dir / name).is_file():
                self.measured[name], self._sums[name] = measure(data_dir / name)
            done += record.bytes
            progress("Checking the corpus", done, total)
        self.sound = {
            name for name, record in self.measured.items() if record == manifest.files[name]
        }
        self.splits = {
            name: SplitFiles(data_dir, manifest, name, self.sound) for name in manifest.splits
        }
        # Bytes that a finding has named, first and last, by file.
        self._named: dict[str, list[tuple[int, int]]] = {}

    def finding(self, file: str, position: str, problem: str, mend: str = PREPARE_AGAIN) -> Finding:
        """A finding about a file of the corpus."""
        return Finding(str(self._dir / file), position, problem, mend)

    def damage(self, name: str) -> Iterator[Finding]:
        """What is wrong with the content of a file, or that it is missing."""
        expected = self._manifest.files[name]
        record = self.measured.get(name)
        if record is None:
            tokens = expected.bytes // self.item
            split = self.split_of(name)
            held = split.place(name, 0, tokens - 1) if split is not None and tokens else ""
            yield self.finding(name, held, "the file is missing")
        elif record == expected:
            return
        elif (twin := self._twin(name)) is not None:
            self._named[name] = [(0, record.bytes)]
            place = self.place(name, 0, record.bytes - 1)
            yield self.finding(name, place, f"duplicate: it has the content of {twin}")
        elif record.bytes == 0:
            yield self.finding(name, "byte 0", f"it is empty, expected {expected.bytes} bytes")
        elif record.bytes != expected.bytes:
            end = min(record.bytes, expected.bytes) - 1
            what = "it ends here" if record.bytes < expected.bytes else "it should end here"
            sizes = f"{record.bytes} bytes, expected {expected.bytes}"
            yield self.finding(name, self.place(name, end, end), f"{what}: {sizes}")
        else:
            yield from self._changes(name)

    def is_named(self, name: str, first: np.ndarray, size: int) -> np.ndarray:
        """Whether `damage` has named any of the `size` bytes from each `first` on, bool [N]."""
        named = np.zeros(len(first), bool)
        for start, end in self._named.get(name, ()):
            named |= (first <= end) & (start < first + size)
        return named

    def split_of(self, name: str) -> SplitFiles | None:
        """The split that a token file belongs to, None for other files."""
        return next((split for split in self.splits.values() if name in split.tokens), None)

    def place(self, name: str, first: int, last: int) -> str:
        """Bytes `first` to `last` of a file, and what they are, in words."""
        words = spanned("byte", first, last)
        split = self.split_of(name)
        if split is not None:
            return f"{words}: {split.place(name, first // self.item, last // self.item)}"
        if name.endswith(".bin"):
            return f"{words}: {spanned('entry', first // 8, last // 8, 'entries')}"
        before = (self._dir / name).read_bytes()[:first]
        return f"{words}: line {before.count(b'\n') + 1}"

    def _twin(self, name: str) -> str | None:
        """Another token file that was written with the content that this one has now."""
        record, files = self.measured[name], self._manifest.files
        if self.split_of(name) is None or not record.bytes:
            return None
        others = [file for split in self.splits.values() for file in split.tokens if file != name]
        return next((file for file in others if files.get(file) == record), None)

    def _changes(self, name: str) -> Iterator[Finding]:
        """Where a file of the right size has changed, as far as that can be told."""
        expected = self._expected_sums.get(name)
        if expected is None or len(expected) != len(self._sums[name]):
            yield self.finding(name, "", "it has changed since it was prepared (its SHA-256 has)")
            return
        blocks = np.flatnonzero(expected != self._sums[name]).tolist()
        if not blocks:
            problem = f"its SHA-256 of {name} is wrong: the file has not changed"
            yield self.finding(MANIFEST, f"files, {name}", problem)
            return
        bits = self._flipped_bits(name, blocks, expected)
        if bits:
            places = [(bit // 8, bit // 8) for bit in bits]
            problems = [self._flip(name, bit) for bit in bits]
        else:
            size = self._manifest.files[name].bytes
            places = [
                (first * BLOCK_BYTES, min((last + 1) * BLOCK_BYTES, size) - 1)
                for first, last in _runs(blocks)
            ]
            problems = ["something in here has changed since it was prepared"] * len(places)
        self._named[name] = places
        for (first, last), problem in zip(places[:MOST_ALIKE], problems, strict=False):
            yield self.finding(name, self.place(name, first, last), problem)
        if len(places) > MOST_ALIKE:
            first = places[MOST_ALIKE][0]
            more = f"{len(places) - MOST_ALIKE} more stretches have changed"
            yield self.finding(name, f"byte {first} and later", more)

    @cached_property
    def _expected_sums(self) -> dict[str, np.ndarray]:
        """The sums of the blocks of each file as it was written; empty where they are not known."""
        if BLOCK_CHECKSUMS not in self.sound:
            return {}
        files = self._manifest.files
        names = sorted(files.keys() - {BLOCK_CHECKSUMS})
        ends = np.cumsum([block_count(files[name].bytes) for name in names])
        sums = mapped(self._dir / BLOCK_CHECKSUMS, "<u4")
        return dict(zip(names, np.split(sums, ends[:-1]), strict=True))

    def _flipped_bits(self, name: str, blocks: Sequence[int], expected: np.ndarray) -> list[int]:
        """The bits of the file whose flips, one in each block, are all that has changed."""
        size, sums = self.measured[name].bytes, self._sums[name]
        if len(blocks) > MOST_ALIKE:
            return []
        bits = []
        for block in blocks:
            length = min(BLOCK_BYTES, size - block * BLOCK_BYTES)
            bit = flipped_bit(int(sums[block]), int(expected[block]), length)
            if bit is None:
                return []
            bits.append(8 * block * BLOCK_BYTES + bit)
        right = sha256_with_flips(self._dir / name, bits)
        return bits if right == self._manifest.files[name].sha256 else []

    def _flip(self, name: str, bit: int) -> str:
        """What a flipped bit has made of a number, in words."""
        if not name.endswith(".bin"):
            return f"bit {bit % 8} of this byte is flipped"
        is_token = self.split_of(name) is not None
        dtype = np.dtype(self._manifest.token_dtype if is_token else "<i8")
        index, place = divmod(bit, 8 * dtype.itemsize)
        found = mapped(self._dir / name, dtype.str)[index]
        right = found ^ (np.ones(1, dtype) << place).astype(dtype)[0]
        return f"a bit is flipped: {'id' if is_token else 'offset'} {found} should be {right}"


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The first and the last of each run of consecutive numbers, which ascend."""
    cuts = [place for place, (a, b) in enumerate(pairwise(numbers), start=1) if b != a + 1]
    return [(numbers[start], numbers[end - 1]) for start, end in pairwise([0, *cuts, len(numbers)])]
