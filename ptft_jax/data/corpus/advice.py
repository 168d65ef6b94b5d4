"""What there is to say against a corpus that was made without an error."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ptft_jax.data.corpus.store import Corpus, Manifest
from ptft_jax.data.text.signs import Signs

# Shares from which on something is said. On prose with a paragraph per line less than one line end
# in a thousand runs on; of wrapped prose 70 to 95 %, and then almost all of the lines are full. Of
# the lines of verse in small letters 40 % are, of lists fewer.
_RUN_ON, _FULL, _LEAST_RUN_ON = 0.1, 0.6, 10
_MARKED = 0.01
# A vocabulary made for a text leaves less than one token in a thousand unknown.
_UNKNOWN = 0.02
_HALF = 0.5
# A source has so much more of the held-out tokens than of the others.
_MORE_HELD_OUT = 0.25
_AT_ONCE = 1 << 20


def warnings_about(
    data_dir: Path, manifest: Manifest, signs: Sequence[Signs], join_lines: bool
) -> Iterator[str]:
    """Yield what may be wrong with the corpus in `data_dir`, and what to do.

    `signs` were seen in the sources, in their order, when they were read with `join_lines`.
    """
    for source, seen in zip(manifest.sources, signs, strict=True):
        if not join_lines:
            yield from _about_line_ends(source.name, seen)
        share = seen.marked / max(seen.documents, 1)
        if share >= _MARKED:
            yield (
                f"{source.name}: {share:.0%} of the documents have markup in them, the first of it "
                f"in {seen.example!r}: it is learned as text. Take tags and entities out of the "
                "text first"
            )
    train = manifest.splits["train"]
    unknown = train.unknown_tokens / max(train.tokens, 1)
    if unknown >= _UNKNOWN:
        yield (
            f"{unknown:.0%} of the tokens are the one for what the tokenizer does not know: learn "
            "one from this text (without vocab), a larger one (vocab_size), or tokenizer=bpe, "
            "which can encode everything"
        )
    yield from _about_dev(data_dir, manifest)
    offsets = Corpus(data_dir, "train", manifest).document_offsets
    starts = range(0, len(offsets) - 1, _AT_ONCE)
    single = sum(int(np.sum(np.diff(offsets[i : i + _AT_ONCE + 1]) == 1)) for i in starts)
    share = single / (len(offsets) - 1)
    if share > _HALF:
        yield (
            f"{share:.0%} of the documents are one sentence, and pairs (input_format=nsp or sop) "
            "are made of several: put the sentences of a text into one document (in .txt only a "
            "blank line ends one), or pretrain with input_format=full_sentences"
        )


def _about_line_ends(name: str, seen: Signs) -> Iterator[str]:
    share = seen.run_on / max(seen.line_ends, 1)
    is_wrapped = seen.full >= _FULL * seen.run_on
    if seen.run_on >= _LEAST_RUN_ON and share >= _RUN_ON and is_wrapped:
        yield (
            f"{name}: {share:.0%} of the line ends are in the middle of a sentence (no stop before "
            "them, a small letter behind), as in text wrapped at a width, so sentences are in "
            "pieces: join_lines=True joins them; a blank line then ends a paragraph, two a document"
        )


def _about_dev(data_dir: Path, manifest: Manifest) -> Iterator[str]:
    dev, train = manifest.splits["dev"], manifest.splits["train"]
    corpus = Corpus(data_dir, "dev", manifest)
    longest = 0
    for start in range(0, corpus.num_documents, _AT_ONCE):
        documents = corpus.document_offsets[start : start + _AT_ONCE + 1]
        longest = max(longest, int(np.diff(corpus.sentence_offsets[documents]).max()))
    share = longest / dev.tokens
    if share > _HALF:
        yield (
            f"one document has {share:.0%} of the held-out tokens, so the scores on dev are those "
            "of one text: raise dev_fraction, or part long documents, as a book at its chapters"
        )
    for source in manifest.sources:
        held_out = source.counts["dev"].tokens / dev.tokens
        trained = source.counts["train"].tokens / max(train.tokens, 1)
        if held_out > _HALF and held_out - trained >= _MORE_HELD_OUT:
            yield (
                f"{source.name} has {held_out:.0%} of the held-out tokens, but {trained:.0%} of "
                "the others, so the scores on dev are those of this source (documents are drawn, "
                "whatever their length): raise dev_fraction, or part the long documents of others"
            )
