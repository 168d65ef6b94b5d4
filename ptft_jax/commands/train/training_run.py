"""What `ptft pretrain` and `ptft finetune` share: from checked settings to results.json."""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console

from ptft_jax.commands.screen import count, results_table, say
from ptft_jax.commands.train.profiling import check_profile, tracer
from ptft_jax.data.batches import Batches, Examples
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, Params
from ptft_jax.objectives.totals import Objective
from ptft_jax.runs.config import Config
from ptft_jax.runs.evaluators import Evaluate
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.record import RunRecord
from ptft_jax.runs.start_checks import check_run_place, time_all_reduce
from ptft_jax.training.accelerators import accelerator_of
from ptft_jax.training.accounting.heartbeat import Heartbeat, began
from ptft_jax.training.checkpoints.rewind import skip_at
from ptft_jax.training.checkpoints.store import Checkpoints
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.cost import model_flops
from ptft_jax.training.loop import Batch, fit
from ptft_jax.training.memory import fitting
from ptft_jax.training.mesh import (
    MeshConfig,
    check_batch,
    check_model,
    make_mesh,
    process_rows,
    put_batch,
    put_params,
)
from ptft_jax.training.metric_sinks import (
    ConsoleProgress,
    MetricsWriter,
    Report,
    Sink,
    write_results,
)
from ptft_jax.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer
from ptft_jax.training.state import TrainState, abstract_state, init_state
from ptft_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of a run in which all batches are made alike.

    Attributes:
        start, until: its updates are those after `start` up to `until`.
        examples: the training examples, read from the first one on when the phase begins.
        batch_size, accumulate: examples per update, and the micro-batches they are cut into.
        make_evaluate: makes the evaluation function for a mesh and a job.
    """

    start: int
    until: int
    examples: Examples
    batch_size: int
    accumulate: int
    make_evaluate: Callable[[Mesh, Job], Evaluate]


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """Everything a run needs beyond its config.

    Attributes:
        folder: where it lives.
        record: what its config.json holds.
        model: the model to train.
        objective: what it is trained for.
        phases: one after another, from step 0 to the last step; all share state and schedule.
        tokenizer: the tokenizer of the examples.
        eval_every, checkpoint_every: intervals in updates, 0 for the end only.
        initial: parameters to start from, any part of the tree; None for fresh ones.
        profile: the updates to trace are those after the first number up to the second.
    """

    folder: RunFolder
    record: RunRecord
    model: Model
    objective: Objective
    phases: tuple[Phase, ...]
    tokenizer: TextTokenizer
    eval_every: int
    checkpoint_every: int
    initial: Params | None
    profile: tuple[int, int] | None = None

    @property
    def steps(self) -> int:
        """The last step."""
        return self.phases[-1].until


def checked_mesh(config: Config, model: Model, *phases: Config) -> Mesh:
    """Returns the mesh of a config after checking that batches and model fit it.

    Args:
        config: with the keys `mesh`, `batch_size` and `accumulate`, perhaps `eval_batch_size`.
        model: the model.
        *phases: the configs of further phases.

    Raises:
        ConfigError: something does not divide.
    """
    mesh = make_mesh(MeshConfig(**config.mesh))
    for phase in (config, *phases):
        check_batch(phase.batch_size, phase.accumulate, mesh)
    if config.get("eval_batch_size") is not None:
        check_batch(config.eval_batch_size, 1, mesh, key="eval_batch_size")
    check_model(model.config, mesh)
    return mesh


def train(
    run: TrainingRun, config: Config, mesh: Mesh, console: Console, job: Job
) -> dict[str, dict[str, Any]]:
    """Trains until `run.steps`, from the run's last checkpoint if it has one.

    Returns:
        The metrics of the last evaluation by split, as written to results.json.

    Raises:
        ConfigError: the settings of the optimizer cannot be, the run has gone further already, is
            shorter than what is to be traced, or the processes of the job do not fit together.
        DataError: too many updates in a row had no finite gradients, or no checkpoint is whole.
        DeviceMemoryError: the devices have no room.
        StorageError: the disk has no room.
        StopError: the job was asked to stop, and has saved.
    """
    check_profile(run.profile, run.steps)
    optimizer, schedule = make_optimizer(
        OptimizerConfig(**config.optimizer),
        ScheduleConfig(**config.schedule),
        run.steps,
        run.model.axes(),
    )
    checkpoints = run.folder.checkpoints(config.keep_last, run.record.best, job.gather)
    finished = job.gather("finished", _finished(run, checkpoints))[0]
    if finished is not None:
        console.print(f"all {count(run.steps)} updates are made already: nothing to do")
        console.print(results_table(finished))
        return finished
    with jax.set_mesh(mesh):
        abstract = abstract_state(run.model, optimizer)
    check_run_place(job, run.folder.path, _bytes(abstract))
    if job.process_count > 1:
        console.print(time_all_reduce(mesh))
    if job.is_first:
        run.folder.start(run.record, run.tokenizer)
    job.begin()
    job.heartbeat = Heartbeat(
        run.folder.path,
        job.process_index,
        job.process_count,
        job.gather("began", began())[0],
        run.steps,
    )
    with jax.set_mesh(mesh), checkpoints:
        needs_less = _remedies(config, run.phases[0], run.model, mesh)
        with job.activity("restoring"), fitting(needs_less):
            state, meta = _restore_or_init(
                run, config, mesh, optimizer, abstract, checkpoints, console
            )
        start = int(state.step)
        job.heartbeat.step = start
        sinks: list[Sink] = []
        if job.is_first:
            sinks += [MetricsWriter(run.folder.path, start), ConsoleProgress(run.steps, console)]
        saver = _Saver(checkpoints, run)
        restored = time.monotonic()
        profile = run.profile if job.is_first else None
        tracing = tracer(profile, run.folder.path / "profile", start, console)
        with Report(*sinks) as report, tracing as trace:
            for phase in run.phases:
                ends_run = phase is run.phases[-1]
                done = int(state.step)
                resumes_here = done == start and phase.start < start
                due = meta["evaluation_due"] and resumes_here and done <= phase.until
                if phase.until <= done and not ends_run and not due:
                    continue
                step = make_train_step(
                    run.model,
                    run.objective,
                    optimizer,
                    schedule,
                    seed=config.seed,
                    accumulate=phase.accumulate,
                    max_skipped_in_row=config.max_skipped_in_row,
                )
                if trace is not None:
                    step = trace.around(step)
                rows = process_rows(mesh, phase.batch_size)
                # A phase reads its own examples, from the first one on.
                index = meta["next_index"] if resumes_here else 0
                if done == start:
                    index += phase.batch_size * skip_at(run.folder.path, start)
                with (
                    fitting(_remedies(config, phase, run.model, mesh)),
                    Batches(
                        phase.examples, phase.batch_size, index, rows, workers=config.workers
                    ) as batches,
                ):
                    state = fit(
                        state,
                        step,
                        batches,
                        put=partial(put_batch, mesh=mesh),
                        until=phase.until,
                        report=report,
                        saver=saver,
                        evaluate=phase.make_evaluate(mesh, job),
                        ends_run=ends_run,
                        log_every=config.log_every,
                        eval_every=run.eval_every,
                        checkpoint_every=run.checkpoint_every,
                        max_skipped_in_row=config.max_skipped_in_row,
                        evaluation_due=due,
                        ideal_seconds=_ideal_seconds(run.model, phase.batch_size, mesh),
                        job=job,
                    )
        with job.activity("saving"):
            checkpoints.wait()
        results = {split: dict(metrics) for split, metrics in report.results.items()}
        best = checkpoints.best_step()
    if job.is_first:
        write_results(run.folder.path, {**results, "step": run.steps})
        console.print(results_table(results))
        made = run.steps - start
        console.print(
            f"{count(made)} updates in {time.monotonic() - restored:.0f} s; checkpoints of steps "
            f"{', '.join(map(str, checkpoints.all_steps()))}"
            + (f" (best: {best})" if best is not None else "")
        )
    job.heartbeat.end(0)
    return results


def _bytes(tree: Any) -> int:
    """Returns the size of a tree of arrays."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _remedies(config: Config, phase: Phase, model: Model, mesh: Mesh) -> list[str]:
    """Returns what to change where an update or an evaluation does not fit the devices."""
    rows = phase.batch_size // (phase.accumulate * mesh.shape["data"] * mesh.shape["fsdp"])
    found = []
    if rows > 1:
        found.append(f"raise accumulate (now {phase.accumulate}; {rows} rows at once on a device)")
    if not model.config.remat:
        found.append("set model.remat=True (now False)")
    found.append(f"raise mesh.fsdp (now {mesh.shape['fsdp']}, with {mesh.size} devices in all)")
    if "eval_batch_size" in config:
        now = config.eval_batch_size or f"{phase.batch_size // phase.accumulate}, as in training"
        found.append(f"lower eval_batch_size (now {now}) if it was in an evaluation")
    return found


