"""Entities are counted as seqeval counts them: 300 recorded results, and 10,000 where it is."""

import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest

from ptft_jax.errors import ConfigError
from ptft_jax.objectives.scores.entities import (
    DIFFERENCES,
    Entity,
    differences,
    entities_of,
    entity_scores,
    scheme_of,
    tag_accuracy,
)

SCHEMES = {"IOB1": "OBI", "IOB2": "OBI", "IOBES": "OBIES"}
# {scheme, gold, predicted, accuracy, lenient, strict}; the last two hold, by type and for "all",
# precision, recall, F1 and support of seqeval 1.2.2, classification_report(zero_division=0).
RECORDED = Path(__file__).parent / "seqeval.jsonl"


def found(gold, predicted, scheme):
    overall, by_type = entity_scores(gold, predicted, scheme)
    return {**by_type, "all": overall}


def test_scores_are_those_that_seqeval_gave():
    """Half of these random sequences are malformed: I after O, E without B, types that change."""
    cases = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    assert len(cases) == 300
    for case in cases:
        gold, predicted = ([s.split() for s in case[name]] for name in ("gold", "predicted"))
        assert tag_accuracy(gold, predicted) == pytest.approx(case["accuracy"], abs=1e-6)
        for mode, scheme in (("lenient", None), ("strict", case["scheme"])):
            ours = found(gold, predicted, scheme)
            assert ours.keys() == case[mode].keys(), case
            for name, expected in case[mode].items():
                assert ours[name] == pytest.approx(expected, abs=1e-6), (case, mode, name)


def test_scores_are_seqevals_on_10000_sequences():
    seqeval = pytest.importorskip("seqeval.metrics")
    from seqeval import scheme as schemes

    rng = random.Random(0)
    warnings.simplefilter("ignore")  # "seems not to be NE tag" for tags without a type

    def tag(prefixes, types):
        prefix = rng.choice(prefixes)
        return prefix if prefix == "O" else prefix + rng.choice(types)

    for number in range(10_000):
        name = list(SCHEMES)[number % 3]
        prefixes, types = SCHEMES[name], rng.choice([["-A"], ["-A", "-B"], ["-A", "-b-c", ""]])
        lengths = [rng.randrange(1, 13) for _ in range(rng.choice([1, 2, 5]))]
        gold = [[tag(prefixes, types) for _ in range(length)] for length in lengths]
        predicted = [[t if rng.random() < 0.7 else tag(prefixes, types) for t in s] for s in gold]
        for scheme in (None, name):
            more = {"mode": "strict", "scheme": getattr(schemes, name)} if scheme else {}
            ours = found(gold, predicted, scheme)
            if len(ours) == 1:  # seqeval fails to make a report without any entity
                assert ours["all"] == (0.0, 0.0, 0.0, 0)
                continue
            theirs = seqeval.classification_report(
                gold, predicted, output_dict=True, zero_division=0, **more
            )
            assert len(ours) == len(theirs) - 2
            for kind, score in ours.items():
                row = theirs["micro avg" if kind == "all" else kind]
                assert score == pytest.approx(
                    (row["precision"], row["recall"], row["f1-score"], row["support"])
                )


def test_other_letters_mean_the_same():
    """BILOU (L ends, U stands alone) and BMES (M is inside) are IOBES."""
    expected = [Entity("PER", 0, 3), Entity("LOC", 3, 4)]
    for tags in ("B-PER I-PER L-PER U-LOC O", "B-PER M-PER E-PER S-LOC O"):
        assert entities_of(tags.split()) == entities_of(tags.split(), "IOBES") == expected


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("B-A I-A O B-A B-B I-B", "IOB2"),
        ("I-A I-A O I-A B-A I-B", "IOB1"),
        ("I-A O I-B", "IOB1"),
        ("O O", "IOB2"),
        ("B-A I-A O I-B", "IOB2"),
        ("B-A E-A O", "IOBES"),
        ("O U-A", "IOBES"),
    ],
)
def test_the_scheme_shows_in_the_tags(tags, scheme):
    assert scheme_of([["O"], tags.split()]) == scheme


@pytest.mark.parametrize(
    ("gold", "predicted", "kinds"),
    [
        ("B-A I-A O", "B-A I-A O", []),
        ("B-A I-A O", "O O O", ["missed"]),
        ("O O O", "O B-A O", ["spurious"]),
        ("B-A I-A O", "B-B I-B O", ["type"]),
        ("B-A I-A O", "B-A O O", ["boundary"]),
        ("B-A I-A O", "O B-B I-B", ["type and boundary"]),
        # Two were found in one: the one with the right type is its counterpart.
        ("B-A I-A I-A I-A", "B-B I-B I-B B-A", ["spurious", "boundary"]),
        # One was found for two: the one with which it shares more words.
        ("B-A I-A B-A O", "B-A I-A I-A O", ["boundary", "missed"]),
        ("B-A O O O", "O O O B-A", ["missed", "spurious"]),
    ],
)
def test_what_is_wrong_with_entities(gold, predicted, kinds):
    found = differences(gold.split(), predicted.split())
    assert [one.kind for one in found] == kinds
    for kind, expected, there in found:
        assert (expected is None) == (kind == "spurious")
        assert (there is None) == (kind == "missed")


def test_differences_account_for_every_entity():
    """What is right, and each difference once: together all that were to find, and all found."""
    generator = np.random.default_rng(0)
    names = ["O", "B-A", "I-A", "B-B", "I-B"]
    for _ in range(300):
        gold, predicted = (generator.choice(names, 12).tolist() for _ in range(2))
        truths, guesses = set(entities_of(gold)), set(entities_of(predicted))
        found = differences(gold, predicted)
        assert {one.kind for one in found} <= set(DIFFERENCES)
        expected = [one.expected for one in found if one.expected]
        there = [one.found for one in found if one.found]
        assert sorted(expected) == sorted(truths - guesses)
        assert sorted(there) == sorted(guesses - truths)


def test_what_is_no_tag_of_an_entity():
    with pytest.raises(ConfigError, match="'NOUN' is no tag of an entity: expected O, or one of"):
        entities_of(["O", "NOUN"])
    with pytest.raises(ConfigError, match="'S-A' is no tag"):
        entities_of(["S-A"], "IOB2")
    with pytest.raises(ValueError, match="not as many as the words"):
        tag_accuracy([["O"]], [["O", "O"]])
