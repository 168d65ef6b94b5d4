"""One making of a corpus: survey, vocabulary, encoding, and a journal of how far it has come."""

import json
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from ptft_jax.data.corpus.encode import EncodeJob, encode_job, token_dtype
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
from ptft_jax.data.corpus.survey import KEPT, Survey, Verdicts
from ptft_jax.data.corpus.workers import Workers
from ptft_jax.data.corpus.writer import StoreWriter
from ptft_jax.data.progress import Message, Progress
from ptft_jax.data.text.files import unique_names
from ptft_jax.data.text.sources import (
    BLOCK_CHARACTERS,
    Block,
    Position,
    Source,
    changed,
    read_blocks,
)
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.data.tokenizer.training import train_tokenizer

# What a killed run loses: at most the work of so much time, and of reading one file so far.
COMMIT_SECONDS = 10.0

_SURVEY, _VOCABULARY, _ENCODE = "survey", "vocabulary", "encode"


class Preparation:
    """Makes the corpus in a work folder, from its beginning or from where another run was killed.

    Attributes: `resumable`, whether the same command may go on after an error with the inputs.
    """

    def __init__(
        self,
        settings: PrepareSettings,
        sources: Sequence[Source],
        given: TextTokenizer | None,
        work: WorkFolder,
        workers: Workers,
        progress: Progress,
        say: Message,
    ) -> None:
        """`given` is the tokenizer to use; None learns one."""
        self.resumable = False
        self._settings = settings
        self._sources = sources
        self._parts = [part for source in sources for part in source.parts]
        self._bytes = sum(part.size for part in self._parts)
        self._given = given
        self._work = work
        self._tokenizer_dir = work.corpus / "tokenizer"
        self._workers = workers
        self._progress = progress
        self._say = say
        self._fingerprint = _fingerprint(settings, sources, given)
        self._committed_at = time.monotonic()
        self._stage = _SURVEY
        # In the stage: where it is, and how many documents are before that.
        self._position = Position()
        self._documents = 0
        # Of the parts that the survey has finished.
        self._records: list[FileRecord | DatasetRecord] = []
        self._survey: Survey | None = None
        self._survey_state: dict[str, Any] | None = None
        self._store: StoreWriter | None = None

    def run(self) -> Manifest:
        """Do what is left to do; the corpus takes its place when all is done."""
        self._open(self._journal() or {})
        if self._stage == _SURVEY:
            self._read_all()
        if self._stage == _VOCABULARY:
            self._make_tokenizer()
        self._encode_all()
        return self._publish()

    def close(self) -> None:
        """Close the files."""
        for opened in (self._survey, self._store):
            if opened is not None:
                opened.close()

    def _journal(self) -> dict[str, Any] | None:
        """What a run of the same corpus has committed; None, and an empty folder, if there is none.

        A journal whose files are gone or too short is of no use.
        """
        journal = self._work.read_journal()
        if journal is None:
            self._work.clear()
            return None
        before, now = journal["fingerprint"], self._fingerprint
        differences = [name for name in now | before if now.get(name) != before.get(name)]
        if differences:
            why = "was begun with other inputs or settings"
        else:
            differences = [
                name
                for name, size in journal["sizes"].items()
                if not (path := self._work.path / name).is_file() or path.stat().st_size < size
            ]
            why = "is damaged"
        if differences:
            self._say(f"{self._work.path} {why} ({', '.join(differences)}): starting anew.")
            self._work.clear()
            return None
        self._say(f"Going on with what an interrupted run left in {self._work.path}.")
        return journal

    def _open(self, journal: dict[str, Any]) -> None:
        settings = self._settings
        self._stage = journal.get("stage", _SURVEY)
        self._position = Position(*journal.get("position", ()))
        self._documents = journal.get("documents", 0)
        self._records = [
            FileRecord(**record) if "sha256" in record else DatasetRecord(**record)
            for record in journal.get("records", ())
        ]
        needs_sample = self._given is None and self._stage != _ENCODE
        self._survey = Survey(
            self._work.path,
            seed=settings.seed,
            deduplicate=settings.deduplicate,
            near_threshold=settings.near_threshold,
            near_permutations=settings.near_permutations,
            sample_characters=settings.vocab_sample_characters if needs_sample else 0,
            state=journal.get("survey"),
        )
        self._survey_state = journal.get("survey")
        if self._stage == _ENCODE:
            self._open_store(journal["store"])

    def _open_store(self, state: dict[str, Any] | None) -> None:
        self._tokenizer = TextTokenizer.load(self._tokenizer_dir)
        self._store = StoreWriter(
            self._work.corpus,
            token_dtype(self._tokenizer.vocab_size),
            self._settings.shard_tokens,
            self._tokenizer.unk_token_id,
            state,
        )

    def _commit(self) -> None:
        """Write down how far it has come, after what is said of it has reached the disk."""
        assert self._survey is not None
        if self._stage == _SURVEY:
            self._survey_state = self._survey.sync()
        store = self._store.sync() if self._store else None
        sizes = self._survey.sizes() | (self._store.sizes() if self._store else {})
        sync_folder(self._work.path)
        self._work.commit(
            {
                "fingerprint": self._fingerprint,
                "stage": self._stage,
                "position": self._position,
                "documents": self._documents,
                "records": [vars(record) for record in self._records],
                "survey": self._survey_state,
                "store": store,
                "sizes": {
                    path.relative_to(self._work.path).as_posix(): size
                    for path, size in sizes.items()
                },
            }
        )
        self._committed_at = time.monotonic()

    def _enter(self, stage: str) -> None:
        """Begin the next stage, at the beginning of the inputs."""
        self._stage = stage
        self._position, self._documents = Position(), 0
        self.resumable = False
        self._commit()
        assert self._survey is not None
        self._survey.remove_unneeded()

    def _advance(self, description: str, block: Block, documents: int) -> None:
        """Take note that a block of so many documents is done, and commit now and then."""
        self._position = block.end
        self._documents += documents
        self._progress(description, min(block.bytes_read, self._bytes), self._bytes)
        if time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self._commit()
            self.resumable = True

    def _read_all(self) -> None:
        """The survey."""
        assert self._survey is not None
        survey = self._survey
        jobs = (
            (block.documents, block, block.characters)
            for block in read_blocks(self._sources, self._position)
        )
        for block, digest in self._workers.map(survey.digest, jobs, BLOCK_CHARACTERS):
            survey.add(block, digest)
            for part in self._parts[len(self._records) : block.end.part]:
                assert part.record is not None
                self._records.append(part.record)
            self._advance("Reading the text", block, len(block.documents))
        # An error, rather than a split with too little in it after hours.
        self._threshold()
        self._survey_state = survey.finish()
        self._enter(_VOCABULARY)

    def _threshold(self) -> np.uint64:
        assert self._survey is not None
        names = [part.name for part in self._parts]
        return np.uint64(self._survey.ends.threshold(self._settings.dev_fraction, names))

    def _make_tokenizer(self) -> None:
        """The tokenizer that was given, or one learned from the sample, as files."""
        assert self._survey is not None
        settings = self._settings
        tokenizer = self._given
        if tokenizer is None:
            self._progress("Learning the vocabulary", 0, 1)
            tokenizer = train_tokenizer(
                settings.tokenizer,
                self._survey.sampled_lines(),
                settings.vocab_size,
                lowercase=settings.lowercase,
                strip_accents=settings.strip_accents,
                handle_chinese_chars=settings.handle_chinese_chars,
            )
            self._progress("Learning the vocabulary", 1, 1)
        tokenizer.save(self._tokenizer_dir)
        for path in self._tokenizer_dir.iterdir():
            sync_file(path)
        sync_folder(self._tokenizer_dir)
        self._survey.finish_sample()
        self._open_store(None)
        self._enter(_ENCODE)

    def _encode_all(self) -> None:
        """The second reading: encoding and writing."""
        assert self._survey is not None
        assert self._store is not None
        verdicts = self._survey.verdicts(self._documents)
        try:
            jobs = self._encode_jobs(verdicts)
            for (block, documents, is_dev), encoded in self._workers.map(
                encode_job, jobs, BLOCK_CHARACTERS
            ):
                self._store.append(block.source, encoded, is_dev)
                for number in range(self._position.part, block.end.part):
                    if self._parts[number].record != self._records[number]:
                        raise changed(self._parts[number])
                self._advance("Encoding the text", block, documents)
        finally:
            verdicts.close()
        if self._documents != self._survey.documents:
            raise changed(self._parts[-1])
        self.resumable = False

    def _encode_jobs(
        self, verdicts: Verdicts
    ) -> Iterator[tuple[EncodeJob, tuple[Block, int, np.ndarray], int]]:
        """The documents that are kept, with their block (without them) and which are held out."""
        threshold = self._threshold()
        folder, sha256 = str(self._tokenizer_dir), self._tokenizer.sha256
        for block in read_blocks(self._sources, self._position):
            hashes, reasons = verdicts.take(len(block.documents))
            if len(hashes) != len(block.documents):
                raise changed(self._parts[min(block.end.part, len(self._parts) - 1)])
            kept = reasons == KEPT
            documents = [block.documents[index] for index in np.flatnonzero(kept)]
            job = EncodeJob(folder, sha256, documents)
            context = (block._replace(documents=[]), len(kept), hashes[kept] < threshold)
            yield job, context, block.characters

    def _publish(self) -> Manifest:
        """The manifest, and the folder under its name."""
        assert self._store is not None
        self._store.sync()
        splits = self._store.split_counts()
        folder = self._work.corpus
        (folder / MANIFEST).unlink(missing_ok=True)  # of an interrupted run
        paths = {
            path.relative_to(folder).as_posix(): path
            for path in folder.rglob("*")
            if path.is_file()
        }
        total, done = sum(path.stat().st_size for path in paths.values()), 0
        files = {}
        for name in sorted(paths):
            files[name] = FileRecord.of(paths[name])
            done += files[name].bytes
            self._progress("Checksums", done, total)
        manifest = Manifest(
            vocab_size=self._tokenizer.vocab_size,
            lowercase=self._tokenizer.lowercase,
            tokenizer_kind=self._tokenizer.kind,
            tokenizer_sha256=self._tokenizer.sha256,
            token_dtype=token_dtype(self._tokenizer.vocab_size),
            splits=splits,
            files=files,
            sources=self._source_records(),
            settings=self._settings.content_settings(),
            licence=self._settings.licence,
        )
        manifest.write(folder / MANIFEST)
        sync_file(folder / MANIFEST)
        self.close()
        self._work.publish()
        return manifest

    def _source_records(self) -> tuple[SourceRecord, ...]:
        assert self._survey is not None
        assert self._store is not None
        counts = self._store.source_counts(len(self._sources))
        found = []
        first = 0
        for index, source in enumerate(self._sources):
            records = self._records[first : first + len(source.parts)]
            first += len(source.parts)
            kept, exact, near = self._survey.source_counts(index)
            names = unique_names([part.name for part in source.parts])
            found.append(
                SourceRecord(
                    name=source.name,
                    weight=source.weight,
                    files={
                        name: record
                        for name, record in zip(names, records, strict=True)
                        if isinstance(record, FileRecord)
                    },
                    dataset=next((r for r in records if isinstance(r, DatasetRecord)), None),
                    documents_read=kept + exact + near,
                    exact_duplicates=exact,
                    near_duplicates=near,
                    counts=counts[index],
                )
            )
        return tuple(found)


def _fingerprint(
    settings: PrepareSettings, sources: Sequence[Source], given: TextTokenizer | None
) -> dict[str, Any]:
    """What the content depends on, as JSON has it, told without reading the inputs."""
    content = {
        **settings.content_settings(),
        "inputs": [[part.identity for part in source.parts] for source in sources],
        "tokenizer": given.sha256 if given else settings.tokenizer,
        "format_version": FORMAT_VERSION,
        **{f"version of {name}": version(name) for name in ("numpy", "tokenizers")},
    }
    if settings.deduplicate == "near":
        content["version of rensa"] = version("rensa")
    return json.loads(json.dumps(content))
