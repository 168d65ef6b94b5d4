"""`ptft plan` says of machines that are not here what the real step needs, and what follows."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from command_line import MODEL, prepare_corpus, run

from ptft_jax.commands.look.plan import advice, estimate_seconds
from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.examples import PretrainingExamples
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.runs import defaults
from ptft_jax.runs.kinds.pretraining import row_shapes
from ptft_jax.runs.phases import pretraining_settings
from ptft_jax.training.mesh import MeshConfig, make_mesh, put_batch
from ptft_jax.training.resources.cost import Exchange, Memory
from ptft_jax.training.step import init_state, make_train_step
from ptft_jax.training.updates.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer

CONFIG = "--config=configs/pretrain/bert_tiny.py"


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory) -> Path:
    return prepare_corpus(tmp_path_factory.mktemp("plan"))


def examples_of(corpus_dir: Path, **changes: Any) -> tuple[PretrainingExamples, Any]:
    """The examples of a small config with some changes, and that config."""
    config = defaults.pretrain()
    for name, value in {"max_seq_length": 32, "max_predictions_per_seq": 5, **changes}.items():
        config[name] = value
    corpus = Corpus.open(corpus_dir)
    tokenizer = TextTokenizer.load(corpus.tokenizer_dir)
    return PretrainingExamples(corpus, tokenizer, pretraining_settings(config)), config


def plan(folder: Path, *arguments: str, **settings: Any) -> dict[str, Any]:
    """Runs the command for a small model and returns what it writes."""
    file = folder / "plan.json"
    common = {"max_seq_length": 32, "max_predictions_per_seq": 5, "steps": 100, "phases": "()"}
    keys = [f"--config.{name}={value}" for name, value in {**common, **settings}.items()]
    assert run("plan", CONFIG, *MODEL, *keys, *arguments, f"--json={file}") == 0
    return json.loads(file.read_text(encoding="utf-8"))


def test_memory_is_that_of_the_real_step(corpus_dir, tmp_path, capsys):
    """The bytes of 1x8 are those of the step that training on 8 devices runs, to the last."""
    planned = plan(
        tmp_path,
        "--topology=1x8:h100",
        "--price_per_device_hour=2",
        data_dir=corpus_dir,
        batch_size=32,
        accumulate=2,
        **{"mesh.fsdp": 8},
    )
    (phase,) = planned["phases"]
    model = build_model(
        EncoderConfig(**{**planned["model"], "heads": tuple(planned["model"]["heads"])})
    )
    examples, _ = examples_of(corpus_dir)
    optimizer, schedule = make_optimizer(OptimizerConfig(), ScheduleConfig(), 100, model.axes())
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    with jax.set_mesh(mesh):
        state = init_state(model, optimizer, seed=0)
        batch = put_batch(examples.batch(np.arange(32)), mesh)
        step: Any = make_train_step(
            model, PretrainingObjective(), optimizer, schedule, seed=0, accumulate=2
        )
        used = step.lower(state, batch).compile().memory_analysis()
    first = jax.devices()[0]
    for names, tree in (
        (("params",), state.params),
        (("params", "opt_state"), state),
        (("batch",), batch),
    ):
        held = sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(tree)
            for shard in leaf.addressable_shards
            if shard.device == first
        )
        assert sum(phase["bytes"][name] for name in names) == held
    assert phase["bytes"]["temporaries"] == used.temp_size_in_bytes
    assert phase["temporaries_from"] == "the step compiled for CPU"
    assert phase["bytes"]["total"] == used.argument_size_in_bytes + used.temp_size_in_bytes
    assert planned["hours"] == pytest.approx(100 * phase["seconds"]["step"] / 3600)
    assert planned["cost"] == pytest.approx(planned["hours"] * 8 * 2)
    printed = capsys.readouterr().out
    said = ("fits", "--utilisation", "0.38", "0.40 of the peak", "device-hours", "along fsdp")
    for words in said:
        assert words in printed


BASE = "--config=configs/pretrain/bert_base.py"
SHORT = {"batch_size": 256, "max_seq_length": 128, "max_predictions_per_seq": 20, "phases": "()"}
LONG = {**SHORT, "batch_size": 64, "max_seq_length": 512, "max_predictions_per_seq": 76}
KERNELS = {"model.dtype": "bfloat16"}


def plan_base(folder: Path, *arguments: str, **settings: Any) -> dict[str, Any]:
    """Plans BERT-base in bfloat16 and returns its one phase."""
    keys = [f"--config.{name}={value}" for name, value in {**SHORT, **KERNELS, **settings}.items()]
    assert run("plan", BASE, *keys, *arguments, f"--json={folder}/plan.json") == 0
    (phase,) = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["phases"]
    return phase


@pytest.mark.parametrize("rows", [SHORT, LONG], ids=["256x128", "64x512"])
def test_memory_with_kernels_is_what_a_gpu_needed(tmp_path, rows, capsys):
    """An H200 peaked at 11.6 GiB with either shape; XLA for CPU reserves 2.4 or 3.7 times that."""
    phase = plan_base(tmp_path, "--topology=1x1:h200", **rows)
    assert phase["temporaries_from"] == "a formula of what kernels keep"
    assert phase["bytes"]["total"] / 2**30 == pytest.approx(11.6, rel=0.03)
    printed = capsys.readouterr().out
    assert "kernel (it runs on h200)" in printed
    assert "temporaries: a formula of what kernels keep" in printed


def test_what_saves_memory_with_kernels(tmp_path):
    """What the advice says to change must change the plan, as far as it can."""
    where = "--topology=1x8:h200"
    rows = {**LONG, "batch_size": 512}
    before = plan_base(tmp_path, where, **rows)["bytes"]
    one = plan_base(tmp_path, "--topology=1x1:h200", **LONG)["bytes"]
    assert before["temporaries"] == one["temporaries"]  # a device's rows are what counts
    half = plan_base(tmp_path, where, **rows, accumulate=2)["bytes"]["temporaries"]
    assert 0.5 < half / before["temporaries"] < 0.6  # the sum of gradients stays whole
    layers = plan_base(tmp_path, where, **rows, **{"model.remat": True})["bytes"]["temporaries"]
    assert 0.15 < layers / before["temporaries"] < 0.3  # twelve inputs, one layer, the logits
    split = plan_base(tmp_path, where, **rows, **{"mesh.fsdp": 8})["bytes"]
    assert split["params"] + split["opt_state"] < (before["params"] + before["opt_state"]) / 7
    # The same activations, and the tables are gathered in float32 beside their copies.
    assert split["temporaries"] == pytest.approx(before["temporaries"], rel=0.02)
    heads = {"mesh.data": 2, "mesh.tensor": 4, "batch_size": 128}
    parts = plan_base(tmp_path, where, **{**rows, **heads})["bytes"]["temporaries"]
    assert 0.4 < parts / before["temporaries"] < 0.55  # 4 D of 8 D + 2 F stay whole


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("h200", {"attention": "cudnn", "attention_probs_dropout_prob": 0.0}),
        ("l4", {"attention": "kernel", "fused": "xla"}),
        ("a100-80g", {"attention": "kernel", "unroll": 1, "num_hidden_layers": 2}),
        ("v100", {}),
        ("tpu-v5e", {}),
    ],
)
def test_other_backends_are_planned_on_a_cpu(tmp_path, kind, settings):
    """The machine that plans has no GPU: what the planned one can do decides."""
    keys = {f"model.{name}": value for name, value in settings.items()}
    small = {"model.dtype": "bfloat16", "model.num_attention_heads": 2, **keys}
    planned = plan(tmp_path, f"--topology=1x1:{kind}", batch_size=8, **small)
    (phase,) = planned["phases"]
    assert phase["temporaries_from"] == "the step compiled for CPU"
    assert planned["backends"]["attention"].startswith(settings.get("attention", "xla"))


def test_many_hosts(tmp_path):
    """A device of 512 holds what one of 8 does, and its gradients leave the host."""
    one = plan(tmp_path, "--topology=1x8:h200", batch_size=8)
    many = plan(tmp_path, "--topology=64x8:h200", batch_size=512)
    assert (many["devices"], many["mesh"]["data"], many["cost"]) == (512, 512, None)
    (here,), (there,) = one["phases"], many["phases"]
    assert there["bytes"] == here["bytes"]
    assert there["model_flops"] == 64 * here["model_flops"]
    (before,), (after,) = here["exchanges"], there["exchanges"]
    size = after["bytes"]
    assert (before["kind"], before["axes"], before["bytes"]) == ("all-reduce", ["data"], size)
    assert before["inside"] == after["inside"] == pytest.approx(2 * size * 7 / 8)
    assert (before["across"], after["across"]) == (0, pytest.approx(2 * size * 63 / 64 / 8))
    assert many["hours"] > one["hours"]


def test_phases_and_assumptions(tmp_path, capsys):
    """Each phase has its own lengths, and a figure that is given replaces the data sheet's."""
    phases = "({'step':90,'max_seq_length':48,'accumulate':2},)"
    planned = plan(
        tmp_path, "--topology=1x8:tpu-v5e", "--peak_tflops=100", batch_size=16, phases=phases
    )
    first, second = planned["phases"]
    assert [one["updates"] for one in (first, second)] == [90, 10]
    assert [one["tokens"] for one in (first, second)] == [32, 48]
    assert first["seconds"]["compute"] == pytest.approx(
        first["model_flops"] / 8 / (100e12 * planned["assumptions"]["utilisation"])
    )
    assert "phase 2 fits" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{}, {"packing": True, "max_sequences_per_pack": 3}])
