"""ptft finetune --config=configs/finetune/glue.py:TASK --init_from=RUN_OR_HF_DIR --run_dir=RUN

Fine-tunes an encoder on a GLUE task or on a table of your own, and scores it.

--config.data_dir=GLUE_DIR is the folder with CoLA/, SST-2/, …; without it GLUE comes from
tensorflow_datasets. configs/finetune/text.py takes any folder with train and dev as .csv, .tsv,
.jsonl or .parquet. The same command started again resumes the run.
"""

import dataclasses
import hashlib
import math

from absl import flags
from jax.sharding import Mesh

from ptft_jax.commands.describe import (
    describe_backends,
    describe_mesh,
    describe_model,
    device_of,
)
from ptft_jax.commands.screen import count, facts, made, make_console
from ptft_jax.commands.train.flags import (
    check_length,
    check_numbers,
    define_training_flags,
    say_changes,
    started,
)
from ptft_jax.commands.train.training_run import Phase, TrainingRun, checked_mesh, train
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split, TableSettings, TaskData, load_task
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.dropout import RANDOMNESS
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.runs.config import Config
from ptft_jax.runs.evaluators import Evaluate, classification_evaluator
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.initial import Initial, load_initial
from ptft_jax.runs.record import RunRecord
from ptft_jax.runs.start_checks import agree
from ptft_jax.training.cluster.job import Job

HEADS = ("pooler", "classification")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_training_flags(values)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    with started(values, positional) as (folder, job, allow, profile):
        finetune(values.config, folder, values.init_from, job, allow=allow, profile=profile)
    made(
        make_console(),
        "fine-tuned",
        {"run": str(folder.path), "results": str(folder.results_file)},
        [
            f"ptft evaluate --run_dir={folder.path}",
            f'ptft predict --run_dir={folder.path} "a text to classify"',
            f"ptft export --run_dir={folder.path} --out_dir=hf/{folder.path.name}",
        ],
    )


def finetune(
    config: Config,
    folder: RunFolder,
    init_from: str | None,
    job: Job,
    *,
    allow: bool = False,
    profile: tuple[int, int] | None = None,
) -> dict[str, dict[str, float]]:
    """Fine-tunes a run to its end; returns the metrics by split."""
    console = make_console()
    check_numbers(config)
    if init_from is None and folder.exists():
        init_from = folder.record().init_from
    if init_from is None:
        raise ConfigError("--init_from is missing: name a run or a Hugging Face folder.")
    task = load_task_of(config)
    resumes = folder.has_checkpoint()
    initial = _of_run(folder, task) if resumes else _of_source(init_from, task)
    model = build_model(_model_config(config, initial.config))
    objective = ClassificationObjective(regression=task.label_names is None)
    mesh = checked_mesh(config, model)
    train_split = task.splits["train"]
    examples = ClassificationExamples(
        train_split,
        initial.tokenizer,
        config.max_seq_length,
        seed=config.seed,
        shuffle=True,
        length_buckets=config.length_buckets,
    )
    rows = [(tokens, False) for tokens in examples.buckets]
    backends = describe_backends(model.config, rows, device_of(mesh))
    dev = evaluation_examples(config, task, initial.tokenizer)
    per_epoch = math.ceil(len(examples) / config.batch_size)
    steps = config.steps or math.ceil(config.epochs * len(examples) / config.batch_size)
    record = RunRecord(
        command="finetune",
        config=config.to_dict(),
        model=dataclasses.asdict(model.config),
        init_from=init_from,
        labels=task.label_names,
        best=(f"{task.eval_splits[0]}_{task.metrics[0]}", "max"),
        pairs=train_split.texts_b is not None,
        data=fingerprints(task),
        randomness=RANDOMNESS,
    )
    agree(job, "data", record.data)
    changes = folder.check_unchanged(record, initial.tokenizer, allow=allow)
    if not resumes:
        console.print(initial.say(init_from))
    facts(
        console,
        {
            "model": describe_model(model),
            "task": f"{task.name}: {count(len(examples))} training examples"
            + ("" if task.label_names is None else f", labels {_listed(task.label_names)}"),
            "run": f"{count(steps)} updates of {config.batch_size} examples = "
            f"{steps * config.batch_size / len(examples):.2g} epochs",
            "mesh": describe_mesh(mesh),
            **backends,
        },
    )
    if examples.num_truncated:
        console.print(
            f"{count(examples.num_truncated)} training examples are longer than "
            f"max_seq_length={config.max_seq_length} tokens and were cut"
        )
    say_changes(console, changes)
    return train(
        TrainingRun(
            folder=folder,
            record=record,
            model=model,
            objective=objective,
            phases=(
                Phase(
                    start=0,
                    until=steps,
                    examples=examples,
                    batch_size=config.batch_size,
                    accumulate=config.accumulate,
                    make_evaluate=lambda mesh, job: make_evaluate(
                        config, model, dev, task, mesh, job
                    ),
                ),
            ),
            tokenizer=initial.tokenizer,
            eval_every=per_epoch if config.eval_every is None else config.eval_every,
            checkpoint_every=per_epoch
            if config.checkpoint_every is None
            else config.checkpoint_every,
            initial=initial.params,
            profile=profile,
        ),
        config,
        mesh,
        console,
        job,
    )


