"""Whole runs with what helps on small data sets: layers drawn anew."""

import json

import numpy as np
import pytest
from command_line import compilation_cache, sentences
from small_encoder import write_encoder

import ptft_jax
from ptft_jax.errors import ConfigError
from ptft_jax.models.parts import named
from ptft_jax.runs.folder import open_run
from ptft_jax.runs.starting_point import load_starting_point

TEXTS = [text for text, _ in sentences(24, 1)]
pytestmark = pytest.mark.filterwarnings("ignore:warning. dev. all 24 predictions")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny encoder of two layers, `hf`, and a table of texts, `data`."""
    place = tmp_path_factory.mktemp("place")
    (place / "data").mkdir()
    for split in ("train", "dev"):
        rows = [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(TEXTS)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (place / "data" / f"{split}.jsonl").write_text(lines)
    with compilation_cache(place / "cache"):
        write_encoder(place / "hf", TEXTS)
        yield place


def config_of(place, **changes):
    config = ptft_jax.get_config("finetune/text")
    keys = {"data_dir": str(place / "data"), "batch_size": 8, "eval_every": 0, "log_every": 1}
    config.update_from_flattened_dict({**keys, "max_seq_length": 32, **changes})
    return config


def leaves(params):
    return {path: np.asarray(value) for path, value in named(params)}


@pytest.mark.parametrize(
    ("changes", "layers"),
    [({"reinit_layers": 1, "trainable": "top1"}, 1), ({"reinit_layers": 2, "mesh.fsdp": 2}, 2)],
)
def test_layers_that_are_drawn_anew(place, tmp_path, changes, layers):
    """The top ones and the pooler, to other values of the same spread; all else is the source's."""
    # The first update of a warm-up has the rate 0: what the run starts from is what it saves.
    config = config_of(place, steps=1, seed=1, **changes)  # the source is of seed 0
    ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "run"))
    found = leaves(open_run(tmp_path / "run").params)
    for path, before in leaves(load_starting_point(str(place / "hf"), ("pooler",)).params).items():
        after, kept = found[path], len(before)
        if "encoder/layers/" in path:
            kept = 2 - layers
        elif "pooler" in path:
            kept = 0
        np.testing.assert_array_equal(after[:kept], before[:kept], path)
        if path.endswith("kernel") and kept < len(before):
            assert (after[kept:] != before[kept:]).mean() > 0.99, path
            assert after[kept:].std() == pytest.approx(before[kept:].std(), rel=0.3), path
        else:
            np.testing.assert_array_equal(after, before, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reinit_layers": 3}, "reinit_layers=3: the model has 2 layers"),
        ({"reinit_layers": -1}, "reinit_layers=-1: expected at least 0"),
        ({"reinit_layers": 2, "trainable": "top1"}, "freeze some of the layers that are drawn"),
    ],
)
def test_settings_that_cannot_be(place, tmp_path, changes, message):
    """One line before anything is compiled or written."""
    with pytest.raises(ConfigError, match=message):
        ptft_jax.finetune(config_of(place, **changes), str(place / "hf"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
