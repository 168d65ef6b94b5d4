"""A run from its config to its results: config → data → model → state → loop → results."""

import dataclasses
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from ptft_jax.data.batches import Batches
from ptft_jax.data.hub import unmoved
from ptft_jax.data.progress import duration
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model
from ptft_jax.models.dropout import RANDOMNESS
from ptft_jax.runs.config import Config, check_complete, check_numbers
from ptft_jax.runs.describe import (
    describe_average,
    describe_backends,
    describe_mesh,
    describe_model,
    device_of,
    remedies,
)
from ptft_jax.runs.endings import Patience, ended_before, share
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.kinds.kind import kind_of
from ptft_jax.runs.lock import check_free, held
from ptft_jax.runs.phases import PhaseConfig, check_borders
from ptft_jax.runs.record import RunRecord
from ptft_jax.runs.start.starting_point import rereads_source, teacher_of, trainable_of
from ptft_jax.training.accounting.heartbeat import Heartbeat, began
from ptft_jax.training.checkpoints.rewind import skip_at
from ptft_jax.training.cluster.agreement import agree, check_run_place, time_all_reduce
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.loop import fit
from ptft_jax.training.mesh import (
    MeshConfig,
    check_batch,
    check_model,
    make_mesh,
    process_rows,
    put_batch,
    put_params,
)
from ptft_jax.training.resources.cost import ideal_seconds
from ptft_jax.training.resources.memory import fitting
from ptft_jax.training.step import abstract_state, init_state, make_train_step
from ptft_jax.training.tracking.metric_sinks import (
    MetricsWriter,
    ProgressLines,
    Report,
    Sink,
    write_results,
)
from ptft_jax.training.updates.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer

# The metrics of a run's last evaluation, by split.
Results = dict[str, dict[str, Any]]


def pretrain(
    config: Config,
    run_dir: str,
    init_from: str | None = None,
    *,
    say: Callable[[str], None] | None = None,
) -> Results:
    """Pretrains a run to its end, or from its last checkpoint to its end.

    Args:
        config: of `get_config("pretrain/…")`, with `data_dir` a folder made by `ptft prepare`.
        run_dir: the run's folder, made if it is not there; see `ptft_jax.runs.folder`.
        init_from: a run, a Hugging Face folder or the name of a model on the Hub to take the
            parameters from; None: fresh ones.
        say: takes lines of progress with an ETA (`print` shows them); None: in silence.

    Returns:
        The metrics of the last evaluation, {"dev": {"loss": …}}, as in RUN_DIR/results.json.

    Raises:
        PtftError: what a person can mend; see docs/errors.md. Nothing that was saved is lost.
    """
    return _alone("pretrain", config, run_dir, init_from, say)


def finetune(
    config: Config,
    init_from: str | None,
    run_dir: str,
    *,
    say: Callable[[str], None] | None = None,
) -> Results:
    """Fine-tunes a run to its end, or from its last checkpoint to its end; see `pretrain`.

    Args:
        config: of `get_config("finetune/…")`.
        init_from: a run or a Hugging Face folder; None: the source of a run that goes on.
        run_dir: the run's folder.
        say: takes lines of progress.
    """
    return _alone("finetune", config, run_dir, init_from, say)


def _alone(command: str, config: Config, run_dir: str, init_from: Any, say: Any) -> Results:
    check_complete(config, command, "config")
    init_from = init_from and os.path.expanduser(init_from)
    watch = None if say is None else ProgressLines(say)
    with Job() as job:
        return train(command, config, run_dir, init_from, job=job, watch=watch)


