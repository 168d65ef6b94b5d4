"""`--stop_at` ends a run early on the schedule of the whole, and it goes on from there."""

from pathlib import Path

import pytest
from command_line import finetune_flags, losses, metrics, results, run, sentences
from small_encoder import write_encoder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a table and an encoder."""
    place = tmp_path_factory.mktemp("stop_at")
    rows = sentences(24, 1)
    (place / "table").mkdir()
    for split in ("train", "dev"):
        lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in rows)]
        (place / "table" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    write_encoder(place / "encoder", [text for text, _ in rows])
    return place


def flags(place: Path, name: str) -> list[str]:
    """A run of six updates, whose rate falls until the sixth."""
    keys = {"epochs": 2, "eval_every": 0, "checkpoint_every": 0, "optimizer.learning_rate": 1e-2}
    return finetune_flags("text.py", place / "table", place / "encoder", place / name, **keys)


def test_a_run_that_stops_where_asked_goes_on_to_the_same_end(place, capsys):
    """A third of six updates, scored and saved; then the losses and scores of a run in one go."""
    assert run(*flags(place, "whole")) == 0
    capsys.readouterr()
    assert run(*flags(place, "parts"), "--stop_at=1/3") == 0
    said = capsys.readouterr().out
    assert "stopped at step 2 of 6, as asked" in said
    assert "ptft finetune --config=" in said
    assert not (place / "parts" / "results.json").exists()
    scored = metrics(place / "parts")[-1]
    assert (scored["step"], scored["split"]) == (2, "dev")
    assert run("status", f"--run_dir={place / 'parts'}") == 0
    said = capsys.readouterr().out
    assert "stopped where --stop_at said" in said
    assert "2 of 6 (33.3%)" in said
    before = (place / "parts" / "metrics.jsonl").read_text()
    assert run(*flags(place, "parts"), "--stop_at=2") == 0
    assert "nothing to do up to 2" in capsys.readouterr().out
    assert (place / "parts" / "metrics.jsonl").read_text() == before
    assert run(*flags(place, "parts"), "--stop_at=4") == 0
    assert run(*flags(place, "parts")) == 0
    assert losses(place / "parts") == losses(place / "whole")
    assert results(place / "parts") == results(place / "whole")


@pytest.mark.parametrize("value", ["0", "3/2", "half", "1/0", "0.5"])
def test_where_to_stop_is_a_number_or_a_share(value, place, capsys):
    """Said before anything is made."""
    assert run(*flags(place, "never"), f"--stop_at={value}") == 2
    assert f"--stop_at={value}: expected a number of updates" in capsys.readouterr().err
    assert not (place / "never").exists()
