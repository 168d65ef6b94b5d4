"""Texts of episodes as batches of BERT's input."""

from collections.abc import Sequence
from itertools import batched

import numpy as np

from ptft_jax.data.batches import Batch
from ptft_jax.data.ragged import firsts
from ptft_jax.data.tasks.classification import (
    BLOCK,
    ClassificationExamples,
    Formatted,
    format_texts,
)
from ptft_jax.data.tasks.episodes.drawing import Episodes
from ptft_jax.data.tasks.episodes.splits import EpisodeSplit, Marked
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer


class EpisodeExamples(ClassificationExamples):
    """Random access to the texts of one split, or of its episodes, an example each.

    Of episodes the texts of one stand behind each other, those of episode e at global indices
    e * size, …; there are as many indices to an epoch as whole episodes take that have at least as
    many texts as the split. Else as `ClassificationExamples`.
    """

    def __init__(
        self,
        split: EpisodeSplit,
        tokenizer: TextTokenizer,
        max_seq_length: int,
        *,
        at_entities: bool = False,
        episodes: Episodes | None = None,
        length_buckets: Sequence[int] | None = None,
    ) -> None:
        """Tokenises a split.

        at_entities: pooled positions are those of its entities, and not of [CLS]. episodes: None
        means that the examples are the split's texts, each once.
        """
        self._episodes = episodes
        self._entities: np.ndarray | None = None
        self._at_entities = at_entities
        super().__init__(split, tokenizer, max_seq_length, length_buckets=length_buckets)

    def _formatted(
        self, split: EpisodeSplit, tokenizer: TextTokenizer, max_seq_length: int
    ) -> Formatted:
        if split.marked is None:
            return format_texts(split.texts, None, tokenizer, max_seq_length)
        texts, self._entities = _format_marked(split.marked, tokenizer, max_seq_length)
        return texts

    def __len__(self) -> int:
        count = super().__len__()
        if self._episodes is None:
            return count
        size = self._episodes.shape.size
        return -(-count // size) * size

    def rows(self, indices: np.ndarray) -> np.ndarray:
        if self._episodes is None:
            return super().rows(indices)
        numbers, places = np.divmod(np.asarray(indices, np.int64), self._episodes.shape.size)
        drawn, which = np.unique(numbers, return_inverse=True)
        return self._episodes.draw(drawn)[which, places]

    def batch(self, indices: np.ndarray) -> Batch:
        """The texts at global `indices` (int64 `[B]`), padded together.

        As `ClassificationExamples.batch`; pooled_positions at entities are those of the first
        markers of head and tail, int32 `[B, 1, 2]`. Of episodes labels are those within the
        episode, from 0, the number of classes for none of them; episodes, which one of the batch it
        is, from 0, int32 `[B, 1]`; and query_weights float32 `[B, 1]` 1 for texts that are to be
        classified, 0 for those of supports.
        """
        rows = self.rows(indices)
        batch = self._batch_of(rows)
        if self._at_entities:
            assert self._entities is not None
            batch["pooled_positions"] = self._entities[rows][:, None]
        if self._episodes is not None:
            shape = self._episodes.shape
            numbers, places = np.divmod(np.asarray(indices, np.int64), shape.size)
            batch["labels"] = shape.labels[places][:, None]
            batch["episodes"] = (numbers - numbers.min()).astype(np.int32)[:, None]
            batch["query_weights"] = (places >= shape.supports).astype(np.float32)[:, None]
        return batch


def _format_marked(
    sentences: Sequence[Marked], tokenizer: TextTokenizer, max_seq_length: int
) -> tuple[Formatted, np.ndarray]:
    """Tokenises sentences word by word; also returns where both entities begin, int32 [N, 2]."""
    room = max_seq_length - 2
    unknown = tokenizer.unk_token_id
    stand_in = tokenizer.mask_token_id if unknown is None else unknown
    tokens, places, lengths, is_cut = [], [], [], []
    for block in batched(sentences, BLOCK):
        for sentence, (ids, words) in zip(
            block, tokenizer.encode_words([one.words for one in block]), strict=True
        ):
            # Word w is tokens [at[w], at[w + 1]).
            at = np.searchsorted(words, np.arange(len(sentence.words) + 1))
            found = np.array(ids, np.int32)
            for word in sorted((*sentence.head, *sentence.tail)):
                if at[word] == at[word + 1]:  # a marker that the tokenizer leaves nothing of
                    found = np.insert(found, at[word], stand_in)
                    at[word + 1 :] += 1
            begins = [int(at[entity[0]]) for entity in (sentence.head, sentence.tail)]
            end = int(at[max(sentence.head[1], sentence.tail[1]) + 1])
            kept = _kept(min(begins), max(begins), end, len(found), room)
            framed = [tokenizer.cls_token_id, *found[kept], tokenizer.sep_token_id]
            tokens.append(np.array(framed, np.int32))
            places.append(np.searchsorted(kept, begins) + 1)
            lengths.append(len(framed))
            is_cut.append(len(kept) < len(found))
    sizes = np.array(lengths, np.int64)
    texts = Formatted(np.concatenate(tokens), firsts(sizes), sizes, sizes, np.array(is_cut))
    return texts, np.array(places, np.int32)


def _kept(begin: int, second: int, end: int, count: int, room: int) -> np.ndarray:
    """Which of `count` tokens fit into `room`, when the entities are in [begin, end).

    `second` is where the second one begins. What is too long loses its end, then its beginning, and
    then what is between the entities.
    """
    if end - begin <= room:
        first = max(0, end - room)
        return np.arange(first, min(count, first + room))
    of_second = min(end - second, room // 2)
    if second <= begin + room - of_second:
        return np.arange(begin, begin + room)
    return np.concatenate(
        [np.arange(begin, begin + room - of_second), np.arange(second, second + of_second)]
    )
