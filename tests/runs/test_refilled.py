"""Training texts refilled by a masked language model: what it draws, when, and in whole runs."""

import shutil

import jax
import numpy as np
import pytest
import torch
from command_line import losses
from small_encoder import TEXTS, task_config, write_encoder, write_task
from transformers import BertForMaskedLM

import ptft_jax
from ptft_jax.data.tasks.training.refilled import Refilled
from ptft_jax.errors import ConfigError
from ptft_jax.runs.augmenting import Refiller
from ptft_jax.runs.kinds.classification import Classification
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.mesh import MeshConfig, make_mesh

pytestmark = pytest.mark.filterwarnings("ignore:warning. dev. all 24 predictions")
CHANGES = {"augment.refill": 0.3, "epochs": 2.0, "batch_size": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A table of texts, `data`, an encoder, `hf`, and a masked language model, `mlm`."""
    place = write_task(tmp_path_factory.mktemp("place"))
    write_encoder(place / "mlm", TEXTS, seed=3, heads=("mlm",))
    return place


def config_of(place, **changes):
    keys = {"augment.masked_lm": str(place / "mlm"), **CHANGES, **changes}
    return task_config(place, **keys)


def filled(place, mesh):
    """Returns examples that a model has refilled, and its gaps."""
    config = config_of(place)
    kind = Classification(config)
    tokenizer = kind.starting_point(str(place / "hf"), None).tokenizer
    plain = kind.make_examples(kind.task.splits["train"], tokenizer, seed=0, shuffle=True)
    examples = Refilled(plain, tokenizer, 0.3, 0, 2)
    gaps = list(examples.gaps(8))
    with Job() as job, jax.set_mesh(mesh):
        said: list[str] = []
        Refiller(config, tokenizer, False).fill(examples, mesh=mesh, job=job, say=said.append)
    assert "2 variants of 24 training texts refilled by" in said[0]
    return examples, plain, gaps, tokenizer


def test_tokens_are_drawn_as_pytorch_would_draw_them(place):
    """By the chance of each place from the model's distribution over all but special tokens."""
    examples, plain, gaps, tokenizer = filled(place, make_mesh(MeshConfig(2, 2, 2)))
    special = np.zeros(tokenizer.vocab_size, bool)
    special[list(tokenizer.special_ids)] = True
    model = BertForMaskedLM.from_pretrained(place / "mlm").eval()
    count = len(plain)
    changed = 0
    for number, one in enumerate(gaps):
        keys = ("input_ids", "attention_mask", "token_type_ids")
        with torch.no_grad():
            logits = model(**{key: torch.tensor(one.batch[key]) for key in keys}).logits
        chances = torch.softmax(logits.masked_fill(torch.tensor(special), -torch.inf), -1).numpy()
        # The same rows where they come in the variant's epoch.
        own = np.arange(8) + number % 3 * 8
        epoch = number // 3 * count
        indices = epoch + np.argsort(plain.rows(epoch + np.arange(count)))[own]
        ids, before = (held.batch(indices)["input_ids"] for held in (examples, plain))
        used = one.chances >= 0
        rows, places = np.nonzero(used)
        where = one.positions[rows, places]
        # Elsewhere all is as it was.
        elsewhere = np.ones_like(ids, bool)
        elsewhere[rows, where] = False
        assert (ids == before)[elsewhere].all()
        below = np.cumsum(chances[rows, where].astype(np.float64), axis=-1)
        expected = (below <= one.chances[rows, places][:, None]).sum(axis=-1)
        assert (ids[rows, where] == expected).mean() > 0.97  # float32 at the borders
        assert not special[ids[rows, where]].any()
        assert (one.batch["input_ids"][rows, where] == tokenizer.mask_token_id).all()
        changed += len(rows)
    words = sum((~special[plain.batch(np.arange(count))["input_ids"]]).sum() for _ in range(2))
    assert changed / words == pytest.approx(0.3, abs=0.08)


def test_each_epoch_has_others_and_each_example_its_own(place):
    """Whatever the batch and the mesh; from the ninth epoch on those of the first come again."""
    examples, plain, *_ = filled(place, make_mesh(MeshConfig(8, 1, 1)))
    others, *_ = filled(place, make_mesh(MeshConfig(1, 4, 2)))
    whole = examples.batch(np.arange(48))["input_ids"]
    assert np.array_equal(whole, others.batch(np.arange(48))["input_ids"])
    assert np.array_equal(whole[10:20], examples.batch(np.arange(10, 20))["input_ids"])
    by_row = [
        dict(zip(plain.rows(np.arange(24) + 24 * e), whole[24 * e :], strict=False))
        for e in range(2)
    ]
    assert any((by_row[0][row] != by_row[1][row]).any() for row in range(24))
    again = examples.batch(np.arange(48, 96))["input_ids"]
    rows = plain.rows(np.arange(48, 72))
    assert all(np.array_equal(again[n], by_row[0][row]) for n, row in enumerate(rows))


def test_a_run_goes_on_with_the_same_texts_on_any_mesh(place, tmp_path):
    """To the same losses, and with no other model."""
    config = config_of(place, checkpoint_every=3, **{"optimizer.learning_rate": 1e-2})
    shutil.copytree(place / "mlm", tmp_path / "mlm")
    config.augment.masked_lm = str(tmp_path / "mlm")
    run_dir = tmp_path / "run"
    found = ptft_jax.finetune(config, str(place / "hf"), str(run_dir))
    whole = losses(run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "6")
    (run_dir / "results.json").unlink()
    assert ptft_jax.finetune(config, None, str(run_dir)) == found
    assert losses(run_dir) == whole
    config.mesh.update({"data": 2, "fsdp": 2, "tensor": 2})
    config.accumulate = 2
    ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "mesh"))
    assert losses(tmp_path / "mesh") == pytest.approx(whole, rel=1e-4)
    shutil.rmtree(tmp_path / "mlm")
    write_encoder(tmp_path / "mlm", TEXTS, seed=4, heads=("mlm",))
    config.mesh.update({"data": -1, "fsdp": 1, "tensor": 1})
    config.accumulate = 1
    (run_dir / "results.json").unlink()
    with pytest.raises(ConfigError, match="masked_lm"):
        ptft_jax.finetune(config, None, str(run_dir))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment.masked_lm": ""}, "expected a masked language model beside it"),
        ({"augment.refill": 0.0}, "has nothing to fill in"),
        ({"augment.refill": 1.0}, "expected a probability from 0 to below 1"),
        ({"augment.masked_lm": "hf"}, "has no masked-LM head"),
        ({"augment.masked_lm": "other"}, "its tokenizer is another one"),
        ({"trainable": "head", "cache_features": True}, "does not see texts change"),
    ],
)
def test_bad_input(place, tmp_path, changes, message):
    """One clear error, before anything is written."""
    write_encoder(tmp_path / "other", [*TEXTS, "unheard"], heads=("mlm",))
    for name, folder in (("hf", place / "hf"), ("other", tmp_path / "other")):
        if changes.get("augment.masked_lm") == name:
            changes = {**changes, "augment.masked_lm": str(folder)}
    with pytest.raises(ConfigError, match=message):
        ptft_jax.finetune(config_of(place, **changes), str(place / "hf"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
