"""The scripts that measure run, on texts too small to mean anything."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import prepare_corpus
from transformers import BertForPreTraining

ROOT = Path(__file__).resolve().parents[1]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "river", "stone", "bird", "##s", "."]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    documents = [
        "\n".join(f"{' '.join(rng.choice(TOKENS[5:8], 40))}." for _ in range(6)) for _ in range(60)
    ]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(documents))
    path.with_name("vocab.txt").write_text("\n".join(TOKENS) + "\n")
    return path


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


def test_the_benchmark_runs_both_in_turn(text):
    """It prints a speed of each side for each round, and the share."""
    vocabulary = text.with_name("vocab.txt")
    done = run("prepare.py", f"--text={text}", f"--vocab={vocabulary}", "--rounds=1")
    assert done.returncode == 0, done.stderr
    first, bare, ours, share = done.stdout.splitlines()
    assert first.startswith("0.1 MB, 1 worker(s)")
    assert bare.startswith("tokenizers ")
    assert ours.startswith("ptft prepare ")
    assert "of the speed of the bare encode_batch" in share


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the /proc of Linux")
def test_the_comparison_of_sizes_runs(text, tmp_path):
    """It makes inputs of the sizes asked for, and its exit code says whether memory is bounded."""
    done = run(
        "prepare_scale.py",
        f"--text={text}",
        f"--work_dir={tmp_path}",
        "--gigabytes",
        0.0005,
        0.001,
        "--workers=2",
        "--set=vocab_size=100",
    )
    # Of runs as short as these a peak may be missed: what they say is not what is tested.
    verdict = {0: "memory is bounded", 1: "NOT bounded"}[done.returncode]
    assert done.stdout.splitlines()[-1] == verdict, done.stdout + done.stderr
    assert done.stdout.count("command    peak") == 2
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / name).glob("*.txt"))
        for name in ("0.0005GB", "0.001GB")
    ]
    assert 500_000 <= sizes[0] < 520_000
    assert 1_000_000 <= sizes[1] < 1_020_000
    parts = (tmp_path / "0.001GB" / "text-0000.txt").read_text().split("\n\n")
    assert len(set(parts)) == len(parts)


def test_the_race_reads_its_config(tmp_path):
    """Its whole test is a slow one, and it did not start once after a change of the flags."""
    done = run(
        "race_vs_hf.py",
        f"--data_dir={tmp_path}",
        f"--out_dir={tmp_path}",
        "--config.input_format=sop",
    )
    assert "--config.input_format=sop: BertForPreTraining takes nsp only" in done.stderr


def test_both_sides_of_the_race_start_alike_train_and_hand_over_models(tmp_path):
    """They begin with one loss, learn for as long as asked, and leave folders that transformers
    loads."""
    corpus, out = prepare_corpus(tmp_path), tmp_path / "race"
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 32}
    done = run(
        "race_vs_hf.py",
        f"--data_dir={corpus}",
        "--config=pretrain/bert_tiny",
        *(f"--config.model.{name}={size}" for name, size in sizes.items()),
        *("--config.batch_size=8", "--config.max_seq_length=32", "--config.eval_examples=16"),
        *("--minutes=0.01", "--score_every=0.2", "--warmup_steps=0", f"--out_dir={out}"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((out / "results.json").read_text())
    ours, hf = results["curves"]["ours"], results["curves"]["hf"]
    assert ours[0]["mlm_loss"] == pytest.approx(hf[0]["mlm_loss"], rel=1e-4)
    for side, curve in results["curves"].items():
        assert [line["updates"] for line in curve] == sorted({line["updates"] for line in curve})
        assert curve[-1]["seconds"] >= 0.6
        assert curve[-1]["mlm_loss"] < curve[0]["mlm_loss"]
        BertForPreTraining.from_pretrained(out / side)
    assert (out / "race.svg").stat().st_size > 0
