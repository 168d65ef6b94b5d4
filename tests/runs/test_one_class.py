"""A model that gives every text one label is said to, where that can be no chance."""

from pathlib import Path

import pytest
from command_line import finetune_flags, run
from foreign_folders import make_folders

import ptft_jax


def write_table(folder: Path, dev: list[str]) -> Path:
    """Writes 40 training examples, nine in ten of them good, and a dev split of these labels."""
    folder.mkdir()
    train = ["bad" if number % 10 == 0 else "good" for number in range(40)]
    for split, labels in (("train", train), ("dev", dev)):
        rows = [f"the river {number} is here\t{label}" for number, label in enumerate(labels)]
        (folder / f"{split}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = make_folders(tmp_path_factory.mktemp("one_class"))
    write_table(place / "both", ["good", "bad"] * 12)
    write_table(place / "few", ["good", "bad"] * 9)
    write_table(place / "same", ["good"] * 24)
    return place


def test_one_class_for_all_is_said(place, tmp_path, capsys):
    """The accuracy of 0.5 looked like a score; small splits and splits of one class are let be."""
    run_dir = tmp_path / "run"
    flags = finetune_flags("text.py", place / "both", place / "hf", run_dir, epochs=3)
    capsys.readouterr()
    assert run(*flags, "--config.optimizer.learning_rate=0.01") == 0
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if line.startswith("warning"))
    assert line.startswith("warning: dev: all 24 predictions are 'good', and the labels are of 2")
    for advice in ("learning_rate (now 0.01;", "updates (now 15)", "('good' has 90% of 40)"):
        assert advice in line
    for name, is_said in (("both", True), ("few", False), ("same", False)):
        assert run("evaluate", f"--run_dir={run_dir}", f"--data_dir={place / name}") == 0
        assert ("predictions are 'good'" in capsys.readouterr().err) == is_said
    with pytest.warns(UserWarning, match="all 20 texts got the label 'good'"):
        ptft_jax.load_run(run_dir).predict([f"the river {number}" for number in range(20)])
    # Some texts, and one text many times, may well be of one class.
    ptft_jax.load_run(run_dir).predict([f"the river {number}" for number in range(19)])
    ptft_jax.load_run(run_dir).predict(["the river"] * 30)
