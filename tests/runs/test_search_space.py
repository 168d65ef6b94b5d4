"""What a sweep tries: combinations, draws and the shares at which trials are compared."""

from fractions import Fraction

import pytest

from ptft_jax.errors import ConfigError
from ptft_jax.runs.many.search_space import Axis, axis_of, combinations, draws, stops

RATE = "optimizer.learning_rate"


def test_a_grid_is_every_combination():
    """The last key changes fastest; a comma within brackets parts nothing."""
    axes = [axis_of(f"{RATE}=1e-5,3e-5"), axis_of("length_buckets=(32,64),()")]
    assert combinations(axes) == [
        {RATE: rate, "length_buckets": buckets}
        for rate in ("1e-5", "3e-5")
        for buckets in ("(32,64)", "()")
    ]
    assert axis_of("data_dir=../a,../b").values == ("../a", "../b")


def test_draws_lie_evenly_within_their_range():
    """Logarithms with :log, whole numbers where a key has them; more draws keep the first ones."""
    log = axis_of(f"{RATE}=1e-6..1e-4:log")
    assert log == Axis(RATE, (), 1e-6, 1e-4, log=True)
    axes = [log, Axis("batch_size", (), 8, 64, whole=True), axis_of("epochs=2,3")]
    found = draws(axes, 400, seed=1)
    rates, sizes = [one[RATE] for one in found], [one["batch_size"] for one in found]
    assert all(1e-6 <= rate <= 1e-4 and float(f"{rate:.3g}") == rate for rate in rates)
    assert 0.45 < sum(rate < 1e-5 for rate in rates) / 400 < 0.55
    assert all(isinstance(size, int) and 8 <= size <= 64 for size in sizes)
    assert 34 < sum(sizes) / 400 < 38
    assert {one["epochs"] for one in found} == {"2", "3"}
    assert draws(axes, 20, seed=1) == found[:20]
    assert draws(axes, 20, seed=2) != found[:20]


def test_draws_differ():
    """Six combinations can be drawn once each, in another order than the grid's."""
    axes = [axis_of("epochs=1,2,3"), axis_of("batch_size=8,16")]
    found = draws(axes, 6, seed=0)
    assert sorted(map(str, found)) == sorted(map(str, combinations(axes)))
    with pytest.raises(ConfigError, match="there are 6 combinations"):
        draws(axes, 7, seed=0)
    with pytest.raises(ConfigError, match="only 3 different draws"):
        draws([Axis("epochs", (), 1, 3, whole=True)], 4, seed=0)


@pytest.mark.parametrize("text", ["epochs", "epochs=", "=1,2", "epochs=1,,2", "epochs=1,2,"])
def test_a_key_has_values(text):
    """Each message shows how it is written."""
    with pytest.raises(ConfigError, match="expected a key of the config and values"):
        axis_of(text)


@pytest.mark.parametrize("text", ["epochs=3..2", "epochs=0..1:log", "epochs=1..inf", "epochs=1..1"])
def test_a_range_has_two_ends(text):
    """The lower one first, above 0 where logarithms are drawn."""
    with pytest.raises(ConfigError, match="expected LOW"):
        axis_of(text)


def test_where_trials_are_compared():
    """One in three goes on at a ninth and a third; a share below a tenth says too little."""
    ninth, third = Fraction(1, 9), Fraction(1, 3)
    assert stops(9, 3) == stops(27, 3) == stops(80, 3) == [ninth, third]
    assert stops(8, 3) == stops(3, 3) == [third]
    assert stops(20, 2) == [Fraction(1, 8), Fraction(1, 4), Fraction(1, 2)]
    with pytest.raises(ConfigError, match="there are 2 trials; expected at least 3"):
        stops(2, 3)
