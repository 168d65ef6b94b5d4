"""Documents into token ids, block by block, as the worker processes do it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ptft_jax.data.text.sentences import split_sentences
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer

# A "sentence" without any stop may be as long as its line; it is cut between words.
MAX_SENTENCE_CHARACTERS = 1 << 16


class Encoded(NamedTuple):
    """Some documents: their tokens, tokens per sentence, and sentences per document.

    `tokens` has the type that they are stored in; the others are int64. No sentence is empty; a
    document is when no word of it has a token.
    """

    tokens: np.ndarray
    sentence_lengths: np.ndarray
    document_sentences: np.ndarray


def token_dtype(vocab_size: int) -> str:
    """The type of stored token ids: 16 bits wherever they are enough."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def encode_documents(
    documents: Sequence[Sequence[str]], *, tokenizer_dir: str, sha256: str
) -> Encoded:
    """Split and encode documents, given as their lines; each process loads the tokenizer once.

    `sha256` is the tokenizer's: another one may have been in the same folder before.
    """
    tokenizer = _load(tokenizer_dir, sha256)
    sentences: list[str] = []
    document_of: list[int] = []
    for number, lines in enumerate(documents):
        for line in lines:
            for sentence in split_sentences(line):
                parts = _cut(sentence)
                sentences += parts
                document_of += [number] * len(parts)
    tokens, lengths = tokenizer.encode_flat(sentences)
    kept = lengths > 0
    counts = np.bincount(np.array(document_of, np.int64)[kept], minlength=len(documents))
    return Encoded(tokens.astype(token_dtype(tokenizer.vocab_size)), lengths[kept], counts)


@lru_cache(maxsize=1)
def _load(tokenizer_dir: str, sha256: str) -> TextTokenizer:
    return TextTokenizer.load(tokenizer_dir)


def _cut(sentence: str) -> list[str]:
    """Parts of at most MAX_SENTENCE_CHARACTERS, cut between words where there are any."""
    parts = []
    while len(sentence) > MAX_SENTENCE_CHARACTERS:
        end = sentence.rfind(" ", 1, MAX_SENTENCE_CHARACTERS) + 1 or MAX_SENTENCE_CHARACTERS
        parts.append(sentence[:end])
        sentence = sentence[end:]
    return [*parts, sentence]
