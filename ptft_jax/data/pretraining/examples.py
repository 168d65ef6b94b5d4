"""Pretraining examples with masked tokens, made afresh for every epoch, by index.

What an example is made of says `formats`, in which order they come `order`, what is masked in
them `masking`, and which of them share a row `packing`; here they become arrays. Every choice is a
function of (seed, epoch, index), so it depends on neither batches nor processes.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.formats import FORMATS, PAIR_FORMATS, make_format
from ptft_jax.data.pretraining.masking import MOST_PLACES, Draws, MaskingSettings, choose, replace
from ptft_jax.data.pretraining.order import Sampler
from ptft_jax.data.pretraining.packing import Plan, best_fit_decreasing
from ptft_jax.data.pretraining.pairs import NextSentence
from ptft_jax.data.pretraining.rows import Layout
from ptft_jax.data.randomness import shuffled_index
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError

# Examples that are packed together: enough for rows to be full, few enough to be planned in a
# fraction of a second and kept in a few megabytes.
WINDOW = 1 << 17
# A window has this share of rows more than a trial needed, since their number varies a little.
_SPARE_ROWS = 0.001
_TRIALS = 3


@dataclass(frozen=True)
class PretrainingSettings:
    """How examples are made; the defaults are those of the original for sequences of 128.

    `max_seq_length` counts the special tokens, and is the length of a row. `input_format` is one of
    `FORMATS`. `short_seq_prob` of the chunks of a pair format aim at a shorter length, uniform from
    2. `dupe_factor` 0 draws pairs and masks anew in each epoch; N draws N of them, which the epochs
    use in turn. `packing` puts several examples into a row, at most `max_sequences_per_pack` (0:
    twice as many as the mean example leaves room for).
    """

    seed: int = 0
    max_seq_length: int = 128
    input_format: str = "nsp"
    short_seq_prob: float = 0.1
    dupe_factor: int = 0
    packing: bool = False
    max_sequences_per_pack: int = 0
    masking: MaskingSettings = field(default_factory=MaskingSettings)

    def check(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        if not 8 <= self.max_seq_length <= MOST_PLACES:
            raise ConfigError(
                f"max_seq_length={self.max_seq_length}: expected from 8 to {MOST_PLACES}"
            )
        if self.input_format not in FORMATS:
            raise ConfigError(
                f"input_format={self.input_format!r}: expected one of {', '.join(FORMATS)}"
            )
        self.masking.check()
        most = self.masking.max_predictions_per_seq
        if most > self.max_seq_length - 3:
            raise ConfigError(
                f"max_predictions_per_seq={most}: expected from 1 to max_seq_length - 3 = "
                f"{self.max_seq_length - 3}"
            )
        if not 0 <= self.short_seq_prob <= 1:
            raise ConfigError(f"short_seq_prob={self.short_seq_prob}: expected from 0 to 1")
        for name in ("dupe_factor", "max_sequences_per_pack"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)}: expected 0 or more")

    @property
    def has_pairs(self) -> bool:
        """Whether examples have two segments and a label."""
        return self.input_format in PAIR_FORMATS


class PretrainingExamples:
    """The rows of a corpus: len(self) in an epoch, in another order and masked anew in each.

    Global index g is row g % len of epoch g // len. Without packing a row is an example, and every
    epoch has each chunk of the corpus once (or as often as its source's weight says; for the few
    chunks of `nsp` that come again or not at all see `NextSentence`). With packing,
    an epoch is cut into windows of examples that are packed together; all windows have the same
    number of rows, so that any row can be made without planning those before it. The few rows that
    a window needs less stay empty, and the emptiest ones are left out where it needs more.
    """

    fixed_shape = True

    def __init__(
        self, corpus: Corpus, tokenizer: TextTokenizer, settings: PretrainingSettings
    ) -> None:
        """Cut the corpus into chunks: 4 bytes of memory for each (`nsp`: and for each kept visit).

        Raises ConfigError for the settings; DataError when the tokenizer is not the corpus's, or
        when `nsp` finds one document, which leaves no other for a random next sentence.
        """
        settings.check()
        if tokenizer.sha256 != corpus.manifest.tokenizer_sha256:
            raise DataError(
                f"the tokenizer ({tokenizer.vocab_size} tokens) is not the one the corpus was "
                f"encoded with ({corpus.vocab_size} tokens): use the one in {corpus.tokenizer_dir}"
            )
        self._corpus = corpus
        self._tokenizer = tokenizer
        self.settings = settings
        is_special = np.isin(np.arange(tokenizer.vocab_size), tokenizer.special_ids)
        self._ordinary_ids = np.flatnonzero(~is_special).astype(np.int32)
        self._format = make_format(
            settings.input_format,
            corpus,
            seed=settings.seed,
            max_seq_length=settings.max_seq_length,
            short_seq_prob=settings.short_seq_prob,
        )
        # Held-out text is read once each: it is there to compare models.
        weights = corpus.source_weights
        weights = weights if corpus.split == "train" else np.ones_like(weights)
        self._sampler = Sampler(self._format.first_chunks(), weights, settings.seed)
        self.num_examples = len(self._sampler)
        masking = settings.masking
        self._rows_per_window = self._most_examples = 1
        self._predictions = masking.max_predictions_per_seq
        if settings.packing:
            self._windows = -(-self.num_examples // WINDOW)
            self._plans: OrderedDict[tuple[int, int], Plan] = OrderedDict()
            self._lock = threading.Lock()
            self._most_examples = settings.max_sequences_per_pack or self._default_most_examples()
            self._rows_per_window = self._count_rows()
            # Rounding gives each example at most one prediction more than its share.
            share = int(np.ceil(masking.masked_lm_prob * settings.max_seq_length))
            self._predictions = min(
                share + self._most_examples, self._predictions * self._most_examples
            )

    def __len__(self) -> int:
        if self.settings.packing:
            return self._windows * self._rows_per_window
        return self.num_examples

    @property
    def random_next_share(self) -> float | None:
        """The share of examples whose B is random, in epoch 0; None if the format has none."""
        if not isinstance(self._format, NextSentence):
            return None
        return float(np.average(self._format.random_shares, weights=self._sampler.entries))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The row at global `index`, its arrays without the batch axis."""
        return {name: array[0] for name, array in self.batch(np.array([index])).items()}

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The rows at global `indices` (int64 [B]), stacked.

        int32: input_ids, attention_mask (1 real, 0 padding), token_type_ids [B, T];
        masked_lm_positions (ascending), masked_lm_ids [B, M]. float32: masked_lm_weights [B, M]
        (0: unused). For `nsp` and `sop` also int32 pooled_positions (of each [CLS]),
        next_sentence_labels (0: B follows A, 1: random, or swapped) and float32
        next_sentence_weights [B, P]. Packed rows also have int32 segment_ids (1, 2, … by example,
        0 padding) and position_ids (from 0 in each example) [B, T].
        """
        epoch, entry = np.divmod(np.asarray(indices, np.int64), len(self))
        if self.settings.packing:
            epoch, place, row = self._unpack(epoch, entry)
        else:
            place, row = entry, np.arange(len(entry))
        visit, chunk = self._draw(epoch, place)
        return self._make_rows(visit, chunk, row, len(indices))

    def _draw(self, epoch: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        visit, chunk = self._sampler.draw(epoch, place)
        return (visit % self.settings.dupe_factor if self.settings.dupe_factor else visit), chunk

    # Packing: which examples a row holds.

    def _window_bounds(self, window: int) -> tuple[int, int]:
        """The places of an epoch that a window holds: windows differ by one at most."""
        return (
            window * self.num_examples // self._windows,
            (window + 1) * self.num_examples // self._windows,
        )

    def _lengths(self, epoch: int, first: int, end: int) -> np.ndarray:
        place = np.arange(first, end)
        visit, chunk = self._draw(np.full(len(place), epoch), place)
        return self._format.segments(visit, chunk).example_lengths()

    def _default_most_examples(self) -> int:
        sample = self._lengths(0, 0, min(self.num_examples, 1 << 14))
        return 2 * int(np.ceil(self.settings.max_seq_length / sample.mean()))

    def _count_rows(self) -> int:
        trials = [
            len(self.plan_window(trial // self._windows, trial % self._windows))
            for trial in range(_TRIALS)
        ]
        return max(trials) + int(np.ceil(_SPARE_ROWS * max(trials)))

    @property
    def window_examples(self) -> int:
        """The most examples that are packed together."""
        return -(-self.num_examples // self._windows)

    def plan_window(self, epoch: int, window: int) -> Plan:
        """Pack a window into as many rows as its examples need."""
        first, end = self._window_bounds(window)
        lengths = self._lengths(epoch, first, end)
        return best_fit_decreasing(lengths, self.settings.max_seq_length, self._most_examples)

    def _plan(self, epoch: int, window: int) -> Plan:
        """The window's rows, at most `_rows_per_window`; a few plans are kept."""
        with self._lock:
            plan = self._plans.get((epoch, window))
            if plan is None:
                plan = self.plan_window(epoch, window)
                surplus = len(plan) - self._rows_per_window
                if surplus > 0:
                    first, end = self._window_bounds(window)
                    lengths = self._lengths(epoch, first, end)[plan.examples]
                    plan = plan.without_emptiest(surplus, lengths)
                self._plans[epoch, window] = plan
                if len(self._plans) > 4:
                    self._plans.popitem(last=False)
            return plan

    def _unpack(
        self, epoch: np.ndarray, entry: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Epoch, place in the epoch and row of the batch of each example in the rows asked for."""
        window, row = np.divmod(entry, self._rows_per_window)
        # A plan has its rows sorted by what they hold; an epoch must not.
        key = epoch * self._windows + window
        row = shuffled_index(row, self._rows_per_window, self.settings.seed, key, "row of a window")
        epochs, places, rows = [], [], []
        for one_epoch, one_window in sorted(set(zip(epoch.tolist(), window.tolist(), strict=True))):
            plan = self._plan(one_epoch, one_window)
            here = (epoch == one_epoch) & (window == one_window) & (row < len(plan))
            here = np.flatnonzero(here)
            examples, of_row = plan.rows(row[here])
            epochs.append(np.full(len(examples), one_epoch))
            places.append(examples + self._window_bounds(one_window)[0])
            rows.append(here[of_row])
        joined = [np.concatenate(part).astype(np.int64) for part in (epochs, places, rows)]
        # By row of the batch; the examples of a row keep their order.
        order = np.argsort(joined[2], kind="stable")
        return joined[0][order], joined[1][order], joined[2][order]

    # Layout: what a row looks like.

    def _make_rows(
        self, visit: np.ndarray, chunk: np.ndarray, row: np.ndarray, rows: int
    ) -> dict[str, np.ndarray]:
        """Lay out the examples (visit, chunk), ascending by row, in `rows` rows."""
        segments = self._format.segments(visit, chunk)
        layout = Layout(segments, row, rows, self.settings.max_seq_length)
        text = layout.text(self._corpus)
        flat_ids = np.full(rows * layout.length, self._tokenizer.pad_token_id, np.int32)
        flat_ids[layout.start] = self._tokenizer.cls_token_id
        flat_ids[layout.stretch_start + segments.lengths] = self._tokenizer.sep_token_id
        flat_ids[layout.text_place] = text.ids
        masking = self.settings.masking
        draws = Draws(self.settings.seed, visit, chunk)
        count = masking.predictions(layout.example_lengths, np.diff(text.first))
        chosen = choose(masking, text, count, draws, self._tokenizer.continues_word)
        place = layout.text_place[chosen.index]
        flat_ids[place] = replace(
            masking, text, chosen, draws, self._tokenizer.mask_token_id, self._ordinary_ids
        )
        arrays = {"input_ids": flat_ids.reshape(rows, -1), **layout.arrays(self.settings.packing)}
        of_row, position = np.divmod(place, layout.length)
        slot = (of_row, _rank(of_row, rows))
        for name, values, dtype in (
            ("masked_lm_positions", position, np.int32),
            ("masked_lm_ids", text.ids[chosen.index], np.int32),
            ("masked_lm_weights", 1.0, np.float32),
        ):
            arrays[name] = np.zeros((rows, self._predictions), dtype)
            arrays[name][slot] = values
        if self.settings.has_pairs:
            slot = (row, layout.number)
            for name, values, dtype in (
                ("pooled_positions", layout.start % layout.length, np.int32),
                ("next_sentence_labels", segments.labels, np.int32),
                ("next_sentence_weights", segments.weights, np.float32),
            ):
                arrays[name] = np.zeros((rows, self._most_examples), dtype)
                arrays[name][slot] = values
        return arrays


def _rank(group: np.ndarray, groups: int) -> np.ndarray:
    """The place of each member in its group; groups ascend."""
    first = np.searchsorted(group, np.arange(groups))
    return np.arange(len(group)) - first[group]
