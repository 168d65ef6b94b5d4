"""The rows of an update: made up or real, and the same examples one a row.

Shape suffixes: B rows, T tokens, E examples.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ptft_jax.data.batches import Batch
from ptft_jax.models.config import EncoderConfig
from ptft_jax.runs.bench.hf import NO_LABEL
from ptft_jax.runs.config import Config
from ptft_jax.runs.kinds.pretraining import UNKNOWN_PACK, row_shapes
from ptft_jax.runs.phases import pretraining_settings
from ptft_jax.training.resources.cost import model_flops

# Rows that hold one example each are as long as the longest, rounded up to this.
_STEP = 8


@dataclasses.dataclass(frozen=True)
class Counts:
    """What some updates hold: rows, real examples and their tokens, and the FLOPs they need.

    FLOPs are `cost.model_flops` of each example at its own length and with its own predictions:
    neither padding nor attention across examples counts, so every way to compute them has the same.
    """

    rows: int
    examples: int
    tokens: int
    flops: int


def full_rows(config: Config, model: EncoderConfig, seed: int = 0) -> Batch:
    """Returns a batch as `PretrainingExamples.batch` makes it, full of random tokens.

    A packed row holds half as many examples as it has room for, which is what the mean example
    leaves room for where the config does not say it.
    """
    rng = np.random.default_rng(seed)
    rows, settings = config.batch_size, pretraining_settings(config)
    shapes = row_shapes(config)
    batch = {name: np.zeros((rows, *shape), dtype) for name, (shape, dtype) in shapes.items()}
    tokens = settings.max_seq_length
    most = settings.max_sequences_per_pack or UNKNOWN_PACK
    per_row = max(1, most // 2) if settings.packing else 1
    bounds = np.linspace(0, tokens, per_row + 1).astype(int)
    lengths = np.diff(bounds)
    example_T = np.repeat(np.arange(per_row), lengths)
    position_T = np.arange(tokens) - bounds[example_T]
    first = min(5, model.vocab_size - 1)
    batch["input_ids"][:] = rng.integers(first, model.vocab_size, (rows, tokens))
    batch["attention_mask"][:] = 1
    if settings.has_pairs:
        batch["token_type_ids"][:] = position_T >= lengths[example_T] // 2
        batch["pooled_positions"][:, :per_row] = bounds[:-1]
        batch["next_sentence_labels"][:, :per_row] = rng.integers(0, 2, (rows, per_row))
        batch["next_sentence_weights"][:, :per_row] = 1
    if settings.packing:
        batch["segment_ids"][:] = 1 + example_T
        batch["position_ids"][:] = position_T
    counts = settings.masking.predictions(lengths, lengths - 3)
    width = batch["masked_lm_ids"].shape[1]
    for row in range(rows):
        places = [
            start + 1 + rng.permutation(length - 2)[:count]
            for start, length, count in zip(bounds[:-1], lengths, counts, strict=True)
        ]
        found = np.sort(np.concatenate(places))[:width]
        batch["masked_lm_positions"][row, : len(found)] = found
        batch["masked_lm_ids"][row, : len(found)] = batch["input_ids"][row, found]
        batch["masked_lm_weights"][row, : len(found)] = 1
    return batch


def one_a_row(batch: Mapping[str, np.ndarray], pad_token_id: int) -> Batch:
    """Returns the examples of a batch one a row, padded to the longest of them, a multiple of 8.

    int64: input_ids, attention_mask, token_type_ids, labels [E, T] (`NO_LABEL` where nothing is
    predicted), and next_sentence_label [E] where the batch has pairs.
    """
    segment_BT = batch.get("segment_ids", batch["attention_mask"])
    counted = np.broadcast_to(np.arange(segment_BT.shape[1]), segment_BT.shape)
    position_BT = batch.get("position_ids", counted)
    real_BT = segment_BT > 0
    key_BT = np.arange(len(segment_BT))[:, None] * (1 + segment_BT.max()) + segment_BT
    example_BT = np.searchsorted(np.unique(key_BT[real_BT]), key_BT)
    examples = len(np.unique(key_BT[real_BT]))
    longest = int(position_BT[real_BT].max(initial=0)) + 1
    shape = (examples, -(-longest // _STEP) * _STEP)
    there = (example_BT[real_BT], position_BT[real_BT])
    alone = {}
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        alone[name] = np.zeros(shape, np.int64)
        alone[name][there] = batch[name][real_BT]
    alone["input_ids"][alone["attention_mask"] == 0] = pad_token_id
    rows, slots = np.nonzero(batch["masked_lm_weights"])
    places = batch["masked_lm_positions"][rows, slots]
    alone["labels"] = np.full(shape, NO_LABEL, np.int64)
    alone["labels"][example_BT[rows, places], position_BT[rows, places]] = batch["masked_lm_ids"][
        rows, slots
    ]
    if "pooled_positions" in batch:
        rows, slots = np.nonzero(batch["next_sentence_weights"])
        places = batch["pooled_positions"][rows, slots]
        alone["next_sentence_label"] = np.full(examples, NO_LABEL, np.int64)
        alone["next_sentence_label"][example_BT[rows, places]] = batch["next_sentence_labels"][
            rows, slots
        ]
    return alone


def count(batches: Sequence[Batch], rows: int, model: EncoderConfig) -> Counts:
    """Counts updates of `rows` rows each, given as `one_a_row` returns their examples."""
    tokens = flops = examples = 0
    for batch in batches:
        lengths = batch["attention_mask"].sum(axis=1)
        predicted = (batch["labels"] != NO_LABEL).sum(axis=1)
        kinds, many = np.unique(np.stack([lengths, predicted]), axis=1, return_counts=True)
        for (length, predictions), number in zip(kinds.T.tolist(), many.tolist(), strict=True):
            one = model_flops(model, tokens=length, predictions=predictions, pooled=1)
            flops += number * one
        tokens += int(lengths.sum())
        examples += len(lengths)
    return Counts(rows * len(batches), examples, tokens, flops)
