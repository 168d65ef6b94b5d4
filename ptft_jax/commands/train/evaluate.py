"""ptft evaluate --run_dir=RUN [--checkpoint=last|best|STEP]

Computes a run's own metrics again from one of its checkpoints, and shows them beside results.json.
"""

from pathlib import Path
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ptft_jax.commands.screen import made, make_console, short
from ptft_jax.commands.train.finetune import (
    evaluation_examples,
    fingerprints,
    load_task_of,
    make_evaluate,
)
from ptft_jax.commands.train.job_flags import define_job_flags, job_of
from ptft_jax.commands.train.pretrain import fingerprint
from ptft_jax.commands.train.training_run import checked_mesh
from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.examples import PretrainingExamples
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, build_model
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.runs.config import Config
from ptft_jax.runs.evaluators import Evaluate, pretraining_evaluator
from ptft_jax.runs.folder import TrainedRun, open_run
from ptft_jax.runs.phases import phases_of, pretraining_settings
from ptft_jax.runs.start_checks import agree, software
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.memory import fitting
from ptft_jax.training.mesh import MeshConfig, make_mesh, put_params
from ptft_jax.training.metric_sinks import write_results


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_reading_flags(values)
    define_job_flags(values)


def define_reading_flags(values: flags.FlagValues) -> None:
    """Defines the flags of every command that reads a run."""
    flags.DEFINE_string("run_dir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_string(
        "checkpoint", "last", "Which checkpoint: last, best or a step.", flag_values=values
    )


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    if positional:
        raise ConfigError(f"{positional[0]!r}: expected flags only.")
    if not values.run_dir:
        raise ConfigError("--run_dir is missing: name the folder of the run.")
    with job_of(values) as job:
        arguments = {"run_dir": values.run_dir, "checkpoint": values.checkpoint}
        agree(job, "command line and software", {**arguments, **software()})
        evaluate(values.run_dir, job, values.checkpoint)
    made(
        make_console(),
        "evaluated",
        {"run": values.run_dir, "checkpoint": values.checkpoint},
        [f"ptft export --run_dir={values.run_dir} --out_dir=hf/{Path(values.run_dir).name}"],
    )


def evaluate(run_dir: str, job: Job, which: str = "last") -> dict[str, dict[str, Any]]:
    """Evaluates a run; returns the metrics by split."""
    console = make_console()
    opened = open_run(run_dir, which)
    model = build_model(opened.model_config)
    if opened.record.command == "import":
        raise ConfigError(
            f"--run_dir={run_dir} was imported: it has no task of its own. Fine-tune it with "
            "`ptft finetune --init_from`, or pretrain on from it."
        )
    mesh = _mesh(opened.config, model)
    with jax.set_mesh(mesh):
        run_evaluation = _evaluator(opened, model, mesh, job)
        more = f"run it on more or larger devices (now {mesh.size}): its batches are the run's own"
        with fitting([more]):
            results = run_evaluation(put_params(opened.params, model.axes(), mesh))
    stored = opened.folder.results()
    same_step = stored.get("step") == opened.step
    table = Table("split", "metric", f"step {opened.step}", box=SIMPLE_HEAD)
    if same_step:
        table.add_column("results.json")
    for split, metrics in results.items():
        for name, value in metrics.items():
            before = [short(stored.get(split, {}).get(name))] if same_step else []
            table.add_row(split, name, short(value), *before)
    console.print(table)
    if not stored and which == "last" and job.is_first:
        write_results(opened.folder.path, {**results, "step": opened.step})
        console.print(f"wrote {opened.folder.results_file}")
    return {split: dict(metrics) for split, metrics in results.items()}


def _mesh(config: Config, model: Model) -> Mesh:
    """Returns the mesh of the run, or one device where that mesh does not fit this machine."""
    try:
        return checked_mesh(config, model)
    except ConfigError:
        return make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])


def _evaluator(opened: TrainedRun, model: Model, mesh: Any, job: Job) -> Evaluate:
    config, tokenizer = opened.config, opened.tokenizer
    if opened.record.command == "finetune":
        task = load_task_of(config)
        if task.label_names != opened.record.labels:
            raise ConfigError(
                f"--run_dir={opened.folder.path} was trained with labels {opened.record.labels}, "
                f"{config.data_dir} has {task.label_names}: bring back the data of the run."
            )
        _check_data(opened, fingerprints(task))
        examples = evaluation_examples(config, task, tokenizer)
        return make_evaluate(config, model, examples, task, mesh, job)
    corpus = Corpus.open(config.data_dir, "dev")
    _check_data(opened, {"corpus": fingerprint(corpus.manifest)})
    # As in the phase that the checkpoint belongs to.
    phase = next(p for p in phases_of(config) if opened.step <= p.until or p.until == config.steps)
    dev = PretrainingExamples(corpus, tokenizer, pretraining_settings(phase.config))
    objective = PretrainingObjective(next_sentence="nsp" in opened.model_config.heads)
    sizes = phase.config.batch_size, phase.config.accumulate, config.eval_examples
    return pretraining_evaluator(model, objective, dev, *sizes, mesh, job)


def _check_data(opened: TrainedRun, now: dict[str, str]) -> None:
    changed = [name for name, sha256 in opened.record.data.items() if now.get(name) != sha256]
    if changed:
        raise ConfigError(
            f"--run_dir={opened.folder.path}: the data in {opened.config.data_dir or 'TFDS'} is "
            f"not what the run was trained with (changed: {', '.join(changed)}), so its scores "
            "would not be the run's: bring back the data of the run."
        )