def test_shapes_without_a_corpus_are_those_of_its_rows(corpus_dir, changes):
    """What is planned before there is any data must not be another program than the one after."""
    examples, config = examples_of(corpus_dir, **changes)
    batch = examples.batch(np.arange(2))
    shapes = {name: (rows.shape[1:], rows.dtype) for name, rows in batch.items()}
    assert shapes == {
        name: (shape, np.dtype(kind)) for name, (shape, kind) in row_shapes(config).items()
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--topology is missing"),
        (["--topology=8:h200"], "expected HOSTSxDEVICES:KIND"),
        (["--topology=1x8:h20"], "no accelerator 'h20'; the nearest is h200"),
        (
            ["--topology=1x8:h200", "--utilisation=1.5"],
            "--utilisation=1.5: expected a number above 0",
        ),
        (["--topology=1x8:h200", "--json=/no/such/folder/x"], "there is no folder to write it to"),
        (["--topology=2x4:h200", "--config.mesh.fsdp=8"], "does not divide the 4 devices"),
        (["--topology=2x8:h200", "--config.mesh.fsdp=8"], "too many to compile for on a CPU"),
        (["--topology=3x8:h200"], "batch_size=64 is not divisible"),
        (
            ["--topology=1x8:v100", "--config.model.attention=kernel"],
            "v100 has compute capability 7.0, and it needs 8.0",
        ),
        (
            ["--topology=1x8:tpu-v4", "--config.model.fused=kernel"],
            "model.fused=kernel cannot be used here: it runs on NVIDIA GPUs, and this is a tpu",
        ),
    ],
)
def test_mistakes_are_named(arguments, message, capsys):
    """Nothing is compiled before all settings have been checked."""
    assert run("plan", CONFIG, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_config_of_another_command_is_refused(capsys):
    """The keys of pretraining are known, those of other commands are not."""
    assert run("plan", "--config=configs/data/text.py", "--topology=1x8:h200") == 2
    assert "is a config of `ptft prepare`" in capsys.readouterr().err


ASSUMED = {
    "peak_tflops": 100,
    "memory_gb": 10,
    "memory_fraction": 0.5,
    "memory_gbs": 1000,
    "link_gbs": 100,
    "network_gbs": 10,
    "utilisation": 0.5,
    "bandwidth_utilisation": 0.5,
}


def memory(**changes: int) -> Memory:
    return Memory(**dict.fromkeys(Memory.__dataclass_fields__, 0) | changes)


def test_time_adds_up():
    """10¹² FLOPs at 50 TFLOP/s, then 1.6 GB of state both ways, then what is sent."""
    held = memory(params=4 * 10**8, opt_state=8 * 10**8)
    seconds = estimate_seconds(1e12, held, [(3e8, 1e8), (2e8, 0.0)], ASSUMED)
    assert seconds["compute"] == pytest.approx(0.020)
    assert seconds["optimizer"] == pytest.approx(2 * 1.6e9 / 0.5e12)
    assert seconds["traffic_inside"] == pytest.approx(0.010)
    assert seconds["traffic_across"] == pytest.approx(0.020)
    assert seconds["step"] == pytest.approx(0.020 + 0.0064 + 0.030)
    assert estimate_seconds(1e12, held, [], ASSUMED)["step"] == pytest.approx(0.0264)


def test_what_a_device_sends():
    """Gathers and reduce-scatters send half of an all-reduce, and only along their own axes."""
    hosts = np.arange(4).reshape(4, 1, 1).repeat(2, axis=1)  # data over hosts, fsdp inside
    assert Exchange("all-reduce", ("data", "fsdp"), 800).sent(hosts) == (800, 600)
    assert Exchange("all-reduce", ("data",), 800).sent(hosts) == (0, 1200)
    assert Exchange("all-gather", ("fsdp",), 800).sent(hosts) == (400, 0)


@pytest.mark.parametrize(
    ("held", "accumulate", "remat", "words"),
    [
        ({"temporaries": 10**9}, 1, False, "fits: 20%"),
        ({"params": 2 * 10**9, "opt_state": 4 * 10**9}, 1, False, "raise mesh.fsdp (now 2)"),
        ({"temporaries": 6 * 10**9}, 1, False, "raise accumulate (now 1; 4 rows at once"),
        ({"temporaries": 6 * 10**9}, 1, True, "4 rows at once on a device)"),
        ({"temporaries": 6 * 10**9}, 4, False, "memory; set model.remat=True"),
        ({"temporaries": 6 * 10**9}, 4, True, "raise mesh.tensor (now 1)"),
    ],
)
def test_what_to_raise(held, accumulate, remat, words):
    """A plan that does not fit must say which setting helps."""
    mesh = {"data": 4, "fsdp": 2, "tensor": 1}
    said = advice(memory(**held), ASSUMED, mesh, batch_size=32, accumulate=accumulate, remat=remat)
    assert words in said
