"""What the tests of the commands share: a tiny corpus, tiny tasks and tiny settings."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ptft_jax.cli import main

# Small enough that a step compiles in a second or two; sizes that eight devices divide.
MODEL = (
    "--config.model.hidden_size=32",
    "--config.model.num_hidden_layers=1",
    "--config.model.num_attention_heads=2",
    "--config.model.intermediate_size=64",
    "--config.model.max_position_embeddings=48",
)
# Its random numbers are two fifths of what a training step takes to compile, so that only those
# runs have it to which it matters.
DROPOUT = {"model.hidden_dropout_prob": 0.1, "model.attention_probs_dropout_prob": 0.1}
WORDS = ("river", "stone", "bird", "cloud", "table", "light", "paper", "water", "garden", "window")
GOOD = ["lovely", "bright", "happy"]
BAD = ["awful", "dull", "broken"]


def run(*arguments: object) -> int:
    """Runs a command line in this process and returns its exit code."""
    return main([str(argument) for argument in arguments])


def write_corpus(path: Path, documents: int = 40, seed: int = 0) -> Path:
    """Writes documents of made-up sentences, the same for the same seed."""
    rng = np.random.default_rng(seed)
    texts = [
        "\n".join(
            f"The {' '.join(rng.choice(WORDS, 5))} is {rng.choice(GOOD + BAD)}."
            for _ in range(int(rng.integers(4, 9)))
        )
        for _ in range(documents)
    ]
    path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return path


def prepare_corpus(place: Path) -> Path:
    """Writes documents to a folder, prepares a tiny corpus of them and returns its folder."""
    write_corpus(place / "text.txt", 20)
    flags = ["--config.vocab_size=200", "--config.dev_fraction=0.2", f"--out_dir={place}/data"]
    config = "--config=configs/data/text.py"
    assert run("prepare", config, f"--config.inputs={place}/text.txt", *flags) == 0
    return place / "data"


def sentences(count: int, seed: int) -> list[tuple[str, int]]:
    """Returns texts with label 1 for a good word and 0 for a bad one."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label = int(rng.integers(2))
        rows.append((f"the {rng.choice(WORDS)} is {rng.choice((BAD, GOOD)[label])}", label))
    return rows


def pretrain_flags(data_dir: Path, run_dir: Path, **changes: Any) -> list[str]:
    """Returns the command line of a tiny pretraining run; `changes` are config keys and values."""
    settings = {
        **dict.fromkeys(DROPOUT, 0.0),
        "data_dir": data_dir,
        "steps": 6,
        "batch_size": 16,
        "max_seq_length": 32,
        "max_predictions_per_seq": 5,
        "log_every": 1,
        "eval_every": 3,
        "checkpoint_every": 3,
        "eval_examples": 32,
        "mesh.data": 1,
        "mesh.fsdp": 8,
    } | changes
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    config = "--config=configs/pretrain/bert_tiny.py"
    return ["pretrain", config, *MODEL, *overrides, f"--run_dir={run_dir}"]


def finetune_flags(
    config: str, data_dir: Path, init_from: Path, run_dir: Path, **changes: Any
) -> list[str]:
    """Returns the command line of a tiny fine-tuning run; `changes` are config keys and values."""
    settings = {
        "data_dir": data_dir,
        "epochs": 1,
        "batch_size": 8,
        "eval_batch_size": 8,
        "max_seq_length": 16,
        "length_buckets": "()",
        "log_every": 1,
    } | changes
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    source = [f"--init_from={init_from}", f"--run_dir={run_dir}"]
    return ["finetune", f"--config=configs/finetune/{config}", *overrides, *source]


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(run_dir: Path) -> dict[int, float]:
    """Returns the loss of each logged training step."""
    return {line["step"]: line["loss"] for line in metrics(run_dir) if "split" not in line}


def results(run_dir: Path) -> dict[str, Any]:
    """Returns the content of results.json."""
    return json.loads((run_dir / "results.json").read_text(encoding="utf-8"))


def tree(folder: Path) -> dict[str, bytes | None]:
    """Returns every path below a folder with its content, to see that nothing has changed."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
