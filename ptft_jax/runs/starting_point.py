"""What a run starts from, a run's parameters or a Hugging Face folder, and what it trains of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jax.sharding import Mesh

from ptft_jax.data.hub import locate
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.models.build import Model, Params
from ptft_jax.models.config import EncoderConfig
from ptft_jax.runs.config import Config
from ptft_jax.runs.folder import host_params, open_run
from ptft_jax.runs.record import RunRecord, is_run
from ptft_jax.training.step import TrainStep

if TYPE_CHECKING:
    from ptft_jax.convert.folder import HeadsInfo
    from ptft_jax.models.parts import Parts


@dataclasses.dataclass(frozen=True)
class StartingPoint:
    """Model, tokenizer and parameters to start from.

    Attributes:
        params: nested dict of NumPy arrays, any part of the tree; the rest is initialised from
            the run's seed.
        config: the model with the heads that were asked for.
        tokenizer: text to ids.
        source: the folder that `params` come from, or NAME@COMMIT of a model of the Hub; None
            where there are none.
        new: heads that the source lacks.
        dropped: heads of the source that were not asked for.
    """

    params: Params
    config: EncoderConfig
    tokenizer: TextTokenizer
    source: str | None = None
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"initialised from {self.source}"
        if self.new:
            text += f"; new, from the seed: {', '.join(self.new)}"
        if self.dropped:
            text += f"; not used: {', '.join(self.dropped)}"
        return text


def imported_record(origin: str, config: EncoderConfig, info: "HeadsInfo") -> RunRecord:
    """Returns the record of a Hugging Face folder, or model of the Hub, that is taken for a run."""
    has_names = {"classification", "tagging"} & set(config.heads) and config.num_labels > 1
    return RunRecord(
        command="import",
        config={"hf_dir": origin},
        model=dataclasses.asdict(config),
        init_from=origin,
        labels=info.id2label if has_names else None,
        problem_type=info.problem_type,
    )


def load_starting_point(
    source: str,
    heads: tuple[str, ...],
    *,
    labels: tuple[str, ...] | None = None,
    num_labels: int | None = None,
) -> StartingPoint:
    """Reads the parameters of a run, a Hugging Face folder or a model of the Hub.

    Args:
        source: the folder, or the model's name (`ptft_jax.data.hub.locate`).
        heads: the heads that the new model has.
        labels: names of the new task's classes; a classification or tagging head of the source is
            kept only if it has the same ones.
        num_labels: width of such a head; None if there is none.

    Raises:
        ConfigError: the folder is neither a run nor a Hugging Face folder, or the model is not to
            be had.
        DataError: its content is damaged.
    """
    named = f"--init_from={source}"
    path, origin = locate(source, named)
    if is_run(path, named):
        run = open_run(path)
        params, config, tokenizer = host_params(run.params), run.model_config, run.tokenizer
        source_labels = run.record.labels
        has = config.heads
    else:
        # Here, because a run from fresh parameters needs nothing of it.
        from ptft_jax.convert.folder import read_hf_folder

        params, config, tokenizer, info = read_hf_folder(path, heads)
        source_labels = info.id2label
        has = (*info.found, *info.dropped)
    kept = {head for head in has if head in heads}
    if config.num_labels != num_labels or (labels or None) != (source_labels or None):
        kept -= {"classification", "tagging"}
    params = {
        "encoder": {
            name: value
            for name, value in params["encoder"].items()
            if name != "pooler" or "pooler" in kept
        },
        "heads": {name: value for name, value in params.get("heads", {}).items() if name in kept},
    }
    changes = {"heads": heads} | ({} if num_labels is None else {"num_labels": num_labels})
    return StartingPoint(
        params=params,
        config=config.replace(**changes),
        tokenizer=tokenizer,
        source=origin,
        new=tuple(head for head in heads if head not in kept),
        dropped=tuple(head for head in has if head not in kept),
    )


class Trainable:
    """All parameters are trained at one rate; see `runs.partly_trained` for others.

    Attributes:
        parts: the trained and the frozen part; None where all is trained.
        factors: what the rate of each trained parameter is multiplied by; None: 1.
        axes: the logical axes of the trained parameters.
        sha256: of the frozen parameters; None where there are none.
    """

    parts: "Parts | None" = None
    factors: Params | None = None
    sha256: str | None = None

    def __init__(self, model: Model):
        self.axes = model.axes()

    def facts(self) -> dict[str, str]:
        """Returns how much is trained, in words; {} where it is all."""
        return {}

    def of(self, params: Params) -> Params:
        """Returns the trained part of a tree of parameters."""
        return params

    def frozen(self, mesh: Mesh) -> Params:
        """Returns the frozen parameters, laid out over a mesh; {} where there are none."""
        return {}

    def with_frozen(
        self, step: TrainStep, evaluate: Callable[[Params], Any], frozen: Params
    ) -> tuple[TrainStep, Callable[[Params], Any]]:
        """Returns a step and an evaluation that take the trained parameters alone."""
        return step, evaluate

    def with_features(
        self,
        examples: list[Any],
        scored: list[Mapping[str, Any]],
        params: Params,
        frozen: Params,
        **where: Any,
    ) -> tuple[list[Any], list[Mapping[str, Any]]]:
        """Returns the examples of all phases, with what a frozen encoder makes of them if it is to
        be computed once; see `runs.features`.
        """
        return examples, scored


def trainable_of(
    config: Config, model: Model, params: Params, init_from: str | None, record: RunRecord | None
) -> Trainable:
    """Returns what a config's rules make of a model; arguments as of `PartlyTrained`."""
    if not has_rules(config) and not config.get("cache_features"):
        return Trainable(model)
    from ptft_jax.runs.partly_trained import PartlyTrained

    return PartlyTrained(config, model, params, init_from, record)


def has_rules(config: Config) -> bool:
    """Says whether not all parameters are trained at one rate."""
    optimizer = config.optimizer
    return config.get("trainable", "all") != "all" or bool(
        optimizer.rules or optimizer.layer_decay != 1
    )


def freezes(config: Config) -> bool:
    """Says whether a config leaves parameters untrained."""
    if not has_rules(config):
        return False
    from ptft_jax.runs.partly_trained import rules_in

    return any(rule.rate is None for rule in rules_in(config, layers=1 << 20))
