"""Questions with windows of their contexts, and answers from the model's logits.

A context that does not fit is cut into windows `[CLS] question [SEP] piece [SEP]` that overlap by
`doc_stride` tokens, as Hugging Face's fast tokenizers cut with `truncation="only_second"` and
`return_overflowing_tokens`; the targets are those of transformers' `run_qa`, the answers those of
its `postprocess_qa_predictions` (examples/pytorch/question-answering).
"""

from collections.abc import Mapping, Sequence
from itertools import batched
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.data.batches import Batch, InEpochs
from ptft_jax.data.tasks.classification import length_buckets_of
from ptft_jax.data.tasks.span.splits import SpanSplit
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError

_BLOCK = 1024
_SPECIAL = 3  # [CLS] and two times [SEP]


class Candidate(NamedTuple):
    """A possible answer: characters of the context, the sum of two logits, and these."""

    start: int
    end: int
    score: float
    start_logit: float
    end_logit: float


class SpanExamples(InEpochs):
    """Random access to the windows of one split: index g is window g % len of epoch g // len.

    The windows of a question follow each other, questions as in the split. `buckets` are the
    lengths that batches are padded to, the last is `max_seq_length`. `num_windowed` counts the
    questions with more than one window, `num_truncated` those that were cut themselves. `lengths`
    are the tokens of each window, int64 [windows].
    """

    token_keys = ()

    def __init__(
        self,
        split: SpanSplit,
        tokenizer: TextTokenizer,
        max_seq_length: int,
        *,
        doc_stride: int = 128,
        max_query_length: int = 64,
        unanswerable: bool = False,
        n_best: int = 20,
        max_answer_length: int = 30,
        seed: int = 0,
        shuffle: bool = False,
        length_buckets: Sequence[int] | None = None,
    ) -> None:
        """Tokenises a split.

        doc_stride: tokens that two windows share. max_query_length: tokens of a question.
        unanswerable, n_best, max_answer_length (in tokens): for `decode`. shuffle: each epoch has
        its own order of windows, which depends on nothing but (seed, epoch). length_buckets: None
        means the multiples of 32; () pads everything to max_seq_length. Raises ConfigError for
        lengths that cannot be.
        """
        least = max_query_length + _SPECIAL + 1 + doc_stride
        if max_seq_length < least or min(max_query_length, doc_stride + 1) < 1:
            raise ConfigError(
                f"max_seq_length={max_seq_length}, max_query_length={max_query_length}, "
                f"doc_stride={doc_stride}: expected at least {least} tokens, {_SPECIAL} special "
                "ones and one of the context more than question and stride together; raise "
                "max_seq_length or lower doc_stride"
            )
        for name, value in (("n_best", n_best), ("max_answer_length", max_answer_length)):
            if value < 1:
                raise ConfigError(f"{name}={value}: expected at least 1")
        self._split = split
        self._unanswerable = unanswerable
        self._n_best = n_best
        self._max_answer_length = max_answer_length
        self._seed = seed
        self._shuffle = shuffle
        self._special_ids = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
        self.buckets = length_buckets_of(max_seq_length, length_buckets)

        self._questions, _, lengths = _encode(split.questions, tokenizer)
        self._question_starts = _first(lengths)
        self._question_lengths = np.minimum(lengths, max_query_length)
        self.num_truncated = int(np.sum(lengths > max_query_length))
        self._contexts, self._offsets, lengths = _encode(split.contexts, tokenizer)
        starts = _first(lengths)[split.context_of]
        lengths = lengths[split.context_of]

        # Of each question the windows: how many, and of each window its question and its place
        # among the context's tokens.
        room = max_seq_length - _SPECIAL - self._question_lengths
        step = room - doc_stride
        counts = 1 + np.maximum(0, -(-(lengths - room) // step))
        self.num_windowed = int(np.sum(counts > 1))
        self._first_windows = _first(counts)
        self._question_of = np.repeat(np.arange(len(split)), counts)
        number = np.arange(len(self._question_of)) - self._first_windows[self._question_of]
        inside = number * step[self._question_of]
        self._starts = starts[self._question_of] + inside
        self._lengths = np.minimum(room[self._question_of], lengths[self._question_of] - inside)
        self.lengths = self._question_lengths[self._question_of] + self._lengths + _SPECIAL
        self._targets = None if split.answers is None else self._find_targets(starts, lengths)

    def _find_targets(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Where in each window the answer begins and ends, int32 [windows, 2]; 0 where it is not.

        The answer is the first of the question's that has a place.
        """
        assert self._split.answers is not None
        tokens = np.full((len(self._split), 2), -1, np.int64)
        for row, answers in enumerate(self._split.answers):
            answer = next((a for a in answers if a.start is not None), None)
            if answer is None or answer.start is None:
                continue
            offsets = self._offsets[starts[row] : starts[row] + lengths[row]]
            # The tokens that hold a character of the answer.
            first = np.searchsorted(offsets[:, 1], answer.start, side="right")
            last = np.searchsorted(offsets[:, 0], answer.start + len(answer.text), side="left") - 1
            if first <= last:
                tokens[row] = starts[row] + first, starts[row] + last
        inside = tokens[self._question_of] - self._starts[:, None]
        fits = (inside[:, 0] >= 0) & (inside[:, 1] < self._lengths)
        begin = self._question_lengths[self._question_of] + 2
        return np.where(fits[:, None], inside + begin[:, None], 0).astype(np.int32)

    def __len__(self) -> int:
        return len(self._question_of)

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows at global `indices` (int64 `[B]`), padded together.

        input_ids, attention_mask and token_type_ids are int32 `[B, T]`; start_positions and
        end_positions are int32 `[B, 1]` (0, [CLS]: no answer here), and absent in a split without
        answers; weights is float32 `[B, 1]` (ones).
        """
        rows = self.rows(indices)
        questions = self._question_of[rows]
        first = self._question_lengths[questions, None] + 2  # of the context's tokens
        last = first + self._lengths[rows, None]  # the second [SEP]
        length = next(bucket for bucket in self.buckets if bucket > last.max())
        positions = np.arange(length)
        in_question = (positions > 0) & (positions < first - 1)
        in_context = (positions >= first) & (positions < last)
        is_real = positions <= last
        cls_id, sep_id, pad_id = self._special_ids
        input_ids = np.where(is_real, np.int32(sep_id), np.int32(pad_id))
        input_ids[:, 0] = cls_id
        places = self._question_starts[questions, None] + positions - 1
        input_ids[in_question] = self._questions[places[in_question]]
        places = self._starts[rows, None] + positions - first
        input_ids[in_context] = self._contexts[places[in_context]]
        batch = {
            "input_ids": input_ids,
            "attention_mask": is_real.astype(np.int32),
            "token_type_ids": (is_real & (positions >= first)).astype(np.int32),
            "weights": np.ones((len(rows), 1), np.float32),
        }
        if self._targets is not None:
            targets = self._targets[rows]
            batch["start_positions"], batch["end_positions"] = targets[:, :1], targets[:, 1:]
        return batch

    def decode(
        self, outputs: Mapping[str, np.ndarray], null_score_threshold: float = 0.0
    ) -> list[dict[str, Any]]:
        """The answer to each question of the split, from `start` and `end`, logits `[windows, T]`.

        The rows are the windows in their order. Each answer has its `text`, the characters `start`
        and `end` between which it stands in the context, its `score` (softmax over `nbest`), and
        `nbest`, the candidates with their logits, the likeliest first. Where questions may be
        unanswerable, `null_score_diff` is the score of no answer less that of the best one; the
        text is "" where that is more than `null_score_threshold`.
        """
        start, end = outputs["start"], outputs["end"]
        if len(start) != len(self) or start.shape != end.shape:
            raise ValueError(f"logits {start.shape}, {end.shape} do not fit {len(self)} windows")
        answers = []
        for question in range(len(self._split)):
            first = self._first_windows[question]
            is_last = question + 1 == len(self._split)
            stop = len(self) if is_last else self._first_windows[question + 1]
            found = [c for w in range(first, stop) for c in self._candidates(w, start[w], end[w])]
            null = None
            if self._unanswerable:
                row = first + int(np.argmin(start[first:stop, 0] + end[first:stop, 0]))
                scores = float(start[row, 0]), float(end[row, 0])
                null = Candidate(0, 0, float(start[row, 0] + end[row, 0]), *scores)
            context = self._split.contexts[self._split.context_of[question]]
            answers.append(self._answer(context, found, null, null_score_threshold))
        return answers

    def _candidates(self, window: int, start: np.ndarray, end: np.ndarray) -> list[Candidate]:
        """The pairs of the likeliest starts and ends of one window that can be an answer."""
        first = int(self._question_lengths[self._question_of[window]]) + 2
        stop = first + int(self._lengths[window])
        # Tokens outside the context are among the likeliest, but give no answer.
        starts, ends = (
            np.argsort(-logits[: stop + 1], kind="stable")[: self._n_best]
            for logits in (start, end)
        )
        lengths = ends - starts[:, None] + 1
        fits = (starts[:, None] >= first) & (ends < stop)
        pairs = np.argwhere(fits & (lengths >= 1) & (lengths <= self._max_answer_length))
        starts, ends = starts[pairs[:, 0]], ends[pairs[:, 1]]
        scores = start[starts] + end[ends]
        best = np.argsort(-scores, kind="stable")[: self._n_best]
        offsets = self._offsets[self._starts[window] :]
        return [
            Candidate(
                int(offsets[starts[i] - first, 0]),
                int(offsets[ends[i] - first, 1]),
                float(scores[i]),
                float(start[starts[i]]),
                float(end[ends[i]]),
            )
            for i in best
        ]

    def _answer(
        self, context: str, found: list[Candidate], null: Candidate | None, threshold: float
    ) -> dict[str, Any]:
        if null is not None:
            found.append(null)
        found = sorted(found, key=lambda candidate: -candidate.score)[: self._n_best]
        if null is not None and not any(c.start == c.end == 0 for c in found):
            found.append(null)
        if not found:
            return {"text": "", "score": 1.0, "start": 0, "end": 0, "nbest": []}
        scores = np.array([candidate.score for candidate in found])
        exponentials = np.exp(scores - scores.max())
        probabilities = exponentials / exponentials.sum()
        nbest = [
            {
                "text": context[c.start : c.end],
                "score": float(probability),
                **{key: getattr(c, key) for key in ("start", "end", "start_logit", "end_logit")},
            }
            for c, probability in zip(found, probabilities, strict=True)
        ]
        chosen, more = nbest[0], {}
        if null is not None:
            nulls = next(entry for entry in nbest if entry["start"] == entry["end"] == 0)
            chosen = next((entry for entry in nbest if entry["text"]), nulls)
            # As a question without a candidate in transformers, which has a score of 0.
            best = chosen["start_logit"] + chosen["end_logit"] if chosen["text"] else 0.0
            more = {"null_score_diff": null.score - best}
            if more["null_score_diff"] > threshold:
                chosen = nulls
        kept = {key: chosen[key] for key in ("text", "score", "start", "end")}
        return kept | more | {"nbest": nbest}


def _encode(
    texts: Sequence[str], tokenizer: TextTokenizer
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All texts' tokens (int32 [N]) and offsets (int32 [N, 2]), and how many each has."""
    tokens, offsets, lengths = [np.zeros(0, np.int32)], [np.zeros((0, 2), np.int32)], []
    for block in batched(texts, _BLOCK):
        for ids, places in tokenizer.encode_with_offsets(block):
            tokens.append(np.array(ids, np.int32))
            offsets.append(places)
            lengths.append(len(ids))
    return np.concatenate(tokens), np.concatenate(offsets), np.array(lengths, np.int64)


def _first(lengths: np.ndarray) -> np.ndarray:
    """Where each of several sequences begins when they lie one behind the other."""
    return np.cumsum(lengths) - lengths
