"""Documents into token ids, block by block, as the worker processes do it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ptft_jax.data.text.sentences import split_sentences
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer

# A "sentence" without any stop may be as long as its line; it is cut between words.
MAX_SENTENCE_CHARACTERS = 1 << 16
# Texts go to the tokenizer in portions: it may need 100 bytes for each of their characters.
_PORTION_CHARACTERS = 1 << 19


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


def encode_documents(tokenizer: TextTokenizer, documents: Sequence[Sequence[str]]) -> Encoded:
    """Split and encode documents, given as their lines."""
    sentences: list[str] = []
    document_of: list[int] = []
    for number, lines in enumerate(documents):
        for line in lines:
            for sentence in split_sentences(line):
                if len(sentence) <= MAX_SENTENCE_CHARACTERS:
                    sentences.append(sentence)
                    document_of.append(number)
                else:
                    parts = _cut(sentence)
                    sentences += parts
                    document_of += [number] * len(parts)
    dtype = token_dtype(tokenizer.vocab_size)
    tokens, lengths = [np.zeros(0, dtype)], [np.zeros(0, np.int64)]
    for portion in _portions(sentences):
        some_tokens, some_lengths = tokenizer.encode_flat(portion)
        tokens.append(some_tokens.astype(dtype))
        lengths.append(some_lengths)
    sentence_lengths = np.concatenate(lengths)
    kept = sentence_lengths > 0
    counts = np.bincount(np.array(document_of, np.int64)[kept], minlength=len(documents))
    return Encoded(np.concatenate(tokens), sentence_lengths[kept], counts)


def _cut(sentence: str) -> list[str]:
    """Parts of at most MAX_SENTENCE_CHARACTERS, cut between words where there are any."""
    parts = []
    while len(sentence) > MAX_SENTENCE_CHARACTERS:
        end = sentence.rfind(" ", 1, MAX_SENTENCE_CHARACTERS) + 1 or MAX_SENTENCE_CHARACTERS
        parts.append(sentence[:end])
        sentence = sentence[end:]
    return [*parts, sentence]


def _portions(texts: Sequence[str]) -> list[Sequence[str]]:
    """The texts in order, in portions of about _PORTION_CHARACTERS."""
    portions = []
    start = size = 0
    for index, text in enumerate(texts):
        size += len(text)
        if size >= _PORTION_CHARACTERS:
            portions.append(texts[start : index + 1])
            start, size = index + 1, 0
    if start < len(texts):
        portions.append(texts[start:])
    return portions


class EncodeJob(NamedTuple):
    """What a worker is given: the tokenizer's folder and SHA-256, and documents as their lines."""

    tokenizer: str
    sha256: str
    documents: list[tuple[str, ...]]


def encode_job(job: EncodeJob) -> Encoded:
    """Encode a job's documents; each process loads the tokenizer once."""
    return encode_documents(_tokenizer(job.tokenizer, job.sha256), job.documents)


@lru_cache(maxsize=1)
def _tokenizer(folder: str, sha256: str) -> TextTokenizer:
    return TextTokenizer.load(folder)
