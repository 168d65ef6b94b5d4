# ruff: noqa: RUF001 (the marks of Chinese and of French are meant)
"""The official scores of SQuAD 1.1 and 2.0 and of CMRC 2018: exact match and F1.

They follow `evaluate-v1.1.py` and `evaluate-v2.0.py` (Rajpurkar et al. 2016, 2018) and
`cmrc2018_evaluate.py` (Cui et al. 2019). Scores are shares from 0 to 1, as those of
`objectives.metrics`; the scripts print percent.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ptft_jax.errors import ConfigError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# What CMRC's script calls special characters, "……" aside: it compares single characters.
_CMRC_NO_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CHINESE = re.compile("([\u4e00-\u9fa5])")


class Scores(NamedTuple):
    """The scores of N questions, float64 [N]; `has_answer`, bool [N], by the answers themselves."""

    exact_match: np.ndarray
    f1: np.ndarray
    has_answer: np.ndarray


def score_answers(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    *,
    unanswerable: bool = False,
    by_character: bool = False,
) -> Scores:
    """Scores the text predicted for each question against the answers to it.

    Of several answers the one counts that gives most. With `unanswerable`, as in 2.0, the right
    prediction is "" for a question whose answers are none or all empty once normalised; without it,
    as in 1.1, an empty text has no F1. `by_character` scores as CMRC 2018 does.
    """
    if len(predictions) != len(answers):
        raise ValueError(f"{len(predictions)} predictions for {len(answers)} questions")
    if not predictions:
        raise ConfigError("there are no questions to score")
    exact_score, f1_score = (_cmrc_exact, _cmrc_f1) if by_character else (_exact, _f1)
    exact, f1 = np.zeros(len(predictions)), np.zeros(len(predictions))
    for row, (prediction, right) in enumerate(zip(predictions, answers, strict=True)):
        if unanswerable:
            right = [answer for answer in right if normalize_answer(answer)] or [""]
        exact[row] = max(exact_score(prediction, answer) for answer in right)
        f1[row] = max(f1_score(prediction, answer) for answer in right)
        if unanswerable and exact[row] and not normalize_answer(prediction):
            f1[row] = 1.0
    return Scores(exact, f1, np.array([bool(right) for right in answers]))


class Threshold(NamedTuple):
    """The best mean score over thresholds of null_score_diff, and the threshold that gives it."""

    score: float
    threshold: float


def best_threshold(
    scores: np.ndarray, has_answer: np.ndarray, null_score_diffs: np.ndarray
) -> Threshold:
    """Where to predict no answer, so that the mean score is highest (`find_best_thresh`).

    A question whose null_score_diff is more than the threshold is given no answer. `scores` [N]
    are those of the answers that are not empty. The score is the official one; the threshold lies
    halfway between the last difference below it and the next (beyond the ends: 1 away), where the
    script takes the former, which a rounding error puts on the other side.
    """
    order = np.argsort(null_score_diffs, kind="stable")
    diffs = null_score_diffs[order]
    # Answering one more question adds its score, and loses one that has no answer.
    gains = np.cumsum(np.where(has_answer, scores, -1.0)[order])
    # Questions of one difference are answered together.
    gains[:-1][diffs[:-1] == diffs[1:]] = -np.inf
    gains = np.concatenate([[0.0], gains])
    best = int(np.argmax(gains))  # so many questions are answered
    edges = np.concatenate([[diffs[0] - 2.0], diffs, [diffs[-1] + 2.0]])
    score = (np.sum(~has_answer) + gains[best]) / len(scores)
    return Threshold(float(score), float(edges[best] + edges[best + 1]) / 2)


def with_threshold(scores: Scores, null_score_diffs: np.ndarray, threshold: float) -> Scores:
    """The scores where no answer is given to questions whose difference is above `threshold`."""
    is_null = null_score_diffs > threshold
    exact, f1 = (np.where(is_null, ~scores.has_answer, kept) for kept in scores[:2])
    return Scores(exact.astype(float), f1.astype(float), scores.has_answer)


def normalize_answer(text: str) -> str:
    """A text in lower case, without punctuation, articles and more than single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _exact(prediction: str, answer: str) -> float:
    return float(normalize_answer(prediction) == normalize_answer(answer))


def _f1(prediction: str, answer: str) -> float:
    words = normalize_answer(prediction).split(), normalize_answer(answer).split()
    same = sum((Counter(words[0]) & Counter(words[1])).values())
    return _harmonic(same, *map(len, words))


def _cmrc_exact(prediction: str, answer: str) -> float:
    return float(_without_punctuation(prediction) == _without_punctuation(answer))


def _cmrc_f1(prediction: str, answer: str) -> float:
    """F1 of the longest run of segments that both have: Chinese characters and other words."""
    ours, theirs = _segments(prediction), _segments(answer)
    longest = 0
    # Of each segment of the answer: how long the run is that ends there and at segment `ours[i]`.
    runs = [0] * (len(theirs) + 1)
    for segment in ours:
        runs = [0, *(runs[j] + 1 if segment == theirs[j] else 0 for j in range(len(theirs)))]
        longest = max(longest, *runs)
    return _harmonic(longest, len(ours), len(theirs))


def _without_punctuation(text: str) -> str:
    return text.lower().strip().translate(_CMRC_NO_PUNCTUATION)


def _segments(text: str) -> list[str]:
    """Chinese characters one by one, what stands between them in words as NLTK cuts them."""
    parts = _CHINESE.split(_without_punctuation(text))
    found = []
    for number, part in enumerate(parts):
        found += [part] if number % 2 else _words(part)
    return found


# NLTK's `word_tokenize`, which CMRC's script takes: the rules of the Penn Treebank's tokenizer
# (https://www.nltk.org), for text in lower case without the characters left out above.
_WORDS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("([«‘„])", r" \1 "),
        ('^"', " `` "),
        (r"""([ ([{<])("|'{2})""", r"\1 `` "),
        (r"(?<!\w)(')(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", r"\1 "),
        (r"""([^.])(\.)([])}>"'» ]*)\s*$""", r"\1 \2 \3 "),
        (r",(?!\d)", " , "),
        (r"(\.{2,}|[;@#$%&?!\u2012-\u2015])", r" \1 "),
        ("([^'])' ", r"\1 ' "),
        (r"([][(){}<>])", r" \1 "),
        ("(»)", r" \1 "),
        ("''|\"", " '' "),
        (r"\s+|$", " "),
        ("([^' ])('s|'m|'d|') ", r"\1 \2 "),
        ("([^' ])('ll|'re|'ve|n't) ", r"\1 \2 "),
        (r"\b(can(?=not\b)|gim(?=me\b)|gon(?=na\b)|got(?=ta\b)|lem(?=me\b))", r"\1 "),
    )
]


def _words(text: str) -> list[str]:
    for pattern, replacement in _WORDS:
        text = pattern.sub(replacement, text)
    return text.split()


def _harmonic(same: int, predicted: int, right: int) -> float:
    """The F1 of `same` things that are both predicted and right; 0 without any."""
    return 2.0 * same / (predicted + right) if same else 0.0
