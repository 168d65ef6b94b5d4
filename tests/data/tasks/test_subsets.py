"""Few training examples are drawn by the seed, and classes are weighted as scikit-learn does."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from ptft_jax.data.tasks.training.class_weights import read_class_weights
from ptft_jax.data.tasks.training.subset import first_rows, rows_of_each_class
from ptft_jax.errors import ConfigError

LABELS = np.random.default_rng(0).choice(3, 200, p=[0.7, 0.2, 0.1])
NAMES = ("many", "some", "few")


def test_a_smaller_subset_lies_in_a_larger_one():
    """So that a curve over sizes compares sizes; another seed draws others."""
    subsets = [first_rows(1000, 5, most) for most in (10, 100, 500)]
    assert [len(rows) for rows in subsets] == [10, 100, 500]
    assert all(set(few) < set(more) for few, more in pairwise(subsets))
    assert not np.array_equal(subsets[1], first_rows(1000, 6, 100))
    assert np.ptp(subsets[1]) > 800  # not the first ones of the file
    for all_of_them in (0, 1000, 2000):
        np.testing.assert_array_equal(first_rows(1000, 5, all_of_them), np.arange(1000))


def test_each_class_has_as_many():
    """A class that has too few is named."""
    rows = rows_of_each_class(LABELS, NAMES, 0, 8)
    assert np.bincount(LABELS[rows]).tolist() == [8, 8, 8]
    assert set(rows_of_each_class(LABELS, NAMES, 0, 4)) < set(rows)
    few = int((LABELS == 2).sum())
    with pytest.raises(ConfigError, match=f"'few' has {few} training examples; .* most {few}"):
        rows_of_each_class(LABELS, NAMES, 0, few + 1)
    with pytest.raises(ConfigError, match="'none' has no training example"):
        rows_of_each_class(LABELS, (*NAMES, "none"), 0, 1)


def test_balanced_weights_are_those_of_scikit_learn():
    """Over the classes that occur; another class has 1."""
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    weights = read_class_weights("balanced", (*NAMES, "none"), np.bincount(LABELS, minlength=4))
    assert weights == pytest.approx([*expected, 1.0])


def test_yes_and_no_of_a_label_are_balanced():
    """With several labels a text the weight is that of a yes: negatives over positives."""
    yes = np.array([10.0, 50.0, 0.0])
    assert read_class_weights("balanced", NAMES, yes, 100 - yes) == (9.0, 1.0, 1.0)


def test_weights_are_numbers_in_order_or_by_name():
    counts = np.ones(3)
    assert read_class_weights("", NAMES, counts) is None
    assert read_class_weights("1, 2.5,0", NAMES, counts) == (1.0, 2.5, 0.0)
    assert read_class_weights('{"few": 4, "many": 0.5}', NAMES, counts) == (0.5, 1.0, 4.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2", "2 weights for 3 labels"),
        ("1,2,-3", "-3 cannot be a weight"),
        ("1,2,NaN", "nan cannot be a weight"),
        ("0,0,0", "nothing has any weight"),
        ('{"fwe": 2}', "'fwe' is no label (did you mean 'few'?)"),
        ('{"few": "2"}', "'2' is no number"),
        ('{"few": true}', "True is no number"),
        ("inverse", "1 weights for 3 labels"),
    ],
)
def test_weights_that_cannot_be(text, said):
    with pytest.raises(ConfigError) as error:
        read_class_weights(text, NAMES, np.ones(3))
    assert said in str(error.value)
    assert "expected balanced, or a number" in str(error.value)
    assert "many, some, few" in str(error.value)