def _of_source(init_from: str, task: TaskData) -> Initial:
    return load_initial(init_from, HEADS, labels=task.label_names, num_labels=task.num_labels)


def _of_run(folder: RunFolder, task: TaskData) -> Initial:
    """Returns what a run that has a checkpoint goes on with: its parameters come from there."""
    config = folder.record().encoder_config.replace(num_labels=task.num_labels)
    return Initial(params={}, config=config, tokenizer=folder.tokenizer(), new=(), dropped=())


def fingerprints(task: TaskData) -> dict[str, str]:
    """Returns a SHA-256 for the training split and for each one that is scored."""
    return {name: _sha256(task.splits[name]) for name in ("train", *task.eval_splits)}


def _sha256(split: Split) -> str:
    sha256 = hashlib.sha256()
    for texts in (split.texts_a, split.texts_b or []):
        for text in texts:
            # The length keeps two texts apart from one that holds both.
            sha256.update(f"{len(text)} {text}".encode())
    if split.labels is not None:
        sha256.update(split.labels.tobytes())
    return sha256.hexdigest()


def load_task_of(config: Config) -> TaskData:
    """Loads the task that a fine-tuning config names.

    Raises:
        ConfigError: no task is named, it is unknown, or its files are missing.
        DataError: the files' content cannot be used.
    """
    if not config.task:
        raise ConfigError("no task is named: write --config=configs/finetune/glue.py:TASK.")
    table = TableSettings(**config.table)
    task = load_task(config.task, config.data_dir or None, table)
    for split in task.eval_splits:
        if task.splits[split].labels is None:
            raise ConfigError(f"the split {split} of {task.name} has no labels to score against.")
    return task


def evaluation_examples(
    config: Config, task: TaskData, tokenizer: TextTokenizer
) -> dict[str, ClassificationExamples]:
    """Returns the examples of the task's labelled evaluation splits."""
    return {
        name: ClassificationExamples(
            task.splits[name],
            tokenizer,
            config.max_seq_length,
            length_buckets=config.length_buckets,
        )
        for name in task.eval_splits
    }


def make_evaluate(
    config: Config,
    model: Model,
    dev: dict[str, ClassificationExamples],
    task: TaskData,
    mesh: Mesh,
    job: Job,
) -> Evaluate:
    """Returns the evaluation function of a fine-tuning run."""
    objective = ClassificationObjective(regression=task.label_names is None)
    batch_size = config.eval_batch_size or config.batch_size // config.accumulate
    return classification_evaluator(model, objective, dev, task.metrics, batch_size, mesh, job)


def _model_config(config: Config, initial: EncoderConfig) -> EncoderConfig:
    changes = {name: value for name, value in config.model.items() if value is not None}
    model = initial.replace(**changes)
    check_length(config, model)
    return model


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