def _ideal_seconds(model: Model, batch_size: int, mesh: Mesh) -> Callable[[Batch], float] | None:
    """Returns the function from a batch to the seconds of its model FLOPs at the devices' peak.

    None where the peak of these devices is not known.
    """
    device = accelerator_of(mesh.devices.flat[0].device_kind)
    if device is None:
        return None
    peak = mesh.size * device.peak_tflops(model.config.dtype) * 1e12

    def seconds(batch: Batch) -> float:
        def width(name: str) -> int:
            return batch[name].shape[1] if name in batch else 0

        flops = model_flops(
            model.config,
            tokens=width("input_ids"),
            predictions=width("masked_lm_positions"),
            pooled=width("pooled_positions"),
        )
        return batch_size * flops / peak

    return seconds


def _finished(run: TrainingRun, checkpoints: Checkpoints) -> dict[str, dict[str, Any]] | None:
    """Returns the results of a run that this very command has brought to its end, else None.

    Raises:
        ConfigError: the run has made more updates than it is asked for.
    """
    if not run.folder.exists():
        return None
    latest = checkpoints.latest_step()
    if latest is not None and latest > run.steps:
        raise ConfigError(
            f"--run_dir={run.folder.path} has made {latest} updates already: expected steps of at "
            f"least {latest} (now {run.steps}), or another --run_dir."
        )
    results = run.folder.results()
    same = run.folder.record().to_json() == run.record.to_json()
    if not same or latest != run.steps or results.pop("step", None) != run.steps:
        return None
    return results


