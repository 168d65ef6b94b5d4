"""Fine-tuning on several tasks: together, or one after another (continual learning)."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from safetensors.numpy import save

from ptft_jax.convert.weights import read_safetensors
from ptft_jax.data.batches import Batch
from ptft_jax.data.tasks.several import SeveralExamples, SeveralSettings, SeveralSplit, draws
from ptft_jax.data.tasks.training.subset import first_rows
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, Params
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.parts import named, nested
from ptft_jax.objectives.scores.metrics import compute_metrics
from ptft_jax.objectives.several import SeveralObjective
from ptft_jax.objectives.totals import Objective
from ptft_jax.runs.config import Config
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.kinds.finetuning import FineTuning
from ptft_jax.runs.kinds.kind import Evaluate
from ptft_jax.runs.phases import PhaseConfig
from ptft_jax.runs.report.kinds import classes, scores
from ptft_jax.runs.report.parts import Analysis
from ptft_jax.runs.start.starting_point import StartingPoint, freezes, is_elastic
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.mesh import process_rows, put_batch, put_params, rows_unit
from ptft_jax.training.resources.storage import replacing
from ptft_jax.training.updates.elastic import importance

# How much each parameter mattered to the tasks before a run's own.
IMPORTANCE = "importance.safetensors"
MEAN = "mean"
# Keys by which earlier tasks are kept.
KEEPING = ("replay", "memory", "ewc", "lwf")


def settings_of(config: Config) -> SeveralSettings:
    """Returns what decides which tasks a run learns and is scored on."""
    given = config.continual
    return SeveralSettings(
        tuple(config.tasks), given.way, given.stage, given.replay, given.temperature
    )


def check_options(config: Config) -> None:
    """Raises ConfigError for options that do not go together in some run of a sequence."""
    given, named = config.continual, "--config.continual"
    for key, least in (("ewc", 0), ("lwf", 0), ("memory", 0), ("fisher_examples", 1)):
        if given[key] < least:
            raise ConfigError(f"{named}.{key}={given[key]}: expected {least} or more.")
    if given.memory and not given.replay:
        raise ConfigError(
            f"{named}.memory={given.memory}: nothing is replayed of it; expected continual.replay "
            "as well."
        )
    if given.ewc and (freezes(config) or config.mixout):
        raise ConfigError(
            f"{named}.ewc={given.ewc:g} with parameters that are frozen or mixed (trainable, "
            "adapter, optimizer.rules, mixout): expected all of them trained as they are."
        )
    name = config.regularizer.name
    if given.lwf and name:
        raise ConfigError(f"{named}.lwf={given.lwf:g} with regularizer.name={name}: choose one.")
    if name in ("r_drop", "smart"):
        raise ConfigError(
            f"--config.regularizer.name={name}: it compares outputs, and those of several tasks "
            "differ in kind; expected fgm or none."
        )
    if config.cache_features:
        raise ConfigError(
            "--config.cache_features=True: this is for one task; expected trainable=head alone."
        )


class Several(FineTuning):
    """Several tasks, each with columns of its own of one head; see `FineTuning`."""

    head = "classification"

    def __init__(self, config: Config):
        self._settings = settings_of(config)
        check_options(config)
        super().__init__(config)
        self.pairs = any(part.texts_b is not None for part in self._all_train.parts)
        self.best = (f"{MEAN}_score", "max")
        given, way = config.continual, self._settings.way
        for key in KEEPING:
            if given[key] and way != "sequence":
                raise ConfigError(
                    f"--config.continual.{key}={given[key]} with continual.way={way}: no task is "
                    "before another one there; leave it out."
                )
        if given.lwf and self._settings.stage > 1 and not config.teacher:
            raise ConfigError(
                f"--config.continual.lwf={given.lwf}: this run has no teacher to learn it from; "
                "`ptft finetune` with continual.stage=0 makes all runs and gives each the one "
                "before."
            )

    def settings(self, config: Config) -> SeveralSettings:
        return self._settings

    def starting_point(self, init_from: str | None, run: RunFolder | None) -> StartingPoint:
        found = super().starting_point(init_from, run)
        if is_elastic(self.config) and self.head in found.new:
            raise ConfigError(
                f"--init_from={init_from} has no head of these tasks, so that what mattered to the "
                "earlier ones cannot be known: expected the run on the task before, with the same "
                "config.tasks."
            )
        return found

    def scored(
        self, phase: PhaseConfig, tokenizer: TextTokenizer, split: str | None = None
    ) -> dict[str, Any]:
        if split == "train":
            raise ConfigError("split='train' is of several tasks: expected one of their others.")
        return super().scored(phase, tokenizer, split)

    def training_rows(self, train: SeveralSplit) -> np.ndarray:
        """Returns the rows of the tasks that are learned, of each at most so many."""
        self._all_train, found, first = train, [], 0
        replayed = self._settings.way == "sequence" and self._settings.replay > 0
        for number, part in zip(train.numbers, train.parts, strict=True):
            learned = number in self._settings.stages
            if self._settings.way == "sequence" and number < self._settings.stage - 1:
                learned = replayed
            if learned:
                found.append(first + self._rows_of(number))
            first += len(part)
        return np.concatenate(found)

    def _rows_of(self, number: int) -> np.ndarray:
        """Returns the rows that are used of a task's training examples."""
        earlier = self._settings.way == "sequence" and number < self._settings.stage - 1
        most = [self.config.max_train_examples, self.config.continual.memory if earlier else 0]
        count = len(self._all_train.parts[number])
        return first_rows(count, self.config.seed, min(filter(None, most), default=0))

    def plain_objective(self) -> SeveralObjective:
        settings, count = self._settings, len(self.task.tasks)
        earlier = range(settings.stage - 1) if settings.way == "sequence" else range(count)
        return SeveralObjective(self.task.columns, tuple(earlier))

    def objective(self, model: EncoderConfig) -> Objective:
        if self.config.teacher and not self.plain_objective().compared:
            raise ConfigError("--config.teacher: the first task has none before it to keep.")
        return super().objective(model)

    def make_examples(
        self, split: SeveralSplit, tokenizer: TextTokenizer, **more: Any
    ) -> SeveralExamples:
        if more.get("shuffle"):
            current = (
                split.numbers.index(self._settings.stage - 1) if self._settings.stage else None
            )
            more["counts"] = draws([len(part) for part in split.parts], current, self._settings)
        length, buckets = self.config.max_seq_length, self.config.length_buckets
        return SeveralExamples(split, tokenizer, length, length_buckets=buckets, **more)

    def evaluate(
        self, model: Model, phase: PhaseConfig, splits: Mapping[str, Any], mesh: Mesh, job: Job
    ) -> Evaluate:
        """Adds the mean over the tasks of the first metric of each."""
        ask = super().evaluate(model, phase, splits, mesh, job)
        firsts: dict[int, str] = {}
        for name in splits:
            firsts.setdefault(self.task.splits[name].numbers[0], name)

        def run(params: Params) -> Mapping[str, Mapping[str, float]]:
            found = ask(params)
            losses = [found[name]["loss"] for name in firsts.values()]
            scores = [
                found[name][self.task.tasks[number].metrics[0]] for number, name in firsts.items()
            ]
            # A correlation may not be defined.
            score = None if None in scores else float(np.mean(scores))
            means: Any = {"loss": float(np.mean(losses)), "score": score}
            return {**found, MEAN: means}

        return run

    def decode(
        self, split: SeveralSplit, examples: SeveralExamples, outputs: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Returns the logits of the split's own task, [N, K]."""
        start, width = self.task.columns[examples.number]
        return outputs["logits"][:, 0, start : start + width]

    def score(self, split: SeveralSplit, predictions: np.ndarray) -> dict[str, float]:
        (part,) = split.parts
        assert part.metrics is not None
        assert part.labels is not None
        return compute_metrics(part.metrics, predictions, part.labels, part.groups)

    def analysis(
        self, split: SeveralSplit, examples: SeveralExamples, predictions: np.ndarray
    ) -> Analysis:
        (part,), (number,) = split.parts, split.numbers
        metrics, train = part.metrics or (), self._all_train.parts[number].labels
        names = self.task.tasks[number].label_names
        assert train is not None  # `__init__` refuses a split without labels
        if names is None:
            return scores.analysis(part, examples, predictions[:, 0], metrics)
        return classes.analysis(part, examples, predictions, names, train, metrics)

    def facts(self, examples: list[Any]) -> dict[str, str]:
        (rows,), (phase,) = examples, self.phases
        split, settings = self.task.splits["train"], self._settings
        shares = ", ".join(
            f"{self.task.tasks[number].name} {count:,} of {len(part):,}"
            for number, part, count in zip(split.numbers, split.parts, rows.counts, strict=True)
        )
        how = {
            "together": "all together",
            "sequence": f"number {settings.stage} of {len(settings.tasks)}, one after another",
            "alone": f"number {settings.stage} of {len(settings.tasks)}, alone",
        }
        return {
            "tasks": f"{how[settings.way]}; examples in an epoch: {shares}",
            "run": f"{phase.until:,} updates of {phase.config.batch_size} examples = "
            f"{phase.until * phase.config.batch_size / len(rows):.2g} epochs",
        }

    def prepare(
        self,
        model: Model,
        start: StartingPoint,
        *,
        folder: Path,
        mesh: Mesh,
        job: Job,
        say: Callable[[str], None],
    ) -> dict[str, Params]:
        """Returns how much each parameter of the encoder mattered to the earlier tasks.

        That is what the run before it has found, and what the task before this one adds; it is
        kept in the folder for the run after.
        """
        made = super().prepare(model, start, folder=folder, mesh=mesh, job=job, say=say)
        if not is_elastic(self.config):
            return made
        axes, weight = model.axes(), self.config.continual.ewc
        params = put_params(start.params, axes, mesh)
        batches = self._alone(self._settings.stage - 2, start.tokenizer, mesh)
        found = importance(model, self.plain_objective(), params, batches)
        before = Path(str(start.source)) / IMPORTANCE
        if self._settings.stage > 2:
            if not before.is_file():
                raise ConfigError(
                    f"{before} is not there, which a run on task {self._settings.stage - 1} with "
                    "continual.ewc leaves: start from such a run."
                )
            held, _ = read_safetensors(before)
            earlier = put_params(nested(held), axes, mesh)
            found = jax.tree.map(jax.numpy.add, found, earlier)
        whole = {name: np.asarray(jax.reshard(leaf, _whole)) for name, leaf in named(found)}
        if job.is_first:
            with replacing(folder / IMPORTANCE) as file:
                file.write(save(whole))
        return made | {"importance": jax.tree.map(lambda leaf: weight * leaf, found)}

    def _alone(self, number: int, tokenizer: TextTokenizer, mesh: Mesh) -> Iterator[Batch]:
        """Yields training examples of a task, one in each batch; other rows have weight 0."""
        rows = self._rows_of(number)
        part = self._all_train.parts[number].take(rows)
        few = first_rows(len(part), self.config.seed, self.config.continual.fisher_examples)
        split = SeveralSplit((part.take(few),), (number,))
        examples = self.make_examples(split, tokenizer)
        unit = rows_unit(1, mesh)
        own = process_rows(mesh, unit)
        for row in range(len(examples)):
            batch = examples.batch(np.full(unit, row))
            batch["weights"] = (np.arange(unit) == 0).astype(np.float32)[:, None]
            yield put_batch({name: held[own] for name, held in batch.items()}, mesh)


_whole = jax.sharding.PartitionSpec()
