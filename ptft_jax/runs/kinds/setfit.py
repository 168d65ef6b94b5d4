"""Classification with few examples: vectors learn which texts are of one class, then a classifier.

Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts" (SetFit).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from ptft_jax.data.foreign_files import read_json_object
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.embedding import EmbeddingExamples
from ptft_jax.data.tasks.files.reading import Needed
from ptft_jax.data.tasks.table import Split
from ptft_jax.data.tasks.training.label_pairs import pairs_by_label
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, Params
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.embedding import Likeness, TextVectors
from ptft_jax.objectives.scores.metrics import check_outputs, log_loss
from ptft_jax.runs.config import Config
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.kinds.classification import Classification
from ptft_jax.runs.kinds.embedding import refuse_what_needs_outputs
from ptft_jax.runs.kinds.kind import Evaluate
from ptft_jax.runs.phases import PhaseConfig
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.resources.storage import write_atomically

CLASSIFIER = "classifier.json"


class Classifier(NamedTuple):
    """A logistic regression on vectors: weights float64 [K, D], bias [K]."""

    weights: np.ndarray
    bias: np.ndarray

    @classmethod
    def fitted(cls, vectors: np.ndarray, labels: np.ndarray, count: int) -> "Classifier":
        """Fits one to vectors [N, D] and int labels [N] of `count` classes."""
        from sklearn.linear_model import LogisticRegression

        found = LogisticRegression(max_iter=1000).fit(vectors.astype(np.float64), labels)
        weights, bias = np.zeros((count, vectors.shape[1])), np.full(count, -1e4)
        if len(found.classes_) == 2:  # of which scikit-learn has one row
            weights[found.classes_] = np.concatenate([np.zeros_like(found.coef_), found.coef_])
            bias[found.classes_] = 0, found.intercept_[0]
        else:
            weights[found.classes_], bias[found.classes_] = found.coef_, found.intercept_
        return cls(weights, bias)

    @staticmethod
    def step_in(folder: Path) -> int | None:
        """Returns the step of which a run's folder holds the classifier; None: there is none."""
        file = folder / CLASSIFIER
        return read_json_object(file)["step"] if file.is_file() else None

    @classmethod
    def read(cls, folder: Path, step: int) -> "Classifier":
        """Reads that of a run's folder; raises ConfigError where there is none of this step."""
        found = cls.step_in(folder)
        if found is None:
            raise ConfigError(
                f"{folder} has no {CLASSIFIER}, which is made at the end of a run; let it go to "
                "its end, or ask `ptft embed` for vectors."
            )
        if found != step:
            raise ConfigError(
                f"{folder / CLASSIFIER} is of step {found}, and this is the checkpoint of step "
                f"{step}; expected --checkpoint={found}."
            )
        content = read_json_object(folder / CLASSIFIER)
        return cls(np.array(content["weights"]), np.array(content["bias"]))

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Returns the logits [N, K] of vectors [N, D], in float32."""
        return (vectors @ self.weights.T + self.bias).astype(np.float32)


class SetFit(Classification):
    """Classes by vectors that were trained on pairs; see `FineTuning`."""

    head = ""
    has_segments = True

    def __init__(self, config: Config, needed: Needed | None = None):
        super().__init__(config, needed)
        self._check_single_label("few_shot.way", config.few_shot.way)
        if self.pairs:
            raise ConfigError(
                f"--config.few_shot.way={config.few_shot.way}: this is for single texts, and those "
                f"of {self.task.name} are pairs; expected another way."
            )
        if config.few_shot.pairs < 1:
            raise ConfigError(
                f"--config.few_shot.pairs={config.few_shot.pairs}: expected 1 or more."
            )
        for name in ("class_weights", "label_smoothing"):
            if config[name]:
                raise ConfigError(
                    f"--config.{name}={config[name]!r}: pairs of texts do not use it; leave it out."
                )
        # That of a finished run, to score with; None: it is fitted to the training texts.
        self.classifier: Classifier | None = None
        self._fitted: Classifier | None = None

    def plain_objective(self) -> Any:
        return TextVectors()

    def objective(self, model: EncoderConfig) -> Likeness:
        refuse_what_needs_outputs(self.config)
        return Likeness()

    def make_examples(self, split: Split, tokenizer: TextTokenizer, **more: Any) -> Any:
        if not more.get("shuffle"):
            return super().make_examples(split, tokenizer, **more)
        pairs = pairs_by_label(split, self.config.few_shot.pairs, self.config.seed)
        length, buckets = self.config.max_seq_length, self.config.length_buckets
        return EmbeddingExamples(pairs, tokenizer, length, length_buckets=buckets, **more)

    def scored(
        self, phase: PhaseConfig, tokenizer: TextTokenizer, split: str | None = None
    ) -> dict[str, Any]:
        self._texts = self.make_examples(self.task.splits["train"], tokenizer)
        return super().scored(phase, tokenizer, split)

    def evaluate(
        self, model: Model, phase: PhaseConfig, splits: Mapping[str, Any], mesh: Mesh, job: Job
    ) -> Evaluate:
        score = super().evaluate(model, phase, splits, mesh, job)
        ask, labels = self.asking(model, phase, mesh, job), self.task.splits["train"].labels

        def run(params: Params) -> Mapping[str, Mapping[str, float]]:
            self._fitted = self.classifier
            if self._fitted is None:
                vectors = ask(params, self._texts)[1]["vectors"][:, 0]
                check_outputs(vectors)
                self._fitted = Classifier.fitted(vectors, labels, self.num_labels)
            return score(params)

        return run

    def decode(
        self, split: Split, examples: ClassificationExamples, outputs: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Returns the logits, [N, K], of a classifier fitted to the training texts' vectors."""
        check_outputs(outputs["vectors"])
        assert self._fitted is not None
        return self._fitted.logits(outputs["vectors"][:, 0])

    def score(self, split: Split, predictions: np.ndarray) -> dict[str, float]:
        assert split.labels is not None
        loss = log_loss(predictions, split.labels)
        return {**super().score(split, predictions), "loss": loss}

    def keep(self, folder: RunFolder, step: int) -> None:
        assert self._fitted is not None
        found = {name: one.tolist() for name, one in self._fitted._asdict().items()}
        content = {"step": step, "labels": self.labels, **found}
        write_atomically(folder.path / CLASSIFIER, json.dumps(content))
