"""Runs that learn from a teacher, on labelled texts and on a corpus."""

import shutil

import numpy as np
import pytest
from command_line import DROPOUT, losses, prepare_corpus, pretrain_flags, run
from small_encoder import TEXTS, task_config, write_encoder, write_task

import ptft_jax
from ptft_jax.errors import ConfigError
from ptft_jax.models.parts import named
from ptft_jax.runs.folder import open_run
from ptft_jax.runs.start.starting_point import load_starting_point

pytestmark = pytest.mark.filterwarnings("ignore:warning. dev. all 24 predictions")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny encoder, `hf`, a table, `data`, and a run on it, `teacher`."""
    place = write_task(tmp_path_factory.mktemp("place"))
    config = task_config(place, steps=6, **{"optimizer.learning_rate": 1e-2})
    ptft_jax.finetune(config, str(place / "hf"), str(place / "teacher"))
    return place


def student(place, **changes):
    keys = {
        **{"steps": 6, "batch_size": 16, "checkpoint_every": 3, "optimizer.learning_rate": 1e-2},
        **{"teacher": str(place / "teacher"), "init_layers": (1,), **changes},
    }
    return task_config(place, **keys)


def test_a_student_of_one_layer(place, tmp_path):
    """Starts from the teacher's second one; the same after a kill and on a mesh, with dropout."""
    changes = {"distillation.hidden_weight": 1.0, "distillation.layers": ((0, 0), (1, 2))}
    config = student(place, **changes, **DROPOUT, steps=6, accumulate=2)
    source, one = str(place / "teacher"), tmp_path / "one"
    found = ptft_jax.finetune(config, source, str(one))
    before, first = losses(one), dict(named(open_run(one).params))
    assert open_run(one).model_config.num_hidden_layers == 1
    assert len(set(before.values())) == 6
    shutil.rmtree(one / "checkpoints" / "6")
    (one / "results.json").unlink()
    assert ptft_jax.finetune(config, source, str(one)) == found
    assert losses(one) == before
    for path, value in named(open_run(one).params):
        np.testing.assert_array_equal(value, first[path], path)
    config.update_from_flattened_dict({"mesh.fsdp": 2, "mesh.tensor": 2, "accumulate": 1})
    ptft_jax.finetune(config, source, str(tmp_path / "mesh"))
    assert losses(tmp_path / "mesh") == pytest.approx(before, rel=1e-3)
    # Moved, it is the same teacher; another one is refused.
    shutil.copytree(place / "teacher", tmp_path / "moved")
    config.update_from_flattened_dict({"mesh.fsdp": 1, "mesh.tensor": 1, "accumulate": 2})
    config.teacher = str(tmp_path / "moved")
    assert ptft_jax.finetune(config, source, str(one)) == found
    config.teacher = str(one)
    config.distillation.layers = ((0, 0), (1, 1))
    with pytest.raises(ConfigError, match=r"one holds other parameters \(SHA-256 "):
        ptft_jax.finetune(config, source, str(one))


def test_the_layers_that_a_run_starts_from(place, tmp_path):
    """Are those of its source, bit for bit."""
    config = student(place, steps=1)  # the first update of a warm-up has the rate 0
    ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "run"))
    found = dict(named(open_run(tmp_path / "run").params))
    for path, value in named(load_starting_point(str(place / "hf"), ("pooler",)).params):
        own = value[1:] if "encoder/layers/" in path else value
        np.testing.assert_array_equal(found[path], own, path)


