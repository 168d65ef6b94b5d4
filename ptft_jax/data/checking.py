"""Everything that is wrong with a prepared corpus.

`Corpus.open` ends with the first thing that it finds; this goes on to the last, and says where in
a file it is.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ptft_jax.data.corpus import FORMAT, MANIFEST, SPLITS, FileRecord, Manifest
from ptft_jax.data.damage import SplitFiles, StoredFiles, mapped
from ptft_jax.data.findings import PREPARE_AGAIN, Finding, finding_of
from ptft_jax.data.progress import Progress, no_progress
from ptft_jax.data.tokenizer import TextTokenizer
from ptft_jax.errors import DataError, PtftError

# Numbers that are looked through together.
_AT_ONCE = 1 << 24


def check_corpus(
    data_dir: str | Path,
    tokenizer: str | Path | None = None,
    progress: Progress = no_progress,
) -> list[Finding]:
    """Check every file of a corpus, and that `tokenizer` (a folder or file) is the corpus's.

    Reads everything once. Raises ConfigError when there is no corpus in `data_dir`, or no tokenizer
    where one is named.
    """
    data_dir = Path(data_dir)
    found: list[Finding] = []
    given: TextTokenizer | None = None
    if tokenizer is not None:
        try:
            given = TextTokenizer.load(tokenizer)
        except DataError as error:
            found.append(finding_of(error, str(tokenizer)))
    try:
        manifest = Manifest.read(data_dir)
    except PtftError as error:
        if not (data_dir / MANIFEST).is_file():
            raise
        return [*found, _unreadable_manifest(data_dir / MANIFEST, error)]
    impossible = [
        Finding(str(data_dir / MANIFEST), position, problem, PREPARE_AGAIN)
        for position, problem in manifest.impossible_values()
    ]
    if impossible:  # nothing can be told by them
        return [*found, *impossible]
    files = StoredFiles(data_dir, manifest, progress)
    tokenizers, is_replaced = _check_tokenizers(data_dir, manifest, given, str(tokenizer))
    found += tokenizers
    for name in sorted(manifest.files):
        # Another tokenizer is one finding, not one for each of its files.
        if not (is_replaced and name.startswith("tokenizer/")):
            found += files.damage(name)
    found += _check_listing(data_dir, manifest, files)
    for split in files.splits.values():
        found += _check_counts(manifest, files, split)
        found += _check_offsets(files, split)
        for file in split.tokens:
            found += _check_ids(data_dir, manifest, files, split, file)
    return found


def _unreadable_manifest(path: Path, error: PtftError) -> Finding:
    """A manifest of a foreign format or version, or a damaged one."""
    text = path.read_text(encoding="utf-8", errors="replace")
    number = getattr(error.__cause__, "lineno", None)
    if number is None:
        key = '"format_version"' if f'"{FORMAT}"' in text else '"format"'
        before, there, _ = text.partition(key)
        number = before.count("\n") + 1 if there else None
    found = finding_of(error, str(path), PREPARE_AGAIN)
    return found._replace(position=f"line {number}" if number else "")


def _check_listing(data_dir: Path, manifest: Manifest, files: StoredFiles) -> Iterator[Finding]:
    """Files that should be listed, that are listed twice, and that are not listed."""
    for name in SPLITS:
        if name not in manifest.splits:
            yield files.finding(MANIFEST, "", f"it has no split {name!r}")
    written: dict[FileRecord, str] = {}
    for split in files.splits.values():
        for file in split.files:
            record = manifest.files.get(file)
            if record is None:
                yield files.finding(MANIFEST, "", f"it does not list {file}")
            elif file in split.tokens and record.bytes:
                first = written.setdefault(record, file)
                if first != file:
                    place = files.place(file, 0, record.bytes - 1)
                    yield files.finding(file, place, f"duplicate: it has the content of {first}")
    for path in sorted(data_dir.rglob("*.bin")):
        name = path.relative_to(data_dir).as_posix()
        if name not in manifest.files:
            twin = written.get(FileRecord.of(path))
            problem = f"duplicate: it has the content of {twin}, and " if twin else ""
            yield files.finding(name, "", f"{problem}the manifest does not list it", "remove it")


def _check_counts(manifest: Manifest, files: StoredFiles, split: SplitFiles) -> Iterator[Finding]:
    """Empty sets, and counts of the manifest that contradict each other."""
    counts = split.counts
    if not counts.documents:
        yield files.finding(split.name, "", "empty: the split has no document", "give more text")
    for source in manifest.sources:
        if split.name == SPLITS[0] and not source.documents_read:
            yield files.finding(
                MANIFEST,
                f"source {source.name}",
                "empty: the source has no document",
                "take it out of inputs, or check its files",
            )
    pairs = [
        (f"{what} in its sources", getattr(counts, what), sum(getattr(c, what) for c in of_sources))
        for of_sources in [[source.counts[split.name] for source in manifest.sources]]
        for what in ("documents", "sentences", "tokens")
    ]
    pairs.append(("tokens in its files", counts.tokens, sum(counts.shard_tokens)))
    for what, histogram in (
        ("documents", counts.document_lengths),
        ("sentences", counts.sentence_lengths),
    ):
        pairs.append((f"{what} by length", getattr(counts, what), sum(histogram)))
    for file, tokens in zip(split.tokens, counts.shard_tokens, strict=True):
        if file in manifest.files:
            pairs.append((f"tokens in {file}", tokens, manifest.files[file].bytes // files.item))
            if not manifest.files[file].bytes:
                yield files.finding(file, "", "empty: the file has no token")
    for what, expected, found in pairs:
        if found != expected:
            text = f"it counts {expected} and {found} {what}"
            yield files.finding(MANIFEST, f"split {split.name}", text)


def _check_offsets(files: StoredFiles, split: SplitFiles) -> Iterator[Finding]:
    """Offsets ascend from 0 to what they count, and no document crosses to another file."""
    counts = split.counts
    sound = True
    for name, offsets, many, end in (
        ("sentences", split.sentences, counts.sentences, counts.tokens),
        ("documents", split.documents, counts.documents, counts.sentences),
    ):
        if offsets is None:
            sound = False
            continue
        problem = _offsets_problem(offsets, many, end)
        if problem is not None:
            sound = False
            entry, text = problem
            yield files.finding(f"{split.name}/{name}.bin", f"entry {entry}", text)
    if not sound or split.sentences is None or split.documents is None:
        return
    begins = split.sentences[split.documents]
    for file, start in zip(split.tokens, split.starts, strict=False):
        document = np.searchsorted(begins, start)
        if document == len(begins) or begins[document] != start:
            yield files.finding(file, split.place(file, 0, 0), "it begins inside a document")


def _offsets_problem(offsets: np.ndarray, many: int, end: int) -> tuple[int, str] | None:
    """The first entry of offsets that cannot be, and why; None when all can."""
    if len(offsets) != many + 1:
        return min(len(offsets), many), f"the file has {len(offsets)} entries, expected {many + 1}"
    for entry, right in ((0, 0), (many, end)):
        if offsets[entry] != right:
            return entry, f"offset {offsets[entry]}, expected {right}"
    for start in range(0, many, _AT_ONCE):
        steps = np.diff(offsets[start : start + _AT_ONCE + 1])
        if steps.min() <= 0:
            entry = start + int(np.argmax(steps <= 0))
            return entry, f"offset {offsets[entry]} is followed by {offsets[entry + 1]}"
    return None


def _check_ids(
    data_dir: Path, manifest: Manifest, files: StoredFiles, split: SplitFiles, file: str
) -> Iterator[Finding]:
    """Ids beyond the vocabulary, where no other finding has named their bytes."""
    if file not in files.measured:
        return
    tokens = mapped(data_dir / file, manifest.token_dtype)
    first, many = 0, 0
    for start in range(0, len(tokens), _AT_ONCE):
        part = tokens[start : start + _AT_ONCE]
        if part.max() < manifest.vocab_size:
            continue
        foreign = start + np.flatnonzero(part >= manifest.vocab_size)
        foreign = foreign[~files.is_named(file, foreign * files.item, files.item)]
        if len(foreign) and not many:
            first = int(foreign[0])
        many += len(foreign)
    if many:
        others = f" ({many} such tokens)" if many > 1 else ""
        yield files.finding(
            file,
            split.place(file, first, first),
            f"id {tokens[first]}, but the vocabulary has {manifest.vocab_size} entries{others}",
        )


def _check_tokenizers(
    data_dir: Path, manifest: Manifest, given: TextTokenizer | None, given_name: str
) -> tuple[list[Finding], bool]:
    """The folder's tokenizer and the given one; and whether the folder's is another one."""
    expected = manifest.tokenizer_sha256
    folder = data_dir / "tokenizer"
    found: list[Finding] = []
    own: TextTokenizer | None = None
    try:
        own = TextTokenizer.load(folder)
    except PtftError as error:
        found.append(finding_of(error, str(folder), PREPARE_AGAIN))
    right = next((t for t in (own, given) if t is not None and t.sha256 == expected), None)
    for tokenizer, name, mend in (
        (own, str(folder), PREPARE_AGAIN),
        (given, given_name, f"use {folder}, or prepare a corpus with this one"),
    ):
        if tokenizer is None or tokenizer.sha256 == expected:
            continue
        position, how = (
            _difference_from_manifest(tokenizer, manifest)
            if right is None
            else tokenizer_difference(tokenizer, right)
        )
        problem = f"not the tokenizer that the corpus was encoded with: {how}"
        found.append(Finding(name, position, problem, mend))
    if own is not None and own.sha256 == expected:
        found += [
            Finding(str(data_dir / MANIFEST), position, problem, PREPARE_AGAIN)
            for position, problem in _check_described(manifest, own)
        ]
    return found, own is not None and own.sha256 != expected


def _check_described(manifest: Manifest, own: TextTokenizer) -> Iterator[tuple[str, str]]:
    """What the manifest says of its tokenizer, against the tokenizer itself."""
    for key, found, expected in (
        ("vocab_size", manifest.vocab_size, own.vocab_size),
        ("tokenizer_kind", manifest.tokenizer_kind, own.kind),
        ("lowercase", manifest.lowercase, own.lowercase),
    ):
        if found != expected:
            yield key, f"{found!r}, but that of the tokenizer in the folder is {expected!r}"


def tokenizer_difference(found: TextTokenizer, expected: TextTokenizer) -> tuple[str, str]:
    """The first token id at which two tokenizers differ ("" if none), and how they do."""
    for index in range(min(found.vocab_size, expected.vocab_size)):
        ours, theirs = found.token(index), expected.token(index)
        if ours != theirs:
            return f"token id {index}", f"{ours!r} instead of {theirs!r}"
    if found.vocab_size != expected.vocab_size:
        return _difference_in_size(found.vocab_size, expected.vocab_size)
    if found.lowercase != expected.lowercase:
        return "", f"lowercase={found.lowercase} instead of {expected.lowercase}"
    return "", "its tokens are the same, but it splits text in another way"


def _difference_from_manifest(found: TextTokenizer, manifest: Manifest) -> tuple[str, str]:
    """The same, where nothing of the right tokenizer is left but what the manifest says of it."""
    if found.vocab_size != manifest.vocab_size:
        return _difference_in_size(found.vocab_size, manifest.vocab_size)
    if found.kind != manifest.tokenizer_kind:
        return "", f"{found.kind} instead of {manifest.tokenizer_kind}"
    if found.lowercase != manifest.lowercase:
        return "", f"lowercase={found.lowercase} instead of {manifest.lowercase}"
    return "", f"its SHA-256 is {found.sha256[:12]}…, expected {manifest.tokenizer_sha256[:12]}…"


def _difference_in_size(found: int, expected: int) -> tuple[str, str]:
    return f"token id {min(found, expected)}", f"{found} tokens instead of {expected}"
