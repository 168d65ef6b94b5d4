"""A run told to a tracking service: all of it, in one run there, and never at the run's expense."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import (
    finetune_flags,
    metrics,
    prepare_corpus,
    pretrain_flags,
    results,
    run,
    sentences,
)
from processes import ROOT, printed

from ptft_jax.training.tracking import trackers

FAKES = ROOT / "tests" / "fakes"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a corpus."""
    place = tmp_path_factory.mktemp("tracking")
    prepare_corpus(place)
    return place


@pytest.fixture
def told(tmp_path, monkeypatch) -> Iterator[Path]:
    """Puts a fake `trackio` before a real one; the file holds what it was told."""
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setenv("FAKE_FILE", str(tmp_path / "told.jsonl"))
    yield tmp_path / "told.jsonl"
    sys.modules.pop("trackio", None)


def calls(file: Path, kind: str) -> list[dict]:
    """Returns what a fake was told in the calls of one kind."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["call"] == kind]


def values(file: Path, name: str) -> dict[int, float]:
    """Returns the values of a metric by step; a step that came twice is an error."""
    found = [(c["step"], c["metrics"][name]) for c in calls(file, "log") if name in c["metrics"]]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_a_service_has_the_whole_run_and_a_resume_goes_on_in_it(place, told):
    """Config, facts of the model card, each logged step and evaluation, results: with the values
    that the run's own files have, and in one run of the service however often the run starts.
    """
    flags = pretrain_flags(place / "data", place / "base", steps=3)
    assert run(*flags, "--track=trackio") == 0
    (first,) = calls(told, "init")
    assert first["project"] == "ptft_jax"
    about = first["config"]
    assert about["config"]["optimizer"]["learning_rate"] == 1e-3
    assert about["model"]["hidden_size"] == 32
    assert "parameters" in about["facts"]["model"]
    assert about["trained_on"]["sources"] == ["tracking0/text.txt"]
    assert len(calls(told, "finish")) == 1
    # A finished run is not told again.
    assert run(*flags, "--track=trackio") == 0
    assert len(calls(told, "init")) == 1

    flags = pretrain_flags(place / "data", place / "base", steps=6)
    assert run(*flags, "--track=trackio", "--config_change=allow") == 0
    first, second = calls(told, "init")
    assert second["name"] == first["name"]
    assert second["resume"] == "allow"
    own = [line for line in metrics(place / "base") if "split" not in line]
    for name in ("loss", "learning_rate"):
        assert values(told, f"train/{name}") == {line["step"]: line[name] for line in own}
    dev = [line for line in metrics(place / "base") if line.get("split") == "dev"]
    assert values(told, "dev/loss") == {line["step"]: line["loss"] for line in dev}
    wanted = results(place / "base")["dev"]["loss"]
    assert values(told, "results/dev/loss")[6] == wanted
    assert set(values(told, "results/best/step")) == {3, 6}


def test_runs_of_one_name_are_two_runs_there(place, told):
    """Folders of several places are often called alike; fine-tuning is told as well."""
    (place / "table").mkdir()
    for split in ("train", "dev"):
        rows = [f"{text}\t{label}\n" for text, label in sentences(16, 1)]
        (place / "table" / f"{split}.tsv").write_text("text\tlabel\n" + "".join(rows))
    source = place / "one" / "same"
    assert run(*pretrain_flags(place / "data", source, steps=1), "--track=trackio") == 0
    flags = finetune_flags("text.py", place / "table", source, place / "two" / "same")
    assert run(*flags, "--track=trackio") == 0
    first, second = calls(told, "init")
    assert first["name"] != second["name"]
    assert second["config"]["trained_on"] == {"task": "text"}
    wanted = results(place / "two" / "same")["dev"]["accuracy"]
    assert calls(told, "log")[-1]["metrics"]["results/dev/accuracy"] == wanted


def test_only_the_first_process_tells_the_service(place, told):
    """Two processes that log the same run would be two runs there, or one with all twice."""
    flags = pretrain_flags(
        place / "data", place / "job", steps=2, **{"mesh.data": 2, "mesh.fsdp": 1}
    )
    launch = [sys.executable, "-m", "ptft_jax", "launch", "local", "--processes=2"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{FAKES}", "JAX_NUM_CPU_DEVICES": "1"}
    command = [*launch, "--platform=cpu", "--", *flags, "--track=trackio"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(calls(told, "init")) == 1
    assert set(values(told, "train/loss")) == {1, 2}


@pytest.mark.parametrize("fault", ["fail", "hang"])
def test_a_service_that_fails_later_does_not_stop_a_run(place, told, fault, monkeypatch, capsys):
    """A network that is away for a night costs the night's points there, not the night."""
    monkeypatch.setenv("FAKE_FAULT", fault)
    monkeypatch.setattr(trackers, "CLOSING_SECONDS", 0.5)
    folder = place / fault
    assert run(*pretrain_flags(place / "data", folder), "--track=trackio") == 0
    said = capsys.readouterr().out
    why = {"fail": "ConnectionError: the network is away", "hang": "no answer in 0 s at the end"}
    assert said.count("trackio lacks some of this run, which goes on") == 1
    assert why[fault] in said
    assert [line["step"] for line in metrics(folder) if "split" not in line] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("fault", ["refuse", "away"])
