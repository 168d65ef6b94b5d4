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
from ptft_jax.runs.bench.hf_process import HuggingFace, check_installed, torch_device
from ptft_jax.runs.bench.machine import peak_memory
from ptft_jax.runs.bench.rounds import Spread, take_turns, times_as_fast
from ptft_jax.runs.config import Config
from ptft_jax.runs.phases import pretraining_settings
from ptft_jax.runs.shapes import encoder_config
from ptft_jax.training.accelerators import accelerator_of
from ptft_jax.training.mesh import MeshConfig, check_batch, check_model, make_mesh, put_batch
from ptft_jax.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer
from ptft_jax.training.state import init_state
from ptft_jax.training.step import make_train_step

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


def open_config(config: Config, against: str | None = None) -> Opened:
    """Opens the model, mesh and data of a config (of one phase).

    Raises:
        ConfigError: something in it cannot be, or PyTorch cannot be compared with here.
        DataError: the corpus is damaged.
    """
    pretraining_settings(config).check()
    corpus = tokenizer = None
    if config.data_dir:
        corpus = Corpus.open(config.data_dir, "train")
        tokenizer = TextTokenizer.load(corpus.tokenizer_dir)
    model = build_model(encoder_config(config, tokenizer))
    OptimizerConfig(**config.optimizer)
    if against is not None:
        check_installed(f"--against={against}")
    mesh = make_mesh(MeshConfig(**config.mesh))
    check_batch(config.batch_size, config.accumulate, mesh)
    check_model(model.config, mesh)
    if against is not None:
        torch_device(mesh.devices.flat, f"--against={against}")
    examples = None
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
    training, and those of PyTorch beforehand.

    Args:
        opened: what to measure.
        rounds: of each side.
        updates: timed in a round.
        against: one of `OTHERS`, or None.
        peak_tflops: of a device in the model's dtype; None: as its data sheet says, if it is known.
        progress: is told what goes on.

    Returns:
        JSON values: what an update holds, each side's figures, and the ratios to the others.

    Raises:
        ConfigError: PyTorch could not do it.
    """
    config, model = opened.config, opened.model.config
    synthetic = work.full_rows(config, model) if opened.examples is None else None
    indices = [np.arange(config.batch_size) + k * config.batch_size for k in range(1 + updates)]
    alone = []
    for rows in indices if opened.examples is not None else [indices[0]]:
        batch = opened.examples.batch(rows) if opened.examples is not None else synthetic
        assert batch is not None
        alone.append(work.one_a_row(batch, model.pad_token_id))
    timed = alone[1:] if synthetic is None else alone * updates
    counts = work.count(timed, config.batch_size, model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(opened.mesh))
        theirs = None
        if against is not None:
            progress(f"{against}: starting and compiling", 0, 1)
            theirs = stack.enter_context(_theirs(opened, against, alone, updates))
            progress(f"{against}: starting and compiling", 1, 1)
        progress(f"{OURS}: compiling", 0, 1)
        ours = _Ours(opened, synthetic, updates)
        progress(f"{OURS}: compiling", 1, 1)
        sides: dict[str, Any] = {OURS: ours.make_round}
        if against is not None and theirs is not None:
            sides[against] = theirs.make_round
        found = take_turns(sides, rounds, progress)
        memory, held_by = peak_memory(opened.mesh.devices.flat)
    devices, kind = opened.mesh.size, opened.mesh.devices.flat[0].device_kind
    known = accelerator_of(kind)
    peak = peak_tflops or (known and known.peak_tflops(model.dtype))
    seconds = {name: [one["seconds"] for one in values] for name, values in found.items()}
    described = {}
    for name, taken in seconds.items():
        described[name] = figures(taken, updates, counts, devices, peak)
        described[name]["losses"] = [one["loss"] for one in found[name]]
    step = described[OURS]["step_ms"]["median"] / 1e3
    waited = sum(one["waited"] for one in found[OURS])
    described[OURS] |= {
        "how": f"{config.model.dtype}, mesh {dict(opened.mesh.shape)}",
        "compile_seconds": max(0.0, ours.first_seconds - step),
        "peak_memory": memory,
        "peak_memory_of": held_by,
        "data_wait": waited / sum(seconds[OURS]) if synthetic is None else None,
    }
    ratios = {}
    if against is not None and theirs is not None:
        step = described[against]["step_ms"]["median"] / 1e3
        described[against] |= {
            "how": theirs.warm["note"],
            "compile_seconds": max(0.0, theirs.warm["first_seconds"] - step),
            "peak_memory": max(one["peak_memory"] for one in found[against]),
            "peak_memory_of": held_by,
            "data_wait": None,
        }
        ratios[against] = dataclasses.asdict(times_as_fast(seconds[OURS], seconds[against]))
    return {
        "data": opened.data,
        "model": dataclasses.asdict(model),
        "tokens_per_row": config.max_seq_length,
        "rounds": rounds,
        "updates": updates,
        "timed_updates": dataclasses.asdict(counts),
        "devices": devices,
        "device_kind": kind,
        "peak_tflops": peak,
        "sides": described,
        "times_as_fast": ratios,
    }


def figures(
    seconds: list[float], updates: int, counts: work.Counts, devices: int, peak: float | None
) -> dict[str, Any]:
    """Returns what follows from the seconds of the rounds of one side.

    The utilisation is model FLOPs / (seconds x devices x peak), at the median.

    Args:
        seconds: of the timed updates of each round.
        updates: timed in a round.
        counts: what these updates hold.
        devices: how many computed.
        peak: TFLOP/s of one of them; None where it is not known.
    """
    median = Spread.of(seconds).median
    tflops = counts.flops / median / 1e12
    return {
        "seconds": seconds,
        "step_ms": dataclasses.asdict(Spread.of([1e3 * one / updates for one in seconds])),
        "tokens_per_second": counts.tokens / median,
        "sequences_per_second": counts.examples / median,
        "tflops": tflops,
        "utilisation": None if peak is None else tflops / (devices * peak),
    }


class _Ours:
    """The project's own step under its mesh, fed as in training."""

    def __init__(self, opened: Opened, synthetic: Batch | None, updates: int) -> None:
        """Makes the state and the first update, which compiles."""
        config = opened.config
        self._opened, self._updates = opened, updates
        optimizer, schedule = make_optimizer(
            OptimizerConfig(**config.optimizer),
            ScheduleConfig(**config.schedule),
            max(config.steps, 1),
            opened.model.axes(),
        )
        objective = PretrainingObjective(next_sentence="nsp" in opened.model.config.heads)
        self._step = make_train_step(
            opened.model,
            objective,
            optimizer,
            schedule,
            seed=config.seed,
            accumulate=config.accumulate,
        )
        self._state = init_state(opened.model, optimizer, config.seed)
        # Rows that never change lie on the devices from the start.
        self._placed = None if synthetic is None else put_batch(synthetic, opened.mesh)
        if opened.examples is not None:
            synthetic = opened.examples.batch(np.arange(config.batch_size))
        assert synthetic is not None
        first = put_batch(synthetic, opened.mesh)
        jax.block_until_ready((self._state, first))
        began = time.perf_counter()
        self._update(first)
        jax.block_until_ready(self._state)
        self.first_seconds = time.perf_counter() - began

    def _update(self, batch: Any) -> dict[str, Any]:
        self._state, metrics = self._step(self._state, batch)
        return metrics

    def make_round(self) -> dict[str, float]:
        """Makes an untimed update, then those that are timed; says what they took and waited."""
        examples, config, mesh = self._opened.examples, self._opened.config, self._opened.mesh
        if examples is None:
            return self._timed(itertools.repeat(self._placed), lambda placed: placed)
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
