"""`ptft bench`: what was asked is measured, of both sides alike, and mistakes are named first."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import pytest
from command_line import MODEL, prepare_corpus, run

from ptft_jax.commands.look import bench
from ptft_jax.convert.folder import write_hf_folder
from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.runs.bench import hf_process
from ptft_jax.runs.trained.open import load_run

CONFIG = "--config=configs/pretrain/bert_tiny.py"
SHORT = (
    *MODEL,
    "--config.phases=()",
    "--config.batch_size=8",
    "--config.max_seq_length=32",
    "--config.max_predictions_per_seq=5",
    "--config.model.vocab_size=300",
)


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory) -> Path:
    return prepare_corpus(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def eager(monkeypatch) -> None:
    """PyTorch does not compile: with a C++ compiler that takes a minute."""
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")


def measured(folder: Path, *arguments: object) -> dict[str, Any]:
    """Runs `ptft bench …` and returns what it wrote."""
    file = folder / "bench.json"
    assert run("bench", *arguments, f"--json={file}") == 0
    return json.loads(file.read_text(encoding="utf-8"))


def test_rows_of_random_tokens(tmp_path, capsys):
    """Without a corpus a user gets the rate of full rows, and every round to judge it by."""
    found = measured(
        tmp_path,
        *("train", CONFIG, *SHORT, "--rounds=3", "--updates=2"),
        *("--peak_tflops=2", f"--plot={tmp_path}/bench.svg"),
    )
    assert found["timed_updates"]["tokens"] == 2 * 8 * 32
    assert found["timed_updates"]["rows"] == found["timed_updates"]["examples"] == 2 * 8
    (side,) = found["sides"].values()
    assert len(side["seconds"]) == 3
    median = sorted(side["seconds"])[1]
    assert side["step_ms"]["median"] == pytest.approx(1e3 * median / 2)
    assert side["tokens_per_second"] == pytest.approx(2 * 8 * 32 / median)
    # On eight devices of 2 TFLOP/s each.
    flops = found["timed_updates"]["flops"]
    assert side["utilisation"] == pytest.approx(flops / (median * 8 * 2e12))
    assert found["config"]["batch_size"] == 8
    assert found["versions"]["jax"]
    assert found["hardware"]["cores"] >= 1
    assert "<svg" in (tmp_path / "bench.svg").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    for words in ("utilisation = model FLOPs", "peak: 8 x 2 TFLOP/s", "--against=hf", "bench.svg"):
        assert words in printed


def test_packed_text_against_padded_text_in_pytorch(corpus_dir, tmp_path, eager, capsys):
    """Both sides see the same examples, in turn, and the ratio is that of their rounds."""
    against = "hf_gathered"
    found = measured(
        tmp_path,
        *("train", CONFIG, *SHORT, f"--config.data_dir={corpus_dir}", "--config.packing=True"),
        *(
            "--config.short_seq_prob=1.0",
            "--config.max_seq_length=48",
            f"--against={against}",
            "--rounds=2",
            "--updates=2",
        ),
    )
    ours, theirs = found["sides"]["ptft_jax"], found["sides"][against]
    counts = found["timed_updates"]
    assert counts["examples"] > counts["rows"] == 2 * 8
    quotients = [b / a for a, b in zip(ours["seconds"], theirs["seconds"], strict=True)]
    ratio = found["times_as_fast"][against]
    assert (ratio["low"], ratio["high"]) == (min(quotients), max(quotients))
    assert ratio["median"] == pytest.approx(sum(quotients) / 2)
    for side in (ours, theirs):
        rate = counts["tokens"] / (sum(side["seconds"]) / 2)
        assert side["tokens_per_second"] == pytest.approx(rate)
        assert side["utilisation"] is None
        # That of a model that knows nothing, of 300 tokens and of 2 classes.
        assert side["losses"] == pytest.approx([math.log(300 * 2)] * 2, abs=0.5)
    assert 0 <= ours["data_wait"] <= 1
    assert theirs["how"] == "eager (TORCH_COMPILE_DISABLE=1)"
    assert "on the same examples" in capsys.readouterr().out


def test_making_batches(corpus_dir, tmp_path, capsys):
    """Whether the data keep up is said before a training stands still for want of them."""
    arguments = ("input", CONFIG, *SHORT, f"--config.data_dir={corpus_dir}")
    found = measured(
        tmp_path, *arguments, "--config.packing=True", "--batches=2", "--keep_up_with=1e12"
    )
    assert len(found["seconds"]) == 3
    assert found["keeps_up"] is False
    assert 0 < found["real_positions"] <= 1
    assert found["planning_seconds_per_million"] > 0
    assert "does not keep up: raise workers" in capsys.readouterr().out
    found = measured(tmp_path, *arguments, "--batches=2", "--keep_up_with=1e-6")
    assert found["keeps_up"] is True
    assert found["planning_seconds_per_million"] is None


@pytest.fixture(scope="module")
def hf_dir(corpus_dir, tmp_path_factory) -> Path:
    """A masked language model with random weights and the corpus's tokenizer."""
    tokenizer = TextTokenizer.load(Corpus.open(corpus_dir).tokenizer_dir)
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        heads=("mlm",),
    )
    params = build_model(config).init(jax.random.key(0))
    return write_hf_folder(tmp_path_factory.mktemp("run") / "hf", params, config, tokenizer, "")


