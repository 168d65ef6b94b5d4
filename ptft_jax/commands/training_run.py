"""What `ptft pretrain` and `ptft finetune` share: from checked settings to results.json."""

import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console

from ptft_jax.commands.run_folder import RunFolder, RunRecord
from ptft_jax.commands.scoring import Evaluate
from ptft_jax.commands.screen import count, results_table
from ptft_jax.commands.settings import Config
from ptft_jax.data.pipeline import Batches, Examples
from ptft_jax.data.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, Params
from ptft_jax.objectives.totals import Objective
from ptft_jax.training.checkpoints import Checkpoints
from ptft_jax.training.loop import fit
from ptft_jax.training.mesh import MeshConfig, check_batch, check_model, make_mesh, process_rows
from ptft_jax.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer
from ptft_jax.training.sharding import put_batch, put_params
from ptft_jax.training.state import TrainState, abstract_state, init_state
from ptft_jax.training.step import make_train_step
from ptft_jax.training.writers import ConsoleProgress, MetricsWriter, Report, write_results


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of a run in which all batches are made alike.

    Attributes:
        start, until: its updates are those after `start` up to `until`.
        examples: the training examples, read from the first one on when the phase begins.
        batch_size, accumulate: examples per update, and the micro-batches they are cut into.
        make_evaluate: makes the evaluation function for a mesh.
    """

    start: int
    until: int
    examples: Examples
    batch_size: int
    accumulate: int
    make_evaluate: Callable[[Mesh], Evaluate]


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
    if "eval_batch_size" in config:
        check_batch(config.eval_batch_size, 1, mesh, key="eval_batch_size")
    check_model(model.config, mesh)
    return mesh


def train(
    run: TrainingRun, config: Config, mesh: Mesh, console: Console
) -> dict[str, dict[str, Any]]:
    """Trains until `run.steps`, from the run's last checkpoint if it has one.

    Returns:
        The metrics of the last evaluation by split, as written to results.json.

    Raises:
        ConfigError: the settings of the optimizer cannot be, or the run has gone further already.
    """
    optimizer, schedule = make_optimizer(
        OptimizerConfig(**config.optimizer),
        ScheduleConfig(**config.schedule),
        run.steps,
        run.model.axes(),
    )
    checkpoints = run.folder.checkpoints(config.keep_last, run.record.best)
    finished = _finished(run, checkpoints)
    if finished is not None:
        console.print(f"all {count(run.steps)} updates are made already: nothing to do")
        console.print(results_table(finished))
        return finished
    first = jax.process_index() == 0
    if first:
        run.folder.start(run.record, run.tokenizer)
    with jax.set_mesh(mesh), checkpoints:
        state, next_index = _restore_or_init(run, config, mesh, optimizer, checkpoints, console)
        start = int(state.step)
        sinks = [MetricsWriter(run.folder.path, start), ConsoleProgress(run.steps, console)]
        save = partial(_save, checkpoints, run)
        began = time.monotonic()
        with Report(*(sinks if first else [])) as report:
            for phase in run.phases:
                ends_run = phase is run.phases[-1]
                if phase.until <= int(state.step) and not ends_run:
                    continue
                step = make_train_step(
                    run.model,
                    run.objective,
                    optimizer,
                    schedule,
                    seed=config.seed,
                    accumulate=phase.accumulate,
                )
                rows = process_rows(mesh, phase.batch_size)
                # A phase reads its own examples, from the first one on.
                index = next_index if int(state.step) == start > phase.start else 0
                with Batches(
                    phase.examples, phase.batch_size, index, rows, workers=config.workers
                ) as batches:
                    state = fit(
                        state,
                        step,
                        batches,
                        put=partial(put_batch, mesh=mesh),
                        until=phase.until,
                        report=report,
                        save=save,
                        evaluate=phase.make_evaluate(mesh),
                        ends_run=ends_run,
                        log_every=config.log_every,
                        eval_every=run.eval_every,
                        checkpoint_every=run.checkpoint_every,
                    )
        checkpoints.wait()
        results = {split: dict(metrics) for split, metrics in report.results.items()}
        best = checkpoints.best_step()
    if first:
        write_results(run.folder.path, {**results, "step": run.steps})
        console.print(results_table(results))
        done = run.steps - start
        console.print(
            f"{count(done)} updates in {time.monotonic() - began:.0f} s; checkpoints of steps "
            f"{', '.join(map(str, checkpoints.all_steps()))}"
            + (f" (best: {best})" if best is not None else "")
        )
    return results


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
    checkpoints: Checkpoints,
    console: Console,
) -> tuple[TrainState, int]:
    """Obeys the order: the run's own last checkpoint, then `--init_from`, then fresh."""
    latest = checkpoints.latest_step()
    if latest is not None:
        state, meta = checkpoints.restore(latest, abstract_state(run.model, optimizer))
        console.print(f"resuming at step {latest} of {run.steps}")
        return state, meta["next_index"]
    initial = None
    if run.initial is not None:
        initial = put_params(run.initial, run.model.axes(), mesh)
    return init_state(run.model, optimizer, config.seed, initial), 0


def _save(
    checkpoints: Checkpoints,
    run: TrainingRun,
    step: int,
    state: TrainState,
    next_index: int,
    metrics: Any,
) -> None:
    checkpoints.save(
        step, state, next_index, run.record.to_json(), json.loads(run.tokenizer.json), metrics
    )
