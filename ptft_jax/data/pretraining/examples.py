"""Pretraining examples with masked tokens, made afresh for every epoch, by index.

The formats of examples:

* `nsp`: A, and B: what follows A, or text of another document (Devlin et al. 2019, section 3.1)
* `sop`: two neighbouring segments in their order, or swapped (Lan et al. 2019, section 3.1)
* `full_sentences`: whole sentences, on across documents with [SEP] between (Liu et al. 2019, 4.2)
* `doc_sentences`: whole sentences of one document (Liu et al. 2019, section 4.2)
* `single_segment`: a document cut every so many tokens, wherever a sentence ends

What is masked in them says `masking`, and which of them share a row `packing`; here they get an
order and become arrays. Every choice is a function of (seed, visit, chunk), so it depends on
neither batches nor processes. A visit is one use of a chunk: its epoch, unless a source's weight
asks for it more often.

Shapes: B rows, T places of a row, E examples, S stretches, N text tokens.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.masking import (
    MOST_PLACES,
    Draws,
    FlatText,
    MaskingSettings,
    choose,
    replace,
)
from ptft_jax.data.pretraining.pairs import NextSentence, SentenceOrder
from ptft_jax.data.pretraining.segments import (
    DocSentences,
    Format,
    FullSentences,
    Segments,
    SingleSegment,
)
from ptft_jax.data.ragged import spread
from ptft_jax.data.randomness import shuffled_index
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError

FORMATS: dict[str, Any] = {
    "nsp": NextSentence,
    "sop": SentenceOrder,
    "full_sentences": FullSentences,
    "doc_sentences": DocSentences,
    "single_segment": SingleSegment,
}
# The formats whose examples have two segments and a label.
PAIR_FORMATS = ("nsp", "sop")


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


class Sampler:
    """From a place in an epoch to a chunk: every chunk once, or `weight` times its source's.

    A weight of 2.5 gives each chunk of a source two places in every epoch, and a half of them,
    another half in each epoch, a third one. A source has at least one place in each epoch. `len`
    counts the places of an epoch, and `entries`, int64 [S], those of each source.
    """

    def __init__(self, first_chunks: np.ndarray, weights: np.ndarray, seed: int) -> None:
        """`first_chunks` int64 [S + 1]: where each source begins; `weights` float64 [S]."""
        self._first = np.asarray(first_chunks, np.int64)
        self._sizes = np.diff(self._first)
        entries = np.rint(self._sizes * weights).astype(np.int64)
        entries = np.maximum(entries, np.minimum(self._sizes, 1))
        self.entries = entries
        self._seed = seed
        self._bounds = np.concatenate([[0], np.cumsum(entries)])
        # Of each source by itself: counted alike for all, the visits of a source of weight 1 would
        # be all even beside one of weight 2, and meet every second duplicate only.
        self._copies = -(-entries // np.maximum(self._sizes, 1))

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def draw(self, epoch: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The visits and chunks, int64 [E], at places [E] of epochs [E].

        A visit numbers the uses of a chunk; it is the epoch where no chunk has two places in one.
        """
        entry = shuffled_index(place, len(self), self._seed, epoch)
        source = np.searchsorted(self._bounds, entry, side="right") - 1
        copy, chunk = np.divmod(entry - self._bounds[source], self._sizes[source])
        # The last copy of a source may be a part of it only: a part that each epoch draws anew.
        entries = self._bounds[source + 1] - self._bounds[source]
        in_part = (copy + 1) * self._sizes[source] > entries
        for number in np.unique(source[in_part]):
            here = in_part & (source == number)
            key = epoch[here] * len(self._sizes) + number
            chunk[here] = shuffled_index(
                chunk[here], int(self._sizes[number]), self._seed, key, "part of a source"
            )
        return epoch * self._copies[source] + copy, chunk + self._first[source]


