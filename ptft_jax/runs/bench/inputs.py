"""How fast pretraining examples are made, how full their rows are, and what memory they take."""

import dataclasses
import time
import tracemalloc
from typing import Any

import numpy as np

from ptft_jax.data.batches import Batches
from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.examples import PretrainingExamples
from ptft_jax.data.progress import Progress, no_progress
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.runs.bench.rounds import spread, take_turns
from ptft_jax.runs.config import Config, require_data_dir
from ptft_jax.runs.phases import pretraining_settings


def measure(
    config: Config,
    *,
    rounds: int,
    batches: int,
    keep_up_with: float | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Makes rounds of batches with the threads of a config (of one phase).

    Every round makes the `batches` that follow those of the round before, after one that is not
    timed. `keep_up_with`: examples per second that a training would take.

    Returns:
        JSON values: rates, the share of positions that are real, the time to plan the packing of a
        million examples (None without packing), bytes held for each token of the corpus, and
        whether that keeps up (None where no rate was given).

    Raises:
        ConfigError: no `data_dir`, or settings that cannot be.
        DataError: the corpus is damaged.
    """
    settings = pretraining_settings(config)
    settings.check()
    corpus = Corpus.open(require_data_dir(config, "a folder made by `ptft prepare`"), "train")
    tokenizer = TextTokenizer.load(corpus.tokenizer_dir)
    progress("opening", 0, 1)
    tracemalloc.start()
    examples = PretrainingExamples(corpus, tokenizer, settings)
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    progress("opening", 1, 1)
    size, counts = config.batch_size, []

    def make_round() -> float:
        start = len(counts) // batches * (1 + batches) * size
        with Batches(examples, size, start, workers=config.workers) as source:
            next(source)
            began = time.perf_counter()
            made = [next(source) for _ in range(batches)]
            seconds = time.perf_counter() - began
        counts.extend(map(_counts, made))
        return seconds

    seconds = take_turns({"batches": make_round}, rounds, progress)["batches"]
    tokens, positions, number = (sum(column) / rounds for column in zip(*counts, strict=True))
    median = spread(seconds)["median"]
    planning = None
    if examples.windows is not None:
        began = time.perf_counter()
        examples.windows.plan(1, 0)
        planning = (time.perf_counter() - began) / examples.windows.examples * 1e6
    return {
        "data": str(config.data_dir),
        "settings": dataclasses.asdict(settings),
        "batch_size": size,
        "workers": config.workers,
        "rounds": rounds,
        "batches": batches,
        "seconds": seconds,
        "batch_ms": spread([1e3 * one / batches for one in seconds]),
        "batches_per_second": batches / median,
        "tokens_per_second": tokens / median,
        "sequences_per_second": number / median,
        "real_positions": tokens / positions,
        "planning_seconds_per_million": planning,
        "bytes_per_token": memory / corpus.num_tokens,
        "keep_up_with": keep_up_with,
        "keeps_up": None if keep_up_with is None else number / median >= keep_up_with,
    }


def _counts(batch: dict[str, np.ndarray]) -> tuple[int, int, int]:
    """Returns the real tokens, positions and examples of a batch."""
    mask = batch["attention_mask"]
    segments = batch.get("segment_ids")
    examples = len(mask) if segments is None else int(segments.max(axis=1).sum())
    return int(mask.sum()), mask.size, examples
