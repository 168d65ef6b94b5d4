"""Runs that end early: what they leave, how they go on, and which checkpoint stands for them."""

import json
import shutil

import pytest
from command_line import finetune_flags, metrics, results, run, sentences, tree
from small_encoder import write_encoder

import ptft_jax
from ptft_jax.runs.folder import RunFolder

ROWS = sentences(32, 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny encoder, a table, and a run that ends early: its rate is nothing."""
    place = tmp_path_factory.mktemp("patience")
    write_encoder(place / "hf", [text for text, _ in ROWS])
    (place / "table").mkdir()
    for split in ("train", "dev"):
        lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in ROWS)]
        (place / "table" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    assert run(*flags(place, "run")) == 0
    return place


def flags(place, name, **changes):
    keys = {"steps": 20, "eval_every": 2, "checkpoint_every": 0, "patience": 3}
    keys |= {"optimizer.learning_rate": 1e-12} | changes
    return finetune_flags("text.py", place / "table", place / "hf", place / name, **keys)


def evaluated(run_dir):
    return [line["step"] for line in metrics(run_dir) if "split" in line]


def test_a_run_ends_early(place, capsys):
    """Equal scores are no better ones: the first is the best, and its metrics are the results."""
    run_dir = place / "run"
    assert evaluated(run_dir) == [2, 4, 6, 8]
    assert RunFolder(run_dir).checkpoints().all_steps() == [2, 8]
    first = next(line for line in metrics(run_dir) if line.get("split") == "dev")
    found = results(run_dir)
    assert found["step"] == first.pop("step") == 2
    assert found["dev"] == {name: first[name] for name in first if name != "split"}
    before = tree(run_dir)
    assert run(*flags(place, "run")) == 0
    said = " ".join(capsys.readouterr().out.split())
    why = "8 of 20 updates (no dev_accuracy better than"
    assert f"{why} {found['dev']['accuracy']:.4f} of step 2 in 3 evaluations) are made" in said
    assert tree(run_dir) == before
    assert run("status", f"--run_dir={run_dir}") == 0
    said = capsys.readouterr().out
    assert "finished early: no better evaluation in 3" in said
    assert "8 of 20" in said


def test_the_best_checkpoint_stands_for_such_a_run(place, capsys):
    """For scores, predictions, export and the next run; --checkpoint names another."""
    run_dir = place / "run"
    assert ptft_jax.load_run(run_dir).step == 2
    assert ptft_jax.load_run(run_dir, "last").step == 8
    assert run("evaluate", f"--run_dir={run_dir}") == 0
    said = capsys.readouterr().out
    assert "step 2" in said
    assert "results.json" in said
    assert run("evaluate", f"--run_dir={run_dir}", "--checkpoint=last") == 0
    assert "step 8" in capsys.readouterr().out
    assert run("export", f"--run_dir={run_dir}", f"--out_dir={place / 'out'}") == 0
    assert "step 2" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("lost", [("8",), ()])
def test_a_killed_run_ends_where_it_would_have(place, lost, tmp_path):
    """Killed after the first checkpoint, or after the last and before its results."""
    shutil.copytree(place / "run", place / tmp_path.name)
    run_dir = place / tmp_path.name
    for step in lost:
        shutil.rmtree(run_dir / "checkpoints" / step)
    (run_dir / "results.json").unlink()
    assert run(*flags(place, tmp_path.name)) == 0
    timed = {"tokens_per_second", "data_wait", "device_memory_gib", "mfu"}
    kept = [
        [{name: line[name] for name in line.keys() - timed} for line in metrics(folder)]
        for folder in (run_dir, place / "run")
    ]
    assert kept[0] == kept[1]
    assert results(run_dir) == results(place / "run")


def test_more_patience_lets_a_run_go_on(place, capsys):
    """As another config, which has to be allowed."""
    shutil.copytree(place / "run", place / "longer")
    more = flags(place, "longer", patience=5)
    assert run(*more) == 2
    assert "config.patience: 3 in the run, 5 now" in capsys.readouterr().err
    assert run(*more, "--config_change=allow") == 0
    assert evaluated(place / "longer") == [2, 4, 6, 8, 10, 12]
    assert "ended early, after 12 of 20 updates" in " ".join(capsys.readouterr().out.split())


def test_patience_needs_evaluations_on_the_way(place, capsys):
    assert run(*flags(place, "none", eval_every=0)) == 2
    assert "eval_every=0 there is one evaluation" in capsys.readouterr().err


def test_a_table_says_which_runs_ended_early(place):
    """With their lengths, and that the scores are those of the best checkpoints."""
    assert run(*flags(place, "many"), "--seeds=1") == 0
    table = (place / "many" / "table.md").read_text()
    assert "the scores are those of the best checkpoint" in table
    early = "text/seed-1 (update 8 of 20)"
    assert f"ended early, for no better evaluation in 3: {early}" in table
    known = json.loads((place / "many" / "runs.json").read_text())
    assert known["text/seed-1"]["step"] == 2
