"""From sources of text to a tokenizer and a token store, deterministic and resumable."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ptft_jax.data.corpus.journal import WorkFolder, sync_folder
from ptft_jax.data.corpus.making import Preparation
from ptft_jax.data.corpus.settings import PrepareSettings
from ptft_jax.data.corpus.store import (
    MANIFEST,
    FileRecord,
    Manifest,
    SourceRecord,
    corpus_problems,
)
from ptft_jax.data.corpus.workers import Workers
from ptft_jax.data.progress import Message, Progress, no_message, no_progress
from ptft_jax.data.text.files import FilePart, unique_names
from ptft_jax.data.text.sources import Source, open_sources
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError, PtftError


def prepare_corpus(
    settings: PrepareSettings,
    out_dir: str | Path,
    progress: Progress = no_progress,
    say: Message = no_message,
) -> Manifest:
    """Write the corpus made from `settings.inputs` to `out_dir` and return its manifest.

    Nothing appears at `out_dir` until all is done. A corpus already there is kept, and its
    manifest returned with `reused` true, when it was made from the same files with the same
    settings; only its weights and its note may change. What a killed run had done, in a hidden
    folder beside `out_dir`, is gone on with. Memory is bounded by the blocks in flight, whatever
    the size of the inputs; duplicates cost what `HashSet` and `NearIndex` say. Raises ConfigError
    for settings and paths, or a folder in the way; DataError for text that cannot be read or is
    too little.
    """
    settings.check()
    out_dir = Path(out_dir)
    sources = open_sources(settings.inputs, settings.text_column)
    given = (
        TextTokenizer.load(settings.vocab, lowercase=_lowercase_of_given(settings))
        if settings.vocab
        else None
    )
    _check_target(out_dir)
    finished = _finished(settings, out_dir, sources, given, progress, say)
    work = WorkFolder(out_dir)
    if finished is not None:
        if work.path.exists():  # of a run that was killed after it had published its corpus
            with work:
                work.remove()
        return finished
    with work, Workers(settings.workers) as workers:
        preparation = Preparation(settings, sources, given, work, workers, progress, say)
        try:
            return preparation.run()
        except BaseException as error:
            mended = isinstance(error, ConfigError) or not preparation.resumable
            if work.read_journal() is None or (isinstance(error, PtftError) and mended):
                work.remove()
            else:
                say(f"What was done is kept in {work.path}: the same command goes on from there.")
            raise
        finally:
            preparation.close()


def _lowercase_of_given(settings: PrepareSettings) -> bool | None:
    """A tokenizer folder knows its own case; a bare vocab.txt does not."""
    return settings.lowercase if Path(settings.vocab).is_file() else None


def _check_target(out_dir: Path) -> None:
    if out_dir.exists() and not out_dir.is_dir():
        raise ConfigError(f"{out_dir} is a file; expected the name of a folder to make")
    if out_dir.is_dir() and any(out_dir.iterdir()) and not (out_dir / MANIFEST).is_file():
        raise ConfigError(
            f"{out_dir} is not empty and holds no corpus; choose another folder or remove it"
        )


def _finished(
    settings: PrepareSettings,
    out_dir: Path,
    sources: Sequence[Source],
    given: TextTokenizer | None,
    progress: Progress,
    say: Message,
) -> Manifest | None:
    """The manifest of the same corpus in `out_dir`, None when it is empty, or ConfigError."""
    if not (out_dir / MANIFEST).is_file():
        return None
    manifest = Manifest.read(out_dir)
    wanted: dict[str, object] = dict(settings.content_settings())
    found: dict[str, object] = dict(manifest.settings)
    if given is not None:
        wanted["tokenizer"], found["tokenizer"] = given.sha256, manifest.tokenizer_sha256
    differences = [
        name if name == "tokenizer" and given else f"{name}={found.get(name)}, now {value}"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    if not differences and not _same_sources(sources, manifest.sources, progress):
        differences = ["sources"]
    if differences:
        raise ConfigError(
            f"{out_dir} already holds another corpus (different: {'; '.join(differences)}); choose "
            "another out_dir, or remove this one"
        )
    for problem in corpus_problems(out_dir, manifest, manifest.splits, progress):
        raise DataError(problem)
    return replace(_with_notes(manifest, settings, sources, out_dir, say), reused=True)


def _same_sources(
    sources: Sequence[Source], recorded: Sequence[SourceRecord], progress: Progress
) -> bool:
    """Whether the sources have the content that is recorded; reads all files."""
    if len(sources) != len(recorded):
        return False
    parts = [part for source in sources for part in source.parts]
    total, done = sum(part.size for part in parts), 0
    for source, record in zip(sources, recorded, strict=True):
        contents: list[FileRecord] = []
        for part in source.parts:
            if isinstance(part, FilePart):
                contents.append(part.checksum())
            elif record.dataset is None or record.dataset.identity != part.identity:
                return False
            done += part.size
            progress("Checking the inputs", done, total)
        names = unique_names([part.name for part in source.parts])
        if contents and dict(zip(names, contents, strict=True)) != record.files:
            return False
    return True


def _with_notes(
    manifest: Manifest,
    settings: PrepareSettings,
    sources: Sequence[Source],
    out_dir: Path,
    say: Message,
) -> Manifest:
    """The manifest with today's weights and licence note, written if they are new."""
    changed = replace(
        manifest,
        licence=settings.licence,
        sources=tuple(
            replace(record, weight=source.weight)
            for record, source in zip(manifest.sources, sources, strict=True)
        ),
    )
    if changed != manifest:
        temporary = out_dir / f".{MANIFEST}.new"
        changed.write(temporary)
        os.replace(temporary, out_dir / MANIFEST)
        sync_folder(out_dir)
        say(f"{out_dir}: the weights or the licence note were changed in the manifest")
    return changed
