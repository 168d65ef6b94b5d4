"""Trains BERT for the same time in ptft_jax and in PyTorch, and compares what each has learned.

    .venv/bin/python benchmarks/race_vs_hf.py --data_dir=DATA [--minutes=3] [--out_dir=runs/race]
        [--config=configs/pretrain/bert_base.py] [--config.model.dtype=bfloat16 …]
        [--mrpc_dir=GLUE_DIR]

For a machine with one GPU, with bfloat16; on a CPU only a small --config makes sense. Both sides
start from the same weights (the folder start/), read the same examples of the corpus in the same
order, made by the project's threads, and have the same batch, masks, AdamW with clipping and decay,
dropout, and warm-up of --warmup_steps updates to a rate that stays (they make different numbers of
updates, so no decay could be the same). --config.key=value changes the config of both.

* ptft_jax: the step that `ptft pretrain` makes.
* PyTorch: `BertForPreTraining` with SDPA, fused AdamW, autocast if the config says bfloat16, and on
  a GPU torch.compile.

Both compile side by side, and then take turns: each trains for --minutes, scored on the same
held-out examples (dropout off) every --score_every seconds. Only training is on the clock:
compilation, which changes no weight, and scoring are not. The exit code is 1 where the two do not
begin with the same loss.

--out_dir then holds `ours.jsonl` and `hf.jsonl` (seconds, updates, tokens that are no padding,
seconds waited for a batch, held-out MLM loss), `race.svg` and `race.png`, `results.json`, and the
trained models as Hugging Face folders `ours/` and `hf/`. With --mrpc_dir (the folder that holds
MRPC/) `ptft finetune` trains both on GLUE MRPC: 3 epochs, batch 32, learning rate 5e-5, at most 128
tokens, from --seeds. What is finished is kept and not made again.
"""

import argparse
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"ours": "ptft_jax", "hf": "PyTorch"}
HEADS = ("pooler", "mlm", "nsp")
# The largest difference of the first losses, of about 10: bfloat16 rounds differently on each side.
SAME_START = 0.02


class Side(Protocol):
    """One of the two programs that race."""

    def examples(self, examples: Any) -> Any:
        """Returns the corpus's examples in the form that `update` takes, made in its thread."""

    def compile(self, batch: Any) -> None:
        """Compiles the update and leaves the weights as they were."""

    def update(self, batch: Any) -> Callable[[], Any]:
        """Starts an update; returns what waits for its end."""
        ...

    def score(self, batches: Sequence[Any]) -> float:
        """Returns the mean MLM loss over batches of the corpus."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the model as a Hugging Face folder."""


def main() -> int:
    """Runs what is missing, prints the tables and returns the exit code."""
    args = _arguments()
    # Inherited by both sides: one device, and no more of its memory than is used.
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    os.environ |= {"CUDA_VISIBLE_DEVICES": first, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    os.environ |= {"JAX_NUM_CPU_DEVICES": "1", "HF_HUB_OFFLINE": "1"}
    console = Console(highlight=False, width=110)
    _make_start(args)
    _race(args)
    curves = {side: _read_curve(args.out_dir / f"{side}.jsonl") for side in NAMES}
    summary = _summary(curves)
    machine = _machine()
    _draw(args.out_dir, curves, machine)
    console.print(_table(summary))
    results = {"machine": machine, "settings": _settings(args), "curves": curves}
    results["summary"] = summary
    if args.mrpc_dir:
        results["mrpc"] = _mrpc(args)
        console.print(_mrpc_table(results["mrpc"]))
    (args.out_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"{args.out_dir}: results.json, race.svg, race.png")
    apart = abs(curves["ours"][0]["mlm_loss"] - curves["hf"][0]["mlm_loss"])
    if apart > SAME_START:
        console.print(f"the first losses are {apart:.4f} apart, more than {SAME_START}")
    return int(apart > SAME_START)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True, help="a folder made by `ptft prepare`")
    parser.add_argument("--config", default=str(ROOT / "configs/pretrain/bert_base.py"))
    parser.add_argument("--out_dir", type=Path, default=Path("runs/race"))
    parser.add_argument("--minutes", type=float, default=3.0, help="training time of each side")
    parser.add_argument("--score_every", type=float, default=10.0, help="seconds of training")
    parser.add_argument("--warmup_steps", type=int, default=500)
    parser.add_argument("--mrpc_dir", type=Path, default=None, help="folder that holds MRPC/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of MRPC")
    parser.add_argument("--at_once", type=int, default=1, help="MRPC runs that share the device")
    args, rest = parser.parse_known_args()
    strange = [word for word in rest if not word.startswith("--config.")]
    if strange:
        parser.error(f"unknown: {' '.join(strange)}; keys of the config are --config.key=value")
    args.changes = rest
    args.out_dir.mkdir(parents=True, exist_ok=True)
    settings, file = _settings(args), args.out_dir / "settings.json"
    if file.exists() and json.loads(file.read_text()) != json.loads(json.dumps(settings)):
        parser.error(f"{args.out_dir} holds a race with other settings: name another --out_dir")
    file.write_text(json.dumps(settings, indent=2) + "\n")
    return args


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {"config": _config(args).to_dict(), "minutes": args.minutes}


