"""Measures how long `ptft pretrain` takes to its first update, cold and when it is started again.

    .venv/bin/python benchmarks/restart.py --data_dir=DATA [--rounds 3] [-- FLAG …]

A round starts a run with an empty folder of compiled programs (cold), stops it with SIGTERM after
its first update, which saves a checkpoint, and starts the same command again (warm): restored
parameters, compiled programs from the folder. Then a second run with the folder that is full by now
(filled). Each time is from the start of the process to the first new line of metrics.jsonl. The
exit code is 1 when warm is more than 40 % of cold.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ptft_jax.training.accounting.time_account import account, read_events

SETTINGS = ("steps=1000", "phases=()", "batch_size=2", "log_every=1", "checkpoint_every=0")
# The claim: the first step of a warm start takes at most this share of a cold one's.
MOST = 0.4


def main() -> None:
    """Measures and prints the table; exits with 1 when the claim does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True, help="a folder made by `ptft prepare`")
    parser.add_argument("--config", default="configs/pretrain/bert_base.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("more", nargs="*", help="further flags of ptft pretrain, after --")
    args = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": [], "filled": []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            first, second = Path(folder, "first"), Path(folder, "second")
            for name, run_dir in (("cold", first), ("warm", first), ("filled", second)):
                found[name].append(seconds(args, run_dir, Path(folder, "xla")))
    table = Table("start", "to the first update (s)", "share", "first step alone (s)", "share")
    medians = {
        name: [statistics.median(column) for column in zip(*times, strict=True)]
        for name, times in found.items()
    }
    for name, times in found.items():
        cells = []
        for column, median, cold in zip(
            zip(*times, strict=True), medians[name], medians["cold"], strict=True
        ):
            cells += [", ".join(f"{one:.1f}" for one in column), f"{median / cold:.0%}"]
        table.add_row(name, *cells)
    Console(width=100).print(table)
    if medians["warm"][1] > MOST * medians["cold"][1]:
        sys.exit(f"the first step of a warm start takes more than {MOST:.0%} of that of a cold one")


def seconds(args: argparse.Namespace, run_dir: Path, cache: Path) -> tuple[float, float]:
    """Starts training, waits for the first update it makes, and lets it save and end."""
    before = last_step(run_dir)
    command = [
        *(sys.executable, "-m", "ptft_jax", "pretrain", f"--config={args.config}"),
        *(f"--config.{setting}" for setting in SETTINGS),
        *(f"--config.data_dir={args.data_dir}", f"--run_dir={run_dir}", f"--compile_cache={cache}"),
        *args.more,
    ]
    log = run_dir.parent / "log.txt"
    with log.open("w", encoding="utf-8") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            cwd=Path(__file__).resolve().parent.parent,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        while last_step(run_dir) == before and process.poll() is None:
            time.sleep(0.02)
        took = time.monotonic() - began
        process.send_signal(signal.SIGTERM)
        if process.wait() != 75:
            sys.exit(f"ended with {process.returncode}:\n{log.read_text(encoding='utf-8')[-2000:]}")
    return took, account(read_events(run_dir))[-1].seconds["compiling"]


def last_step(run_dir: Path) -> int:
    """The step of the last line of metrics.jsonl, 0 where there is none."""
    file = run_dir / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return json.loads(lines[-1])["step"] if lines else 0


if __name__ == "__main__":
    main()
