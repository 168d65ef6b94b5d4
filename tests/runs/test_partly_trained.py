"""A run that trains a part of its model leaves the rest as it was, and saves what it trained."""

import json
import shutil

import numpy as np
import pytest
from command_line import sentences
from small_encoder import write_encoder

import ptft_jax
from ptft_jax.errors import ConfigError
from ptft_jax.models.parts import named
from ptft_jax.runs.folder import open_run
from ptft_jax.runs.starting_point import load_starting_point

TEXTS = [text for text, _ in sentences(24, 1)]
LAYER = "encoder/layers/attention/query/kernel"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny encoder of two layers, `hf`, and a table of texts, `data`."""
    place = tmp_path_factory.mktemp("place")
    (place / "data").mkdir()
    for split in ("train", "dev"):
        rows = [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(TEXTS)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (place / "data" / f"{split}.jsonl").write_text(lines)
    write_encoder(place / "hf", TEXTS)
    return place


def config_of(place, **changes):
    config = ptft_jax.get_config("finetune/text")
    config.update_from_flattened_dict(
        {
            "data_dir": str(place / "data"),
            "batch_size": 8,
            "steps": 6,
            "checkpoint_every": 3,
            "eval_every": 0,
            "log_every": 1,
            "max_seq_length": 32,
            "optimizer.learning_rate": 1e-2,
            **changes,
        }
    )
    return config


def losses(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return {entry["step"]: entry["loss"] for line in lines if "loss" in (entry := json.loads(line))}


def of_head(path):
    return 2


def of_top(path):
    return 0 if "pooler" in path else 1 if "layers" in path else 2


def of_bias(path):
    return 0 if path.endswith("bias") else 2


def of_rules(path):
    return 2 if "embeddings" in path else 0


# How many of the two layers of a parameter are frozen; 2 for one without layers as well.
CASES = [
    ({"trainable": "head"}, of_head),
    ({"trainable": "top1"}, of_top),
    ({"trainable": "bias", "mesh.fsdp": 2}, of_bias),
    ({"optimizer.rules": (("encoder/embeddings/.*", None), ("heads/.*", 2.0))}, of_rules),
]


@pytest.mark.filterwarnings("ignore:warning. dev. all 24 predictions")
@pytest.mark.parametrize(("changes", "frozen"), CASES, ids=[case[1].__name__ for case in CASES])
def test_what_is_frozen_stays(place, tmp_path, changes, frozen):
    """Bit for bit, whatever weight decay does to the rest."""
    config, run_dir = config_of(place, **changes), tmp_path / "run"
    ptft_jax.finetune(config, str(place / "hf"), str(run_dir))
    run = open_run(run_dir)
    for path, before in named(load_starting_point(str(place / "hf"), ("pooler",)).params):
        after = dict(named(run.params))[path]
        count = frozen(path) if "layers" in path else len(before) * (frozen(path) > 0)
        np.testing.assert_array_equal(after[:count], before[:count], path)
        assert count == len(before) or (after[count:] != before[count:]).any(), path
    assert run.record.frozen is not None


@pytest.mark.filterwarnings("ignore:warning. dev. all 24 predictions")
def test_a_run_on_a_part_goes_on_and_is_exported(place, tmp_path):
    """To the same losses after a kill; its scores and its Hugging Face folder are of the whole."""
    config, run_dir = config_of(place, trainable="top1"), tmp_path / "run"
    found = ptft_jax.finetune(config, str(place / "hf"), str(run_dir))
    whole_losses = losses(run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "6")
    (run_dir / "results.json").unlink()
    assert ptft_jax.finetune(config, None, str(run_dir)) == found
    assert losses(run_dir) == whole_losses
    opened = ptft_jax.load_run(run_dir)
    scored = opened.evaluate()
    assert scored["dev"] == pytest.approx({key: found["dev"][key] for key in scored["dev"]})
    assert opened.export(tmp_path / "hf").verification.largest_difference < 1e-4


def test_a_base_that_is_gone_or_changed_is_refused(place, tmp_path):
    """What is frozen is in no checkpoint: with other weights the run would be another model."""
    base, run_dir = tmp_path / "base", tmp_path / "run"
    shutil.copytree(place / "hf", base)
    config = config_of(place, trainable="head", steps=2)
    ptft_jax.finetune(config, str(base), str(run_dir))
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"keeps the parameters of .*base frozen"):
        ptft_jax.load_run(run_dir)
    other = config_of(place, steps=3)
    ptft_jax.finetune(other, str(place / "hf"), str(tmp_path / "other"))
    ptft_jax.load_run(tmp_path / "other").export(base)
    with pytest.raises(ConfigError, match=r"holds other parameters \(SHA-256 "):
        ptft_jax.load_run(run_dir)
    longer = config_of(place, trainable="head", steps=4)
    with pytest.raises(ConfigError, match=r"holds other parameters \(SHA-256 "):
        ptft_jax.finetune(longer, None, str(run_dir))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainable": "top3"}, "trainable='top3': expected all, head, bias or topK with K from 1"),
        ({"optimizer.layer_decay": 0.0}, "layer_decay=0.0: expected more than 0"),
        ({"optimizer.rules": (("encoder/nothing", None),)}, "'encoder/nothing' matches no param"),
        ({"optimizer.rules": (("(", None),)}, "the pattern is no regular expression"),
        ({"optimizer.rules": ((".*", -1.0),)}, "expected a rate above 0, or None for frozen"),
        ({"optimizer.rules": ((".*", {"by": 1}),)}, "expected the keys rate, by_layer, below"),
        ({"optimizer.rules": ("encoder/.*",)}, "expected a pair like"),
    ],
)
def test_rules_that_cannot_be(place, tmp_path, changes, message):
    """One line before anything is compiled or written."""
    with pytest.raises(ConfigError, match=message):
        ptft_jax.finetune(config_of(place, **changes), str(place / "hf"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