def _config(args: argparse.Namespace) -> Any:
    """Returns the config of both sides: one phase, and a rate that stays after the warm-up."""
    from ptft_jax.commands.parsing import parse

    flags = [f"--config={args.config}", *args.changes]
    config = parse(lambda _: None, flags, "pretrain").config
    if config.input_format != "nsp":
        sys.exit(f"--config.input_format={config.input_format}: BertForPreTraining takes nsp only")
    config.data_dir = args.data_dir
    config.phases = ()
    config.max_predictions_per_seq = math.ceil(config.masked_lm_prob * config.max_seq_length)
    config.schedule.update({"name": "constant", "warmup_steps": args.warmup_steps})
    config.schedule.warmup_ratio = 0.0
    config.steps = max(config.steps, args.warmup_steps)
    return config


def _model_config(config: Any, tokenizer: Any) -> Any:
    from ptft_jax.models.config import EncoderConfig

    keys = config.model.to_dict()
    keys["vocab_size"] = keys["vocab_size"] or tokenizer.vocab_size
    return EncoderConfig(pad_token_id=tokenizer.pad_token_id, heads=HEADS, **keys)


def _make_start(args: argparse.Namespace) -> None:
    """Writes the weights that both sides start from."""
    if (args.out_dir / "start").exists():
        return
    import jax

    from ptft_jax.convert.folder import write_hf_folder
    from ptft_jax.data.corpus.store import Corpus
    from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
    from ptft_jax.models.build import build_model

    jax.config.update("jax_platforms", "cpu")  # the device is for the two sides
    config = _config(args)
    tokenizer = TextTokenizer.load(Corpus.open(args.data_dir).tokenizer_dir)
    model = build_model(_model_config(config, tokenizer))
    params = jax.jit(model.init)(jax.random.key(config.seed))
    write_hf_folder(args.out_dir / "start", params, model.config, tokenizer, "Fresh weights.\n")


def _race(args: argparse.Namespace) -> None:
    """Runs the sides whose model is missing: all compile at once, then one after the other."""
    context = multiprocessing.get_context("spawn")
    running = []
    for name in NAMES:
        if (args.out_dir / name).exists():
            continue
        ready, turn = context.Event(), context.Event()
        process = context.Process(target=_run_side, args=(args, name, ready, turn))
        process.start()
        running.append((name, process, ready, turn))
    try:
        for name, process, ready, _ in running:
            while not ready.wait(0.2):
                if process.exitcode is not None:
                    sys.exit(f"{NAMES[name]} ended with code {process.exitcode} before its turn")
        for name, process, _, turn in running:
            turn.set()
            process.join()
            if process.exitcode != 0:
                sys.exit(f"{NAMES[name]} ended with code {process.exitcode}")
    finally:
        for _, process, *_ in running:
            process.kill()


