"""Everything that is wrong with a corpus, or with inputs before they are prepared, in messages.

`Corpus.open` and `prepare_corpus` end with the first thing that they find; this goes on to the
last, with the same readers. Each message names the file, the place, and how to mend it.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ptft_jax.data.corpus.store import Manifest, corpus_problems
from ptft_jax.data.progress import Progress, no_progress
from ptft_jax.data.text.sources import Part, open_sources
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError

# Problems of one file that are told one by one; the others are counted.
MOST_TOLD = 5


def check_corpus(
    data_dir: str | Path,
    tokenizer: str | Path | None = None,
    progress: Progress = no_progress,
) -> Iterator[str]:
    """Check all splits of a corpus, and that it was encoded with `tokenizer` (a folder or file).

    Raises ConfigError when there is no corpus in `data_dir` or no tokenizer, DataError when the
    manifest or the tokenizer cannot be read.
    """
    manifest = Manifest.read(data_dir)
    if tokenizer is not None and TextTokenizer.load(tokenizer).sha256 != manifest.tokenizer_sha256:
        yield (
            f"{tokenizer}: not the tokenizer that the corpus was encoded with; use "
            f"{data_dir}/tokenizer, or prepare a corpus with --config.vocab={tokenizer}"
        )
    yield from corpus_problems(Path(data_dir), manifest, manifest.splits, progress)


def check_inputs(
    inputs: Sequence[str], text_column: str, progress: Progress = no_progress
) -> Iterator[str]:
    """Read all inputs to their ends, going on behind a line or record that cannot be used.

    Raises ConfigError for an item that names nothing.
    """
    parts = [part for source in open_sources(inputs, text_column) for part in source.parts]
    total, done = sum(part.size for part in parts), 0
    for part in parts:
        yield from _input_problems(
            part, lambda at, done=done: progress("Checking the inputs", done + at, total)
        )
        done += part.size
        progress("Checking the inputs", done, total)


def _input_problems(part: Part, read_up_to: Callable[[int], None]) -> Iterator[str]:
    told: list[str] = []
    others = documents = 0

    def note(problem: str) -> None:
        nonlocal others
        if len(told) < MOST_TOLD:
            told.append(problem)
        else:
            others += 1

    try:
        for document in part.read(note):
            documents += 1
            read_up_to(document.position)
    except (ConfigError, DataError) as error:  # nothing behind this can be read
        note(str(error))
    yield from told
    if others:
        yield f"{part.location}: {others} more like these"
    if not documents and not told:
        yield f"{part.location}: no document; take it out of inputs, or put text into it"
