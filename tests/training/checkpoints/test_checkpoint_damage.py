"""What a checkpoint survives: flipped bits, lost files, full disks, kills, and other processes."""

import dataclasses
import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from checkpoint_damage import damaged, files_of, single_flips
from small_state import abstract, assert_same, checkpoints_in, make_state, save

from ptft_jax.errors import ConfigError, DataError, StorageError
from ptft_jax.training.checkpoints import retention
from ptft_jax.training.checkpoints.manifest import (
    DamagedCheckpointError,
    make_manifest,
    read_manifest,
    write_manifest,
)
from ptft_jax.training.mesh import MeshConfig, make_mesh

FLIPS = 40


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(2, 2, 2))


@pytest.fixture(scope="module")
def two(tmp_path_factory, mesh) -> Path:
    """A folder with the checkpoints 1 and 2, whose arrays differ."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    with checkpoints_in(folder, keep_last=2, best=("dev_loss", "min")) as checkpoints:
        save(checkpoints, 1, make_state(mesh, seed=1), {"dev_loss": 0.5})
        save(checkpoints, 2, make_state(mesh, seed=2), {"dev_loss": 0.4})
    return folder


def goes_back_to_one(folder: Path, mesh, file: str) -> None:
    """Asserts that a resume tells of the damaged file in 2, uses 1 and keeps 2 under a new name."""
    said = []
    checkpoints = checkpoints_in(folder)
    state, meta = checkpoints.restore_latest(abstract(make_state(mesh)), said.append)
    assert meta["step"] == 1
    assert_same(state, make_state(mesh, seed=1))
    [line] = said
    assert file in line
    assert line.endswith("step 1 is used instead")
    assert checkpoints.all_steps() == [1]
    [aside] = [path for path in folder.iterdir() if path.name.startswith("2.")]
    assert aside.name in line
    aside.rename(folder / "2")


def test_flipped_bits_are_found_and_the_checkpoint_before_is_used(two, mesh):
    """Orbax by itself restores 199 of 200 such checkpoints without a word, with wrong numbers."""
    flips = list(single_flips(two / "2", FLIPS, seed=5))
    assert len(flips) >= FLIPS
    for path, content in flips:
        with damaged(path, content):
            goes_back_to_one(two, mesh, path.name)
    said = []
    state, _ = checkpoints_in(two).restore_latest(abstract(make_state(mesh)), said.append)
    assert_same(state, make_state(mesh, seed=2))
    assert said == []


@pytest.mark.parametrize("how", ["truncated", "emptied", "deleted", "longer"])
def test_lost_content_is_found_in_every_file(two, mesh, how):
    """A copy that broke off, or a file system that lost what it was given, is no checkpoint."""
    for path in files_of(two / "2"):
        held = path.read_bytes()
        half, longer = held[: len(held) // 2], held + b"x"
        kinds = {"truncated": half, "emptied": b"", "deleted": None, "longer": longer}
        with damaged(path, kinds[how]):
            goes_back_to_one(two, mesh, path.name)


def test_reading_commands_refuse_what_is_damaged(two, mesh):
    """Whoever names a checkpoint, or asks for the last, is not given another one silently."""
    checkpoints = checkpoints_in(two, best=("dev_loss", "min"))
    params = abstract(make_state(mesh)).params
    [data] = [path for path in files_of(two / "2") if path.parent.parent.name == "params"][:1]
    with damaged(data, data.read_bytes()[:-1]):
        with pytest.raises(DamagedCheckpointError, match=f"{data.name} has .* bytes instead of"):
            checkpoints.restore_params(2, params)
        assert_same(checkpoints.restore_params(1, params), make_state(mesh, seed=1).params)
    for item, read in (("meta", checkpoints.meta), ("tokenizer", checkpoints.tokenizer_json)):
        path = two / "2" / item / "metadata"
        with damaged(path, path.read_bytes().replace(b"1", b"2", 1)):
            with pytest.raises(DamagedCheckpointError, match=f"{item}/metadata has changed"):
                read(2)
            # Another item is damaged, the parameters are not.
            checkpoints.restore_params(2, params)
    with damaged(two / "2" / "manifest.json", b"{}"):
        with pytest.raises(DamagedCheckpointError, match=r"manifest.*; --checkpoint=1 names"):
            checkpoints.choose("last")
        assert checkpoints.choose("best") == 1
    assert [checkpoints.choose(which) for which in ("last", "best", "1")] == [2, 2, 1]
    with pytest.raises(ConfigError, match="--checkpoint=3: expected 'last', 'best' or one of 1, 2"):
        checkpoints.choose("3")


def test_without_any_whole_checkpoint(two, mesh, tmp_path):
    """Nothing is renamed, so that a job that is started again does not begin at step 0."""
    folder = shutil.copytree(two, tmp_path / "checkpoints")
    for step in ("1", "2"):
        (folder / step / "params" / "_METADATA").unlink()
    checkpoints = checkpoints_in(folder)
    for _ in range(2):
        with pytest.raises(DamagedCheckpointError, match=r"no checkpoint that is whole.*/2.*/1"):
            checkpoints.restore_latest(abstract(make_state(mesh)), print)
    assert {path.name for path in folder.iterdir()} == {"1", "2"}
    assert (
        checkpoints_in(tmp_path / "new").restore_latest(abstract(make_state(mesh)), print) is None
    )
    assert not (tmp_path / "new").exists()


def test_metrics_can_come_later(tmp_path, mesh):
    """A run stopped in the middle of an evaluation saves, and the resume adds the metrics."""
    state = make_state(mesh)
    with checkpoints_in(tmp_path, keep_last=1, best=("dev_loss", "min")) as checkpoints:
        save(checkpoints, 1, state, {"dev_loss": 0.5})
        checkpoints.save(2, state, 64, {}, evaluation_due=True)
        checkpoints.wait()
        assert checkpoints.meta()["evaluation_due"]
        assert checkpoints.best_step() == 1
        checkpoints.record_metrics(2, {"dev_loss": 0.25})
        assert checkpoints.best_step() == 2
    resumed = checkpoints_in(tmp_path, keep_last=1, best=("dev_loss", "min"))
    _, meta = resumed.restore_latest(abstract(state), pytest.fail)
    assert meta["metrics"] == {"dev_loss": 0.25}
    assert not meta["evaluation_due"]
    with resumed:
        save(resumed, 3, state)
    assert resumed.all_steps() == [2, 3]
    # A run whose last step lacks its evaluation makes it when it is started again.
    with resumed:
        save(resumed, 3, state, {"dev_loss": 0.125})
    assert resumed.meta(3)["metrics"] == {"dev_loss": 0.125}
    with pytest.raises(ConfigError, match="no checkpoint of step 9"):
        resumed.record_metrics(9, {})


def test_items_that_are_not_there(tmp_path, mesh):
    """A checkpoint saved without a tokenizer, say, is refused by what is absent."""
    with checkpoints_in(tmp_path) as checkpoints:
        save(checkpoints, 1, make_state(mesh))
    shutil.rmtree(tmp_path / "1" / "tokenizer")
    held = read_manifest(tmp_path / "1")
    write_manifest(tmp_path / "1", make_manifest(tmp_path / "1", 1, held.metrics, False))
    with pytest.raises(DataError, match="tokenizer is absent there") as caught:
        checkpoints.restore_latest(abstract(make_state(mesh)), print)
    assert not isinstance(caught.value, DamagedCheckpointError)


SAVES = """
import resource, sys, time
import jax, numpy as np
from ptft_jax.errors import StorageError
from ptft_jax.training.checkpoints.store import Checkpoints
from ptft_jax.training.step import TrainState