def test_layers_first_and_outputs_then(place, tmp_path):
    """TinyBERT's order in two runs, the first of which asks nothing of the teacher's head."""
    states = {f"distillation.{name}_weight": 0.0 for name in ("soft", "task")}
    states |= {"distillation.hidden_weight": 1.0, "distillation.hidden_loss": "mse"}
    config = student(place, **states, **{"distillation.layers": ((0, 0), (1, 2)), "steps": 3})
    ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "first"))
    assert losses(tmp_path / "first")[3] < losses(tmp_path / "first")[1]
    soft = {"distillation.soft_weight": 1.0, "distillation.temperature": 0.5, "init_layers": ()}
    prompt = {"adapter.name": "prompt", "adapter.num_virtual_tokens": 3, "mesh.tensor": 2}
    config = student(place, **soft, **prompt, steps=3)
    ptft_jax.finetune(config, str(tmp_path / "first"), str(tmp_path / "second"))
    assert len(set(losses(tmp_path / "second").values())) == 3


def others(place, tmp_path):
    """Writes an encoder of other words, and returns where it is."""
    return str(write_encoder(tmp_path / "other", [*TEXTS, "more words"]))


BAD = [
    ({"teacher": "hf"}, "hf has no classification head with the labels a, b: expected a model"),
    ({"teacher": "no"}, r"--config.teacher=.*no: there is no such folder"),
    ({"teacher": "other"}, "its tokenizer is another one"),
    ({"distillation.soft_weight": 0.0}, "nothing would be learned from it"),
    ({"distillation.soft_weight": -1.0}, "soft_weight=-1.0: expected a number of at least 0"),
    ({"distillation.temperature": 0.0}, "temperature=0.0: expected a number above 0"),
    ({"distillation.hidden_loss": "l1"}, "hidden_loss='l1': expected one of cosine, mse"),
    (
        {"distillation.hidden_weight": 1.0, "distillation.layers": ((1, 3),)},
        r"layers: \(1, 3\): expected a layer of the model \(up to 1\) and one of the teacher \(up",
    ),
    ({"init_layers": (False, True)}, "expected ascending numbers from 0 to 1"),
    ({"distillation.layers": (1, 2)}, r"layers=\(1, 2\): expected pairs .*, or \(\(1, 2\),\) for"),
    ({"distillation.layers": ((1, 2),)}, "with hidden_weight=0: no layers are compared"),
    ({"teacher": "", "distillation.temperature": 1.0}, "there is no teacher to learn from"),
    (
        {"adapter.name": "prompt", "distillation.hidden_weight": 1.0},
        r"at \[CLS\] there is a virtual token, which the teacher has not",
    ),
    ({"init_layers": (1, 0)}, r"init_layers=\(1, 0\): expected ascending numbers from 0 to 1"),
    ({"regularizer.name": "fgm"}, "teacher with regularizer.name=fgm: expected one of the two"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_teachers_that_cannot_be(place, tmp_path, changes, message):
    """One line before anything is compiled or written."""
    if changes.get("teacher") == "other":
        changes = {**changes, "teacher": others(place, tmp_path)}
    elif changes.get("teacher"):
        changes = {**changes, "teacher": str(place / changes["teacher"])}
    with pytest.raises(ConfigError, match=message):
        ptft_jax.finetune(student(place, **changes), str(place / "hf"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_pretraining_from_a_teacher(tmp_path, capsys):
    """Masked tokens and hidden states of a student of every second layer, as DistilBERT's."""
    prepare_corpus(tmp_path)
    teacher, small = tmp_path / "teacher", tmp_path / "student"
    assert run(*pretrain_flags(tmp_path / "data", teacher, **{"model.num_hidden_layers": 2})) == 0
    changes = {"teacher": teacher, "init_layers": "(0,)", "mesh.tensor": 2, "mesh.fsdp": 2}
    changes |= {"mesh.data": 2, "model.num_hidden_layers": 1}
    flags = [*pretrain_flags(tmp_path / "data", small, **changes), f"--init_from={teacher}"]
    assert run(*flags) == 0
    assert f"{teacher}: BERT, 2 layers" in capsys.readouterr().out
    assert len(set(losses(small).values())) == 6
    shutil.rmtree(small / "checkpoints" / "6")
    (small / "results.json").unlink()
    before = losses(small)
    assert run(*flags) == 0
    assert losses(small) == before