def test_answers_against_pytorch(hf_dir, tmp_path, eager):
    """Each batch size and length has its own figures and its own ratio."""
    found = measured(
        tmp_path,
        *("predict", f"--run_dir={hf_dir}", "--batch_sizes=1,3", "--lengths=8,32"),
        *("--rounds=2", "--calls=1", "--against=hf"),
    )
    assert (found["path"], found["head"]) == ("predict", "mlm")
    cases = [(case["batch_size"], case["tokens"]) for case in found["cases"]]
    assert cases == [(1, 8), (1, 32), (3, 8), (3, 32)]
    for case in found["cases"]:
        ours, theirs = (case["sides"][name]["seconds"] for name in ("ptft_jax", "hf"))
        assert case["times_as_fast"]["high"] == max(
            b / a for a, b in zip(ours, theirs, strict=True)
        )


@pytest.mark.parametrize("head", ["classification", "tagging", "span"])
def test_a_file_against_a_pipeline(hf_dir, head, tmp_path):
    """Both sides answer all texts; the other one in the file's order and sorted."""
    masked = load_run(hf_dir)
    config = masked.model_config.replace(
        heads=("pooler", head) if head == "classification" else (head,), num_labels=3
    )
    params = build_model(config).init(jax.random.key(0))
    write_hf_folder(tmp_path / "hf", params, config, masked.tokenizer, "")
    texts = ["the river", "the stone is bright and the bird is not", "a cloud"]
    lines = [f"the river\t{text}" if head == "span" else text for text in texts]
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n")
    found = measured(
        tmp_path,
        *("predict", f"--run_dir={tmp_path}/hf", f"--input={tmp_path}/in.txt"),
        *("--batch_sizes=2", "--rounds=2", "--calls=1", "--against=hf"),
    )
    assert found["head"] == head
    assert [list(case["sides"])[1] for case in found["cases"]] == [
        "hf, batches of 2, in the file's order",
        "hf, batches of 2, sorted",
    ]
    for case in found["cases"]:
        ours, theirs = (side["seconds"] for side in case["sides"].values())
        assert case["batch_size"] == 3
        assert case["times_as_fast"]["low"] == min(b / a for a, b in zip(ours, theirs, strict=True))


def test_a_file_needs_a_model_that_a_pipeline_knows(hf_dir, tmp_path, capsys):
    """A masked LM has nothing to say of texts without masks."""
    (tmp_path / "in.txt").write_text("the river\n")
    asked = [f"--run_dir={hf_dir}", f"--input={tmp_path}/in.txt"]
    assert run("bench", "predict", *asked) == 2
    assert "has no head classification, tagging, span" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", CONFIG, "--rounds=1"], "--rounds=1: expected at least 2"),
        (["train", CONFIG, "--updates=0"], "--updates=0: expected a number above 0"),
        (["train", CONFIG, "--config.batch_size=12"], "batch_size=12 is not divisible"),
        (["train", CONFIG, "--config.data_dir=no/such"], "no/such is not a prepared corpus"),
        (["train", CONFIG, "--peak_tflops=0"], "--peak_tflops=0: expected a number above 0"),
        (["train", CONFIG, "--json=no/such/file"], "expected a file in a folder that is there"),
        (["train", CONFIG, "--plot=plot.bmp"], "expected a name that ends in .svg, .png, .pdf"),
        (["input", CONFIG], "--config.data_dir is missing"),
        (["input", CONFIG, "--keep_up_with=0"], "--keep_up_with=0: expected a number above 0"),
        (["predict"], "--run_dir is missing"),
        (["predict", "--run_dir=x", "--lengths=a"], "--lengths=a: expected numbers"),
        (["attention", "--tokens=0"], "--tokens=0: expected a number above 0"),
        (["attention", "--dropout=1"], "--dropout=1: expected a probability"),
        (["attention", "--tokens=8", "--segments=9"], "--segments=9: expected at most"),
    ],
)
def test_mistakes_are_named_before_anything_is_compiled(arguments, message, capsys, monkeypatch):
    """A typing error must not cost the minutes of a compilation."""
    for module in (bench.train, bench.predict):
        monkeypatch.setattr(module, "measure", None)
    assert run("bench", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_length_that_the_run_does_not_take(hf_dir, capsys):
    """Longer texts would be cut unseen, and their rate would be another's."""
    assert run("bench", "predict", f"--run_dir={hf_dir}", "--lengths=64") == 2
    assert "--lengths=64: expected from 6 to the 32 tokens" in capsys.readouterr().err


def test_without_torch_the_comparison_is_refused(monkeypatch, capsys):
    """Who has no PyTorch is told what to install, and not after our side has been compiled."""
    find_spec = hf_process.importlib.util.find_spec
    absent = lambda name, *rest: None if name == "torch" else find_spec(name, *rest)  # noqa: E731
    monkeypatch.setattr(hf_process.importlib.util, "find_spec", absent)
    assert run("bench", "train", CONFIG, *SHORT, "--against=hf") == 2
    assert "torch not installed" in capsys.readouterr().err


def test_what_pytorch_fails_at_is_one_message(monkeypatch, capsys):
    """A side that dies names its reason; the command does not hang on it."""
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(hf_process.sys, "executable", "/bin/false")
    flags = ("--rounds=2", "--updates=1")
    assert run("bench", "train", CONFIG, *SHORT, *flags, "--against=hf") == 2
    assert "PyTorch's side of the comparison failed" in capsys.readouterr().err