rng = np.random.default_rng(0)

def save(step, kilobytes):
    params = {"kernel": jax.device_put(rng.standard_normal(250 * kilobytes, np.float32))}
    state = TrainState.new(params, {"mu": params["kernel"] + 1})
    checkpoints.save(step, state, step, {})

checkpoints = Checkpoints(sys.argv[1])
save(1, 10)
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
save(2, 1000)
try:
    for _ in range(1000):
        checkpoints.check()
        time.sleep(0.05)
except StorageError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_files_that_may_not_grow(tmp_path):
    """A limit on file sizes, like a quota, ends a background write: exit code 74, all else whole.

    The error is there at the next look, not only at the next save.
    """
    command = [sys.executable, "-c", SAVES, str(tmp_path)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(command, env=environment, timeout=120, capture_output=True, text=True)
    assert done.returncode == 74, done.stderr
    for part in (f"checkpoint {tmp_path}/2", "File too large", "MB", "are whole (steps 1)"):
        assert part in done.stdout
    assert done.stderr == ""
    assert os.listdir(tmp_path) == ["1"]
    kernel = {"kernel": jax.ShapeDtypeStruct((2500,), np.float32)}
    assert len(checkpoints_in(tmp_path).restore_params(1, kernel)) == 1


@pytest.mark.parametrize("called", ["check", "save"])
def test_background_errors_come_out(tmp_path, mesh, monkeypatch, called):
    """Whatever the run does next raises the error; one that is no disk's comes as it is."""
    checkpoints = checkpoints_in(tmp_path)
    save(checkpoints, 1, make_state(mesh))
    checkpoints.wait()

    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("ptft_jax.training.checkpoints.retention.make_manifest", broken)
    save(checkpoints, 2, make_state(mesh))
    calls = {
        "check": lambda: [time.sleep(0.01) or checkpoints.check() for _ in range(1000)],
        "save": lambda: save(checkpoints, 3, make_state(mesh)),
    }
    with pytest.raises(ZeroDivisionError, match="a bug"):
        calls[called]()
    assert checkpoints.all_steps() == [1]
    monkeypatch.undo()
    with checkpoints_in(tmp_path) as checkpoints:
        save(checkpoints, 2, make_state(mesh))
    assert os.listdir(tmp_path) == ["2"]


def test_an_error_on_the_way_out_is_not_hidden(tmp_path, mesh, monkeypatch):
    """A failing write does not replace the error that ended the run, and makes room."""

    def ends_by(error: Exception, step: int) -> None:
        with checkpoints_in(tmp_path) as checkpoints:
            save(checkpoints, step, make_state(mesh))
            raise error

    with pytest.raises(KeyError, match="first"):
        ends_by(KeyError("first"), 1)
    assert checkpoints_in(tmp_path).all_steps() == [1]

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ptft_jax.training.checkpoints.retention.make_manifest", full)
    with pytest.raises(KeyError, match="second"):
        ends_by(KeyError("second"), 2)
    assert os.listdir(tmp_path) == ["1"]


def test_hosts_without_a_shared_folder(tmp_path, mesh):
    """Checkpoints on each host's own disk could not be put together again."""

    def gather(tag, value):
        return [value, ["b", False] if tag.endswith("seen") else value]

    with pytest.raises(ConfigError, match="process 1 on host b does not see what process 0"):
        save(checkpoints_in(tmp_path, gather=gather), 1, make_state(mesh))
    assert os.listdir(tmp_path) == []


def test_what_the_first_process_finds_comes_to_all(tmp_path, mesh, monkeypatch):
    """The same error, and the same checkpoint instead; the files are compared once."""
    answers, tags, said = {}, [], []

    def gather(tag, value):
        tags.append(tag)
        return [answers.pop(tag.split()[-1], value), value]

    state = make_state(mesh)
    with checkpoints_in(tmp_path, keep_last=2, gather=gather) as checkpoints:
        save(checkpoints, 1, make_state(mesh, seed=1))
        save(checkpoints, 2, state)
    # From here on as another process, which hashes nothing.
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr("ptft_jax.training.checkpoints.store.verify", pytest.fail)
    answers["damage"] = "params/d/1 has changed"
    with pytest.raises(DamagedCheckpointError, match="params/d/1 has changed"):
        checkpoints.restore_params(2, abstract(state).params)
    monkeypatch.undo()
    with damaged(tmp_path / "2" / "params" / "_METADATA", b"{}"):
        # One that reads for itself, like the source of a run on each host, hears of nobody.
        with monkeypatch.context() as patched:
            patched.setattr(jax, "process_index", lambda: 1)
            with pytest.raises(DamagedCheckpointError, match="params/_METADATA has 2 bytes"):
                checkpoints_in(tmp_path).restore_params(2, abstract(state).params)
        restored, _ = checkpoints.restore_latest(abstract(state), said.append)
        assert_same(restored, make_state(mesh, seed=1))
        assert "set aside as 2.damaged-1; step 1 is used instead" in said[0]
    assert checkpoints.all_steps() == [1]
    assert len({*tags}) == len(tags)  # a tag that comes again would mix up two questions


def test_a_failed_write_waits_for_nobody(tmp_path, mesh, monkeypatch):
    """The other processes may be waiting for this one's part: asking them would never end.

    Two processes on a full disk once waited for each other until they were killed.
    """
    asked = []

    def gather(tag, value):
        asked.append(tag.split()[-1])
        return [value, value]

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with checkpoints_in(tmp_path, gather=gather) as checkpoints:
        save(checkpoints, 1, make_state(mesh))
        checkpoints.wait()
        assert asked[-1] == "written"
        monkeypatch.setattr(retention, "finish", full)
        save(checkpoints, 2, make_state(mesh))
        del asked[:]
        with pytest.raises(StorageError, match="2 could not be written"):
            checkpoints.wait()
        assert asked == []
        monkeypatch.undo()
        checkpoints._writer._write = None


def test_an_imported_model_is_no_damage(tmp_path, mesh):
    """A run without optimizer state is said to be one, when it is resumed."""
    state = make_state(mesh)
    with checkpoints_in(tmp_path) as checkpoints:
        save(checkpoints, 0, dataclasses.replace(state, opt_state=None))
    with pytest.raises(ConfigError, match="no optimizer state"):
        checkpoints.restore_latest(abstract(state), pytest.fail)
    assert_same(checkpoints.restore_params(0, abstract(state).params), state.params)
    assert checkpoints.all_steps() == [0]
