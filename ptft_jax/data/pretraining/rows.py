"""Where the tokens of examples lie in the rows of a batch.

Shapes: B rows, T places of a row, E examples, S stretches, N text tokens.
"""

import numpy as np

from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.masking import FlatText
from ptft_jax.data.pretraining.segments import Segments
from ptft_jax.data.ragged import spread


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
        first_of_row = np.searchsorted(row, row)
        self.number = np.arange(len(row)) - first_of_row
        self.start = row * length + before - before[first_of_row]
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
        types = np.zeros(self._rows * self.length, np.int32)
        second = self.segments.token_types == 1
        types[spread(self.stretch_start[second], self.segments.lengths[second] + 1)] = 1
        flat = {"token_type_ids": types}
        if packed:
            places = spread(self.start, self.example_lengths)
            for name, values in (
                ("segment_ids", np.repeat(self.number + 1, self.example_lengths)),
                ("position_ids", places - np.repeat(self.start, self.example_lengths)),
            ):
                flat[name] = np.zeros(self._rows * self.length, np.int32)
                flat[name][places] = values
        arrays = {name: values.reshape(self._rows, -1) for name, values in flat.items()}
        return {"attention_mask": is_real.astype(np.int32), **arrays}
