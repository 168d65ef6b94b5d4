"""Encoding a word once: the ids of what stands between two spaces are remembered."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count

import numpy as np

# Words remembered at once, and the characters of the longest: about 50 MB at most.
CAPACITY = 1 << 18
LONGEST_WORD = 64

# Number of every word whose ids depend on what stands around it, or that is too long to keep: the
# texts that hold one are encoded whole.
_ENTANGLED = 0


class WordCache:
    """Encodes texts word by word, for tokenizers to which the words of a text are independent.

    Nearly all words of a text are among those that were seen before, and looking one up is an order
    of magnitude cheaper than encoding it.
    """

    def __init__(
        self,
        encode_words: Callable[[list[str]], list[list[int] | None]],
        encode_texts: Callable[[list[str]], list[list[int]]],
    ) -> None:
        """Makes an empty cache.

        encode_words: the ids of words that occur between single spaces; None where they cannot be
        told without the text around. encode_texts: the ids of whole texts.
        """
        self._encode_words = encode_words
        self._encode_texts = encode_texts
        self._words = _Numbers()
        # The ids of word i lie in `_ids` from `_ends[i - 1]` to `_ends[i]`.
        self._ids = array("I")
        self._ends = array("q", [0])
        self._entangled = array("b", [True])
        self._hits = np.zeros(1, np.int64)

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all texts (uint32 [N]) and how many each has (int64 [texts])."""
        if not texts:
            return np.zeros(0, np.uint32), np.zeros(0, np.int64)
        split = [text.split(" ") for text in texts]
        counts = np.fromiter(map(len, split), np.int64, len(split))
        words = np.fromiter(
            map(self._words.__getitem__, chain.from_iterable(split)), np.int64, int(counts.sum())
        )
        self._encode_new()
        first = np.cumsum(counts) - counts
        entangled = np.frombuffer(self._entangled, np.int8)[words]
        is_whole = np.maximum.reduceat(entangled, first).astype(bool)
        starts, sizes = self._places(words)
        sizes[np.repeat(is_whole, counts)] = 0
        ids = self._gather(starts, sizes)
        lengths = np.add.reduceat(sizes, first)
        if is_whole.any():
            whole = self._encode_texts([texts[i] for i in np.flatnonzero(is_whole).tolist()])
            lengths[is_whole] = [len(found) for found in whole]
            is_cached = np.repeat(~is_whole, lengths)
            merged = np.empty(len(is_cached), np.uint32)
            merged[is_cached] = ids
            merged[~is_cached] = list(chain.from_iterable(whole))
            ids = merged
        hits = np.bincount(words, minlength=len(self._ends))
        hits[: len(self._hits)] += self._hits
        self._hits = hits
        if len(self._words) > CAPACITY:
            self._keep_frequent()
        return ids, lengths

    def _encode_new(self) -> None:
        for found in self._encode_words(self._words.new) if self._words.new else ():
            self._ids.extend(found or ())
            self._ends.append(len(self._ids))
            self._entangled.append(found is None)
        self._words.new = []

    def _places(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the ids of each word begin in `_ids`, and how many they are."""
        ends = np.frombuffer(self._ends, np.int64)
        starts = ends[words - 1]
        return starts, ends[words] - starts

    def _gather(self, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """The ids at these places of `_ids`, one place after the other."""
        shifts = starts - (np.cumsum(sizes) - sizes)
        places = np.repeat(shifts, sizes) + np.arange(int(sizes.sum()))
        if not len(places):
            return np.zeros(0, np.uint32)
        return np.frombuffer(self._ids, np.uint32)[places]

    def _keep_frequent(self) -> None:
        """Forgets all but the words that were looked up most often since it last forgot."""
        kept = np.argsort(-self._hits[1:], kind="stable")[: CAPACITY // 2] + 1
        names = list(self._words)
        starts, sizes = self._places(kept)
        ids = self._gather(starts, sizes)
        entangled = np.frombuffer(self._entangled, np.int8)[kept]
        self._words = _Numbers(names[number - 1] for number in kept.tolist())
        self._ids = array("I", ids.tobytes())
        self._ends = array("q", np.concatenate([[0], np.cumsum(sizes)]).tobytes())
        self._entangled = array("b", [True, *entangled.tolist()])
        self._hits = np.zeros(len(self._ends), np.int64)


class _Numbers(dict[str, int]):
    """Numbers words from 1 in the order of their first look-up; `new` are those not encoded yet."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        super().__init__(zip(words, count(1), strict=False))
        self.new: list[str] = []

    def __missing__(self, word: str) -> int:
        if len(word) > LONGEST_WORD:
            return _ENTANGLED
        self.new.append(word)
        self[word] = number = len(self) + 1
        return number