class PretrainingExamples:
    """The rows of a corpus: len(self) in an epoch, in another order and masked anew in each.

    Global index g is row g % len of epoch g // len. Without packing a row is an example, and every
    epoch has each chunk of the corpus once (or as often as its source's weight says; for the few
    chunks of `nsp` that come again or not at all see `NextSentence`). With packing, `windows` says
    which examples a row holds.
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
        found = (tokenizer.sha256, tokenizer.vocab_size)
        if found != (corpus.manifest.tokenizer_sha256, corpus.vocab_size):
            raise DataError(
                f"the tokenizer ({tokenizer.vocab_size} tokens) is not the one the corpus was "
                f"encoded with ({corpus.vocab_size} tokens): use the one in {corpus.tokenizer_dir}"
            )
        self._corpus = corpus
        self._tokenizer = tokenizer
        self.settings = settings
        is_special = np.isin(np.arange(tokenizer.vocab_size), tokenizer.special_ids)
        self._ordinary_ids = np.flatnonzero(~is_special).astype(np.int32)
        self.format: Format = FORMATS[settings.input_format](
            corpus, settings.seed, settings.max_seq_length, settings.short_seq_prob
        )
        # Held-out text is read once each: it is there to compare models.
        weights = corpus.source_weights
        weights = weights if corpus.split == "train" else np.ones_like(weights)
        self._sampler = Sampler(self.format.first_chunks(), weights, settings.seed)
        self.num_examples = len(self._sampler)
        masking = settings.masking
        self._predictions = masking.max_predictions_per_seq
        self._most_examples, self.windows = 1, None
        if settings.packing:
            from ptft_jax.data.pretraining.packing import Windows  # no other run needs it

            length = settings.max_seq_length
            self.windows = Windows(
                self.num_examples,
                self.lengths,
                length,
                settings.max_sequences_per_pack,
                settings.seed,
            )
            self._most_examples = self.windows.most_per_row
            # Rounding gives each example at most one prediction more than its share.
            share = int(np.ceil(masking.masked_lm_prob * length))
            self._predictions = min(
                share + self._most_examples, self._predictions * self._most_examples
            )

    def __len__(self) -> int:
        return self.num_examples if self.windows is None else len(self.windows)

    @property
    def random_next_share(self) -> float | None:
        """The share of examples whose B is random, in epoch 0; None if the format has none."""
        if not isinstance(self.format, NextSentence):
            return None
        return float(np.average(self.format.random_shares, weights=self._sampler.entries))

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
        epoch, place = np.divmod(np.asarray(indices, np.int64), len(self))
        row = np.arange(len(place))
        if self.windows is not None:
            epoch, place, row = self.windows.examples_in(epoch, place)
        visit, chunk = self.draw(epoch, place)
        return self._make_rows(visit, chunk, row, len(indices))

    def draw(self, epoch: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The visits and chunks, int64 [E], of the examples at places [E] of epochs [E]."""
        visit, chunk = self._sampler.draw(epoch, place)
        return (visit % self.settings.dupe_factor if self.settings.dupe_factor else visit), chunk

    def lengths(self, epoch: int, first: int, end: int) -> np.ndarray:
        """The tokens of the examples at the places from `first` up to `end` of an epoch."""
        place = np.arange(first, end)
        visit, chunk = self.draw(np.full(len(place), epoch), place)
        return self.format.segments(visit, chunk).example_lengths()

    def _make_rows(
        self, visit: np.ndarray, chunk: np.ndarray, row: np.ndarray, rows: int
    ) -> dict[str, np.ndarray]:
        """Lay out the examples (visit, chunk), ascending by row, in `rows` rows."""
        segments = self.format.segments(visit, chunk)
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
        shape, slot = (rows, self._predictions), (of_row, _rank(of_row))
        arrays |= {
            "masked_lm_positions": _filled(shape, np.int32, slot, position),
            "masked_lm_ids": _filled(shape, np.int32, slot, text.ids[chosen.index]),
            "masked_lm_weights": _filled(shape, np.float32, slot, 1.0),
        }
        if self.settings.has_pairs:
            shape, slot = (rows, self._most_examples), (row, layout.number)
            arrays |= {
                "pooled_positions": _filled(shape, np.int32, slot, layout.start % layout.length),
                "next_sentence_labels": _filled(shape, np.int32, slot, segments.labels),
                "next_sentence_weights": _filled(shape, np.float32, slot, segments.weights),
            }
        return arrays


class Layout:
    """The places of examples in rows, where they are written one behind the other.

    An example is [CLS], and [SEP] after each of its stretches. Places count all rows: place p is in
    row p // T.

    Attributes:
        length: T.
        start: the place of each [CLS], int64 [E].
        number: which example of its row each is, from 0, int64 [E].
        example_lengths: tokens of each, int64 [E].
        stretch_start: the first place of each stretch, int64 [S].
        text_place: the place of each text token, int64 [N].
    """

    def __init__(self, segments: Segments, row: np.ndarray, rows: int, length: int) -> None:
        self.length = length
        self.segments = segments
        self._rows = rows
        self.example_lengths = segments.example_lengths()
        # The place of [CLS]: after the examples before it in its row.
        before = np.cumsum(self.example_lengths) - self.example_lengths
        self.number = _rank(row)
        self.start = row * length + before - before[np.arange(len(row)) - self.number]
        self._row_lengths = np.bincount(row, self.example_lengths, minlength=rows)
        # Each stretch lies behind [CLS] and the stretches before it, each with its [SEP].
        with_sep = segments.lengths + 1
        before = np.cumsum(with_sep) - with_sep
        first = np.searchsorted(segments.example, segments.example)
        self.stretch_start = self.start[segments.example] + 1 + before - before[first]
        self.text_place = spread(self.stretch_start, segments.lengths)

    def text(self, corpus: Corpus) -> FlatText:
        """The text of the examples, without the special tokens."""
        segments = self.segments
        example = np.repeat(segments.example, segments.lengths)
        begins = np.zeros(len(example), bool)
        begins[np.cumsum(segments.lengths) - segments.lengths] = True
        return FlatText(
            corpus.gather(segments.starts, segments.lengths),
            example,
            self.text_place - self.start[example],
            begins,
            np.searchsorted(example, np.arange(len(self.example_lengths) + 1)),
        )

    def arrays(self, packed: bool) -> dict[str, np.ndarray]:
        """The arrays [B, T] that say what the tokens are, without the tokens."""
        is_real = np.arange(self.length) < self._row_lengths[:, None]
        second = self.segments.token_types == 1
        of_second = spread(self.stretch_start[second], self.segments.lengths[second] + 1)
        values: dict[str, tuple[np.ndarray, Any]] = {"token_type_ids": (of_second, 1)}
        if packed:
            places, lengths = spread(self.start, self.example_lengths), self.example_lengths
            values["segment_ids"] = places, np.repeat(self.number + 1, lengths)
            values["position_ids"] = places, places - np.repeat(self.start, lengths)
        arrays = {"attention_mask": is_real.astype(np.int32)}
        for name, (places, value) in values.items():
            flat = _filled((self._rows * self.length,), np.int32, places, value)
            arrays[name] = flat.reshape(self._rows, -1)
        return arrays


def _rank(group: np.ndarray) -> np.ndarray:
    """The place of each member in its group; groups ascend."""
    return np.arange(len(group)) - np.searchsorted(group, group)


def _filled(shape: tuple[int, ...], dtype: Any, places: Any, values: Any) -> np.ndarray:
    """Zeros with values at some places."""
    array = np.zeros(shape, dtype)
    array[places] = values
    return array
