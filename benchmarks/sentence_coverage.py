"""Measures how many sentences the `nsp` examples of an epoch leave out.

    .venv/bin/python benchmarks/sentence_coverage.py --data_dir=DATA [--epochs 10]

Left out is a sentence of which no token is in any example of the epoch; examples are those of
unpacked rows, all sources with weight 1. Also printed: sentences that no epoch had, the share of
examples with a random B, and the time to plan an epoch's chunks.
"""

import argparse
import time

import numpy as np

from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.examples import FORMATS

AT_ONCE = 1 << 16


def main() -> None:
    """Measures and prints a line for each length."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True, help="a folder made by `ptft prepare`")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    corpus = Corpus.open(args.data_dir)
    for length in (128, 512):
        made = FORMATS["nsp"](corpus, 0, length, 0.1)
        never, shares, labels, seconds = np.ones(corpus.num_sentences, bool), [], [], []
        first = made.first_chunks()
        first = first[:-1][np.diff(first) > 0]
        for epoch in range(args.epochs):
            began = time.perf_counter()
            made.segments(np.full(len(first), epoch), first)
            if epoch:  # epoch 0 was planned when the format was made
                seconds.append(1e6 * (time.perf_counter() - began) / len(made))
            left_out = np.ones(corpus.num_sentences, bool)
            for start in range(0, len(made), AT_ONCE):
                chunk = np.arange(start, min(start + AT_ONCE, len(made)))
                found = made.segments(np.full(len(chunk), epoch), chunk)
                left_out &= ~shown(corpus, found.starts, found.starts + found.lengths)
                labels.append(found.labels)
            never &= left_out
            shares.append(left_out.mean())
        print(
            f"{length} tokens, {len(made):,} examples: left out {np.mean(shares):.2%}, at most "
            f"{np.max(shares):.2%}; by all epochs {never.sum():,} of {corpus.num_sentences:,}; "
            f"random B {np.concatenate(labels).mean():.2%}; planned in "
            f"{np.median(seconds or [0]):.2f} s per million examples"
        )


def shown(corpus: Corpus, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns whether a token of each sentence lies in one of the stretches, bool [sentences]."""
    offsets = corpus.sentence_offsets
    change = np.zeros(corpus.num_sentences + 1, np.int64)
    np.add.at(change, np.searchsorted(offsets, starts, side="right") - 1, 1)
    np.add.at(change, np.searchsorted(offsets, ends), -1)
    return np.cumsum(change)[:-1] > 0


if __name__ == "__main__":
    main()
