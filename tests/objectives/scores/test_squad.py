# ruff: noqa: RUF001 (the odd characters are what is tested)
"""Scores of answers against what the official scripts give for the same texts.

The figures of `OFFICIAL` are those that evaluate-v1.1.py and evaluate-v2.0.py print, those of
`OFFICIAL_CMRC` are cmrc2018_evaluate.py's (with NLTK 3.10), as shares.
"""

import numpy as np
import pytest

from ptft_jax.errors import ConfigError
from ptft_jax.objectives.scores.squad import best_threshold, score_answers, with_threshold

# Prediction, answers, (exact match, F1) of 1.1 and of 2.0.
OFFICIAL = [
    ("the cat", ["cat"], (1, 1), (1, 1)),
    ("A cat, an owl!", ["cat owl"], (1, 1), (1, 1)),
    ("theatre", ["the theatre"], (1, 1), (1, 1)),
    ("", ["cat"], (0, 0), (0, 0)),
    ("", ["the"], (1, 0), (1, 1)),
    ("...", ["!"], (1, 0), (1, 1)),
    ("cat sat", ["dog", "cat sat down"], (0, 0.8), (0, 0.8)),
    ("Cat cat cat", ["cat cat"], (0, 0.8), (0, 0.8)),
    ("naïve", ["naive"], (0, 0), (0, 0)),
    ("Ünited  States\u00a0of", ["ünited states of"], (1, 1), (1, 1)),
    ("$3.50", ["3.50"], (1, 1), (1, 1)),
    ("U.S.", ["US"], (1, 1), (1, 1)),
    ("state-of-the-art", ["state of the art"], (0, 0), (0, 0)),
    ("“cat”", ["cat"], (0, 0), (0, 0)),
    ("東京", ["東京 "], (1, 1), (1, 1)),
    ("", [], None, (1, 1)),
    ("cat", [], None, (0, 0)),
    ("the", [], None, (1, 1)),
]
OFFICIAL_CMRC = [
    ("北京大学。", ["《北京大学》"], (1, 1)),
    ("北京", ["北京大学"], (0, 0.6667)),
    ("北大京学", ["北京大学"], (0, 0.25)),
    ("在1998年5月", ["1998年"], (0, 0.5714)),
    ("Kbs2 TV台", ["KBS2台"], (0, 0.4)),
    ("ω-force", ["光荣和ω-force", "Ω－FORCE"], (1, 1)),
    ("", ["北京"], (0, 0)),
    ("don't stop (now)", ["don't"], (0, 0.5)),
    ("3.5%", ["3.5"], (0, 0.6667)),
    ("大学北京", ["京大", "北京大学"], (0, 0.5)),
    ("……", ["。"], (0, 0)),
    ("39764.0", ["39764"], (0, 0)),
]


@pytest.mark.parametrize(("prediction", "answers", "first", "second"), OFFICIAL)
def test_squad(prediction, answers, first, second):
    """Articles, punctuation, white space, empty texts, several answers, letters of any script."""
    if first is not None:
        found = score_answers([prediction], [answers])
        assert (found.exact_match[0], found.f1[0]) == pytest.approx(first, abs=1e-4)
    found = score_answers([prediction], [answers], unanswerable=True)
    assert (found.exact_match[0], found.f1[0]) == pytest.approx(second, abs=1e-4)
    assert found.has_answer.tolist() == [bool(answers)]


@pytest.mark.parametrize(("prediction", "answers", "expected"), OFFICIAL_CMRC)
def test_cmrc(prediction, answers, expected):
    """By Chinese characters and other words, of which the longest common run counts."""
    found = score_answers([prediction], [answers], by_character=True)
    assert (found.exact_match[0], found.f1[0]) == pytest.approx(expected, abs=1e-4)


def test_no_questions_and_lengths_that_differ():
    with pytest.raises(ConfigError, match="no questions to score"):
        score_answers([], [])
    with pytest.raises(ValueError, match="1 predictions for 2 questions"):
        score_answers(["a"], [["a"], ["b"]])


def test_threshold_by_hand():
    """The four ways to cut four questions: right, wrong, unanswerable, right, by their difference.

    Mean scores with 0, 1, … of them answered: 1/4, 2/4, 2/4, 1/4, 2/4; the first best one counts.
    """
    scores = score_answers(["a1", "no", "x", "d1"], [["a1"], ["b1"], [], ["d1"]], unanswerable=True)
    diffs = np.array([-2.0, -1.0, 0.5, 3.0])
    found = best_threshold(scores.f1, scores.has_answer, diffs)
    assert found == (0.5, -1.5)
    applied = with_threshold(scores, diffs, found.threshold)
    assert applied.f1.tolist() == [1, 0, 1, 0]
    assert applied.exact_match.tolist() == [1, 0, 1, 0]


def test_threshold_of_a_model_that_knows_nothing():
    """The threshold gives the score that goes with it: no question is answered, ties are one."""
    scores = score_answers(["x", "y", "c1"], [[], [], ["c1"]], unanswerable=True)
    diffs = np.array([-5.0, -5.0, -5.0])
    found = best_threshold(scores.f1, scores.has_answer, diffs)
    assert found == (pytest.approx(2 / 3), -6.0)
    assert with_threshold(scores, diffs, found.threshold).f1.tolist() == [1, 1, 0]
