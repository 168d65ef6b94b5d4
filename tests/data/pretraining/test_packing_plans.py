"""Plans of packing: best-fit decreasing, and nothing lost or too long."""

import numpy as np
import pytest

from ptft_jax.data.pretraining.packing import best_fit_decreasing


def length_sets():
    """Sets of lengths with their capacity: random ones of several kinds, and edges."""
    rng = np.random.default_rng(0)
    for capacity in (8, 31, 128, 512):
        for count in (1, 2, 7, 100, 800):
            yield rng.integers(1, capacity + 1, count), capacity
            yield np.minimum(1 + rng.geometric(4 / capacity, count), capacity), capacity
            mostly_long = rng.random(count) < 0.8
            yield np.where(mostly_long, capacity - rng.integers(0, 3, count), 1), capacity
    yield np.full(40, 10), 64  # one length: six to a row
    yield np.full(12, 64), 64
    yield np.array([], np.int64), 64


def in_rows(plan, lengths):
    """The examples of each row, and the tokens of each row."""
    rows = [plan.examples[a:b].tolist() for a, b in zip(plan.first, plan.first[1:], strict=False)]
    return rows, [int(lengths[row].sum()) for row in rows]


@pytest.mark.parametrize("most", [1, 2, 5, 1000])
def test_plans_keep_what_they_promise(most):
    """Each example in one row, no row too long or with too many, and the same plan every time."""
    for lengths, capacity in length_sets():
        plan = best_fit_decreasing(lengths, capacity, most)
        rows, tokens = in_rows(plan, lengths)
        assert len(plan) == len(rows)
        assert sorted(plan.examples.tolist()) == list(range(len(lengths)))
        assert all(1 <= len(row) <= most for row in rows)
        assert max(tokens, default=0) <= capacity
        again = best_fit_decreasing(lengths.copy(), capacity, most)
        assert plan.examples.tolist() == again.examples.tolist()
        assert plan.first.tolist() == again.first.tolist()


def plain_best_fit_decreasing(lengths, capacity, most):
    """The tokens of each row, one example after another: into the fullest row that holds it."""
    rows = []
    for length in sorted(lengths, reverse=True):
        open_rows = [row for row in rows if row[0] + length <= capacity and row[1] < most]
        if open_rows:
            row = max(open_rows, key=lambda row: row[0])
            row[0] += length
            row[1] += 1
        else:
            rows.append([length, 1])
    return rows


def test_plans_are_those_of_plain_best_fit_decreasing():
    """The classes of equal lengths are a shortcut: rows hold as much as they would without it."""
    for lengths, capacity in length_sets():
        if len(lengths) > 200:
            lengths = lengths[:200]
        plan = best_fit_decreasing(lengths, capacity, capacity)
        rows = plain_best_fit_decreasing(lengths.tolist(), capacity, capacity)
        assert sorted(in_rows(plan, lengths)[1]) == sorted(tokens for tokens, _ in rows)


def test_a_bound_of_examples_costs_few_rows():
    """Where rows are closed by their number of examples, too, the class shortcut stays close."""
    for lengths, capacity in length_sets():
        lengths = lengths[:200]
        for most in (2, 3):
            found = len(best_fit_decreasing(lengths, capacity, most))
            wanted = len(plain_best_fit_decreasing(lengths.tolist(), capacity, most))
            assert abs(found - wanted) <= 1 + wanted // 50


def test_lengths_that_no_row_holds_are_refused():
    """Rather than a row that is too long, or an endless search."""
    for lengths in ([5, 65], [0, 4]):
        with pytest.raises(ValueError, match="capacity 64"):
            best_fit_decreasing(np.array(lengths), 64, 4)


def test_rows_of_a_plan_in_any_order():
    """Rows are asked for in the order of the epoch, some of them, some twice."""
    lengths = np.random.default_rng(1).integers(1, 40, 60)
    plan = best_fit_decreasing(lengths, 64, 5)
    wanted = np.array([3, 0, len(plan) - 1, 3])
    rows, _ = in_rows(plan, lengths)
    examples, of_row = plan.rows(wanted)
    assert examples.tolist() == [e for row in wanted for e in rows[row]]
    assert of_row.tolist() == [i for i, row in enumerate(wanted) for _ in rows[row]]
    examples, of_row = plan.rows(np.array([], np.int64))
    assert len(examples) == len(of_row) == 0


@pytest.mark.parametrize("surplus", [1, 3])
def test_the_emptiest_rows_are_left_out(surplus):
    """Where rows are too many, as few tokens as possible are lost, and the rest stays in order."""
    lengths = np.random.default_rng(2).integers(1, 60, 80)
    plan = best_fit_decreasing(lengths, 64, 8)
    rows, tokens = in_rows(plan, lengths)
    kept, kept_tokens = in_rows(plan.without_emptiest(surplus, lengths[plan.examples]), lengths)
    assert len(kept) == len(rows) - surplus
    assert sorted(kept_tokens) == sorted(tokens)[surplus:]
    assert kept == [row for row in rows if row in kept]
