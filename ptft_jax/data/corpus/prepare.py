"""From sources of text to a tokenizer and a token store, deterministic and resumable."""

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ptft_jax.data.corpus.journal import WorkFolder, sync_folder
from ptft_jax.data.corpus.making import Preparation, content_settings
from ptft_jax.data.corpus.settings import PrepareSettings
from ptft_jax.data.corpus.store import (
    MANIFEST,
    FileRecord,
    Manifest,
    SourceRecord,
    corpus_problems,
)
from ptft_jax.data.corpus.workers import Workers
from ptft_jax.data.hub import TOKENIZER_FILES, locate
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

    Nothing appears at `out_dir` until all is done. A corpus already there is kept when it was made
    from the same files with the same settings; only its weights and its note may change. What a
    killed run had done, in a hidden folder beside `out_dir`, is gone on with. Memory is bounded by
    the blocks in flight, whatever the size of the inputs; duplicates cost what `HashSet` and
    `NearIndex` say. Raises ConfigError for settings and paths, or a folder in the way; DataError
    for text that cannot be read or is too little.
    """
    settings.check()
    out_dir = Path(out_dir)
    sources = open_sources(settings.inputs, settings.text_column, settings.join_lines)
    given = None
    if settings.vocab:
        path, _ = locate(settings.vocab, f"vocab={settings.vocab}", TOKENIZER_FILES)
        # A tokenizer folder knows its own case; a bare vocab.txt does not.
        lowercase = settings.lowercase if path.is_file() else None
        given = TextTokenizer.load(path, lowercase=lowercase)
    if out_dir.exists() and not out_dir.is_dir():
        raise ConfigError(f"{out_dir} is a file; expected the name of a folder to make")
    if out_dir.is_dir() and any(out_dir.iterdir()) and not (out_dir / MANIFEST).is_file():
        raise ConfigError(
            f"{out_dir} is not empty and holds no corpus; choose another folder or remove it"
        )
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
            if not work.has_journal or (isinstance(error, PtftError) and mended):
                work.remove()
            else:
                say(f"What was done is kept in {work.path}: the same command goes on from there.")
            raise


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
    wanted: dict[str, object] = content_settings(settings, sources)
    found: dict[str, object] = dict(manifest.settings)
    if given is not None:
        wanted["tokenizer"], found["tokenizer"] = given.sha256, manifest.tokenizer_sha256
    differences = [
        name
        if name == "tokenizer" and given
        else f"{name}={found.get(name)}, now {wanted.get(name)}"
        for name in wanted | found
        if found.get(name) != wanted.get(name)
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
    say(f"{out_dir} already holds this very corpus: kept")
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
            elif (
                record.dataset is None
                or not part.identity.items() <= asdict(record.dataset).items()
            ):
                return False
            done += part.size
            progress("Checking the inputs", done, total)
        names = unique_names([part.name for part in source.parts])
        if contents and dict(zip(names, contents, strict=True)) != record.files:
            return False
    return True
