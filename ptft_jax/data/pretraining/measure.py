"""What the rows of a training run are like, measured on the arrays that the model gets.

Looked at are the first rows of epoch 0. The order of an epoch is random, so they are a sample of
it, and the same one every time.
"""

import time
from dataclasses import dataclass, replace

import numpy as np

from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.examples import PretrainingExamples
from ptft_jax.data.pretraining.masking import MaskingSettings
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer


@dataclass(frozen=True)
class RowStatistics:
    """Some rows in numbers.

    Attributes:
        rows, row_length: rows looked at, and places in each.
        examples_per_row: entry n counts the rows with n examples.
        example_lengths: tokens of each example, special ones included, int64 [E].
        row_tokens: tokens of each row, int64 [rows].
        predicted, wanted: predicted tokens, and how many the settings ask for in these examples.
        masked, random, kept: of the predicted tokens, those that are the mask, another token, the
            same.
        words, predicted_words, partly_predicted_words: a word is predicted if one of its tokens
            is, and partly if another one is not.
        run_lengths: entry n counts the runs of n predicted words.
        labels: how often each label, 0 and 1, has weight; empty for formats without labels.
    """

    rows: int
    row_length: int
    examples_per_row: tuple[int, ...]
    example_lengths: np.ndarray
    row_tokens: np.ndarray
    predicted: int
    wanted: int
    masked: int
    random: int
    kept: int
    words: int
    predicted_words: int
    partly_predicted_words: int
    run_lengths: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def fill(self) -> float:
        """The share of places that hold a token."""
        return float(self.row_tokens.sum() / max(self.rows * self.row_length, 1))

    @property
    def rate(self) -> float:
        """The share of tokens, special ones counted, that are predicted."""
        return self.predicted / max(int(self.row_tokens.sum()), 1)


def row_statistics(
    examples: PretrainingExamples, tokenizer: TextTokenizer, rows: int
) -> RowStatistics:
    """Measure the first `rows` (1 or more) rows of epoch 0, or all if there are fewer."""
    batch = examples.batch(np.arange(min(rows, len(examples))))
    ids, rows, length = batch["input_ids"], *batch["input_ids"].shape
    # The examples of all rows, numbered from 0 in the order of rows; -1 is padding.
    number = batch.get("segment_ids", batch["attention_mask"]).astype(np.int64)
    per_row = number.max(axis=1)
    example = np.where(number > 0, number - 1 + (np.cumsum(per_row) - per_row)[:, None], -1)
    is_real = number > 0
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
    labels: tuple[int, ...] = ()
    if "next_sentence_labels" in batch:
        has_weight = batch["next_sentence_weights"] > 0
        counts = np.bincount(batch["next_sentence_labels"][has_weight], minlength=2)
        labels = tuple(counts.tolist())
    return RowStatistics(
        rows=rows,
        row_length=length,
        examples_per_row=tuple(np.bincount(per_row).tolist()),
        example_lengths=lengths,
        row_tokens=is_real.sum(axis=1),
        predicted=int(predicted.sum()),
        wanted=int(examples.settings.masking.predictions(lengths, text_tokens).sum()),
        masked=int(masked.sum()),
        random=int((~masked & ~kept).sum()),
        kept=int((~masked & kept).sum()),
        words=len(words),
        predicted_words=int(words.sum()),
        partly_predicted_words=int(in_part.sum()),
        run_lengths=tuple(np.bincount(runs, minlength=1).tolist()),
        labels=labels,
    )


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


def run_length_shares(masking: MaskingSettings, statistics: RowStatistics) -> list[float]:
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
        share = statistics.predicted_words / max(statistics.words, 1)
        weights = share ** np.arange(max(len(statistics.run_lengths) - 1, 1))
    return (weights / weights.sum()).tolist()


@dataclass(frozen=True)
class PackingStatistics:
    """Rows that hold one example beside rows that hold several.

    `unpacked_rows`, `packed_rows`: rows of an epoch. `fill` and `mean_examples` are of the packed
    rows looked at, `padding` is the share of places without a token in unpacked ones.
    `seconds_per_million` is what planning took for each million examples, on this machine.
    """

    unpacked_rows: int
    packed_rows: int
    padding: float
    fill: float
    mean_examples: float
    planned_examples: int
    seconds_per_million: float


def packing_statistics(
    examples: PretrainingExamples, corpus: Corpus, tokenizer: TextTokenizer, rows: int
) -> PackingStatistics:
    """What packing makes of these examples, whether or not their settings pack."""
    settings = replace(examples.settings, packing=True)
    packed = PretrainingExamples(corpus, tokenizer, settings)
    windows = packed.windows
    assert windows is not None
    began = time.perf_counter()
    windows.plan(0, 0)
    seconds = time.perf_counter() - began
    measured = row_statistics(packed, tokenizer, rows)
    lengths = measured.example_lengths
    return PackingStatistics(
        unpacked_rows=examples.num_examples,
        packed_rows=len(packed),
        padding=float(1 - lengths.mean() / settings.max_seq_length),
        fill=measured.fill,
        mean_examples=len(lengths) / measured.rows,
        planned_examples=windows.examples,
        seconds_per_million=1e6 * seconds / windows.examples,
    )
