"""Checkpoints: exact, complete or absent, kept as asked, and readable on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_state import CONFIG, TOKENIZER, abstract, assert_same, checkpoints_in, make_state, save

from ptft_jax.errors import ConfigError, DataError
from ptft_jax.training.checkpoints.manifest import DamagedCheckpointError
from ptft_jax.training.mesh import MeshConfig, make_mesh


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(2, 2, 2))


def test_a_donated_state_is_saved_as_it_was(tmp_path, mesh):
    """The writer works in the background: the next step may overwrite the arrays meanwhile."""
    state = make_state(mesh, seed=7)
    expected = jax.tree.map(np.array, state)
    bump = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    with checkpoints_in(tmp_path / "checkpoints") as checkpoints:
        save(checkpoints, 7, state, {"dev_loss": 0.5})
        bump(state)
        checkpoints.wait()
        target = abstract(make_state(mesh))
        restored, meta = checkpoints.restore_latest(target, pytest.fail)
    assert_same(restored, expected)
    for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(target), strict=True):
        assert leaf.sharding == wanted.sharding
    assert meta == {
        "step": 7,
        "next_index": 224,
        "skipped": 8,
        "skipped_in_row": 9,
        "config": CONFIG,
        "metrics": {"dev_loss": 0.5},
        "evaluation_due": False,
    }
    assert checkpoints.tokenizer_json() == TOKENIZER


def test_restores_onto_other_meshes(tmp_path, mesh):
    """A run can go on with another number of devices: eight, four, one."""
    state = make_state(mesh, seed=3)
    with checkpoints_in(tmp_path) as checkpoints:
        save(checkpoints, 3, state)
    for count, sizes in ((4, MeshConfig(1, 4, 1)), (1, MeshConfig())):
        other = make_mesh(sizes, jax.devices()[:count])
        target = abstract(make_state(other))
        restored, _ = checkpoints_in(tmp_path).restore_latest(target, pytest.fail)
        assert_same(restored, state)
        assert restored.params["dense"]["kernel"].sharding.mesh == other
    bare = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state.params)
    params = checkpoints_in(tmp_path).restore_params(None, bare)
    assert_same(params, state.params)
    assert len(params["dense"]["kernel"].sharding.device_set) == 1


def test_retention(tmp_path, mesh):
    """The last two and the best stay, of equal ones the earlier; NaN is never the best."""
    state = make_state(mesh)
    losses = {1: 1.0, 2: 1.0, 3: float("nan"), 4: None, 5: 2.0, 6: 1.5}
    # The metrics of earlier checkpoints are known again after a restart.
    for steps in ((1, 2, 3, 4), (5, 6)):
        with checkpoints_in(tmp_path, keep_last=2, best=("dev_loss", "min")) as checkpoints:
            for step in steps:
                metrics = {} if losses[step] is None else {"dev_loss": losses[step]}
                save(checkpoints, step, state, metrics)
    assert checkpoints.all_steps() == [1, 5, 6]
    assert checkpoints.best_step() == 1
    assert checkpoints_in(tmp_path, best=("dev_loss", "max")).best_step() == 5


def test_saving_a_step_again(tmp_path, mesh):
    """A finished run started again saves its last step again; anything else is a mistake."""
    state = make_state(mesh)
    with checkpoints_in(tmp_path) as checkpoints:
        save(checkpoints, 5, state)
        save(checkpoints, 5, state)
        with pytest.raises(ConfigError, match="already holds step 5"):
            save(checkpoints, 4, state)
        with pytest.raises(ConfigError, match="already holds step 5"):
            checkpoints.save(5, state, 999, {})


def test_incomplete_folders_do_not_count(tmp_path, mesh):
    """An empty or broken numbered folder is neither read nor in the way of the next save."""
    state = make_state(mesh)
    with checkpoints_in(tmp_path) as checkpoints:
        save(checkpoints, 3, state)
    (tmp_path / "9").mkdir()
    (tmp_path / "8" / "params").mkdir(parents=True)
    assert checkpoints.latest_step() == 3
    assert (tmp_path / "9").is_dir()
    with checkpoints_in(tmp_path, keep_last=2) as checkpoints:
        save(checkpoints, 4, state)
    assert checkpoints.all_steps() == [3, 4]
    assert not (tmp_path / "9").exists()


def test_reading_creates_nothing(tmp_path, mesh):
    """Asking a folder that is not there is an error with its name, and leaves no folder behind."""
    checkpoints = checkpoints_in(tmp_path / "run" / "checkpoints")
    with pytest.raises(ConfigError, match=r"there is no checkpoint in .*run/checkpoints"):
        checkpoints.restore_params(None, abstract(make_state(mesh)).params)
    checkpoints.close()
    assert not (tmp_path / "run").exists()


def test_other_structure_shape_or_dtype(tmp_path, mesh):
    """Every array that differs is named with both shapes before anything is read."""
    with checkpoints_in(tmp_path) as checkpoints:
        save(checkpoints, 1, make_state(mesh))
    with pytest.raises(ConfigError, match=r"no checkpoint of step 2 .* there are: 1"):
        checkpoints.restore_params(2, abstract(make_state(mesh)).params)
    with pytest.raises(DataError) as caught:
        checkpoints.restore_latest(abstract(make_state(mesh, width=32)), print)
    # A wrong command line must not set good checkpoints aside.
    assert not isinstance(caught.value, DamagedCheckpointError)
    assert checkpoints.all_steps() == [1]
    assert "params/dense/kernel is float32[8, 16] there and float32[8, 32] here" in str(
        caught.value
    )
    assert "opt_state/1/0/mu/dense/bias is float32[16] there" in str(caught.value)
    params = abstract(make_state(mesh)).params
    params["extra"] = {"bias": jax.ShapeDtypeStruct((4,), np.float32)}
    with pytest.raises(DataError, match=r"extra/bias is absent there and float32\[4\] here"):
        checkpoints.restore_params(1, params)
    del params["extra"]
    params["dense"]["bias"] = jax.ShapeDtypeStruct((16,), jnp.bfloat16)
    with pytest.raises(DataError, match=r"float32\[16\] there and bfloat16\[16\] here"):
        checkpoints.restore_params(1, params)
