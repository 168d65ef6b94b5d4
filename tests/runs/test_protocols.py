"""Protocols of published tables: how many settings, which, and what a person's own keys leave."""

import math

import pytest

from ptft_jax.errors import ConfigError
from ptft_jax.runs.many.protocols import PROTOCOLS, tasks_with

RATE, DECAY = "optimizer.learning_rate", "optimizer.weight_decay"


@pytest.mark.parametrize(
    ("name", "task", "count"),
    [
        ("hf", "rte", 1),
        ("bert_paper", "rte", 24),
        ("bert_paper", "text", 24),
        ("ulmfit", "text", 1),
        ("mosaic", "rte", 1),
        ("modernbert", "rte", 48),
        ("modernbert", "qqp", 48),
    ],
)
def test_each_combination_once(name, task, count):
    """The product of what the papers name: 4 rates, 2 batches, 3 epochs; 4, 4 decays, 3."""
    found = PROTOCOLS[name].combinations(task, {})
    assert len({tuple(sorted(one.items())) for one in found}) == count == len(found)


def test_a_persons_own_keys_leave_out_what_they_decide():
    """The BERT paper's GLUE table (section 4.1) is batch 32, 3 epochs and four rates."""
    paper = PROTOCOLS["bert_paper"]
    found = paper.combinations("cola", {"batch_size": 32, "epochs": 3.0})
    assert found == [{RATE: rate} for rate in (5e-5, 4e-5, 3e-5, 2e-5)]
    assert len(paper.combinations("cola", {"steps": 100})) == 8
    assert len(paper.combinations("cola", {"steps": 0})) == 24
    assert len(PROTOCOLS["modernbert"].combinations("cola", {DECAY: 0.0})) == 12


@pytest.mark.parametrize("name", ["mosaic", "modernbert"])
def test_decay_is_that_of_the_same_update(name):
    """Composer takes `weight_decay` off each weight at the peak, AdamW here rate times decay."""
    found = [one for task in ("mnli", "mrpc") for one in PROTOCOLS[name].combinations(task, {})]
    taken = [one[RATE] * one[DECAY] for one in found]
    named = {1e-6, 5e-6, 8e-6, 1e-5}
    assert all(any(math.isclose(value, one, rel_tol=1e-4) for one in named) for value in taken)
    fixed = PROTOCOLS[name].combinations("mnli", {RATE: 1e-4})
    assert all(RATE not in one and one[DECAY] <= 0.1 for one in fixed)


def test_mnli_is_made_first_where_others_start_from_it():
    """A single task brings it along; what a protocol has no settings for is said or left out."""
    assert tasks_with("mosaic", ["rte"], False) == ["mnli", "rte"]
    assert tasks_with("mosaic", ["cola"], False) == ["cola"]
    assert tasks_with("modernbert", ["cola", "mnli", "rte", "wnli"], True) == [
        "mnli",
        "cola",
        "rte",
    ]
    assert tasks_with("bert_paper", ["cola", "wnli"], True) == ["cola", "wnli"]
    with pytest.raises(ConfigError, match="--protocol=mosaic: it has no settings for wnli"):
        tasks_with("mosaic", ["wnli"], False)
    with pytest.raises(ConfigError, match="no settings for boolq, cb"):
        tasks_with("mosaic", ["boolq", "cb"], True)
