"""Training texts that are changed a little in each epoch, in ways that keep their labels.

What becomes of an example depends on the seed and its global index alone: every epoch has other
changes, and a run that goes on, or has other batches, the same ones.

Shape suffixes: B examples of a batch, T tokens.
"""

import dataclasses
from typing import Any

import numpy as np

from ptft_jax.data.batches import Batch
from ptft_jax.data.randomness import uniform
from ptft_jax.data.tasks.training.features import Ordered
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError

_TOKENS = ("input_ids", "attention_mask", "token_type_ids", "segment_ids", "position_ids")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Probabilities of changes, which are made in this order.

    Attributes:
        swap: of each pair of neighbouring words of a text to change places.
        word_dropout: of each word to be left out; each text keeps one at least (random deletion of
            Wei & Zou 2019, EDA).
        token_dropout: of each token to become the mask.
    """

    swap: float = 0.0
    word_dropout: float = 0.0
    token_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value < 1:
                raise ConfigError(
                    f"--config.augment.{name}={value}: expected a probability from 0 to below 1."
                )

    @property
    def moves_words(self) -> bool:
        """Whether words change their places."""
        return bool(self.swap or self.word_dropout)


class Augmented:
    """Examples, a row each, whose batches are changed; what else there is to know, they know."""

    def __init__(
        self, examples: Ordered, tokenizer: TextTokenizer, settings: Augmentation, seed: int
    ) -> None:
        self._examples = examples
        self._settings = settings
        self._seed = seed
        self._special = np.zeros(tokenizer.vocab_size, bool)
        self._special[list(tokenizer.special_ids)] = True
        if tokenizer.unk_token_id is not None:  # it stands for a word
            self._special[tokenizer.unk_token_id] = False
        self._continues = tokenizer.continues_word
        self._mask, self._pad = tokenizer.mask_token_id, tokenizer.pad_token_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._examples, name)

    def __len__(self) -> int:
        return len(self._examples)

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at global `indices` (int64 `[B]`), changed, in arrays of their shapes."""
        batch, settings = self._examples.batch(indices), self._settings
        indices = np.asarray(indices, np.int64)[:, None]
        if settings.swap:
            words, texts = self._words(batch)
            keys = self._swapped(words, texts, indices)
            order = np.argsort(
                np.where(batch["attention_mask"] > 0, keys, np.inf), axis=1, kind="stable"
            )
            # The tokens of a text stay among themselves, so that nothing else moves.
            batch["input_ids"] = np.take_along_axis(batch["input_ids"], order, axis=1)
        if settings.word_dropout:
            words, texts = self._words(batch)
            batch = self._without(batch, self._dropped(words, texts, indices))
        if settings.token_dropout:
            words, _ = self._words(batch)
            chance = uniform(self._seed, "token dropout", indices, np.arange(words.shape[1]))
            chosen = (words > 0) & (chance < settings.token_dropout)
            batch["input_ids"] = np.where(chosen, np.int32(self._mask), batch["input_ids"])
        return batch

    def _words(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """The number of each token's word, from 1 in a row, and of its text; special tokens: 0.

        Both int64 [B, T]. A special token ends a text.
        """
        ids, is_real = batch["input_ids"], batch["attention_mask"] > 0
        plain = is_real & ~self._special[ids]
        before = np.pad(plain, ((0, 0), (1, 0)))[:, :-1]
        begins = plain & ~(before & self._continues[ids])
        texts = np.cumsum(plain & ~before, axis=1)
        return np.where(plain, np.cumsum(begins, axis=1), 0), np.where(plain, texts, 0)

    def _swapped(self, words: np.ndarray, texts: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Keys that sort the tokens of each row into their new order, float64 [B, T]."""
        most = int(words.max(initial=0)) + 2
        # The words of a row in pairs, of which a coin says whether the first one is alone.
        alone = uniform(self._seed, "swap pairs", indices) < 0.5
        number = np.arange(most)
        pair = (number + alone) // 2
        partner = np.where((number + alone) % 2 == 0, number + 1, number - 1)
        text_of = np.zeros((len(words), most + 1), np.int64)
        rows = np.broadcast_to(np.arange(len(words))[:, None], words.shape)
        text_of[rows, words] = texts
        text_of[:, 0] = -1
        both = text_of[:, :-1] == np.take_along_axis(text_of, np.clip(partner, 0, most), axis=1)
        chosen = uniform(self._seed, "swap", indices, pair) < self._settings.swap
        place = np.where(both & chosen & (text_of[:, :-1] > 0), partner, number).astype(np.float64)
        keys = np.take_along_axis(place, words, axis=1)
        # A special token stays behind the words before it.
        latest = np.maximum.accumulate(words, axis=1)
        return np.where(words > 0, keys, latest + 0.5)

    def _dropped(self, words: np.ndarray, texts: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Which tokens are left out, bool [B, T]."""
        chance = uniform(self._seed, "word dropout", indices, words)
        chance[words == 0] = 1.0
        most = int(texts.max(initial=0)) + 1
        highest = np.zeros((len(words), most))
        rows = np.broadcast_to(np.arange(len(words))[:, None], words.shape)
        np.maximum.at(highest, (rows, texts), np.where(words > 0, chance, 0.0))
        kept = chance == np.take_along_axis(highest, texts, axis=1)
        return (words > 0) & (chance < self._settings.word_dropout) & ~kept

    def _without(self, batch: Batch, dropped: np.ndarray) -> Batch:
        """A batch without some tokens, those behind them moved up."""
        is_real = batch["attention_mask"] > 0
        keeps = is_real & ~dropped
        order = np.argsort(~keeps, axis=1, kind="stable")
        end = np.arange(keeps.shape[1]) < keeps.sum(axis=1, keepdims=True)
        found = dict(batch)
        for name in _TOKENS:
            if name in batch:
                empty = self._pad if name == "input_ids" else 0
                moved = np.take_along_axis(batch[name], order, axis=1)
                found[name] = np.where(end, moved, np.int32(empty))
        if "position_ids" in batch:
            # Of several texts in a row each counts from its own [CLS].
            places = np.cumsum(keeps, axis=1) - 1
            pooled = batch["pooled_positions"]
            flat = np.take_along_axis(places, pooled.reshape(len(pooled), -1), axis=1)
            found["pooled_positions"] = flat.reshape(pooled.shape).astype(np.int32)
            first = np.take_along_axis(flat, np.maximum(found["segment_ids"] - 1, 0), axis=1)
            positions = np.arange(keeps.shape[1]) - first
            found["position_ids"] = np.where(end, positions, 0).astype(np.int32)
        return found
