"""A run that trains a part of its model leaves the rest as it was, and saves what it trained."""

import gc
import shutil

import jax
import numpy as np
import pytest
from command_line import losses
from small_encoder import TEXTS, task_config, write_task

import ptft_jax
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.models.parts import named
from ptft_jax.runs.folder import open_run
from ptft_jax.runs.start.starting_point import load_starting_point


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny encoder of two layers, `hf`, and a table of texts, `data`."""
    return write_task(tmp_path_factory.mktemp("place"))


def config_of(place, **changes):
    return task_config(
        place,
        **{
            "steps": 6,
            "checkpoint_every": 3,
            "optimizer.learning_rate": 1e-2,
            **changes,
        },
    )


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
    (
        {
            "optimizer.rules": (("encoder/embeddings/.*", None), ("heads/.*", 2.0)),
            "mesh.fsdp": 2,
            "unfreeze": 0.5,
        },
        of_rules,
    ),
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
    """To the same losses after a kill; its scores and its Hugging Face folder are of the whole.

    The layer is unfrozen after two of six updates, and its count goes on from the third.
    With an average: it is scored and saved, and training goes on from what it would be without.
    """
    settings = {"trainable": "top1", "checkpoint_every": 5, "unfreeze": 0.4}
    run_dir, raw_dir = tmp_path / "run", tmp_path / "raw"
    raw = ptft_jax.finetune(config_of(place, **settings), str(place / "hf"), str(raw_dir))
    config = config_of(place, ema=0.9, **settings)
    found = ptft_jax.finetune(config, str(place / "hf"), str(run_dir))
    whole_losses = losses(run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "6")
    (run_dir / "results.json").unlink()
    assert ptft_jax.finetune(config, None, str(run_dir)) == found
    assert losses(run_dir) == whole_losses == losses(raw_dir)
    assert found["dev"]["loss"] != raw["dev"]["loss"]
    before, after = (dict(named(open_run(run_dir, step).params)) for step in ("5", "6"))
    for path, value in named(open_run(raw_dir).params):
        wanted = (7 * before[path] + 9 * value) / 16  # (1 + n) / (10 + n) after 6 updates
        np.testing.assert_allclose(after[path], wanted, rtol=1e-5, atol=1e-6, err_msg=path)
    with pytest.raises(ConfigError, match=r"config\.ema: 0\.9 in the run, 0\.0 now"):
        ptft_jax.finetune(config_of(place, **settings), None, str(run_dir))
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
        ({"ema": 1.0}, "ema=1.0: expected a decay from 0"),
        ({"optimizer.layer_decay": 0.0}, "layer_decay=0.0: expected more than 0"),
        ({"unfreeze": 1.0}, "unfreeze=1.0: expected a share of the run, from 0 and below 1"),
        ({"trainable": "head", "unfreeze": 0.5}, "no layer below the heads is trained"),
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


ADAPTED = {
    "lora": ("mesh.tensor", {"a": (2, 16, 3), "b": (2, 3, 2, 8)}),
    "dora": ("mesh.tensor", {"a": (2, 16, 3), "b": (2, 3, 2, 8), "magnitude": (2, 2, 8)}),
    "adalora": ("mesh.tensor", {"a": (2, 16, 4), "e": (2, 4), "b": (2, 4, 2, 8)}),
    "ia3": ("mesh.tensor", {"scale": (2, 2, 8)}),
}


@pytest.mark.filterwarnings("ignore:warning. dev. all 24 predictions")
@pytest.mark.filterwarnings("ignore:all 24 texts got the label")
@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapter_beside_a_frozen_encoder(place, tmp_path, name):
    """Only it and the head are trained; folded into the kernels it gives the same outputs."""
    axis, shapes = ADAPTED[name]
    keys = {
        "adapter.name": name,
        "adapter.rank": 3,
        "adapter.initial_rank": 4,
        "adapter.targets": (
            *("attention/query", "attention/key", "attention/value", "attention/output"),
            *("feed_forward/intermediate", "feed_forward/output"),
        ),
        "mesh.fsdp": 2,
        axis: 2,
        "optimizer.learning_rate": 0.05,
    }
    config, run_dir = config_of(place, **keys), tmp_path / "run"
    found = ptft_jax.finetune(config, str(place / "hf"), str(run_dir))
    run, start = open_run(run_dir), load_starting_point(str(place / "hf"), ("pooler",))
    after = dict(named(run.params))
    for path, before in named(start.params):
        np.testing.assert_array_equal(after[path], before, path)
    own = {path: value for path, value in after.items() if "/adapter/" in path}
    assert len(own) == 6 * len(shapes)
    for part, shape in shapes.items():
        assert own[f"encoder/layers/attention/query/adapter/{part}"].shape == shape
    assert all(np.ptp(value) > 0 for value in own.values())
    opened = ptft_jax.load_run(run_dir)
    scored = opened.evaluate()
    assert scored["dev"] == pytest.approx({key: found["dev"][key] for key in scored["dev"]})
    with pytest.raises(ConfigError, match=r"expected either --format=peft, .* or --merge"):
        opened.export(tmp_path / "hf")
    assert opened.export(tmp_path / "hf", merge=True).verification.largest_difference < 1e-4
    alone = opened.export(tmp_path / "peft", form="peft")
    assert alone.verification.largest_difference < 1e-4
    answers, *others = (
        [answer["scores"] for answer in one.predict(TEXTS)]
        for one in (opened, *(ptft_jax.load_run(tmp_path / form) for form in ("hf", "peft")))
    )
    for other in others:
        for found_here, found_there in zip(answers, other, strict=True):
            assert found_there == pytest.approx(found_here, abs=1e-5)


@pytest.mark.filterwarnings("ignore:warning. dev. all 24 predictions")
@pytest.mark.parametrize(("name", "arrays"), [("houlsby", 8), ("prefix", 2), ("p_tuning", 7)])
def test_an_adapter_of_whole_sublayers(place, tmp_path, name, arrays):
    """It is trained on any mesh, and cannot be folded; PEFT takes what it has a form for."""
    keys = {"adapter.name": name, "adapter.rank": 3, "adapter.num_virtual_tokens": 4}
    meshes = {"mesh.fsdp": 2, "mesh.tensor": 2}
    config, run_dir = config_of(place, **keys, **meshes), tmp_path / "run"
    found = ptft_jax.finetune(config, str(place / "hf"), str(run_dir))
    after = dict(named(open_run(run_dir).params))
    for path, before in named(load_starting_point(str(place / "hf"), ("pooler",)).params):
        trained = name == "houlsby" and "layers" in path and "layer_norm" in path
        assert np.array_equal(after[path], before) != trained, path
    assert sum("/adapter/" in path for path in after) == arrays
    opened = ptft_jax.load_run(run_dir)
    scored = opened.evaluate()
    assert scored["dev"] == pytest.approx({key: found["dev"][key] for key in scored["dev"]})
    with pytest.raises(ConfigError, match="cannot be folded into the weights"):
        opened.export(tmp_path / "hf", merge=True)
    if name != "houlsby":
        alone = opened.export(tmp_path / "peft", form="peft")
        assert alone.verification.largest_difference < 1e-4
        peft = ptft_jax.load_run(tmp_path / "peft")
        for ours, theirs in zip(opened.predict(TEXTS[:3]), peft.predict(TEXTS[:3]), strict=True):
            assert theirs["scores"] == pytest.approx(ours["scores"], abs=1e-5)
        longer = config_of(place, **keys, max_seq_length=61)
        with pytest.raises(ConfigError, match=r"64 positions .*, of which 4 are those of virtual"):
            ptft_jax.finetune(longer, str(place / "hf"), str(tmp_path / "longer"))


@pytest.mark.filterwarnings("ignore:warning. dev. all 24 predictions")
def test_what_starts_from_an_adapter_has_it_in_its_weights(place, tmp_path):
    """Beside another model it is refused."""
    base, adapted = tmp_path / "base", config_of(place, **{"adapter.name": "lora"}, steps=2)
    shutil.copytree(place / "hf", base)
    ptft_jax.finetune(adapted, str(base), str(tmp_path / "run"))
    ptft_jax.load_run(tmp_path / "run").export(tmp_path / "peft", form="peft")
    config = config_of(place, steps=1, eval_every=1)
    first = [
        ptft_jax.finetune(config, str(tmp_path / source), str(tmp_path / f"from_{source}"))
        for source in ("run", "peft")
    ]
    assert first[0] == first[1]
    assert open_run(tmp_path / "from_peft").model_config.adapter is None
    before = sum(array.nbytes for array in jax.live_arrays())
    one = ptft_jax.load_run(tmp_path / "run")
    alone = sum(array.nbytes for array in jax.live_arrays()) - before
    del one
    runs = ptft_jax.load_runs([tmp_path / "run", tmp_path / "peft", tmp_path / "run"])
    gc.collect()
    assert sum(array.nbytes for array in jax.live_arrays()) - before < 1.5 * alone
    answers = [run.predict(TEXTS[:3]) for run in runs]
    assert answers[0] == answers[2]
    for ours, folded in zip(*answers[:2], strict=True):
        assert folded["scores"] == pytest.approx(ours["scores"], abs=1e-5)
    shutil.rmtree(base)
    ptft_jax.load_run(tmp_path / "from_run").export(base)
    with pytest.raises(DataError, match=r"base holds other parameters \(SHA-256 "):
        ptft_jax.load_run(tmp_path / "peft")


ADAPTER_ERRORS = [
    ({"adapter.name": "lore"}, "adapter.name='lore': expected one of lora, dora, adalora, ia3, "),
    ({"adapter.rank": 17}, "adapter.rank=17 is above that of the matrices .* at most 16"),
    (
        {"adapter.name": "adalora", "adapter.rank": 13},
        "adapter.initial_rank=12: expected at least adapter.rank=13",
    ),
    ({"adapter.alpha": 0.0}, "adapter.alpha=0.0: expected a number above 0"),
    ({"adapter.targets": ("query",)}, "adapter.targets: 'query' is none of attention/query, "),
]


@pytest.mark.parametrize(("changes", "message"), ADAPTER_ERRORS)
def test_adapters_that_cannot_be(place, tmp_path, changes, message):
    """One line before anything is compiled or written."""
    config = config_of(place, **{"adapter.name": "lora", **changes})
    with pytest.raises(ConfigError, match=message):
        ptft_jax.finetune(config, str(place / "hf"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
