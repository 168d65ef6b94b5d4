"""Ways of fine-tuning that are chosen together go on after a kill as if there had been none."""

import shutil

import numpy as np
import pytest
from command_line import DROPOUT, losses
from small_encoder import task_config, write_task

import ptft_jax
from ptft_jax.models.parts import named
from ptft_jax.runs.folder import open_run

TOGETHER = {
    "adalora": {
        **{"adapter.name": "adalora", "adapter.initial_rank": 6, "adapter.rank": 3},
        **{"ema": 0.5, "regularizer.name": "fgm", "accumulate": 2, "mesh.fsdp": 2},
        **{"augment.word_dropout": 0.2, "augment.swap": 0.5, "augment.token_dropout": 0.1},
    },
    "prompt": {
        **{"adapter.name": "prompt", "adapter.num_virtual_tokens": 3, "unfreeze": 0.5},
        **{"regularizer.name": "r_drop", "accumulate": 2, "mesh.tensor": 2, "ema": 0.5},
        **DROPOUT,
    },
}


@pytest.mark.filterwarnings("ignore:warning. dev. all 24 predictions")
@pytest.mark.parametrize("name", TOGETHER)
def test_a_run_goes_on(name, tmp_path):
    """With the same losses, scores and parameters, bit for bit."""
    place, run_dir = write_task(tmp_path), tmp_path / "run"
    changes = {"steps": 6, "batch_size": 16, "checkpoint_every": 3, "optimizer.learning_rate": 1e-2}
    config = task_config(place, **changes, **TOGETHER[name])
    found = ptft_jax.finetune(config, str(place / "hf"), str(run_dir))
    before, first = losses(run_dir), dict(named(open_run(run_dir).params))
    assert len(set(before.values())) == 6
    shutil.rmtree(run_dir / "checkpoints" / "6")
    (run_dir / "results.json").unlink()
    assert ptft_jax.finetune(config, str(place / "hf"), str(run_dir)) == found
    assert losses(run_dir) == before
    for path, value in named(open_run(run_dir).params):
        np.testing.assert_array_equal(value, first[path], path)
