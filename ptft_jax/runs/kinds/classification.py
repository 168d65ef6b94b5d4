"""Fine-tuning on labelled texts or pairs of texts: GLUE, or a table of one's own."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ptft_jax.data.batches import evaluation_batches
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split, TableSettings, load_task
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, Params
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.metrics import compute_metrics
from ptft_jax.runs.config import Config
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.kinds.kind import Evaluate, Kind, check_loss, naming
from ptft_jax.runs.phases import PhaseConfig
from ptft_jax.runs.starting_point import StartingPoint, load_starting_point
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.evaluation import evaluate_with_outputs
from ptft_jax.training.loop import until_stopped
from ptft_jax.training.mesh import process_rows, put_batch
from ptft_jax.training.step import make_scoring_step

HEADS = ("pooler", "classification")
# From so many examples on, one class for all of them is no chance.
SOME = 20


class Classification(Kind):
    """Classes, or scores (a regression), of texts; see `Kind`."""

    def __init__(self, config: Config):
        if not config.task:
            raise ConfigError("no task is named: write --config=configs/finetune/glue.py:TASK.")
        self.config = config
        task = load_task(config.task, config.data_dir or None, TableSettings(**config.table))
        for split in task.eval_splits:
            if task.splits[split].labels is None:
                raise ConfigError(
                    f"the split {split} of {task.name} has no labels to score against."
                )
        self.task = task
        train = task.splits["train"]
        self._train_labels = np.asarray(train.labels)
        self._found: dict[str, str | None] = {}
        self.labels, self.pairs = task.label_names, train.texts_b is not None
        self.best = (f"{task.eval_splits[0]}_{task.metrics[0]}", "max")
        self.fingerprints = {
            name: _fingerprint(task.splits[name]) for name in ("train", *task.eval_splits)
        }
        per_epoch = math.ceil(len(train) / config.batch_size)
        steps = config.steps or math.ceil(config.epochs * len(train) / config.batch_size)
        self.phases = [PhaseConfig(0, steps, config)]
        every = config.eval_every, config.checkpoint_every
        self.eval_every, self.checkpoint_every = (per_epoch if n is None else n for n in every)

    def starting_point(self, init_from: str | None, run: RunFolder | None) -> StartingPoint:
        """Takes sizes and tokenizer from the source; the config changes no shape."""
        if init_from is None:
            raise ConfigError("--init_from is missing: name a run or a Hugging Face folder.")
        if run is not None:
            config = run.record().encoder_config.replace(num_labels=self.task.num_labels)
            found = StartingPoint({}, config, run.tokenizer())
        else:
            found = load_starting_point(
                init_from, HEADS, labels=self.labels, num_labels=self.task.num_labels
            )
        changes = {name: value for name, value in self.config.model.items() if value is not None}
        return dataclasses.replace(found, config=found.config.replace(**changes))

    def objective(self, model: EncoderConfig) -> ClassificationObjective:
        return ClassificationObjective(regression=self.labels is None)

    def examples(self, phase: PhaseConfig, tokenizer: TextTokenizer) -> ClassificationExamples:
        return self._examples("train", tokenizer, seed=self.config.seed, shuffle=True)

    def scored(
        self, phase: PhaseConfig, tokenizer: TextTokenizer, split: str | None = None
    ) -> dict[str, ClassificationExamples]:
        splits = self.task.splits
        if split is not None and (split not in splits or splits[split].labels is None):
            labelled = [name for name in splits if splits[name].labels is not None]
            raise ConfigError(
                f"split={split!r} has no labels to score against here: expected one of "
                f"{', '.join(labelled)}; `ptft predict` labels a file."
            )
        names = self.task.eval_splits if split is None else (split,)
        return {name: self._examples(name, tokenizer) for name in names}

    def _examples(self, split: str, tokenizer: TextTokenizer, **more: Any) -> Any:
        length, buckets = self.config.max_seq_length, self.config.length_buckets
        return ClassificationExamples(
            self.task.splits[split], tokenizer, length, length_buckets=buckets, **more
        )

    def evaluate(
        self,
        model: Model,
        phase: PhaseConfig,
        splits: Mapping[str, ClassificationExamples],
        mesh: Mesh,
        job: Job,
    ) -> Evaluate:
        """Returns the function from parameters to {split: {loss, the task's metrics}}."""
        config = phase.config
        batch_size = config.eval_batch_size or config.batch_size // config.accumulate
        step = make_scoring_step(model, self.objective(model.config))
        rows = process_rows(mesh, batch_size)
        put: Any = partial(put_batch, mesh=mesh)

        def score(params: Params, examples: Any) -> tuple[dict[str, float], str | None]:
            batches = evaluation_batches(examples, batch_size, rows)
            means, outputs = evaluate_with_outputs(step, params, until_stopped(batches, job), put)
            scores = compute_metrics(self.task.metrics, outputs["logits"], outputs["labels"])
            check_loss(means["loss"])
            return {"loss": means["loss"], **scores}, self._only_class(**outputs)

        def run(params: Params) -> dict[str, dict[str, float]]:
            results = {}
            for name, examples in splits.items():
                with naming(name):
                    results[name], self._found[name] = score(params, examples)
            return results

        return run

    def _only_class(self, logits: np.ndarray, labels: np.ndarray) -> str | None:
        """Says so where a split of several classes is predicted to be of one; else None."""
        predictions = logits.argmax(axis=1)
        few = self.labels is None or len(labels) < SOME
        if few or np.ptp(predictions) or not np.ptp(labels):
            return None
        assert self.labels is not None
        counts = np.bincount(self._train_labels, minlength=len(self.labels))
        most = int(counts.argmax())
        return (
            f"all {len(labels):,} predictions are {self.labels[predictions[0]]!r}, and the labels "
            f"are of {len(np.unique(labels))} classes: nothing was learned that tells them apart. "
            f"Try a lower optimizer.learning_rate (now {self.config.optimizer.learning_rate:g}; "
            f"1e-5 to 5e-5 are usual), more updates (now {self.phases[-1].until:,}), another seed, "
            f"and training examples of all classes ({self.labels[most]!r} has "
            f"{counts[most] / counts.sum():.0%} of {counts.sum():,})"
        )

    def findings(self) -> list[str]:
        return [f"warning: {split}: {text}" for split, text in self._found.items() if text]

    def rows(self, examples: list[ClassificationExamples]) -> list[tuple[int, bool]]:
        return [(tokens, False) for rows in examples for tokens in rows.buckets]

    def facts(self, examples: list[ClassificationExamples]) -> dict[str, str]:
        (rows,), (phase,) = examples, self.phases
        names = "" if self.labels is None else f", labels {_listed(self.labels)}"
        epochs = phase.until * phase.config.batch_size / len(rows)
        return {
            "task": f"{self.task.name}: {len(rows):,} training examples{names}",
            "run": f"{phase.until:,} updates of {phase.config.batch_size} examples = "
            f"{epochs:.2g} epochs",
        }

    def remarks(self, examples: list[ClassificationExamples]) -> list[str]:
        tests = [
            f"{name}: {len(split):,} examples that are not used here; `ptft evaluate "
            f"--split={name}` scores them"
            for name, split in self.task.splits.items()
            if name.startswith("test") and split.labels is not None
        ]
        cut = [
            f"{rows.num_truncated:,} training examples are longer than "
            f"max_seq_length={self.config.max_seq_length} tokens and were cut"
            for rows in examples
            if rows.num_truncated
        ]
        return [*tests, *cut]


def _fingerprint(split: Split) -> str:
    sha256 = hashlib.sha256()
    for texts in (split.texts_a, split.texts_b or []):
        for text in texts:
            # The length keeps two texts apart from one that holds both.
            sha256.update(f"{len(text)} {text}".encode())
    if split.labels is not None:
        sha256.update(split.labels.tobytes())
    return sha256.hexdigest()


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
