"""What a kind of run is, to the page that trains and to what scores."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax.sharding import Mesh

from ptft_jax.data.batches import Examples
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError, not_finite
from ptft_jax.models.build import Model, Params, build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.totals import Objective
from ptft_jax.runs.config import Config, check_length
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.phases import PhaseConfig
from ptft_jax.runs.start.starting_point import StartingPoint
from ptft_jax.training.cluster.job import Job

if TYPE_CHECKING:  # pretraining reads no tasks
    from ptft_jax.data.tasks.files.reading import Needed

Evaluate = Callable[[Params], Mapping[str, Mapping[str, float]]]


class Kind(ABC):
    """A run of one kind, with its data opened and checked.

    Attributes:
        config: the config.
        labels: names of the classes in the order of their ids; None without classes.
        pairs: whether the texts are pairs.
        problem_type: what a classification predicts, as in `objectives.classification`; None for
            other kinds.
        masked_lm: SHA-256 of what writes training texts anew; None: nothing does. Known with the
            starting point.
        best: the metric that decides which checkpoint is best ("dev_loss"), and "min" or "max".
        fingerprints: SHA-256 of what is trained and scored on, by name.
        phases: the stretches of the run in which all batches are made alike, in order.
        eval_every, checkpoint_every: intervals in updates, 0 for the end only.
    """

    config: Config
    labels: tuple[str, ...] | None
    pairs: bool
    problem_type: str | None = None
    masked_lm: str | None = None
    best: tuple[str, str]
    fingerprints: Mapping[str, str]
    phases: list[PhaseConfig]
    eval_every: int
    checkpoint_every: int

    @abstractmethod
    def starting_point(self, init_from: str | None, run: RunFolder | None) -> StartingPoint:
        """Returns model, tokenizer and parameters to begin with.

        Args:
            init_from: a run or a Hugging Face folder, None for fresh parameters.
            run: the run's own folder where it has a checkpoint, which then gives the parameters.
        """

    def model(self, config: EncoderConfig) -> Model:
        """Returns the model of a config after checking that it can take the texts of the run.

        Raises ConfigError where they are too long for it, or pairs and it has one token type.
        """
        for phase in self.phases:
            check_length(phase.config, config)
        if self.pairs and config.type_vocab_size < 2:
            raise ConfigError(
                f"this model has type_vocab_size={config.type_vocab_size}: pairs of texts need "
                "two token types. Expected single texts, or a model with two."
            )
        return build_model(config)

    @abstractmethod
    def objective(self, model: EncoderConfig) -> Objective:
        """Returns what a model is trained for."""

    @abstractmethod
    def examples(self, phase: PhaseConfig, tokenizer: TextTokenizer, mesh: Mesh) -> Examples:
        """Returns the training examples of a phase, in batches that `mesh` can share out."""

    @abstractmethod
    def scored(
        self, phase: PhaseConfig, tokenizer: TextTokenizer, split: str | None = None
    ) -> Mapping[str, Examples]:
        """Returns the examples that a phase is scored on, by split.

        Raises ConfigError for a `split` that is not there or cannot be scored; None takes those
        that are scored in training.
        """

    @abstractmethod
    def evaluate(
        self,
        model: Model,
        phase: PhaseConfig,
        splits: Mapping[str, Any],
        mesh: Mesh,
        job: Job,
    ) -> Evaluate:
        """Returns the function from parameters to the metrics of each split of `scored`.

        It raises DataError where outputs or a loss are not finite.
        """

    @abstractmethod
    def rows(self, examples: Any) -> list[tuple[int, bool]]:
        """Returns the kinds of rows in each phase's examples: tokens, and whether packed."""

    @abstractmethod
    def facts(self, examples: Any) -> Mapping[str, str]:
        """Returns what there is to train on, in words."""

    @abstractmethod
    def remarks(self, examples: Any) -> list[str]:
        """Returns what to know about each phase's training examples, in lines."""

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
        """Computes what has to be there before the first step, with the mesh set.

        Returns what else a step takes beside state and batch, by name, laid out over the mesh.
        """
        return {}

    def findings(self) -> list[str]:
        """Returns what to know about the outputs of the last evaluation, in lines."""
        return []

    def keep(self, folder: RunFolder, step: int) -> None:
        """Writes what else a finished run has to keep of its last evaluation, that of `step`."""
        return

    def write_report(
        self,
        folder: RunFolder,
        path: Path,
        step: int,
        results: Mapping[str, Mapping[str, Any]],
    ) -> str | None:
        """Writes a page on the last evaluation, where there is more to say of it than `results`.

        Returns why there is none, where writing it failed: that costs nothing else.
        """
        return None


def kind_of(command: str, config: Config, needed: "Needed | None" = None) -> Kind:
    """Opens what a run of `ptft COMMAND` is trained and scored on.

    `needed` is what a finished run is asked about, for kinds that can do with less than all.

    Raises:
        ConfigError: the command trains nothing, or the config names no data.
        DataError: the data is damaged.
    """
    if command == "pretrain":
        from ptft_jax.runs.kinds.pretraining import Pretraining

        return Pretraining(config)
    if command == "finetune":
        from ptft_jax.data.tasks.catalogue import find_task

        kind = find_task(config.task).kind
        # A run of before there was another way has no such key.
        if kind == "classification" and config.get("few_shot", {}).get("way"):
            return _few_shot(config, needed)
        if kind == "classification":
            from ptft_jax.runs.kinds.classification import Classification

            return Classification(config, needed)
        if kind == "span":
            from ptft_jax.runs.kinds.span import Span

            return Span(config, needed)
        if kind == "tagging":
            from ptft_jax.runs.kinds.tagging import Tagging

            return Tagging(config, needed)
        if kind == "several":
            from ptft_jax.runs.kinds.several import Several

            return Several(config)
        if kind == "embedding":
            from ptft_jax.runs.kinds.embedding import Embedding

            return Embedding(config)
        if kind == "episodes":
            from ptft_jax.runs.kinds.episodes import Episodic

            return Episodic(config)
        from ptft_jax.runs.kinds.choice import Choice

        return Choice(config, needed)
    raise ConfigError(
        "an imported model has no task of its own: fine-tune it with `ptft finetune --init_from`, "
        "or pretrain on from it."
    )


def _few_shot(config: Config, needed: "Needed | None") -> Kind:
    """Returns the kind of a classification by another way than a head on the pooler."""
    if config.few_shot.way == "prompt":
        from ptft_jax.runs.kinds.prompted import Prompted

        return Prompted(config, needed)
    if config.few_shot.way == "setfit":
        from ptft_jax.runs.kinds.setfit import SetFit

        return SetFit(config, needed)
    raise ConfigError(
        f"--config.few_shot.way={config.few_shot.way!r}: expected prompt, setfit, or nothing."
    )


@contextmanager
def naming(split: str) -> Iterator[None]:
    """Names the split in a DataError of its evaluation."""
    try:
        yield
    except DataError as error:
        raise DataError(f"split {split}: {error}") from error


def check_loss(loss: float) -> None:
    """Raises DataError for a loss that is not finite."""
    if not math.isfinite(loss):
        raise not_finite("the loss is")
