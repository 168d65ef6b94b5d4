"""`ptft lr_find`: the curve of real updates, what it reads from it, what it says and refuses."""

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from command_line import finetune_flags, run, sentences, tree
from small_encoder import write_encoder

from ptft_jax.runs.range_test import suggested


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a table and an encoder."""
    place = tmp_path_factory.mktemp("lr_find")
    rows = sentences(64, 1)
    (place / "table").mkdir()
    for split in ("train", "dev"):
        lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in rows)]
        (place / "table" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    write_encoder(place / "encoder", [text for text, _ in rows])
    return place


def words(place: Path, *more: str) -> list[str]:
    made = finetune_flags("text.py", place / "table", place / "encoder", place / "found")
    out_dir = made.pop().replace("--run_dir", "--out_dir")
    return ["lr_find", *made[1:], out_dir, "--config.unfreeze=0.5", *more]


def test_a_curve_to_divergence_and_the_sweep_it_names(place, capsys):
    """Three files are kept, and what it says comes next can be pasted.

    The rate of its own command line, which the test replaces, is not in the sweep's.
    """
    flags = words(place, "--config.optimizer.learning_rate=1", "--lowest=1e-9", "--highest=1e4")
    assert run(*flags) == 0
    said = capsys.readouterr().out
    assert sorted(tree(place / "found")) == ["lr_find.csv", "lr_find.json", "lr_find.svg"]
    with (place / "found" / "lr_find.csv").open() as file:
        lines = [
            {name: float(value) for name, value in line.items()} for line in csv.DictReader(file)
        ]
    figures = json.loads((place / "found" / "lr_find.json").read_text())
    assert figures["diverged"]
    assert len(lines) == figures["updates"] < 100
    rates = [line["learning_rate"] for line in lines]
    np.testing.assert_allclose(rates, 1e-9 * 1e13 ** (np.arange(len(rates)) / 100), rtol=1e-4)
    smoothed = [line["smoothed_loss"] for line in lines]
    assert smoothed[0] == pytest.approx(lines[0]["loss"])
    # By hand: 0.02 of the second loss and 0.98 * 0.02 of the first, over 1 - 0.98 ** 2.
    second = (0.02 * lines[1]["loss"] + 0.0196 * lines[0]["loss"]) / 0.0396
    assert smoothed[1] == pytest.approx(second)
    assert smoothed[-1] > 4 * min(smoothed) > smoothed[-2]
    assert 1e-4 < figures["valley"] < 1
    assert f"upper bound  {figures['minimum']:.1e}" in said
    assert f"{figures['valley']:.1e} (valley)" in said
    assert "none of them is the best rate" in said
    assert "none of these is the best one" in (place / "found" / "lr_find.svg").read_text()

    _, _, following = said.partition("next\n")
    sweep = shlex.split(following.replace("\\\n", " ").strip().splitlines()[0])[1:]
    assert run(*sweep, "--print_config") == 0
    shown = capsys.readouterr().out
    tried = [float(rate) for rate in re.findall(r"--config.optimizer.learning_rate=(.*)", shown)]
    assert max(tried) == pytest.approx(figures["minimum"], rel=0.5)
    assert "--config.unfreeze=0.5" in shown


def test_what_is_read_from_a_curve():
    """By hand, of 36 means: the first three and the last five are left out.

    The longest fall is a 2 and 14 of the means at 11 to 25, for the rise at 20 counts for nothing:
    its end is at 25, and its middle at 25 - 15 + 5 + 2, of which 15 / 3 is 5 and 5 / 2 is 2.
    """
    rates = np.geomspace(1e-6, 1.0, 36)
    smoothed = np.concatenate([np.full(11, 2.0), np.linspace(1.9, 0.6, 15), np.full(10, 3.0)])
    smoothed[0] = 9.0
    smoothed[20] = 5.0
    assert suggested(rates, smoothed, 30) == (rates[17], rates[25])
    assert suggested(rates, np.arange(36.0), 30) is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--out_dir=",), "--out_dir is missing"),
        (("--lowest=0",), "--lowest=0 --highest=10: expected two rates above 0"),
        (("--lowest=1", "--highest=0.1"), "the second one higher than the first"),
        (("--steps=10",), "--steps"),
        (("--config.batch_siz=3",), "the nearest key is 'batch_size'"),
        (("--config.data_dir=nowhere",), "nowhere"),
        (("--init_from=/nowhere/run",), "no such folder"),
        (("stray",), "'stray': expected flags only"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_compiled(more, message, place, tmp_path, capsys):
    """One error, and no folder."""
    assert run(*words(place, f"--out_dir={tmp_path}/found", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "found").exists()
