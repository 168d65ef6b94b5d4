# ruff: noqa: RUF001 (quotation marks of all kinds are the matter here)
"""Splitting paragraphs into sentences, the units of next-sentence prediction."""

import random

import pytest

from ptft_jax.data.text.files import find_files
from ptft_jax.data.text.sentences import split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["One sentence."],
        ["No stop at all"],
        ["This is one.", "This is two.", "And three!"],
        ["Mr. and Mrs. J. R. Smith met Dr. No.", "He left."],
        ["It is large, e.g. Paris, i.e. the city.", "See Fig. 3 and No. 5 of vol. 2."],
        ["The U.S. Army came at 5 p.m. Tuesday.", "They left the U.S.", "It rained."],
        ["It costs $3.50 or 1,000.25 in all.", "Version 1.2.3 is out."],
        ["“Stop.”", "“Why?”", "(He left.)", "She said: “Go.”", "[Note.]", "End."],
        ['"Stop!" he cried.', '"Never!"'],
        [["Wait...", "Really?!"][0], "Really?!", "Yes…", "No."],
        ["He trailed off . . .", "Then he spoke."],
        ["He was taller than I.", "She was not."],
        ["1. Introduction to the matter.", "2. The rest."],
        ["Lower case follows. so nothing is cut here"],
        ["Is it?", "— No.", "«Oui.»", "Fin."],
        ["深度学习很好。", "我们走吧！”", "他说。"],
        ["Apples, pears etc. are fruit.", "I like apples, pears etc.", "They are fruit."],
        ["The answer is 42.", "7 is not."],
    ],
)
def test_splits_sentences(sentences):
    """Abbreviations, initials, decimals, quotations and ellipses, each as a reader would."""
    assert split_sentences(" ".join(sentences)) == sentences


def test_splitting_loses_nothing_but_space(shared_data):
    """On real prose the sentences, joined, are the paragraph."""
    path = shared_data / "text" / "standardebooks_cc0.txt.xz"
    if not path.exists():
        pytest.skip(f"needs {path}")
    counts = []
    documents = find_files(str(path), "text")[0].read()
    for document, _ in zip(documents, range(60), strict=False):
        for line in document.lines:
            sentences = split_sentences(line)
            assert "".join("".join(sentences).split()) == "".join(line.split())
            assert all(sentence == sentence.strip() != "" for sentence in sentences)
            counts.append(len(sentences))
    assert 1.5 < sum(counts) / len(counts) < 10


def test_random_runs_of_stops_lose_nothing():
    """Stops, quotes and spaces in any order: whatever is cut, every character is in a sentence."""
    draw = random.Random(0)
    pieces = [*'.!…。 \t"”Ab5—(', "  ", "Mr", "No", "U.S"]
    for _ in range(20_000):
        text = "".join(draw.choices(pieces, k=draw.randint(1, 12)))
        sentences = split_sentences(text)
        assert "".join("".join(sentences).split()) == "".join(text.split()), text
        assert all(sentence == sentence.strip() != "" for sentence in sentences), text


def test_splitting_is_linear():
    """A paragraph of a million stops must not take quadratic time (the timeout would tell)."""
    assert len(split_sentences("A b. " * 200_000)) == 200_000
    assert len(split_sentences("x" * 1_000_000 + ". " + "." * 100_000)) == 1
    assert len(split_sentences(". " * 200_000 + "x")) <= 2
    assert len(split_sentences("e.g. Xa " * 200_000)) == 1
    assert len(split_sentences('."' * 200_000 + "x")) == 1
    assert split_sentences("") == []
