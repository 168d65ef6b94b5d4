"""`ptft sweep`: what it tries, what it stops, what it says did best, what it refuses."""

import json
import shlex
from fractions import Fraction
from pathlib import Path

import pytest
from command_line import finetune_flags, metrics, results, run, sentences
from small_encoder import write_encoder

from ptft_jax.commands.train.sweep import planned

RATE = "optimizer.learning_rate"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a table and an encoder."""
    place = tmp_path_factory.mktemp("sweep")
    rows = sentences(24, 1)
    (place / "table").mkdir()
    for split in ("train", "dev"):
        lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in rows)]
        (place / "table" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    write_encoder(place / "encoder", [text for text, _ in rows])
    return place


def words(place: Path, *more: str) -> list[str]:
    """A sweep over runs of three updates."""
    made = finetune_flags("text.py", place / "table", place / "encoder", place / "sweep")
    return ["sweep", *made[1:], *more]


def test_one_in_three_goes_on_and_its_command_line_is_true(place, capsys):
    """Three rates, compared after one of three updates; the best one goes on where it was.

    What is said to be best can be pasted, and gives its scores. Started again nothing is made, and
    a larger grid keeps what is there.
    """
    flags = words(place, "--grid", f"{RATE}=1e-2,1e-9,1e-8", "--halving=3", "--at_once=2")
    assert run(*flags) == 0
    said = capsys.readouterr().out
    assert "at 1/3 of the updates 1 of 3 trials go on" in said
    folders = sorted((place / "sweep").glob("*/seed-0"))
    assert [one.parent.name for one in folders] == [
        "learning_rate=0.01",
        "learning_rate=1e-08",
        "learning_rate=1e-09",
    ]
    whole = [one for one in folders if (one / "results.json").is_file()]
    assert len(whole) == 1
    for folder in folders:
        scored = [line["step"] for line in metrics(folder) if "split" in line]
        assert scored == ([1, 3] if folder in whole else [1])
    table = (place / "sweep" / "table.md").read_text()
    assert table in said
    assert f"| 1 | {whole[0].parent.name.partition('=')[2]} | all | 1 |" in table
    assert table.count("| 1/3 | 1 |") == 2
    assert "successive halving: at 1/3 of the updates one in 3 went on" in table
    # After three updates all predictions are of one class.
    assert "- with warnings, which are in logs/: learning_rate=" in table
    assert "learning_rate" in (place / "sweep" / "table.svg").read_text()
    _, _, following = said.partition("next\n")
    best, other = following.replace("\\\n", " ").strip().splitlines()[:2]
    # With seeds that the sweep has not seen; here with its own, to compare.
    assert run(*shlex.split(best.replace("--seeds=1,2,3", "--seeds=0"))[1:]) == 0
    assert results(place / "sweep_best" / "text" / "seed-0") == results(whole[0])
    assert run(*shlex.split(other)[1:]) == 0
    capsys.readouterr()
    assert run(*flags) == 0
    said = capsys.readouterr().out
    assert "3 runs to 1/3 of their updates, 3 of them done already" in said
    assert "1 run, 1 of them done already" in said
    known = json.loads((place / "sweep" / "runs.json").read_text())
    assert sorted(known) == [f"{one.parent.name}/seed-0" for one in folders]
    _check_ties(place / "sweep" / "runs.json", flags)


def _check_ties(kept: Path, flags: list[str]) -> None:
    """Of trials with the same score that with the lower loss comes first, wherever it stands."""
    known = json.loads(kept.read_text())
    losses = {"0.01": 0.7, "1e-09": 0.5, "1e-08": 0.6}
    for name, run_of in known.items():
        rate = name.partition("=")[2].partition("/")[0]
        run_of["stops"]["1/3"]["results"]["dev"] |= {"accuracy": 0.5, "loss": losses[rate]}
    kept.write_text(json.dumps(known))
    plan = planned(flags[1:])
    ranked = plan.series.ranked(plan.trials, Fraction(1, 3))
    assert [trial.settings[RATE] for trial in ranked] == [1e-9, 1e-8, 0.01]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "--grid is missing"),
        (("--grid", "optimizer.learning_rat=1e-5"), "the nearest key is 'optimizer.learning_rate'"),
        (("--grid", "workers=8,x"), "--config.workers=x: expected a whole number"),
        (("--grid", "max_seq_length=16,"), "expected a key of the config and values"),
        (("--grid", "seed=0,1"), "expected --seeds=0,1,2"),
        (("--grid", "epochs=1,2"), "epochs is named twice"),
        (("--grid", f"{RATE}=1e-5,1e-5"), "1e-05 would be tried twice"),
        (("--grid", f"{RATE}=1e-5", "--grid", f"{RATE}=1e-4"), "is named twice"),
        (("--grid", f"{RATE}=1e-5,-1"), "optimizer.learning_rate=-1.0"),
        (("--grid", f"{RATE}=1e-5..1e-4"), "a range needs --random"),
        (("--grid", "workers=1..2", "--random=3"), "only 2 different draws"),
        (("--grid", "workers=1,2", "--halving=3"), "there are 2 trials; expected at least 3"),
        (("--grid", "workers=1,2", "--stop_at=3"), "--stop_at is for one run"),
        (("--grid", "workers=1,2", "--explain"), "--explain is for one run"),
        (("--grid", "workers=1,2", "--seeds=1,1"), "expected different numbers"),
        (("--grid", "workers=1,2", "--init_from=/nowhere/run"), "no such folder"),
        (("--grid", "workers=1,2", "--config.data_dir=nowhere"), "nowhere"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(more, message, place, tmp_path, capsys):
    """One error for the key, value or number of draws that cannot be."""
    flags = [word for word in words(place, *more) if not word.startswith("--run_dir")]
    assert run(*flags, f"--run_dir={tmp_path / 'sweep'}") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_draws_are_shown_without_a_run(tmp_path, capsys):
    """The configs of a pretraining, too: each draw with each seed, and its keys as they will be."""
    flags = [
        *("sweep", "--config=configs/pretrain/bert_tiny.py", f"--run_dir={tmp_path / 'sweep'}"),
        *("--grid", f"{RATE}=1e-5..1e-3:log", "--grid", "batch_size=8..64", "--random=3"),
    ]
    assert run(*flags, "--seeds=0,1", "--print_config") == 0
    shown = capsys.readouterr().out.splitlines()
    names = [line for line in shown if line.startswith("# ")]
    assert len(set(names)) == 6
    rates = [line for line in shown if line.startswith(f"--config.{RATE}=")]
    sizes = [line for line in shown if line.startswith("--config.batch_size=")]
    for name, rate, size in zip(names, rates, sizes, strict=True):
        settings = f"learning_rate={rate.partition('=')[2]},batch_size={size.partition('=')[2]}"
        assert name.startswith(f"# {settings}/seed-")
        assert 8 <= int(size.partition("=")[2]) <= 64
    assert not (tmp_path / "sweep").exists()
