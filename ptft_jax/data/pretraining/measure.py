"""What the rows of a training run are like, measured on the arrays that the model gets.

Looked at are the first rows of epoch 0. The order of an epoch is random, so they are a sample of
it, and the same one every time. Statistics are numbers and lists of them, as JSON has them.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np

from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.examples import PretrainingExamples
from ptft_jax.data.pretraining.masking import MaskingSettings
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer


def row_statistics(
    examples: PretrainingExamples, tokenizer: TextTokenizer, rows: int
) -> dict[str, Any]:
    """Measure the first `rows` (1 or more) rows of epoch 0, or all if there are fewer.

    rows, row_length: rows looked at, and places in each; fill: the share of places with a token.
    examples_per_row, example_lengths, row_lengths: entry n counts the rows of n examples, the
        examples and the rows of n tokens, special ones included.
    predicted, wanted: predicted tokens, and how many the settings ask for in these examples.
    masked, random, kept: of the predicted tokens, those that are the mask, another token, the same.
    words, predicted_words, partly_predicted_words: a word is predicted if one of its tokens is, and
        partly if another one is not.
    run_lengths: entry n counts the runs of n predicted words; run_lengths_of_formula: the share of
        runs of 1, 2, … that the masking strategy's formula gives.
    labels: how often each label, 0 and 1, has weight; empty for formats without labels.
    """
    batch = examples.batch(np.arange(min(rows, len(examples))))
    masking, ids = examples.settings.masking, batch["input_ids"]
    # The examples of all rows, numbered from 0 in the order of rows.
    number = batch.get("segment_ids", batch["attention_mask"]).astype(np.int64)
    is_real, per_row = number > 0, number.max(axis=1)
    example = number - 1 + (np.cumsum(per_row) - per_row)[:, None]
    lengths = np.bincount(example[is_real], minlength=int(per_row.sum()))
    # The text before masking, and which of its tokens are predicted.
    original, predicted = ids.copy(), np.zeros(ids.shape, bool)
    row, slot = np.nonzero(batch["masked_lm_weights"])
    place = batch["masked_lm_positions"][row, slot]
    original[row, place] = batch["masked_lm_ids"][row, slot]
    predicted[row, place] = True
    masked = ids[predicted] == tokenizer.mask_token_id
    kept = ids[predicted] == original[predicted]
    # Text has no [CLS] and no [SEP] of its own: what looks like them was added.
    added = is_real & np.isin(original, (tokenizer.cls_token_id, tokenizer.sep_token_id))
    text_tokens = lengths - np.bincount(example[added], minlength=len(lengths))
    words, in_part, runs = _words(original, predicted, is_real & ~added, tokenizer.continues_word)
    labels = np.zeros(0, np.int64)
    if "next_sentence_labels" in batch:
        has_weight = batch["next_sentence_weights"] > 0
        labels = np.bincount(batch["next_sentence_labels"][has_weight], minlength=2)
    run_lengths = np.bincount(runs, minlength=1)
    return {
        "rows": len(ids),
        "row_length": ids.shape[1],
        "fill": float(is_real.mean()),
        "examples_per_row": np.bincount(per_row).tolist(),
        "example_lengths": np.bincount(lengths).tolist(),
        "row_lengths": np.bincount(is_real.sum(axis=1)).tolist(),
        "predicted": int(predicted.sum()),
        "wanted": int(masking.predictions(lengths, text_tokens).sum()),
        "masked": int(masked.sum()),
        "random": int((~masked & ~kept).sum()),
        "kept": int((~masked & kept).sum()),
        "words": len(words),
        "predicted_words": int(words.sum()),
        "partly_predicted_words": int(in_part.sum()),
        "run_lengths": run_lengths.tolist(),
        "run_lengths_of_formula": _formula(masking, words, max(len(run_lengths) - 1, 1)),
        "labels": labels.tolist(),
    }


def _words(
    original: np.ndarray, predicted: np.ndarray, is_text: np.ndarray, continues: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which words are predicted, which of them in part only, and the lengths of their runs.

    bool [W], bool [W], int64 [runs], from arrays [B, T]. A run ends where a stretch of text does.
    """
    # A stretch begins where the place before holds no text, and at the latest with its row.
    before = np.zeros_like(is_text)
    before[:, 1:] = is_text[:, :-1]
    begins_stretch = (is_text & ~before)[is_text]
    begins_word = begins_stretch | ~continues[original[is_text]]
    word = np.cumsum(begins_word) - 1
    sizes = np.bincount(word)
    chosen = np.bincount(word, predicted[is_text])
    is_predicted = chosen > 0
    # A run begins with a predicted word whose neighbour before is not, or is of another stretch.
    goes_on = np.zeros_like(is_predicted)
    goes_on[1:] = is_predicted[1:] & is_predicted[:-1] & ~begins_stretch[begins_word][1:]
    run = np.cumsum(is_predicted & ~goes_on)[is_predicted] - 1
    return is_predicted, is_predicted & (chosen < sizes), np.bincount(run)


def _formula(masking: MaskingSettings, words: np.ndarray, longest: int) -> list[float]:
    """The share of runs of 1, 2, … predicted words that the masking strategy's formula gives.

    n-grams: proportional to 1 / n; spans: the geometric distribution, cut; single tokens and words:
    what chance puts side by side at this rate. Runs that happen to touch count as one, and the end
    of a segment or of the predictions cuts some short, so that long runs differ a little.
    """
    if masking.masking == "ngram":
        weights = 1 / (1 + np.arange(masking.max_ngram))
    elif masking.masking == "span":
        weights = (1 - masking.span_geometric_p) ** np.arange(masking.span_max_words)
    else:
        weights = (words.sum() / max(len(words), 1)) ** np.arange(longest)
    return (weights / weights.sum()).tolist()


def packing_statistics(
    examples: PretrainingExamples, corpus: Corpus, tokenizer: TextTokenizer, rows: int
) -> dict[str, Any]:
    """What packing makes of these examples, whether or not their settings pack.

    unpacked_rows, packed_rows: rows of an epoch; padding: the share of places without a token in
    unpacked ones; fill, mean_examples: of the packed rows looked at; seconds_per_million: what
    planning took for each million examples, on this machine.
    """
    settings = replace(examples.settings, packing=True)
    packed = PretrainingExamples(corpus, tokenizer, settings)
    assert packed.windows is not None
    began = time.perf_counter()
    packed.windows.plan(0, 0)
    seconds = time.perf_counter() - began
    found = row_statistics(packed, tokenizer, rows)
    lengths = np.array(found["example_lengths"])
    mean = np.average(np.arange(len(lengths)), weights=lengths)
    return {
        "unpacked_rows": examples.num_examples,
        "packed_rows": len(packed),
        "padding": float(1 - mean / settings.max_seq_length),
        "fill": found["fill"],
        "mean_examples": float(lengths.sum() / found["rows"]),
        "seconds_per_million": 1e6 * seconds / packed.windows.examples,
    }
