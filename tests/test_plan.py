"""`ptft plan` says of machines that are not here what the program compiled for them does."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from command_line import MODEL, prepare_corpus, run

from ptft_jax.commands import defaults
from ptft_jax.commands.accelerators import ACCELERATORS
from ptft_jax.commands.plan_report import fit_sentence
from ptft_jax.commands.plan_work import planned_finetuning, planned_pretraining
from ptft_jax.commands.pretraining_config import pretraining_settings
from ptft_jax.data.corpus import Corpus
from ptft_jax.data.pretraining import PretrainingExamples
from ptft_jax.data.tokenizer import TextTokenizer
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.training.collectives import Program
from ptft_jax.training.cost import Assumptions, Memory, StepCost, Traffic, estimate_seconds
from ptft_jax.training.mesh import MeshConfig, make_mesh
from ptft_jax.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer
from ptft_jax.training.sharding import put_batch
from ptft_jax.training.state import init_state
from ptft_jax.training.step import make_train_step

CONFIG = "--config=configs/pretrain/bert_tiny.py"
MIB = 2**20


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory) -> Path:
    return prepare_corpus(tmp_path_factory.mktemp("plan"))


def tiny(**changes: Any) -> Any:
    """The config that `MODEL` and the changes make of the defaults."""
    config = defaults.pretrain()
    for flag in MODEL:
        name, value = flag.removeprefix("--config.model.").split("=")
        config.model[name] = int(value)
    for name, value in {"max_seq_length": 32, "max_predictions_per_seq": 5, **changes}.items():
        config[name] = value
    return config


def flags(**settings: Any) -> list[str]:
    common = {"max_seq_length": 32, "max_predictions_per_seq": 5, "steps": 100, "phases": "()"}
    return [*MODEL, *(f"--config.{name}={value}" for name, value in {**common, **settings}.items())]


def plan(folder: Path, *arguments: str) -> dict[str, Any]:
    """Runs the command and returns what it writes."""
    file = folder / "plan.json"
    assert run("plan", *arguments, f"--json={file}") == 0
    return json.loads(file.read_text(encoding="utf-8"))


def test_a_plan_is_what_the_real_program_does(corpus_dir, tmp_path, capsys):
    """Bytes, collectives and FLOPs of 1x8 are those of the step that training on 8 devices runs."""
    settings = flags(data_dir=corpus_dir, batch_size=32, accumulate=2, **{"mesh.fsdp": 8})
    planned = plan(tmp_path, CONFIG, *settings, "--topology=1x8:h100", "--price_per_device_hour=2")
    (phase,) = planned["phases"]

    corpus = Corpus.open(corpus_dir)
    tokenizer = TextTokenizer.load(corpus.tokenizer_dir)
    model = build_model(
        EncoderConfig(**{**planned["model"], "heads": tuple(planned["model"]["heads"])})
    )
    assert model.config.vocab_size == tokenizer.vocab_size
    examples = PretrainingExamples(corpus, tokenizer, pretraining_settings(tiny()))
    optimizer, schedule = make_optimizer(OptimizerConfig(), ScheduleConfig(), 100, model.axes())
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    with jax.set_mesh(mesh):
        state = init_state(model, optimizer, seed=0)
        batch = put_batch(examples.batch(np.arange(32)), mesh)
        step = make_train_step(
            model, PretrainingObjective(), optimizer, schedule, seed=0, accumulate=2
        )
        compiled = step.lower(state, batch).compile()

    first = jax.devices()[0]
    held = {
        name: sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(tree)
            for shard in leaf.addressable_shards
            if shard.device == first
        )
        for name, tree in (("params", state.params), ("state", state), ("batch", batch))
    }
    used: Any = compiled.memory_analysis()
    found = phase["bytes"]
    assert found["params"] == held["params"]
    assert found["params"] + found["opt_state"] == held["state"]
    assert found["batch"] == held["batch"]
    assert found["arguments"] == used.argument_size_in_bytes
    assert found["temporaries"] == used.temp_size_in_bytes
    program = Program(compiled.as_text())
    assert phase["matrix_flops"] == program.matrix_flops()
    sent = {(one["kind"], *one["axes"]): one for one in phase["traffic"]}
    sizes = dict(mesh.shape)
    for kind in ("all-gather", "reduce-scatter", "all-reduce"):
        real = [one for one in program.collectives() if one.kind == kind]
        assert {one.axes(sizes) for one in real} == {("fsdp",)}
        assert sent[kind, "fsdp"]["bytes"] == sum(one.times * one.bytes for one in real)
        assert sent[kind, "fsdp"]["count"] == sum(one.times for one in real)
    gathered = sent["all-gather", "fsdp"]
    assert gathered["inside"] == pytest.approx(gathered["bytes"] * 7 / 8)
    assert gathered["across"] == 0
    assert phase["fill"] == pytest.approx(
        examples.batch(np.arange(64))["attention_mask"].mean(), rel=0.1
    )

    hours = 100 * phase["seconds"]["step"] / 3600
    assert planned["hours"] == pytest.approx(hours)
    assert planned["cost"] == pytest.approx(hours * 8 * 2)
    printed = capsys.readouterr().out
    for words in ("fits", "--utilisation", "0.35", "device-hours", "as the CPU compiler reserves"):
        assert words in printed


def test_many_hosts(tmp_path, capsys):
    """512 devices are planned on 8: a device holds the same, and its gradients leave the host."""
    one = plan(tmp_path, CONFIG, *flags(batch_size=8), "--topology=1x8:h200")
    many = plan(tmp_path, CONFIG, *flags(batch_size=512), "--topology=64x8:h200")
    assert "compiled for data 8 instead of 512" in capsys.readouterr().out
    assert (many["devices"], many["mesh"]["data"]) == (512, 512)
    (here,), (there,) = one["phases"], many["phases"]
    assert there["bytes"] == here["bytes"]
    (before,), (after,) = here["traffic"], there["traffic"]
    size = after["bytes"]
    assert (before["kind"], before["axes"], before["bytes"]) == ("all-reduce", ["data"], size)
    assert before["inside"] == after["inside"] == pytest.approx(2 * size * 7 / 8)
    assert (before["across"], after["across"]) == (0, pytest.approx(2 * size * 63 / 64 / 8))
    assert many["hours"] > one["hours"]
    assert many["cost"] is None


def test_shapes_without_a_corpus_are_those_of_its_rows(corpus_dir):
    """A plan before there is any data must not be of another program than the one after."""
    for packing in (False, True):
        keys = {"packing": packing, "max_sequences_per_pack": 3}
        with_corpus = planned_pretraining(tiny(data_dir=str(corpus_dir), **keys))
        without = planned_pretraining(tiny(**keys))
        assert set(without.phases[0].rows) == set(with_corpus.phases[0].rows)
        for name, (shape, dtype) in without.phases[0].rows.items():
            assert with_corpus.phases[0].rows[name] == (shape, np.dtype(dtype)), name
        assert any("vocabulary" in note for note in without.notes)
        assert not with_corpus.notes


def test_finetuning_reads_the_model_of_init_from(tmp_path):
    """The weights may be far away; config.json says all that a plan needs."""
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "bert", "hidden_size": 96, "num_hidden_layers": 3}),
        encoding="utf-8",
    )
    config = defaults.finetune()
    config.epochs = 2.0
    work = planned_finetuning(config, str(tmp_path), examples=1000, num_labels=3)
    assert (work.model.hidden_size, work.model.num_hidden_layers) == (96, 3)
    assert (work.model.num_labels, work.model.heads) == (3, ("pooler", "classification"))
    assert work.steps == math.ceil(2.0 * 1000 / config.batch_size)
    assert planned_finetuning(config, None, examples=None, num_labels=2).steps is None


def test_finetuning_of_an_unknown_number_of_examples(tmp_path, capsys):
    """Without data a plan still says what an update costs."""
    changes = ["--config.max_seq_length=16", "--config.batch_size=8", "--config.eval_batch_size=8"]
    (tmp_path / "model").mkdir()
    small = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2}
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "bert", **small}))
    planned = plan(
        tmp_path,
        "--config=configs/finetune/glue.py:mrpc",
        *changes,
        f"--init_from={tmp_path}/model",
        "--topology=2x4:tpu-v5e",
    )
    assert planned["hours"] is None
    # Hosts of a TPU slice are joined by the chips' interconnect, but the plan tells them apart.
    assert planned["phases"][0]["traffic"][0]["across"] > 0
    assert "give --examples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--topology is missing"),
        (["--topology=8:h200"], "expected HOSTSxDEVICES:KIND"),
        (["--topology=0x8:h200"], "expected HOSTSxDEVICES:KIND"),
        (["--topology=1x8:h20"], "no accelerator 'h20'; the nearest is h200"),
        (
            ["--topology=1x8:h200", "--utilisation=1.5"],
            "--utilisation=1.5: expected a number above 0",
        ),
        (["--topology=1x8:h200", "--overlap=-1"], "--overlap=-1: expected a number from 0 up to 1"),
        (["--topology=1x8:h200", "--json=/no/such/folder/x"], "there is no folder to write it to"),
        (["--topology=2x4:h200", "--config.mesh.fsdp=8"], "does not divide the 4 devices"),
        (["--topology=3x8:h200"], "batch_size=64 is not divisible"),
        (["--topology=1x8:h200", "extra"], "'extra': expected flags only"),
        (["--topology=1x8:h200", "--config.phases=({'step':5,'batch':1},)"], "batch"),
    ],
)
def test_mistakes_are_named(arguments, message, capsys):
    """Nothing is compiled before all settings have been checked."""
    assert run("plan", CONFIG, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_config_of_another_command_is_refused(capsys):
    """The keys of both kinds of training are known, those of `prepare` are not."""
    assert run("plan", "--config=configs/data/text.py", "--topology=1x8:h200") == 2
    assert "is no config of this command" in capsys.readouterr().err


ASSUMED = Assumptions(
    peak_flops=100e12,
    memory=10e9,
    memory_fraction=0.5,
    memory_bandwidth=1e12,
    link_bandwidth=100e9,
    network_bandwidth=10e9,
    utilisation=0.5,
    memory_utilisation=0.5,
    link_utilisation=0.5,
    overlap=0.25,
)


def a_cost(**changes: int) -> StepCost:
    numbers = dict.fromkeys(Memory.__dataclass_fields__, 0) | changes
    return StepCost(Memory(**numbers), matrix_flops=10**12, collectives=())


def test_time_adds_up():
    """10¹² FLOPs at 50 TFLOP/s, then 1.6 GB of state both ways, then what is not hidden."""
    cost = a_cost(params=4 * 10**8, opt_state=8 * 10**8, gradients=4 * 10**8, kept=10**9)
    sent = [Traffic("all-reduce", ("data",), 1, 0, inside=5e8, across=1e8)]
    seconds = estimate_seconds(cost, sent, 2, ASSUMED)
    assert seconds.compute == pytest.approx(0.020)
    assert seconds.activations == pytest.approx(2 * 2 * 1e9 / 0.5e12)
    assert seconds.update == pytest.approx(2 * 1.6e9 / 0.5e12)
    assert (seconds.inside, seconds.across) == (pytest.approx(0.010), pytest.approx(0.020))
    assert seconds.step == pytest.approx(0.020 + 0.0064 + 0.030 - 0.25 * 0.020)


@pytest.mark.parametrize(
    ("memory", "accumulate", "remat", "words"),
    [
        ({"arguments": 10**9}, 1, False, "fits: 20%"),
        ({"params": 3 * 10**9, "arguments": 6 * 10**9}, 1, False, "raise mesh.fsdp (now 2)"),
        ({"temporaries": 6 * 10**9}, 1, False, "raise accumulate (now 1; 4 rows at once"),
        ({"temporaries": 6 * 10**9}, 1, True, "4 rows at once on a device)"),
        ({"temporaries": 6 * 10**9}, 4, False, "set model.remat=True"),
        ({"temporaries": 6 * 10**9}, 4, True, "raise mesh.tensor (now 1)"),
    ],
)
def test_what_to_raise(memory, accumulate, remat, words):
    """A plan that does not fit must say which setting helps."""
    phase = SimpleNamespace(batch_size=32, accumulate=accumulate)
    planned: Any = SimpleNamespace(cost=a_cost(**memory), phase=phase)
    mesh = {"data": 4, "fsdp": 2, "tensor": 1}
    assert words in fit_sentence(planned, ASSUMED, mesh, remat)


def test_accelerators_are_plausible():
    """A figure in a wrong unit would be off by a factor of a thousand, or of two."""
    for name, device in ACCELERATORS.items():
        assert 10 <= device.float32_tflops <= device.bfloat16_tflops <= 3000, name
        assert 10 <= device.memory_gb <= 300, name
        assert device.network_gbs <= device.link_gbs < device.memory_gbs < 10_000, name
        assert device.source, name