def _run_side(args: argparse.Namespace, name: str, ready: Any, turn: Any) -> None:
    """Compiles, waits for its turn, trains for its time and saves the model."""
    from ptft_jax.data.batches import Batches, evaluation_batches
    from ptft_jax.data.corpus.store import Corpus
    from ptft_jax.data.pretraining.examples import PretrainingExamples
    from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
    from ptft_jax.runs.phases import pretraining_settings
    from ptft_jax.training.resources.memory import keep_freed_memory

    keep_freed_memory()
    config = _config(args)
    train, dev = (Corpus.open(args.data_dir, split) for split in ("train", "dev"))
    tokenizer = TextTokenizer.load(train.tokenizer_dir)
    settings, rows = pretraining_settings(config), config.batch_size
    held_out = PretrainingExamples(dev, tokenizer, settings)
    most = -(-config.eval_examples // rows) if config.eval_examples else None
    dev_batches = list(evaluation_batches(held_out, rows, max_batches=most))
    side: Side = {"ours": _Ours, "hf": _Torch}[name](args, config, tokenizer)
    examples = side.examples(PretrainingExamples(train, tokenizer, settings))
    file = args.out_dir / f"{name}.jsonl"
    with Batches(examples, rows, workers=config.workers) as batches, file.open("w") as lines:
        began, first = time.monotonic(), next(batches)
        side.compile(first)
        score = side.score(dev_batches)  # compiles as well
        stream = chain([first], batches)
        print(f"{NAMES[name]:9} compiled in {time.monotonic() - began:.1f} s", flush=True)
        ready.set()
        turn.wait()
        limit = 60 * args.minutes
        clock = _Clock()
        ends = [*np.arange(args.score_every, limit, args.score_every), limit]
        for end in (0.0, *ends):
            if 0 < end <= clock.seconds:
                continue  # the last update took longer than that
            _train_until(end, clock, side, stream)
            score = side.score(dev_batches) if end else score
            line = {**clock.values(), "mlm_loss": score}
            print(json.dumps(line), file=lines, flush=True)
            print(
                f"{NAMES[name]:9} {clock.seconds:6.1f} s {clock.updates:7,} updates "
                f"{clock.tokens:13,} tokens  held-out MLM loss {score:.4f}",
                flush=True,
            )
    side.save(args.out_dir / name)


class _Clock:
    """Counts what a side has done in the time that it has trained."""

    def __init__(self):
        self.seconds = self.waited = 0.0
        self.updates = self.tokens = 0

    def values(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("seconds", "updates", "tokens", "waited")}


def _train_until(end: float, clock: _Clock, side: Side, batches: Iterator[Any]) -> None:
    """Makes updates until `end` seconds of training; the last one has ended when this returns."""
    began, before = time.monotonic(), clock.seconds
    running: deque[Callable[[], Any]] = deque()
    while clock.seconds < end:
        asked = time.monotonic()
        batch = next(batches)
        clock.waited += time.monotonic() - asked
        clock.tokens += int(batch["attention_mask"].sum())
        running.append(side.update(batch))
        clock.updates += 1
        # The device always has the next update at hand, and the clock is never far behind it.
        if len(running) > 2:
            running.popleft()()
        clock.seconds = before + time.monotonic() - began
    for wait in running:
        wait()
    clock.seconds = before + time.monotonic() - began


class _Ours:
    """The project's own step; see `Side`."""

    def __init__(self, args: argparse.Namespace, config: Any, tokenizer: Any):
        import jax

        from ptft_jax.models.build import build_model
        from ptft_jax.objectives.pretraining import PretrainingObjective
        from ptft_jax.runs.start.starting_point import load_starting_point
        from ptft_jax.training.mesh import MeshConfig, make_mesh
        from ptft_jax.training.step import make_eval_step, make_train_step
        from ptft_jax.training.updates.optimizer import (
            OptimizerConfig,
            ScheduleConfig,
            make_optimizer,
        )

        self._seed, self._tokenizer = config.seed, tokenizer
        self._mesh = make_mesh(MeshConfig(**config.mesh))
        jax.set_mesh(self._mesh)
        self._model = build_model(_model_config(config, tokenizer))
        self._initial = load_starting_point(str(args.out_dir / "start"), HEADS).params
        objective = PretrainingObjective()
        self._optimizer, schedule = make_optimizer(
            OptimizerConfig(**config.optimizer),
            ScheduleConfig(**config.schedule),
            config.steps,
            self._model.axes(),
        )
        self._step = make_train_step(
            self._model, objective, self._optimizer, schedule, seed=self._seed
        )
        self._eval_step = make_eval_step(self._model, objective)
        self._state: Any = self._start()

    def _start(self) -> Any:
        from ptft_jax.training.mesh import put_params
        from ptft_jax.training.step import init_state

        initial = put_params(self._initial, self._model.axes(), self._mesh)
        return init_state(self._model, self._optimizer, self._seed, initial)

    def examples(self, examples: Any) -> Any:
        return examples

    def compile(self, batch: Any) -> None:
        for _ in range(2):
            self.update(batch)()
        self._state = None  # before there is another
        self._state = self._start()

    def update(self, batch: Any) -> Callable[[], Any]:
        self._state, metrics = self._step(self._state, self._put(batch))
        return metrics["loss"].block_until_ready

    def score(self, batches: Sequence[Any]) -> float:
        from ptft_jax.training.evaluation import evaluate

        return evaluate(self._eval_step, self._state.params, batches, self._put)["mlm_loss"]

    def save(self, folder: Path) -> None:
        from ptft_jax.convert.folder import write_hf_folder
        from ptft_jax.runs.folder import host_params

        params = host_params(self._state.params)
        write_hf_folder(folder, params, self._model.config, self._tokenizer, "ptft_jax's side.\n")

    def _put(self, batch: Any) -> Any:
        from ptft_jax.training.mesh import put_batch

        return put_batch(batch, self._mesh)


class _Torch:
    """Hugging Face's model as its users train it; see `Side`."""

    def __init__(self, args: argparse.Namespace, config: Any, tokenizer: Any):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        torch.manual_seed(config.seed)
        torch.set_float32_matmul_precision("high")
        self._cuda = torch.cuda.is_available()
        self._bfloat16 = config.model.dtype == "bfloat16"
        self._device = torch.device("cuda" if self._cuda else "cpu")
        self._tokenizer = tokenizer
        model = transformers.BertForPreTraining.from_pretrained(
            args.out_dir / "start", dtype=torch.float32, attn_implementation="sdpa"
        )
        self._model = model.to(self._device).train()  # pyright: ignore[reportArgumentType]
        self._net: Any = torch.compile(self._model) if self._cuda else self._model
        named = list(self._model.named_parameters())
        undecayed = [name.endswith("bias") or "LayerNorm" in name for name, _ in named]
        settings = config.optimizer
        if settings.name != "adamw":
            sys.exit(f"--config.optimizer.name={settings.name}: PyTorch has adamw only")
        self._optimizer = torch.optim.AdamW(
            [
                {
                    "params": [p for (_, p), no in zip(named, undecayed, strict=True) if no == out],
                    "weight_decay": 0.0 if out else settings.weight_decay,
                }
                for out in (False, True)
            ],
            lr=settings.learning_rate,
            betas=(settings.b1, settings.b2),
            eps=settings.eps,
            fused=True,
        )
        self._schedule = transformers.get_constant_schedule_with_warmup(
            self._optimizer, config.schedule.warmup_steps
        )
        self._max_grad_norm = settings.max_grad_norm or math.inf

    def examples(self, examples: Any) -> Any:
        return _TorchExamples(examples, pin=self._cuda)

    def compile(self, batch: Any) -> None:
        import torch

        for _ in range(2):
            self._backward(batch)
            self._optimizer.zero_grad()
        if self._cuda:
            torch.cuda.empty_cache()  # the other side's turn comes first

    def update(self, batch: Any) -> Callable[[], Any]:
        import torch

        self._backward(batch)
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._max_grad_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        if not self._cuda:
            return lambda: None
        done = torch.cuda.Event()
        done.record()
        return done.synchronize

    def _backward(self, batch: Any) -> None:
        with self._autocast():
            loss = self._net(**self._put(batch)).loss
        loss.backward()

    def score(self, batches: Sequence[Any]) -> float:
        import torch

        total, count = 0.0, 0
        self._model.eval()
        with torch.no_grad(), self._autocast():
            for batch in batches:
                inputs = self._put(_to_torch(batch))
                labels = inputs.pop("labels")
                del inputs["next_sentence_label"]
                hidden = self._model.bert(**inputs).last_hidden_state
                # The head at the masked positions only: the same loss in a fraction of the memory.
                is_masked = labels != -100
                logits = self._model.cls.predictions(hidden[is_masked]).float()
                loss = torch.nn.functional.cross_entropy(logits, labels[is_masked], reduction="sum")
                total, count = total + float(loss), count + int(is_masked.sum())
        self._model.train()
        return total / count

    def save(self, folder: Path) -> None:
        partial = folder.with_name(f"{folder.name}.partial")
        self._model.save_pretrained(partial)
        self._tokenizer.save(partial, model_max_length=self._model.config.max_position_embeddings)
        partial.rename(folder)

    def _autocast(self) -> Any:
        import torch

        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16)

    def _put(self, batch: Any) -> dict[str, Any]:
        return {name: rows.to(self._device, non_blocking=True) for name, rows in batch.items()}


