"""Whole updates of a pretraining config: ours, and Hugging Face's in turn with them."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ptft_jax.data.batches import Batch, Batches
from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.examples import PretrainingExamples
from ptft_jax.data.progress import Progress, no_progress
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.models.build import Model, build_model
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.runs.bench import work
from ptft_jax.runs.bench.hf_process import HuggingFace, torch_device
from ptft_jax.runs.bench.machine import peak_memory
from ptft_jax.runs.bench.rounds import spread, take_turns, times_as_fast
from ptft_jax.runs.config import Config, refuse_teacher
from ptft_jax.runs.kinds.pretraining import encoder_config
from ptft_jax.runs.phases import pretraining_settings
from ptft_jax.training.mesh import MeshConfig, check_batch, check_model, make_mesh, put_batch
from ptft_jax.training.resources.accelerators import accelerator_of
from ptft_jax.training.step import init_state, make_train_step
from ptft_jax.training.updates.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer

OURS = "ptft_jax"
OTHERS = ("hf", "hf_gathered")
"""What to compare with: HF's class as it is, and with the MLM head at masked positions only."""


@dataclasses.dataclass(frozen=True)
class Opened:
    """A config with all that can be wrong with it looked at, and nothing compiled.

    `examples` is None for rows of random tokens.
    """

    config: Config
    model: Model
    mesh: Mesh
    examples: PretrainingExamples | None

    @property
    def data(self) -> str:
        """What the rows are, in words."""
        if self.examples is None:
            return "full rows of random tokens"
        packed = "packed rows" if self.config.packing else "one example a row, natural lengths"
        return f"{self.config.data_dir}: {packed}"

    def rows(self, update: int) -> Batch:
        """Returns the rows of an update, from 0 on; random ones are the same in all of them."""
        if self.examples is None:
            return work.full_rows(self.config, self.model.config)
        size = self.config.batch_size
        return self.examples.batch(np.arange(size) + update * size)


def open_config(config: Config, against: str | None = None) -> Opened:
    """Opens the model, mesh and data of a config (of one phase).

    Raises:
        ConfigError: something in it cannot be, or PyTorch cannot be compared with here.
        DataError: the corpus is damaged.
    """
    pretraining_settings(config).check()
    corpus = tokenizer = examples = None
    if config.data_dir:
        corpus = Corpus.open(config.data_dir, "train")
        tokenizer = TextTokenizer.load(corpus.tokenizer_dir)
    model = build_model(encoder_config(config, tokenizer))
    OptimizerConfig(**config.optimizer)
    mesh = make_mesh(MeshConfig(**config.mesh))
    check_batch(config.batch_size, config.accumulate, mesh)
    check_model(model.config, mesh)
    if against is not None:
        torch_device(mesh.devices.flat, f"--against={against}")
    if corpus is not None and tokenizer is not None:
        examples = PretrainingExamples(corpus, tokenizer, pretraining_settings(config))
    return Opened(config, model, mesh, examples)


