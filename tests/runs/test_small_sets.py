"""Whole runs with what helps on small data sets."""

import shutil

import numpy as np
import pytest
from command_line import losses, pretrain_flags, run
from small_encoder import TEXTS, task_config, write_encoder, write_task

import ptft_jax
from ptft_jax.errors import ConfigError
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.parts import named
from ptft_jax.objectives.added.regularized import FastGradient
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.runs.folder import open_run
from ptft_jax.runs.kinds.classification import Classification
from ptft_jax.runs.start.starting_point import load_starting_point

pytestmark = pytest.mark.filterwarnings("ignore:warning. dev. all 24 predictions")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny encoder of two layers, `hf`, and a table of texts, `data`."""
    return write_task(tmp_path_factory.mktemp("place"))


def leaves(params):
    return {path: np.asarray(value) for path, value in named(params)}


def test_layers_that_are_drawn_anew(place, tmp_path):
    """The top ones and the pooler, to other values of the same spread; all else is the source's."""
    # The first update of a warm-up has the rate 0: what the run starts from is what it saves.
    changes = {"reinit_layers": 1, "trainable": "top1"}
    config = task_config(place, steps=1, seed=1, **changes)  # the source is of seed 0
    ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "run"))
    found = leaves(open_run(tmp_path / "run").params)
    for path, before in leaves(load_starting_point(str(place / "hf"), ("pooler",)).params).items():
        after, kept = found[path], len(before)
        if "encoder/layers/" in path:
            kept = 1
        elif "pooler" in path:
            kept = 0
        np.testing.assert_array_equal(after[:kept], before[:kept], path)
        if path.endswith("kernel") and kept < len(before):
            assert (after[kept:] != before[kept:]).mean() > 0.99, path
            assert after[kept:].std() == pytest.approx(before[kept:].std(), rel=0.3), path
        else:
            np.testing.assert_array_equal(after, before, path)


def test_a_run_goes_on_with_the_values_that_it_began_with(place, tmp_path):
    """To the same losses after a kill, and not with other values."""
    changes = {"mixout": 0.5, "reinit_layers": 1, "steps": 4, "checkpoint_every": 2}
    config = task_config(place, **changes, **{"optimizer.learning_rate": 1e-2})
    base, run_dir = tmp_path / "base", tmp_path / "run"
    shutil.copytree(place / "hf", base)
    found = ptft_jax.finetune(config, str(base), str(run_dir))
    whole = losses(run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "4")
    (run_dir / "results.json").unlink()
    assert ptft_jax.finetune(config, None, str(run_dir)) == found
    assert losses(run_dir) == whole

    write_encoder(tmp_path / "other", TEXTS, seed=2)
    shutil.rmtree(base)
    (tmp_path / "other").rename(base)
    shutil.rmtree(run_dir / "checkpoints" / "4")
    with pytest.raises(ConfigError, match=r"holds other parameters .* stays near"):
        ptft_jax.finetune(config, None, str(run_dir))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reinit_layers": 3}, "reinit_layers=3: the model has 2 layers"),
        ({"reinit_layers": -1}, "reinit_layers=-1: expected at least 0"),
        ({"reinit_layers": 2, "trainable": "top1"}, "freeze some of the layers that are drawn"),
        ({"mixout": 1.0}, "mixout=1.0: expected a probability from 0 to below 1"),
        ({"mixout": 0.5, "trainable": "head"}, "mixout: no matrix of the encoder is trained"),
        ({"augment.swap": 1.0}, "augment.swap=1.0: expected a probability from 0 to below 1"),
        (
            {"augment.swap": 0.5, "trainable": "head", "cache_features": True},
            "with cache_features=True: an encoder that runs once does not see texts change",
        ),
        ({"regularizer.name": "drop"}, "name='drop': expected one of r_drop, fgm, smart"),
        ({"regularizer.name": "fgm", "regularizer.weight": -1.0}, "weight=-1.0: expected a finite"),
        ({"regularizer.name": "fgm", "regularizer.step_size": 1.0}, "fgm has weight, epsilon;"),
        ({"regularizer.name": "mixup", "packing": False}, "expected packing=True"),
        ({"regularizer.name": "mixup", "class_weights": "1,2"}, "without class_weights"),
        ({"regularizer.name": "mixup", "regularizer.alpha": 0.0}, "alpha=0.0: expected a finite"),
        ({"regularizer.weight": 1.0}, "weight=1.0: there is no regularizer.name"),
        (
            {
                "regularizer.name": "r_drop",
                "model.hidden_dropout_prob": 0.0,
                "model.attention_probs_dropout_prob": 0.0,
            },
            "r_drop: the model has no dropout",
        ),
    ],
)
def test_settings_that_cannot_be(place, tmp_path, changes, message):
    """One line before anything is compiled or written."""
    with pytest.raises(ConfigError, match=message):
        ptft_jax.finetune(task_config(place, **changes), str(place / "hf"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_loss_is_what_the_config_says(place):
    """In training; it is scored without."""
    changes = {"regularizer.name": "fgm", "regularizer.epsilon": 2.0, "label_smoothing": 0.1}
    kind = Classification(task_config(place, **changes))
    task = ClassificationObjective(label_smoothing=0.1)
    assert kind.objective(EncoderConfig()) == FastGradient(task, weight=1.0, epsilon=2.0)
    assert kind.plain_objective() == ClassificationObjective()


def test_mesh_and_micro_batches_do_not_change_which_are_mixed(place, tmp_path):
    """The partner is in the same row, wherever that lies."""
    found = []
    meshes: list[dict] = [{}, {"mesh.fsdp": 4, "mesh.tensor": 2, "accumulate": 2}]
    for number, mesh in enumerate(meshes):
        changes = {"regularizer.name": "mixup", "steps": 3, "batch_size": 16, **mesh}
        config = task_config(place, **changes, **{"optimizer.learning_rate": 1e-2})
        ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / f"{number}"))
        found.append(losses(tmp_path / f"{number}"))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_pretraining_has_none_of_them(tmp_path, capsys):
    """The text says what keys there are."""
    flags = pretrain_flags(tmp_path, tmp_path / "run", **{"regularizer.name": "fgm"})
    assert run(*flags) == 2
    assert "regularizer.name" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
