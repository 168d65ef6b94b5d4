"""Classification by the words that a masked language model fills in, with few examples or none."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ptft_jax.data.tasks.files.reading import Needed
from ptft_jax.data.tasks.prompted import MASK, PromptedExamples, Template, read_words
from ptft_jax.data.tasks.table import Split
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, Params
from ptft_jax.objectives.prompted import PromptedObjective
from ptft_jax.objectives.scores.metrics import log_loss, softmax
from ptft_jax.runs.config import Config
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.kinds.classification import Classification
from ptft_jax.runs.kinds.kind import Evaluate
from ptft_jax.runs.phases import PhaseConfig
from ptft_jax.runs.start.starting_point import StartingPoint
from ptft_jax.training.cluster.job import Job

# Texts that say nothing (Zhao et al. 2021, "Calibrate Before Use", section 5).
_NOTHING = ("N/A", "", MASK)


class Prompted(Classification):
    """Classes by words at the gap of a template; see `FineTuning`."""

    words_may_move = False

    def __init__(self, config: Config, needed: Needed | None = None):
        super().__init__(config, needed)
        self._check_single_label("few_shot.way", config.few_shot.way)
        self._template = Template(config.few_shot.template, self.pairs)
        self._words: tuple[tuple[int, ...], ...] = ()
        # What each class is worth where a text says nothing.
        self._prior = np.zeros(self.num_labels, np.float32)

    @property
    def heads(self) -> tuple[str, ...]:
        return ("mlm",)

    def starting_point(self, init_from: str | None, run: RunFolder | None) -> StartingPoint:
        found = super().starting_point(init_from, run)
        if "mlm" in found.new:
            raise ConfigError(
                f"--init_from={init_from} has no MLM head, which fills in words; expected a masked "
                "language model, or another few_shot.way."
            )
        return found

    def plain_objective(self) -> PromptedObjective:
        return PromptedObjective(words=self._words)

    def task_objective(self) -> PromptedObjective:
        return PromptedObjective(
            class_weights=self._class_weights,
            label_smoothing=self.config.label_smoothing,
            words=self._words,
        )

    def make_examples(
        self, split: Split, tokenizer: TextTokenizer, **more: Any
    ) -> PromptedExamples:
        # Before there is a tokenizer nothing is known of its words.
        self._words = read_words(self.config.few_shot.words, self.labels or (), tokenizer)
        length, buckets = self.config.max_seq_length, self.config.length_buckets
        return PromptedExamples(
            self._template, split, tokenizer, length, length_buckets=buckets, **more
        )

    def scored(
        self, phase: PhaseConfig, tokenizer: TextTokenizer, split: str | None = None
    ) -> dict[str, Any]:
        self._nothing = self.make_examples(nothing(self.pairs, tokenizer), tokenizer)
        return super().scored(phase, tokenizer, split)

    def decode(
        self, split: Split, examples: PromptedExamples, outputs: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Returns the logits, [N, K], less those of texts that say nothing, if so configured."""
        return super().decode(split, examples, outputs) - self._prior

    def score(self, split: Split, predictions: np.ndarray) -> dict[str, float]:
        found = super().score(split, predictions)
        if not self.config.few_shot.calibrate:
            return found
        assert split.labels is not None
        return found | {"loss": log_loss(predictions, split.labels)}

    def evaluate(
        self, model: Model, phase: PhaseConfig, splits: Mapping[str, Any], mesh: Mesh, job: Job
    ) -> Evaluate:
        score = super().evaluate(model, phase, splits, mesh, job)
        if not self.config.few_shot.calibrate:
            return score
        ask = self.asking(model, phase, mesh, job)

        def run(params: Params) -> Mapping[str, Mapping[str, float]]:
            _, outputs = ask(params, self._nothing)
            self._prior = prior_of(outputs["logits"][:, 0])
            return score(params)

        return run


def nothing(pairs: bool, tokenizer: TextTokenizer) -> Split:
    """Returns texts that say nothing, with labels that do not matter."""
    texts = [text.replace(MASK, tokenizer.mask_token) for text in _NOTHING]
    return Split(texts, texts if pairs else None, np.zeros(len(texts), np.int32), "no text")


def prior_of(logits: np.ndarray) -> np.ndarray:
    """Returns what to subtract from logits, [K], after those of texts that say nothing, [N, K]."""
    return np.log(softmax(logits).mean(axis=0))