class _TorchExamples:
    """The corpus's examples as `BertForPreTraining` takes them, converted in the same threads."""

    def __init__(self, examples: Any, pin: bool):
        self._examples, self._pin = examples, pin

    def __len__(self) -> int:
        return len(self._examples)

    def batch(self, indices: np.ndarray) -> dict[str, Any]:
        tensors = _to_torch(self._examples.batch(indices))
        return {name: t.pin_memory() for name, t in tensors.items()} if self._pin else tensors


def _to_torch(batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the arguments of `BertForPreTraining`, int64 tensors [B, T], and [B] of the pairs."""
    import torch

    labels = np.full(batch["input_ids"].shape, -100)
    row, slot = np.nonzero(batch["masked_lm_weights"])
    labels[row, batch["masked_lm_positions"][row, slot]] = batch["masked_lm_ids"][row, slot]
    arrays = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    arrays |= {"labels": labels, "next_sentence_label": batch["next_sentence_labels"][:, 0]}
    return {name: torch.from_numpy(rows.astype(np.int64)) for name, rows in arrays.items()}


def _read_curve(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _summary(curves: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    summary = {}
    for side, other in (("ours", "hf"), ("hf", "ours")):
        last = curves[side][-1]
        summary[side] = {
            **last,
            "first_mlm_loss": curves[side][0]["mlm_loss"],
            "updates_per_second": last["updates"] / last["seconds"],
            "tokens_per_second": last["tokens"] / last["seconds"],
            "data_wait": last["waited"] / last["seconds"],
            "seconds_to_the_others_last_loss": _reached(
                curves[side], curves[other][-1]["mlm_loss"]
            ),
        }
    return summary


def _reached(curve: list[dict[str, float]], loss: float) -> float | None:
    """Returns when a curve first came down to a loss, on a straight line between two scores."""
    for before, after in pairwise(curve):
        if after["mlm_loss"] <= loss <= before["mlm_loss"]:
            drop = before["mlm_loss"] - after["mlm_loss"]
            share = (before["mlm_loss"] - loss) / drop if drop else 1.0
            return before["seconds"] + share * (after["seconds"] - before["seconds"])
    return None


def _machine() -> dict[str, str]:
    packages = ("jax", "jaxlib", "torch", "transformers")
    machine = {name: importlib.metadata.version(name) for name in packages}
    machine["device"] = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
        if answer:
            machine["device"] = answer[0].replace(", ", ", driver ")
    return machine


def _draw(folder: Path, curves: dict[str, list[dict[str, float]]], machine: dict[str, str]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for side, curve in curves.items():
        rate = curve[-1]["updates"] / curve[-1]["seconds"]
        seconds, losses = ([line[key] for line in curve] for key in ("seconds", "mlm_loss"))
        axes.plot(seconds, losses, marker=".", label=f"{NAMES[side]}, {rate:.1f} updates/s")
    axes.set(xlabel="seconds of training", ylabel="held-out MLM loss", title=machine["device"])
    axes.grid(alpha=0.3)
    axes.legend()
    for kind in ("svg", "png"):
        figure.savefig(folder / f"race.{kind}", dpi=150)


def _table(summary: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="the same time of training")
    table.add_column("", no_wrap=True)
    for name in NAMES.values():
        table.add_column(name, justify="right")
    table.add_column("ptft_jax / PyTorch", justify="right")
    for key, text, form in (
        ("seconds", "seconds of training", ".1f"),
        ("updates", "updates", ",.0f"),
        ("tokens", "tokens", ",.0f"),
        ("tokens_per_second", "tokens per second", ",.0f"),
        ("data_wait", "waited for a batch", ".2%"),
        ("first_mlm_loss", "held-out MLM loss at the start", ".4f"),
        ("mlm_loss", "held-out MLM loss at the end", ".4f"),
        ("seconds_to_the_others_last_loss", "seconds to the other's last loss", ".1f"),
    ):
        ours, hf = summary["ours"][key], summary["hf"][key]
        shown = ["not reached" if value is None else format(value, form) for value in (ours, hf)]
        has_ratio = key in ("updates", "tokens", "tokens_per_second")
        table.add_row(text, *shown, f"{ours / hf:.2f}" if has_ratio else "")
    return table


def _mrpc(args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Fine-tunes both models from each seed; returns accuracy and F1 on dev by side."""
    runs = [(side, seed) for seed in args.seeds for side in NAMES]
    with ThreadPoolExecutor(args.at_once) as pool:
        scores = list(pool.map(lambda run: _finetune(args, *run), runs))
    return {
        name: [score for (side, _), score in zip(runs, scores, strict=True) if side == name]
        for name in NAMES
    }


def _finetune(args: argparse.Namespace, side: str, seed: int) -> dict[str, float]:
    folder = args.out_dir / f"mrpc-{side}-{seed}"
    if not (folder / "results.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        keys = {
            "data_dir": args.mrpc_dir,
            "seed": seed,
            "epochs": 3,
            "batch_size": 32,
            "max_seq_length": 128,
            "length_buckets": "()",  # one program to compile
            "eval_every": 0,
            "checkpoint_every": 0,
            "optimizer.learning_rate": 5e-5,
        }
        command = [
            *(sys.executable, "-m", "ptft_jax", "finetune"),
            f"--config={ROOT / 'configs/finetune/glue.py'}:mrpc",
            f"--init_from={args.out_dir / side}",
            f"--run_dir={folder}",
            *(f"--config.{key}={value}" for key, value in keys.items()),
        ]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path}
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{run.stdout}\n{run.stderr}")
    dev = json.loads((folder / "results.json").read_text())["dev"]
    return {"seed": seed, "accuracy": dev["accuracy"], "f1": dev["f1"]}


def _mrpc_table(runs: dict[str, list[dict[str, float]]]) -> Table:
    table = Table(title="GLUE MRPC, dev")
    table.add_column("", no_wrap=True)
    for name in NAMES.values():
        table.add_column(name, justify="right")
    for score in ("accuracy", "f1"):
        for pair in zip(*runs.values(), strict=True):
            shown = (f"{run[score]:.4f}" for run in pair)
            table.add_row(f"{score}, seed {pair[0]['seed']:.0f}", *shown)
        means = (statistics.fmean(run[score] for run in side) for side in runs.values())
        table.add_row(f"{score}, mean", *(f"{mean:.4f}" for mean in means), end_section=True)
    return table


if __name__ == "__main__":
    sys.exit(main())
