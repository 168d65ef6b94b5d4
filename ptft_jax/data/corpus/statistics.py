"""What the text of a corpus is like, in numbers: its sources and its tokens.

Counts of the whole corpus come from its manifest, the rest from a sample that is the same every
time: sentences spread evenly over each source.
"""

from dataclasses import dataclass

import numpy as np

from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer

# Tokens of a source that are looked at: enough to see rates of one in ten thousand.
TOKENS_PER_SOURCE = 1 << 21


@dataclass(frozen=True)
class SourceStatistics:
    """A source in a split.

    `weight` is 1 in held-out text, which is read once whatever the source's weight.
    `weighted_share` is its share of the tokens of an epoch, by weight. `id_counts` int64 [vocab]
    counts the tokens of a sample of `sampled_tokens` tokens; `unknown_rate` is the share of unknown
    ones among them, None for a tokenizer that has none.
    """

    name: str
    weight: float
    documents: int
    sentences: int
    tokens: int
    weighted_share: float
    sampled_tokens: int
    unknown_rate: float | None
    id_counts: np.ndarray


def source_statistics(
    corpus: Corpus, tokenizer: TextTokenizer, most_tokens: int = TOKENS_PER_SOURCE
) -> list[SourceStatistics]:
    """The sources of a split, in the order of their documents."""
    records = corpus.manifest.sources
    counts = [record.counts[corpus.split] for record in records]
    weights = corpus.source_weights if corpus.split == "train" else np.ones(len(records))
    weighted = weights * [count.tokens for count in counts]
    shares = weighted / max(weighted.sum(), 1)
    found = []
    for number, (record, count) in enumerate(zip(records, counts, strict=True)):
        ids = _sampled_ids(corpus, number, most_tokens)
        id_counts = np.bincount(ids, minlength=corpus.vocab_size)
        unknown = tokenizer.unk_token_id
        found.append(
            SourceStatistics(
                record.name,
                float(weights[number]),
                count.documents,
                count.sentences,
                count.tokens,
                float(shares[number]),
                len(ids),
                None if unknown is None else float(id_counts[unknown] / max(len(ids), 1)),
                id_counts,
            )
        )
    return found


def _sampled_ids(corpus: Corpus, source: int, most_tokens: int) -> np.ndarray:
    """The ids of every k-th sentence of a source, k as small as `most_tokens` allows."""
    bounds = corpus.source_documents[source : source + 2]
    first, end = corpus.document_offsets[bounds]
    tokens = int(corpus.sentence_offsets[end] - corpus.sentence_offsets[first])
    sentences = np.arange(first, end, max(1, -(-tokens // most_tokens)))
    starts = corpus.sentence_offsets[sentences]
    return corpus.gather(starts, corpus.sentence_offsets[sentences + 1] - starts)


@dataclass(frozen=True)
class TokenStatistics:
    """The tokens of a split: each source's sample counts as much as the source has tokens.

    `frequent` are the most frequent ids with their share of the text. `seen` of the vocabulary's
    ordinary tokens occur in the samples. `covered[k]` is the share of the text that the
    `ranks[k]` most frequent tokens make up.
    """

    vocab_size: int
    ordinary: int
    seen: int
    frequent: tuple[tuple[int, float], ...]
    ranks: tuple[int, ...]
    covered: tuple[float, ...]


def token_statistics(
    sources: list[SourceStatistics], tokenizer: TextTokenizer, most_frequent: int = 30
) -> TokenStatistics:
    """The tokens of the split that the sources are of."""
    counts = np.zeros(tokenizer.vocab_size)
    for source in sources:
        counts += source.id_counts * (source.tokens / max(source.sampled_tokens, 1))
    shares = counts / max(counts.sum(), 1)
    order = np.argsort(-shares, kind="stable")
    is_ordinary = ~np.isin(np.arange(len(counts)), tokenizer.special_ids)
    ranks = np.unique(np.rint(np.geomspace(1, len(counts), 60)).astype(np.int64))
    return TokenStatistics(
        tokenizer.vocab_size,
        int(is_ordinary.sum()),
        int(np.sum((counts > 0) & is_ordinary)),
        tuple((int(i), float(shares[i])) for i in order[:most_frequent] if shares[i] > 0),
        tuple(ranks.tolist()),
        tuple(np.cumsum(shares[order])[ranks - 1].tolist()),
    )
