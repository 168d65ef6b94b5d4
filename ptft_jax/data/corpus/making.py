"""One making of a corpus: survey, vocabulary, encoding, and a journal of how far it has come."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

from ptft_jax.data.corpus.advice import warnings_about
from ptft_jax.data.corpus.encode import encode_documents, token_dtype
from ptft_jax.data.corpus.journal import WorkFolder, sync_file, sync_folder
from ptft_jax.data.corpus.settings import PrepareSettings
from ptft_jax.data.corpus.store import (
    FORMAT_VERSION,
    MANIFEST,
    DatasetRecord,
    FileRecord,
    Manifest,
    SourceRecord,
)
from ptft_jax.data.corpus.survey import (
    KEPT,
    SAMPLE,
    Survey,
    VocabularySample,
    dev_threshold,
    verdicts,
)
from ptft_jax.data.corpus.workers import Workers
from ptft_jax.data.corpus.writer import StoreWriter
from ptft_jax.data.progress import Message, Progress
from ptft_jax.data.text.files import unique_names
from ptft_jax.data.text.signs import Signs
from ptft_jax.data.text.sources import Block, Position, Source, changed, read_blocks
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.data.tokenizer.training import train_tokenizer

# What a killed run loses: at most the work of so much time, and of reading one file so far.
COMMIT_SECONDS = 10.0

_SURVEY, _VOCABULARY, _ENCODE = "survey", "vocabulary", "encode"


@dataclass
class _State:
    """How far a making has come, as its journal has it."""

    stage: str = _SURVEY
    # In the stage: where it is in the inputs, and how many documents are before that.
    position: Position = field(default_factory=Position)
    documents: int = 0
    # Of the parts that the survey has finished.
    records: list[FileRecord | DatasetRecord] = field(default_factory=list)
    # Of each source: documents that are kept, exact duplicates, near duplicates.
    sources: list[list[int]] = field(default_factory=list)
    # What was seen in the text of each source.
    signs: list[Signs] = field(default_factory=list)
    store: dict[str, Any] | None = None

    @classmethod
    def of(cls, journal: dict[str, Any]) -> "_State":
        """The state that `asdict` and JSON made `journal` of; {} is the beginning."""
        if not journal:
            return cls()
        records = [
            FileRecord(**record) if "sha256" in record else DatasetRecord(**record)
            for record in journal["records"]
        ]
        signs = [Signs(**seen) for seen in journal["signs"]]
        position = Position(*journal["position"])
        return cls(**journal | {"records": records, "signs": signs, "position": position})


@dataclass
class Preparation:
    """Makes the corpus in a work folder, from its beginning or from where another run was killed.

    `given` is the tokenizer to use; None learns one. `resumable`: whether the same command may go
    on after an error with the inputs.
    """

    settings: PrepareSettings
    sources: Sequence[Source]
    given: TextTokenizer | None
    work: WorkFolder
    workers: Workers
    progress: Progress
    say: Message
    resumable: bool = False

    def __post_init__(self) -> None:
        self._parts = [part for source in self.sources for part in source.parts]
        self._bytes = sum(part.size for part in self._parts)
        self._fingerprint = _fingerprint(self.settings, self.sources, self.given)
        self._state = _State.of(self.work.begin(self._fingerprint, self.say))
        self._committed_at = time.monotonic()

    def run(self) -> Manifest:
        """Do what is left to do; the corpus takes its place when all is done."""
        if self._state.stage == _SURVEY:
            self._read_all()
        if self._state.stage == _VOCABULARY:
            self._make_tokenizer()
        tokenizer = TextTokenizer.load(self.work.corpus / "tokenizer")
        store = StoreWriter(
            self.work,
            token_dtype(tokenizer.vocab_size),
            self.settings.shard_tokens,
            tokenizer.unk_token_id,
            self._state.store,
        )
        self._encode_all(tokenizer, store)
        return self._publish(tokenizer, store)

    def _enter(self, stage: str) -> None:
        """Begin the next stage, at the beginning of the inputs."""
        self._state.stage = stage
        self._state.position, self._state.documents = Position(), 0
        self.resumable = False
        self._commit()

    def _commit(self) -> None:
        self.work.commit(self._fingerprint, asdict(self._state))
        self._committed_at = time.monotonic()

    def _advance(
        self, description: str, block: Block, documents: int, store: StoreWriter | None = None
    ) -> None:
        """Take note that a block of so many documents is done, and commit now and then."""
        self._state.position = block.end
        self._state.documents += documents
        self.progress(description, min(block.bytes_read, self._bytes), self._bytes)
        if time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self._state.store = store.state() if store else None
            self._commit()
            self.resumable = True

    def _read_all(self) -> None:
        """The survey."""
        survey = Survey(self.work, self.settings, self._state.sources, self._state.signs)
        jobs = (
            (block.documents, block) for block in read_blocks(self.sources, self._state.position)
        )
        records = self._state.records
        for block, digest in self.workers.map(survey.digest, jobs):
            survey.add(block, digest)
            for part in self._parts[len(records) : block.end.part]:
                assert part.record is not None
                records.append(part.record)
            self._advance("Reading the text", block, len(block.documents))
        survey.finish()
        # An error now, rather than a split with too little in it after hours.
        self._dev_threshold()
        self._enter(_VOCABULARY)

    def _dev_threshold(self) -> np.uint64:
        names = [part.name for part in self._parts]
        return dev_threshold(self.work.path, self.settings.dev_fraction, names)

    def _make_tokenizer(self) -> None:
        """The tokenizer that was given, or one learned from the sample, as files."""
        settings, tokenizer = self.settings, self.given
        if tokenizer is None:
            sample = VocabularySample(
                self.work.open(SAMPLE), settings.vocab_sample_characters, settings.seed
            )
            self.progress("Learning the vocabulary", 0, 1)
            tokenizer = train_tokenizer(
                settings.tokenizer,
                sample.lines(),
                settings.vocab_size,
                lowercase=settings.lowercase,
                strip_accents=settings.strip_accents,
                handle_chinese_chars=settings.handle_chinese_chars,
            )
            self.progress("Learning the vocabulary", 1, 1)
            self.work.drop(SAMPLE)
        folder = self.work.corpus / "tokenizer"
        tokenizer.save(folder)
        for path in folder.iterdir():
            sync_file(path)
        sync_folder(folder)
        sync_folder(self.work.corpus)
        self._enter(_ENCODE)

    def _encode_all(self, tokenizer: TextTokenizer, store: StoreWriter) -> None:
        """The second reading: encoding and writing."""
        state = self._state
        hashes, reasons = verdicts(self.work.path)
        threshold = self._dev_threshold()

        def jobs() -> Iterator[tuple[list[tuple[str, ...]], tuple[Block, int, np.ndarray]]]:
            """The documents that are kept, with their block and which of them are held out."""
            start = state.documents
            for block in read_blocks(self.sources, state.position):
                count = len(block.documents)
                if start + count > len(hashes):
                    raise changed(self._parts[min(block.end.part, len(self._parts) - 1)])
                kept = np.flatnonzero(reasons[start : start + count] == KEPT)
                documents = [block.documents[index] for index in kept]
                is_dev = hashes[start + kept] < threshold
                yield documents, (block._replace(documents=[]), count, is_dev)
                start += count

        encode = partial(
            encode_documents,
            tokenizer_dir=str(self.work.corpus / "tokenizer"),
            sha256=tokenizer.sha256,
        )
        for (block, documents, is_dev), encoded in self.workers.map(encode, jobs()):
            store.append(block.source, encoded, is_dev)
            for number in range(state.position.part, block.end.part):
                if self._parts[number].record != state.records[number]:
                    raise changed(self._parts[number])
            self._advance("Encoding the text", block, documents, store)
        if state.documents != len(hashes):
            raise changed(self._parts[-1])
        self.resumable = False

    def _publish(self, tokenizer: TextTokenizer, store: StoreWriter) -> Manifest:
        """The manifest, and the folder under its name."""
        splits = store.finish()
        folder = self.work.corpus
        (folder / MANIFEST).unlink(missing_ok=True)  # of an interrupted run
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        total, done = sum(path.stat().st_size for path in paths), 0
        files = {}
        for path in paths:
            record = FileRecord.of(path)
            files[path.relative_to(folder).as_posix()] = record
            done += record.bytes
            self.progress("Checksums", done, total)
        manifest = Manifest(
            vocab_size=tokenizer.vocab_size,
            lowercase=tokenizer.lowercase,
            tokenizer_kind=tokenizer.kind,
            tokenizer_sha256=tokenizer.sha256,
            token_dtype=token_dtype(tokenizer.vocab_size),
            splits=splits,
            files=files,
            sources=self._source_records(store),
            settings=content_settings(self.settings, self.sources),
            licence=self.settings.licence,
        )
        signs, join_lines = self._state.signs, self.settings.join_lines
        warnings = tuple(warnings_about(folder, manifest, signs, join_lines))
        manifest = replace(manifest, warnings=warnings)
        manifest.write(folder / MANIFEST)
        sync_file(folder / MANIFEST)
        self.work.publish()
        return manifest

    def _source_records(self, store: StoreWriter) -> tuple[SourceRecord, ...]:
        found = []
        records = iter(self._state.records)
        for index, (source, counts) in enumerate(
            zip(self.sources, self._state.sources, strict=True)
        ):
            names = unique_names([part.name for part in source.parts])
            contents = [(name, next(records)) for name in names]
            found.append(
                SourceRecord(
                    name=source.name,
                    weight=source.weight,
                    files={name: r for name, r in contents if isinstance(r, FileRecord)},
                    dataset=next((r for _, r in contents if isinstance(r, DatasetRecord)), None),
                    documents_read=sum(counts),
                    exact_duplicates=counts[1],
                    near_duplicates=counts[2],
                    counts=store.source_counts(index),
                )
            )
        return tuple(found)


def content_settings(settings: PrepareSettings, sources: Sequence[Source]) -> dict[str, Any]:
    """The settings that decide the content, with the columns of sources that have their own."""
    content: dict[str, Any] = dict(settings.content_settings())
    columns = [source.text_column for source in sources]
    if any(column != settings.text_column for column in columns):
        content["text_columns"] = columns
    return content


def _fingerprint(
    settings: PrepareSettings, sources: Sequence[Source], given: TextTokenizer | None
) -> dict[str, Any]:
    """What the content depends on, as JSON has it, told without reading the inputs."""
    content = {
        **content_settings(settings, sources),
        "inputs": [[part.identity for part in source.parts] for source in sources],
        "tokenizer": given.sha256 if given else settings.tokenizer,
        "format_version": FORMAT_VERSION,
        **{f"version of {name}": version(name) for name in ("numpy", "tokenizers")},
    }
    if settings.deduplicate == "near":
        content["version of rensa"] = version("rensa")
    return json.loads(json.dumps(content))