def _restore_or_init(
    run: TrainingRun,
    config: Config,
    mesh: Mesh,
    optimizer: Any,
    abstract: TrainState,
    checkpoints: Checkpoints,
    console: Console,
) -> tuple[TrainState, dict[str, Any]]:
    """Obeys the order: the run's own last checkpoint, then `--init_from`, then fresh."""
    restored = checkpoints.restore_latest(abstract, partial(say, console))
    if restored is not None:
        console.print(f"resuming at step {int(restored[0].step)} of {run.steps}")
        return restored
    initial = None
    if run.initial is not None:
        initial = put_params(run.initial, run.model.axes(), mesh)
    state = init_state(run.model, optimizer, config.seed, initial)
    return state, {"next_index": 0, "evaluation_due": False}


@dataclasses.dataclass(frozen=True)
class _Saver:
    """What the loop saves with; see `ptft_jax.training.loop.Saver`."""

    checkpoints: Checkpoints
    run: TrainingRun

    def save(
        self, step: int, state: TrainState, next_index: int, metrics: Any, evaluation_due: bool
    ) -> None:
        self.checkpoints.save(
            step,
            state,
            next_index,
            self.run.record.to_json(),
            json.loads(self.run.tokenizer.json),
            metrics,
            evaluation_due=evaluation_due,
        )

    def add_metrics(self, step: int, metrics: Any) -> None:
        self.checkpoints.record_metrics(step, metrics)

    def check(self) -> None:
        self.checkpoints.check()

    def wait(self) -> None:
        self.checkpoints.wait()
