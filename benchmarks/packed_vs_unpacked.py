"""Pretrains the same model on the same number of real tokens, packed and unpacked, and compares.

    .venv/bin/python benchmarks/packed_vs_unpacked.py --data_dir=DATA [--tokens=1e6] [--seeds 1 2]

BERT-small (--config) on rows of 512, runs in turn: packed, unpacked, packed, … Both sides make the
same number of updates with the same learning rate on as many real tokens each: the unpacked batch
has as many more rows as padding takes. Held-out text is the same examples with the same masks.

The table shows the held-out MLM loss, its difference between the sides beside its difference
between seeds, and the time of the training loop (without compilation and evaluation). A finished
run is kept in --out_dir and not made again; an interrupted one starts anew, so that its time is
whole.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.examples import PretrainingExamples, PretrainingSettings
from ptft_jax.data.pretraining.masking import MaskingSettings
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer

ROOT = Path(__file__).resolve().parent.parent
SIDES = {"packed": True, "unpacked": False}


def main() -> None:
    """Runs what is missing and prints the table."""
    args = _arguments()
    args.out_dir.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, width=110)
    fill = {side: _real_share(args, packing) for side, packing in SIDES.items()}
    rows = {
        "packed": args.batch_size,
        "unpacked": round(args.batch_size * fill["packed"] / fill["unpacked"]),
    }
    updates = math.ceil(args.tokens / (args.batch_size * args.length * fill["packed"]))
    for side in SIDES:
        real = rows[side] * args.length * fill[side]
        console.print(
            f"{side}: {fill[side]:.2%} of the positions real; {updates} updates of {rows[side]} x "
            f"{args.length} = {real:,.0f} real tokens each"
        )
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for seed in args.seeds:
        for side in SIDES:
            runs[side].append(_run(args, side, seed, rows[side], updates))
            console.print(f"{side}, seed {seed}: {json.dumps(runs[side][-1])}")
    console.print(_table(args.seeds, runs))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True, help="a folder made by `ptft prepare`")
    parser.add_argument("--config", default=str(ROOT / "configs/pretrain/bert_small.py"))
    parser.add_argument("--out_dir", type=Path, default=Path("runs/packed_vs_unpacked"))
    parser.add_argument("--tokens", type=float, default=1e6, help="real tokens of a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=10, help="rows of a packed batch")
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    return parser.parse_args()


def _real_share(args: argparse.Namespace, packing: bool) -> float:
    """Returns the share of real positions in an eighth of an epoch."""
    corpus = Corpus.open(args.data_dir)
    settings = PretrainingSettings(
        max_seq_length=args.length,
        packing=packing,
        masking=MaskingSettings(max_predictions_per_seq=_predictions(args)),
    )
    tokenizer = TextTokenizer.load(corpus.tokenizer_dir)
    examples = PretrainingExamples(corpus, tokenizer, settings)
    parts = np.array_split(np.arange(len(examples)), max(1, len(examples) // 256))[::8]
    return float(np.mean([examples.batch(part)["attention_mask"].mean() for part in parts]))


def _predictions(args: argparse.Namespace) -> int:
    return math.ceil(0.15 * args.length)


def _run(
    args: argparse.Namespace, side: str, seed: int, batch_size: int, updates: int
) -> dict[str, Any]:
    """Pretrains one side with one seed, or reads what it gave; returns its figures."""
    folder = args.out_dir / f"{side}-{seed}"
    if not (folder / "results.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        keys = {
            "data_dir": args.data_dir,
            "seed": seed,
            "steps": updates,
            "batch_size": batch_size,
            "max_seq_length": args.length,
            "max_predictions_per_seq": _predictions(args),
            "packing": str(SIDES[side]).lower(),
            "eval_examples": 0,
            "eval_every": 0,
            "checkpoint_every": 0,
            "log_every": 1,
            "schedule.warmup_ratio": 0.1,
            "optimizer.learning_rate": args.learning_rate,
        }
        command = [
            *(sys.executable, "-m", "ptft_jax", "pretrain", f"--config={args.config}"),
            *(f"--config.{key}={value}" for key, value in keys.items()),
            f"--run_dir={folder}",
        ]
        environment = dict(os.environ, JAX_NUM_CPU_DEVICES="1")
        subprocess.run(command, env=environment, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "split" not in line]
    timed = [line for line in steps if line["tokens_per_second"]]
    seconds = [line["tokens"] / line["tokens_per_second"] for line in timed]
    dev = json.loads((folder / "results.json").read_text())["dev"]
    return {
        "dev_mlm_loss": dev["mlm_loss"],
        "dev_nsp_accuracy": dev["nsp_accuracy"],
        "tokens": sum(line["tokens"] for line in steps),
        # The first update compiles and is not timed; it counts like a mean one.
        "loop_seconds": statistics.fmean(seconds) * len(steps),
        "tokens_per_second": sum(line["tokens"] for line in timed) / sum(seconds),
        "data_wait": statistics.fmean(line["data_wait"] for line in timed),
    }


def _table(seeds: list[int], runs: dict[str, list[dict[str, Any]]]) -> Table:
    table = Table(title="packed against unpacked, the same number of real tokens")
    table.add_column("", no_wrap=True)
    for side in SIDES:
        table.add_column(side, justify="right")
    table.add_column("packed / unpacked", justify="right")
    for k, seed in enumerate(seeds):
        for name, digits in (("dev_mlm_loss", 4), ("tokens", 0), ("loop_seconds", 1)):
            values = [runs[side][k][name] for side in SIDES]
            shown = [f"{value:,.{digits}f}" for value in values]
            table.add_row(f"{name}, seed {seed}", *shown, f"{values[0] / values[1]:.3f}")
    mean = {side: statistics.fmean(run["dev_mlm_loss"] for run in runs[side]) for side in SIDES}
    apart = [max(v) - min(v) for v in ([r["dev_mlm_loss"] for r in runs[s]] for s in SIDES)]
    table.add_section()
    table.add_row("dev_mlm_loss, mean", *(f"{mean[side]:.4f}" for side in SIDES), "")
    table.add_row("  between the seeds", *(f"{value:.4f}" for value in apart), "")
    table.add_row("  between the sides", f"{abs(mean['packed'] - mean['unpacked']):.4f}", "", "")
    for name, text in (("tokens_per_second", "real tokens/s"), ("data_wait", "data wait")):
        shown = [statistics.median(run[name] for run in runs[side]) for side in SIDES]
        formatted = [f"{v:.3%}" if name == "data_wait" else f"{v:,.0f}" for v in shown]
        ratio = f"{shown[0] / shown[1]:.3f}" if name == "tokens_per_second" else ""
        table.add_row(text, *formatted, ratio)
    return table


if __name__ == "__main__":
    main()
