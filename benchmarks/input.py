"""Measures how fast pretraining examples are made, how well they pack, and what memory they take.

    .venv/bin/python benchmarks/input.py --data_dir=DATA [--rounds 3]

One process and one thread; give it one core to have the figure per core (`taskset -c 0`, Linux).
For each format, masking and length it prints the millions of real tokens per second of
`PretrainingExamples.batch` (pairing, packing and dynamic masking included), the share of positions
that are real, the time to plan the packing of a million examples, and the bytes of memory that the
examples hold for each token of the corpus. A row's figure is the median over batches and rounds;
the rounds go through all rows in turn.
"""

import argparse
import statistics
import time
import tracemalloc
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.examples import PretrainingExamples, PretrainingSettings
from ptft_jax.data.pretraining.masking import STRATEGIES, MaskingSettings
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer

# Sequences of a batch and predictions by length, as in BERT's two phases.
LENGTHS = {128: (256, 20), 512: (64, 80)}
BATCHES = 12


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True, help="a folder made by `ptft prepare`")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    corpus = Corpus.open(args.data_dir, verify=False)
    tokenizer = TextTokenizer.load(corpus.tokenizer_dir)
    rows: dict[tuple[Any, ...], list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        for key in variants():
            rows.setdefault(key, []).append(measure(corpus, tokenizer, *key))
    table = Table(title=f"{args.data_dir}: {corpus.num_tokens:,} tokens, one thread")
    for name in ("length", "format", "masking", "packing"):
        table.add_column(name)
    for name in ("M tokens/s", "real positions", "planning, s per M examples", "bytes per token"):
        table.add_column(name, justify="right")
    for (length, input_format, masking, packing), found in rows.items():
        median = {name: statistics.median(values[name] for values in found) for name in found[0]}
        table.add_row(
            str(length),
            input_format,
            masking,
            "yes" if packing else "no",
            f"{median['rate']:.2f}",
            f"{median['fill']:.2%}",
            f"{median['planning']:.1f}" if packing else "-",
            f"{median['memory']:.4f}",
        )
    Console(width=120).print(table)


def variants():
    """Yields length, format, masking and packing of each row of the table."""
    for length in LENGTHS:
        for masking in STRATEGIES:
            for packing in (False, True):
                yield length, "nsp", masking, packing
        for input_format in ("sop", "full_sentences", "doc_sentences", "single_segment"):
            yield length, input_format, "token", True


def measure(
    corpus: Corpus,
    tokenizer: TextTokenizer,
    length: int,
    input_format: str,
    masking: str,
    packing: bool,
) -> dict[str, float]:
    """Makes some batches, spread over an epoch, and returns the figures."""
    batch_size, predictions = LENGTHS[length]
    settings = PretrainingSettings(
        max_seq_length=length,
        input_format=input_format,
        packing=packing,
        masking=MaskingSettings(masking=masking, max_predictions_per_seq=predictions),
    )
    tracemalloc.start()
    examples = PretrainingExamples(corpus, tokenizer, settings)
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    examples.batch(np.arange(batch_size))
    seconds, real, positions = [], 0, 0
    for k in range(1, BATCHES):
        indices = np.arange(batch_size) + k * batch_size
        began = time.perf_counter()
        batch = examples.batch(indices)
        seconds.append(time.perf_counter() - began)
        real += int(batch["attention_mask"].sum())
        positions += batch["attention_mask"].size
    planning = 0.0
    if packing:
        began = time.perf_counter()
        examples.plan_window(1, 0)
        planning = (time.perf_counter() - began) / examples.window_examples * 1e6
    return {
        "rate": real / (BATCHES - 1) / statistics.median(seconds) / 1e6,
        "fill": real / positions,
        "planning": planning,
        "memory": memory / corpus.num_tokens,
    }


if __name__ == "__main__":
    main()
