"""ptft ckpt ls, verify and rewind: what they say of checkpoints, whole and damaged."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from command_line import run, tree
from small_state import TOKENIZER

from ptft_jax.models.config import EncoderConfig
from ptft_jax.runs.folder import RunFolder, RunRecord
from ptft_jax.runs.lock import held
from ptft_jax.training.checkpoints.store import Checkpoints
from ptft_jax.training.resources.storage import write_atomically
from ptft_jax.training.step import TrainState


def state() -> TrainState:
    kernel = jnp.arange(12.0).reshape(3, 4)
    return TrainState.new({"dense": {"kernel": kernel}}, {"mu": kernel * 2, "count": jnp.int32(7)})


def make_run(place: Path) -> Path:
    """Makes a run with the checkpoints 10 (the best), 20 and 30, by hand: nothing is trained."""
    record = RunRecord(
        command="pretrain",
        config={"steps": 30, "seed": 1},
        model=dataclasses.asdict(EncoderConfig()),
        best=("dev_loss", "min"),
    )
    place.mkdir(parents=True)
    write_atomically(place / "config.json", json.dumps(record.to_json()))
    content = {"config": record.to_json(), "tokenizer_json": TOKENIZER}
    with Checkpoints(place / "checkpoints", 3, record.best, **content) as checkpoints:
        for step, metrics in ((10, {"dev_loss": 0.25}), (20, {"dev_loss": 0.5}), (30, {})):
            checkpoints.save(step, state(), 8 * step, metrics, step == 30)
    return place


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("ckpt") / "run")


@pytest.fixture
def one(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "one")


def rows(said: str) -> dict[str, str]:
    """Returns the lines of a table by their first word."""
    found = {}
    for line in said.splitlines():
        words = line.split()
        if words and words[0].isdecimal():
            found[words[0]] = found.get(words[0], "") + " ".join(words) + "\n"
    return found


def test_ls_of_a_run_that_has_seen_things(one, capsys):
    """Steps, sizes, metrics and marks; what is damaged, unfinished and set aside, each in a row."""
    folder = one / "checkpoints"
    (folder / "20" / "params" / "_METADATA").unlink()
    shutil.copytree(folder / "20", folder / "25.damaged-1")
    (folder / "40.saving").mkdir()
    (folder / "5.deleting").mkdir()
    (folder / "35").mkdir()
    before = tree(one)
    capsys.readouterr()
    assert run("ckpt", "ls", f"--run_dir={one}") == 0
    said = capsys.readouterr().out
    assert tree(one) == before
    found = rows(said)
    assert re.search(r"kB dev_loss 0\.2500 best whole$", found["10"].strip())
    assert "damaged: params/_METADATA is missing" in found["20"]
    assert re.search(r"evaluation due last whole$", found["30"].strip())
    assert "damaged: manifest.json is missing" in found["35"]
    assert "set aside as 25.damaged-1" in found["25"]
    assert "unfinished" in found["40"]
    assert "being deleted" in found["5"]
    assert re.search(r"set aside +1, [\d.]+ kB", said)
    assert f"ptft ckpt verify --run_dir={one}" in said


def test_verify_names_file_and_kind(one, capsys):
    """All checkpoints are looked at to their end, and one that is damaged gives exit code 65."""
    assert run("ckpt", "verify", f"--run_dir={one}") == 0
    said = capsys.readouterr().out
    assert "3 of 3 whole" in said
    assert all(row.strip().endswith("whole") for row in rows(said).values())
    metadata = one / "checkpoints" / "20" / "tokenizer" / "metadata"
    metadata.write_bytes(metadata.read_bytes().replace(b"1", b"3", 1))
    (one / "checkpoints" / "20" / "params" / "new").write_text("")
    manifest = one / "checkpoints" / "30" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    before = tree(one)
    assert run("ckpt", "verify", f"--run_dir={one}") == 65
    said = capsys.readouterr()
    assert tree(one) == before
    found = rows(said.out)
    assert found["10"].strip().endswith("whole")
    assert "tokenizer/metadata has changed" in found["20"]
    assert "params/new is not in manifest.json" in found["20"]
    assert "manifest.json is not JSON" in found["30"]
    assert "1 of 3 whole" in said.out
    assert f"{one}/checkpoints/20 is damaged: params/new is not in" in said.err
    assert f"{one}/checkpoints/30 is damaged: {manifest} is not JSON" in said.err
    assert run("ckpt", "verify", f"--run_dir={one}", "--checkpoint=10") == 0
    assert run("ckpt", "verify", f"--run_dir={one}", "--checkpoint=best") == 0
    assert run("ckpt", "verify", f"--run_dir={one}", "--checkpoint=30") == 65
    assert run("ckpt", "verify", f"--run_dir={one}", "--checkpoint=last") == 65
    assert run("ckpt", "verify", f"--run_dir={one}", "--checkpoint=7") == 2


def test_rewind_from_the_command_line(one, capsys):
    """The run's last checkpoint is the named one then, and the box says how to go on."""
    with held(one):
        assert run("ckpt", "rewind", f"--run_dir={one}", "--step=10") == 2
    assert "is in use" in capsys.readouterr().err
    assert RunFolder(one).checkpoints().all_steps() == [10, 20, 30]
    assert run("ckpt", "rewind", f"--run_dir={one}", "--step=10", "--skip_batches=3") == 0
    said = capsys.readouterr().out
    assert "20.rewound-1, 30.rewound-1" in said
    assert "3 batches" in said
    assert RunFolder(one).checkpoints().all_steps() == [10]
    assert run("ckpt", "ls", f"--run_dir={one}") == 0
    assert "set aside as 30.rewound-1" in rows(capsys.readouterr().out)["30"]
    restored, meta = RunFolder(one).checkpoints().restore_latest(jax.eval_shape(state), print)
    assert (int(restored.step), meta["next_index"]) == (10, 80)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ls"], "--run_dir is missing"),
        (["ls", "--run_dir=nowhere"], "there is no run here"),
        (["verify", "--run_dir=RUN", "--checkpoint=newest"], "expected 'last', 'best' or one of"),
        (["verify", "--run_dir=EMPTY"], "holds no checkpoint yet"),
        (["rewind", "--run_dir=RUN"], "--step is missing"),
        (["rewind", "--run_dir=RUN", "--step=11"], "there are: 10, 20, 30"),
    ],
)
def test_mistakes(made, tmp_path, capsys, arguments, said):
    """One message that names the value; nothing is changed."""
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(made / "config.json", empty)
    places = {"RUN": str(made), "EMPTY": str(empty)}
    words = [re.sub("RUN|EMPTY", lambda found: places[found[0]], word) for word in arguments]
    before = tree(made)
    assert run("ckpt", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ptft: error: ")
    assert said in line
    assert tree(made) == before