def test_a_service_out_of_reach_is_said_before_training_and_keeps_no_job_from_going_on(
    place, told, fault, monkeypatch, capsys
):
    """Who sets up a run is there to mend it; a job that starts again by night has nobody."""
    folder = place / f"reach_{fault}"
    monkeypatch.setenv("FAKE_FAULT", "refuse")
    flags = pretrain_flags(place / "data", folder, steps=3)
    assert run(*flags, "--track=trackio") == 2
    said = capsys.readouterr()
    assert "--track=trackio: no run could be made or found there (ConnectionError" in said.err
    assert "first step" not in said.out
    monkeypatch.delenv("FAKE_FAULT")
    assert run(*flags, "--track=trackio") == 0
    flags = pretrain_flags(place / "data", folder, steps=6)
    monkeypatch.setenv("FAKE_FAULT", fault)
    monkeypatch.setattr(trackers, "RESUMING_SECONDS", 0.5)
    monkeypatch.setattr(trackers, "CLOSING_SECONDS", 0.5)
    assert run(*flags, "--track=trackio", "--config_change=allow") == 0
    said = capsys.readouterr().out
    why = {"refuse": "(ConnectionError: nobody answers)", "away": "has not found its run in 0 s"}
    assert said.count(why[fault]) == 1
    assert results(folder)["step"] == 6
    assert len(calls(told, "init")) == 1


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_package_that_is_absent_is_said_before_anything_is_made(
    tmp_path, place, name, monkeypatch, capsys
):
    """With what to run; and a folder that another start of W&B has left is no package."""
    flags = (*pretrain_flags(place / "data", tmp_path / "run"), f"--track={name}")
    wanted = f"PTFT_EXTRAS={name} bash launch/setup.sh"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, name, None)
        assert run(*flags) == 2
    assert wanted in capsys.readouterr().err
    if importlib.util.find_spec(name) is None:
        (tmp_path / "here" / name).mkdir(parents=True)
        monkeypatch.syspath_prepend(tmp_path / "here")
        assert run(*flags) == 2
        said = capsys.readouterr().err
        assert wanted in said
        assert f"{tmp_path}/here/{name} is a folder of other files" in said
        del sys.modules[name]
    assert not (tmp_path / "run").exists()


_TWO_STARTS = """
import json, pathlib, sys
from ptft_jax.training.tracking.trackers import begin_tracking
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
said = []
for step in (1, 2):
    sink = begin_tracking(name, folder, {"config": {"rate": 1e-3, "heads": ["mlm"]}}, said.append)
    sink.training(step, {"loss": 1.0 / step, "mfu": None})
    if step == 2:
        sink.evaluation(step, "dev", {"loss": 0.25})
        sink.ends(step, {"dev": {"loss": 0.25}})
    sink.close()
own = json.loads((folder / "tracking.json").read_text())[name]
"""
_READ = {
    # W&B keeps an offline run in a form of its own; `wandb sync` joins those of one id.
    "wandb": """
found = folder.glob("wandb/offline-run-*")
seen = {path.name.rpartition("-")[2] for path in found} == {own}
""",
    "mlflow": """
import mlflow
client = mlflow.MlflowClient()
run = client.get_run(own)
seen = [run.info.status, run.data.params["config.rate"], run.data.metrics["results/dev/loss"]]
seen += [[m.step, m.value] for m in client.get_metric_history(own, "train/loss")]
""",
    "trackio": """
from trackio.sqlite_storage import SQLiteStorage
logs = SQLiteStorage.get_logs("ptft_jax", own)
seen = [[log["step"], log["train/loss"]] for log in logs if "train/loss" in log]
seen += [log["results/dev/loss"] for log in logs if "results/dev/loss" in log]
""",
}
_SEEN = {
    "wandb": True,
    "mlflow": ["FINISHED", "0.001", 0.25, [1, 1.0], [2, 0.5]],
    "trackio": [[1, 1.0], [2, 0.5], 0.25],
}


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_the_real_package_without_a_network(tmp_path, name, monkeypatch):
    """Each says in its own words what it was told in two starts: one run with both."""
    # A folder of that name, as W&B makes one, is a package without a file.
    if getattr(pytest.importorskip(name), "__file__", None) is None:
        pytest.skip(f"{name} is not installed")
    for variable, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": tmp_path,
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "TRACKIO_DIR": tmp_path / "trackio",
    }.items():
        monkeypatch.setenv(variable, str(value))
    program = f"{_TWO_STARTS}{_READ[name]}\nprint(json.dumps([said, seen]))"
    (said, seen), _ = printed(program, name, tmp_path)
    assert [line.split(", run ")[0] for line in said] == [f"tracked by {name}"] * 2
    assert seen == _SEEN[name]