def train(
    command: str,
    config: Config,
    run_dir: str,
    init_from: str | None = None,
    *,
    job: Job,
    watch: Sink | None = None,
    allow_changes: bool = False,
    stop_at: int | Fraction | None = None,
    profile: tuple[int, int] | None = None,
    track: str | None = None,
) -> Results:
    """Trains a run to its end: from its own last checkpoint, or `init_from`, or fresh parameters.

    Args:
        command: "pretrain" or "finetune".
        config, run_dir, init_from: see `pretrain`.
        job: the processes that train it.
        watch: is told what happens.
        allow_changes: whether a run may go on with another config than it was started with.
        stop_at: where to stop, evaluated and saved, in a schedule that goes to the end: a number of
            updates, or a share of all below 1, rounded up; None: at the end.
        profile: the updates to trace are those after the first number up to the second.
        track: the service to tell the run to; see `ptft_jax.training.tracking.trackers`.

    Returns:
        The metrics of the last evaluation by split, as written to results.json at the end; {}
            where `stop_at` had been reached before.

    Raises:
        ConfigError: a setting cannot be, or does not fit the run that is there, or the processes of
            the job do not fit together.
        DataError: data is damaged, too many updates in a row had no finite gradients, or no
            checkpoint is whole.
        DeviceMemoryError: the devices have no room.
        StorageError: the disk has no room.
        StopError: the job was asked to stop, and has saved.
    """
    report = Report(*([watch] if watch and job.is_first else []))

    # Config. Whatever is wrong with it is found before anything is compiled or written.
    check_numbers(config)
    folder = RunFolder(run_dir)
    folder.check_usable()
    if job.is_first:
        check_free(folder.path)
        if track is not None:
            from ptft_jax.training.tracking.trackers import import_tracker

            import_tracker(track)
    if folder.exists():
        init_from = unmoved(init_from, folder.record().init_from)

    # Data.
    kind = kind_of(command, config)

    # Model. With its tokenizer it is known how long the run is.
    resumes = folder.has_checkpoint()
    has_all = resumes and not rereads_source(config)
    start = kind.starting_point(init_from, folder if has_all else None)
    init_from = start.source or init_from
    tokenizer = start.tokenizer
    phases, steps = kind.phases, kind.phases[-1].until
    if isinstance(stop_at, Fraction):
        stop_at = math.ceil(stop_at * steps)
    end = steps if stop_at is None else min(stop_at, steps)
    if profile is not None and profile[1] > steps:
        raise ConfigError(
            f"--profile={profile[0]}:{profile[1]}: the run ends after {steps} updates; expected "
            f"STOP to be {steps} at most."
        )
    model, objective = kind.model(start.config), kind.objective(start.config)
    mesh = checked_mesh(config, model, phases)
    examples = [kind.examples(phase, tokenizer, mesh) for phase in phases]
    scored = [kind.scored(phase, tokenizer) for phase in phases]
    backends = describe_backends(model.config, kind.rows(examples), device_of(mesh))
    before = folder.record() if folder.exists() else None
    trainable = trainable_of(config, model, start.params, init_from, before)
    teacher = teacher_of(config, kind, objective, start, mesh, before)
    optimizer, schedule = make_optimizer(
        OptimizerConfig(**config.optimizer),
        ScheduleConfig(**config.schedule),
        max(steps, 1),  # a prompt may be scored as it is
        trainable.axes,
        trainable.factors,
        trainable.opens,
        model.config.adapter,
    )
    record = RunRecord(
        command=command,
        config=config.to_dict() | {"teacher": teacher.source},
        model=dataclasses.asdict(model.config),
        init_from=init_from,
        labels=kind.labels,
        best=kind.best,
        pairs=kind.pairs,
        problem_type=kind.problem_type,
        data=dict(kind.fingerprints),
        frozen=trainable.sha256,
        origin=trainable.origin_sha256,
        teacher=teacher.sha256,
        masked_lm=kind.masked_lm,
        randomness=RANDOMNESS,
    )
    # Hosts that fetch a model of the Hub each for itself may have got different ones.
    sources = {"init_from": init_from, "teacher": record.teacher, "masked_lm": record.masked_lm}
    agree(job, "data", record.data | sources)
    changes = folder.check_unchanged(record, tokenizer, allow=allow_changes)
    check_borders(folder, phases)
    if start.source is not None and not resumes:
        report.say(str(start))
    facts = {
        "model": describe_model(model),
        **trainable.facts(),
        **teacher.facts(),
        **describe_average(config),
        **kind.facts(examples),
        "mesh": describe_mesh(mesh),
        **backends,
    }
    report.facts(facts)
    for line in kind.remarks(examples):
        report.say(line)
    for change in changes:
        report.say(f"changed since the run was started: {change}")
    checkpoints = folder.checkpoints(record, tokenizer, config.keep_last, job.gather)
    patience = None
    if config.get("patience"):
        saved = job.gather("evaluations", checkpoints.metrics())[0]
        patience = Patience(config.patience, kind.eval_every, kind.best, saved)
    ended = job.gather("ended", ended_before(folder, record, steps, patience))[0]
    if ended is not None:
        made, results = ended
        report.say(f"{share(made, steps, patience)} are made already: nothing to do")
        return results

    # State: the run's own last checkpoint, then the starting point, then the seed.
    lock = held(folder.path) if job.is_first else nullcontext()
    with lock, jax.set_mesh(mesh), checkpoints, report:
        averages = config.ema > 0
        abstract = abstract_state(model, optimizer, trainable.parts, averages=averages)
        arrays = jax.tree.leaves(abstract)
        check_run_place(job, folder.path, sum(a.size * a.dtype.itemsize for a in arrays))
        if job.process_count > 1:
            report.say(time_all_reduce(mesh))
        if job.is_first:
            # Again: another job may have made the run since.
            folder.check_unchanged(record, tokenizer, allow=allow_changes)
            folder.start(record, tokenizer)
        job.begin()
        start_time = job.gather("began", began())[0]
        job.heartbeat = Heartbeat(
            folder.path, job.process_index, job.process_count, start_time, steps
        )
        with fitting(remedies(phases[0].config, model, mesh)):
            has_saved = checkpoints.latest_step() is not None
            with job.activity("restoring" if has_saved else "starting"):
                restored = checkpoints.restore_latest(abstract, report.say)
            if restored is not None:
                state, meta = restored
                report.say(f"resuming at step {int(state.step)} of {steps}")
            else:
                given = put_params(trainable.of(start.params), model.axes(), mesh)
                parts = trainable.parts
                state = init_state(model, optimizer, config.seed, given, parts, averages=averages)
                meta = {"next_index": 0, "evaluation_due": False}
            constants = trainable.constants(mesh) | teacher.constants(mesh)
            where = {"folder": folder.path, "mesh": mesh, "job": job, "say": report.say}
            constants |= kind.prepare(model, start, **where)
            examples, scored = trainable.with_features(
                examples, scored, state.params, constants.get("frozen", {}), **where
            )
        first = int(state.step)
        job.heartbeat.step = first
        if job.is_first:
            report.add(MetricsWriter(folder.path, first))
            if track is not None:
                from ptft_jax.runs.trained.export import trained_on
                from ptft_jax.training.tracking.trackers import begin_tracking

                about = {**record.to_json(), "facts": facts, "trained_on": trained_on(record)}
                report.add(begin_tracking(track, folder.path, about, report.say))
        if first >= end < steps and not meta["evaluation_due"]:
            report.say(f"{first:,} updates are made already: nothing to do up to {end:,}")
            return {}
        report.begins(end)
        started = time.monotonic()
        # An encoder that does not run has no FLOPs, and a teacher has more.
        counted = not config.get("cache_features") and not config.teacher
        ideal = ideal_seconds(model.config, mesh) if counted else None

        # Loop.
        tracer = nullcontext()
        if profile is not None and job.is_first:
            from ptft_jax.training.tracking.profile import tracing

            tracer = tracing(profile, folder.path / "profile", first, report)
        with tracer as trace:
            for phase, rows, splits in zip(phases, examples, scored, strict=True):
                until = min(phase.until, end)
                ends_run = until == end
                done = int(state.step)
                resumes_here = done == first and phase.start < first
                due = meta["evaluation_due"] and resumes_here and done <= until
                if until <= done and not ends_run and not due:
                    continue
                batch_size, accumulate = phase.config.batch_size, phase.config.accumulate
                step = make_train_step(
                    model,
                    objective,
                    optimizer,
                    schedule,
                    seed=config.seed,
                    accumulate=accumulate,
                    max_skipped_in_row=config.max_skipped_in_row,
                    parts=trainable.parts,
                    mixout=config.get("mixout", 0.0),
                    ema=config.ema,
                    teach=teacher.teach,
                )
                evaluate = kind.evaluate(model, phase, splits, mesh, job)
                step, evaluate = trainable.with_constants(step, evaluate, constants)
                # A phase reads its own examples, from the first one on.
                index = meta["next_index"] if resumes_here else 0
                if done == first:
                    index += batch_size * skip_at(folder.path, first)
                own = partial(process_rows, mesh)
                with (
                    fitting(remedies(phase.config, model, mesh)),
                    Batches(rows, batch_size, index, own, workers=config.workers) as batches,
                ):
                    state = fit(
                        state,
                        step if trace is None else trace.around(step),
                        batches,
                        put=partial(put_batch, mesh=mesh),
                        until=until,
                        report=report,
                        saver=checkpoints,
                        evaluate=evaluate,
                        ends_run=ends_run,
                        log_every=config.log_every,
                        eval_every=kind.eval_every,
                        checkpoint_every=kind.checkpoint_every,
                        max_skipped_in_row=config.max_skipped_in_row,
                        evaluation_due=due,
                        patience=patience,
                        ideal_seconds=ideal,
                        job=job,
                    )
                if ends_run:
                    break
        with job.activity("saving"):
            checkpoints.wait()

        # Results.
        made, best = int(state.step), checkpoints.best_step()
        ends = made == steps or (patience is not None and patience.is_over(made))
        scored, scores = made, report.results
        if ends and patience is not None and best not in (None, made):
            # Once more, for the report and the findings.
            scored, scores = best, evaluate(checkpoints.restore_params(best, abstract.outcome))
        results = {split: dict(metrics) for split, metrics in scores.items()}
        if ends:
            report.ends(made, {**results, "best": {"step": best}})
    if job.is_first:
        if ends:
            kind.keep(folder, scored)
            write_results(folder.path, {**results, "step": scored})
        if made < steps:
            early = f"ended early, after {share(made, steps, patience)}"
            report.say(early if ends else f"stopped at step {made:,} of {steps:,}, as asked")
        report.say(
            f"{made - first:,} updates in {duration(time.monotonic() - started)}; checkpoints of "
            f"steps {', '.join(map(str, checkpoints.all_steps()))}"
            + (f" (best: {best})" if best is not None else "")
        )
        for line in kind.findings():
            report.say(line)
        failed = kind.write_report(folder, folder.report_file, scored, results) if ends else None
        if failed:
            report.say(f"warning: {failed}")
    job.heartbeat.end(0)
    return results


def checked_mesh(config: Config, model: Model, phases: list[PhaseConfig]) -> Mesh:
    """Returns the mesh of a config after checking that the batches of all phases and model fit it.

    Raises:
        ConfigError: something does not divide.
    """
    mesh = make_mesh(MeshConfig(**config.mesh))
    for phase in phases:
        check_batch(phase.config.batch_size, phase.config.accumulate, mesh)
    if config.get("eval_batch_size") is not None:
        check_batch(config.eval_batch_size, 1, mesh, key="eval_batch_size")
    check_model(model.config, mesh)
    return mesh
