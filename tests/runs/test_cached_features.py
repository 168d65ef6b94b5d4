"""A frozen encoder that runs once over each example trains the head as one that always runs."""

import shutil

import pytest
from command_line import losses
from small_encoder import task_config, write_task

import ptft_jax
from ptft_jax.errors import ConfigError

# No dropout in the encoder, and some before the head.
HEAD_ALONE = {
    "model.hidden_dropout_prob": 0.0,
    "model.attention_probs_dropout_prob": 0.0,
    "model.classifier_dropout": 0.2,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny encoder, `hf`, and a table of texts, `data`."""
    return write_task(tmp_path_factory.mktemp("place"))


def config_of(place, **changes):
    return task_config(
        place,
        **{
            "steps": 6,
            "checkpoint_every": 3,
            "trainable": "head",
            "mesh.data": 2,
            "mesh.fsdp": 2,
            "mesh.tensor": 2,
            "accumulate": 2,
            "optimizer.learning_rate": 1e-2,
            **changes,
        },
    )


@pytest.mark.filterwarnings("ignore:warning. dev. all 24 predictions")
def test_losses_and_results_are_those_of_an_encoder_that_always_runs(place, tmp_path):
    """Over two epochs, on a mesh, in micro-batches; and after a kill, when it runs once more.

    The encoder's own dropout, which the cached run is told of, is off; that before the head stays.
    """
    init_from, said = str(place / "hf"), []
    runs = {name: tmp_path / name for name in ("always", "once")}
    found = ptft_jax.finetune(config_of(place, **HEAD_ALONE), init_from, str(runs["always"]))
    once = config_of(place, cache_features=True, **HEAD_ALONE)
    once.model.hidden_dropout_prob = 0.3
    cached = ptft_jax.finetune(once, init_from, str(runs["once"]), say=said.append)
    assert any("features of the frozen encoder" in line for line in said)
    wanted = losses(runs["always"])
    assert list(wanted) == [1, 2, 3, 4, 5, 6]
    assert losses(runs["once"]) == pytest.approx(wanted, rel=1e-5)
    assert cached["dev"] == pytest.approx(found["dev"], rel=1e-5)
    before = losses(runs["once"])
    shutil.rmtree(runs["once"] / "checkpoints" / "6")
    (runs["once"] / "results.json").unlink()
    assert ptft_jax.finetune(once, None, str(runs["once"])) == cached
    assert losses(runs["once"]) == before
    # The features lie in no file that stays, and the run is one like any other.
    assert max(file.stat().st_size for file in runs["once"].iterdir() if file.is_file()) < 1 << 20
    scored = ptft_jax.load_run(runs["once"]).evaluate()["dev"]
    assert scored == pytest.approx({key: cached["dev"][key] for key in scored}, rel=1e-5)


@pytest.mark.parametrize("trainable", ["all", "top1", "bias"])
def test_an_encoder_that_learns_is_not_cached(place, tmp_path, trainable):
    """One line before anything is compiled or written."""
    config = config_of(place, trainable=trainable, cache_features=True)
    with pytest.raises(
        ConfigError, match=f"cache_features=True with trainable='{trainable}'.*head"
    ):
        ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