def measure(
    opened: Opened,
    *,
    rounds: int,
    updates: int,
    against: str | None = None,
    peak_tflops: float | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Measures rounds of updates, each after one that is not timed, of all sides in turn.

    Every round goes through the same batches; with real data ours are made while it runs, as in
    training, and those of PyTorch beforehand. `against` is one of `OTHERS`, or None; `peak_tflops`
    is that of a device in the model's dtype, None: as its data sheet says, if it is known.

    Returns:
        JSON values: what an update holds, each side's figures, and the ratios to the others.

    Raises:
        ConfigError: PyTorch could not do it.
    """
    config, model, mesh = opened.config, opened.model.config, opened.mesh
    many = 1 if opened.examples is None else 1 + updates
    alone = [work.one_a_row(opened.rows(number), model.pad_token_id) for number in range(many)]
    counts = work.count(alone[1:] or alone * updates, config.batch_size, model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        theirs: Any = None
        if against is not None:
            progress(f"{against}: starting and compiling", 0, 1)
            theirs = stack.enter_context(_theirs(opened, against, alone, updates))
            progress(f"{against}: starting and compiling", 1, 1)
        progress(f"{OURS}: compiling", 0, 1)
        ours = _Ours(opened, updates)
        progress(f"{OURS}: compiling", 1, 1)
        sides: dict[str, Any] = {OURS: ours.make_round}
        if against is not None:
            sides[against] = theirs.make_round
        found = take_turns(sides, rounds, progress)
        memory, held_by = peak_memory(mesh.devices.flat)
    kind = mesh.devices.flat[0].device_kind
    known = accelerator_of(kind)
    peak = peak_tflops or (known and known.peak_tflops(model.dtype))
    seconds = {name: [one["seconds"] for one in values] for name, values in found.items()}
    described = {}
    for name, values in found.items():
        how, first = f"{config.model.dtype}, mesh {dict(mesh.shape)}", ours.first_seconds
        wait = sum(one.get("waited", 0.0) for one in values) / sum(seconds[name])
        if name != OURS:
            how, first = theirs.warm["note"], theirs.warm["first_seconds"]
        side = figures(seconds[name], updates, counts, mesh.size, peak)
        described[name] = {
            **side,
            "losses": [one["loss"] for one in values],
            "how": how,
            "compile_seconds": max(0.0, first - side["step_ms"]["median"] / 1e3),
            "peak_memory": max(one.get("peak_memory", memory) for one in values),
            "peak_memory_of": held_by,
            "data_wait": wait if name == OURS and opened.examples is not None else None,
        }
    ratios = {}
    if against is not None:
        ratios[against] = times_as_fast(seconds[OURS], seconds[against])
    return {
        "data": opened.data,
        "model": dataclasses.asdict(model),
        "tokens_per_row": config.max_seq_length,
        "rounds": rounds,
        "updates": updates,
        "timed_updates": dataclasses.asdict(counts),
        "devices": mesh.size,
        "device_kind": kind,
        "peak_tflops": peak,
        "sides": described,
        "times_as_fast": ratios,
    }


def figures(
    seconds: list[float], updates: int, counts: work.Counts, devices: int, peak: float | None
) -> dict[str, Any]:
    """Returns what follows from the seconds of the rounds of one side, at their median.

    `counts`: what the updates of a round hold; `peak`: TFLOP/s of one of the devices, None where it
    is not known. The utilisation is model FLOPs / (seconds x devices x peak).
    """
    median = spread(seconds)["median"]
    tflops = counts.flops / median / 1e12
    return {
        "seconds": seconds,
        "step_ms": spread([1e3 * one / updates for one in seconds]),
        "tokens_per_second": counts.tokens / median,
        "sequences_per_second": counts.examples / median,
        "tflops": tflops,
        "utilisation": None if peak is None else tflops / (devices * peak),
    }


class _Ours:
    """The project's own step under its mesh, fed as in training."""

    def __init__(self, opened: Opened, updates: int) -> None:
        """Makes the state and the first update, which compiles."""
        config, model = opened.config, opened.model
        self._opened, self._updates = opened, updates
        optimizer, schedule = make_optimizer(
            OptimizerConfig(**config.optimizer),
            ScheduleConfig(**config.schedule),
            max(config.steps, 1),
            model.axes(),
        )
        refuse_teacher(config, "ptft bench train times")
        objective = PretrainingObjective(next_sentence="nsp" in model.config.heads)
        settings = {"seed": config.seed, "accumulate": config.accumulate, "ema": config.ema}
        self._step = make_train_step(model, objective, optimizer, schedule, **settings)
        averages = config.ema > 0
        self._state = init_state(model, optimizer, config.seed, averages=averages)
        # Rows that never change lie on the devices from the start.
        self._first = put_batch(opened.rows(0), opened.mesh)
        jax.block_until_ready((self._state, self._first))
        began = time.perf_counter()
        self._update(self._first)
        jax.block_until_ready(self._state)
        self.first_seconds = time.perf_counter() - began

    def _update(self, batch: Any) -> dict[str, Any]:
        self._state, metrics = self._step(self._state, batch)
        return metrics

    def make_round(self) -> dict[str, float]:
        """Makes an untimed update, then those that are timed; says what they took and waited."""
        examples, config, mesh = self._opened.examples, self._opened.config, self._opened.mesh
        if examples is None:
            return self._timed(itertools.repeat(self._first), lambda placed: placed)
        with Batches(examples, config.batch_size, workers=config.workers) as batches:
            return self._timed(batches, partial(put_batch, mesh=mesh))

    def _timed(self, batches: Iterator[Any], put: Callable[[Any], Any]) -> dict[str, float]:
        metrics = self._update(put(next(batches)))
        jax.block_until_ready((self._state, metrics))
        waited, began = 0.0, time.perf_counter()
        for _ in range(self._updates):
            asked = time.perf_counter()
            batch = next(batches)
            # Waiting costs nothing while the devices still run the step before.
            waited += time.perf_counter() - asked if metrics["tokens"].is_ready() else 0.0
            metrics = self._update(put(batch))
        jax.block_until_ready((self._state, metrics))
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "waited": waited, "loss": float(metrics["loss"])}


def _theirs(opened: Opened, against: str, batches: list[Batch], updates: int) -> HuggingFace:
    config, flag = opened.config, f"--against={against}"
    spec = {
        "what": "train",
        "gathered": against == "hf_gathered",
        "remat": opened.model.config.remat,
        "optimizer": config.optimizer.to_dict(),
        "accumulate": config.accumulate,
        "updates": updates,
    }
    device = torch_device(opened.mesh.devices.flat, flag)
    return HuggingFace(opened.model.config, device, spec, batches=batches)
