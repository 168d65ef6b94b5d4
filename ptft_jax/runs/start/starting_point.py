"""What a run starts from, a run's parameters or a Hugging Face folder, and what it trains of it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh

from ptft_jax.data.hub import locate
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, Params
from ptft_jax.models.config import EncoderConfig
from ptft_jax.runs.config import Config
from ptft_jax.runs.defaults import expected
from ptft_jax.runs.folder import host_params, open_run
from ptft_jax.runs.record import RunRecord, is_run
from ptft_jax.training.mesh import put_params
from ptft_jax.training.step import TrainStep

if TYPE_CHECKING:
    from ptft_jax.convert.folder import HeadsInfo
    from ptft_jax.models.parts import Parts


@dataclasses.dataclass(frozen=True)
class StartingPoint:
    """Model, tokenizer and parameters to start from.

    Attributes:
        params: nested dict of NumPy arrays, any part of the tree, and of the layers perhaps the
            first ones only; the rest is initialised from the run's seed.
        config: the model with the heads that were asked for.
        tokenizer: text to ids.
        source: the folder that `params` come from, or NAME@COMMIT of a model of the Hub; None
            where there are none.
        new: heads that the source lacks, and what is not taken from there.
        dropped: heads of the source that were not asked for.
    """

    params: Params
    config: EncoderConfig
    tokenizer: TextTokenizer
    source: str | None = None
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def chosen(self, layers: Sequence[int], reinitialised: int) -> "StartingPoint":
        """Returns a starting point of some layers, and with the top ones drawn anew.

        Args:
            layers: numbers of those to take, from 0 on, ascending; empty: all.
            reinitialised: how many of them come from the seed; see `_reinitialised`.

        Raises:
            ConfigError: the model has no such layers.
        """
        count, layers = self.config.num_hidden_layers, tuple(layers)
        if not self.params or not layers:
            return self._reinitialised(reinitialised)
        numbers = all(type(layer) is int for layer in layers)
        ascending = numbers and sorted(set(layers)) == list(layers)
        if not ascending or not 0 <= layers[0] <= layers[-1] < count:
            raise ConfigError(
                f"--config.init_layers={layers}: expected ascending numbers from 0 to {count - 1}, "
                f"as {self.source} has {count} layers."
            )
        encoder = {**self.params["encoder"]}
        encoder["layers"] = jax.tree.map(lambda array: array[list(layers)], encoder["layers"])
        config = self.config.replace(num_hidden_layers=len(layers))
        found = dataclasses.replace(
            self,
            params={**self.params, "encoder": encoder},
            config=config,
            dropped=(*self.dropped, f"all layers but {', '.join(map(str, layers))}"),
        )
        return found._reinitialised(reinitialised)

    def _reinitialised(self, layers: int) -> "StartingPoint":
        """Returns a starting point whose top layers and pooler come from the seed (Zhang et al.
        2021, "Revisiting Few-sample BERT Fine-tuning"); 0 changes nothing.

        Raises:
            ConfigError: the model has not so many layers.
        """
        count = self.config.num_hidden_layers
        if layers > count:
            raise ConfigError(
                f"--config.reinit_layers={layers}: the model has {count} layers; expected at most "
                "so many."
            )
        if not layers or not self.params:  # of a run that goes on, its checkpoint has them all
            return self
        encoder = {name: part for name, part in self.params["encoder"].items() if name != "pooler"}
        encoder["layers"] = jax.tree.map(lambda array: array[:-layers], encoder["layers"])
        new = [f"top {layers} of {count} layers", *self.new]
        if "pooler" in self.config.heads and "pooler" not in new:
            new.insert(1, "pooler")
        return dataclasses.replace(self, params={**self.params, "encoder": encoder}, new=tuple(new))

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
    key: str = "init_from",
) -> StartingPoint:
    """Reads the parameters of a run, a Hugging Face folder or a model of the Hub.

    Args:
        source: the folder, or the model's name (`ptft_jax.data.hub.locate`).
        heads: the heads that the new model has.
        labels: names of the new task's classes; a classification or tagging head of the source is
            kept only if it has the same ones.
        num_labels: width of such a head; None if there is none.
        key: the flag that names it, for errors.

    Raises:
        ConfigError: the folder is neither a run nor a Hugging Face folder, or the model is not to
            be had.
        DataError: its content is damaged.
    """
    named = f"--{key}={source}"
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
    if config.adapter is not None:
        from ptft_jax.models.adapters.folding import folded

        params, config = folded(params, config)
    kept = {head for head in has if head in heads}
    if config.num_labels != num_labels or (labels or None) != (source_labels or None):
        kept -= {"classification", "tagging"}
    encoder = params["encoder"].items()
    found = {name: value for name, value in params.get("heads", {}).items() if name in kept}
    params = {
        "encoder": {name: one for name, one in encoder if name != "pooler" or "pooler" in kept},
        **({"heads": found} if found else {}),
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
        opens: after which share of the run each begins to learn; None: at its start.
        axes: the logical axes of the trained parameters.
        sha256: of the frozen parameters; None where there are none.
        origin_sha256: of the values that mixout mixes in, or that the encoder is pulled back to;
            None without.
    """

    parts: "Parts | None" = None
    factors: Params | None = None
    opens: Params | None = None
    sha256: str | None = None
    origin_sha256: str | None = None

    def __init__(self, model: Model):
        self.axes = self._all_axes = model.axes()
        self._frozen: Params = {}
        self._origin: Params = {}

    def keep_origin(
        self, params: Params, init_from: str | None, record: RunRecord | None, matrices: bool
    ) -> None:
        """Keeps the starting values of the encoder's trained parameters, or its matrices alone.

        Raises:
            ConfigError: there are none, or they are not those that the run was started with.
        """
        from ptft_jax.models.parts import sha256_of

        self._origin = {"encoder": self.of(params).get("encoder", {})}
        if matrices:
            self._origin = _kernels(self._origin)
        if not self._origin:
            raise ConfigError(
                "mixout: no matrix of the encoder is trained that has a value in --init_from to "
                "stay near to; expected trainable=all or topK, and reinit_layers below that."
            )
        self.origin_sha256 = sha256_of(self._origin)
        if record is not None and record.origin not in (None, self.origin_sha256):
            raise ConfigError(
                f"{init_from} holds other parameters (SHA-256 {self.origin_sha256[:12]}) than "
                f"those that this run was started from and stays near ({record.origin[:12]}): "
                "bring them back, or start another run from the new ones."
            )

    def facts(self) -> dict[str, str]:
        """Returns how much is trained, in words; {} where it is all."""
        return {}

    def of(self, params: Params) -> Params:
        """Returns the trained part of a tree of parameters."""
        return params

    def constants(self, mesh: Mesh) -> dict[str, Params]:
        """Returns what a step takes beside state and batch, by name, laid out over a mesh."""
        found = {"frozen": self._frozen, "origin": self._origin}
        return {name: put_params(one, self._all_axes, mesh) for name, one in found.items() if one}

    def with_constants(
        self,
        step: TrainStep,
        evaluate: Callable[[Params], Any],
        constants: dict[str, Params],
    ) -> tuple[TrainStep, Callable[[Params], Any]]:
        """Returns a step and an evaluation that take the trained parameters alone."""
        if constants:
            step = partial(step, **constants)
        if self.parts is None:
            return step, evaluate
        join, frozen = self.parts.join, constants["frozen"]
        return step, lambda params: evaluate(join(params, frozen))

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
    if has_rules(config) or config.get("cache_features"):
        from ptft_jax.runs.start.partly_trained import PartlyTrained

        trainable = PartlyTrained(config, model, params, init_from, record)
    else:
        trainable = Trainable(model)
    if config.get("mixout") or is_elastic(config):
        trainable.keep_origin(params, init_from, record, matrices=not is_elastic(config))
    return trainable


class Untaught:
    """Nobody to learn from; see `runs.teacher` for somebody.

    Attributes:
        source: where the teacher comes from, as a run notes it.
        sha256: of its parameters.
        teach: what `make_train_step` takes of it.
    """

    source = ""
    sha256: str | None = None
    teach: Callable[[Params, Any], Any] | None = None

    def facts(self) -> dict[str, str]:
        """Returns what a run learns from, in words."""
        return {}

    def constants(self, mesh: Mesh) -> dict[str, Params]:
        """Returns its parameters by the name that a step has for them, laid out over a mesh."""
        return {}


def teacher_of(config: Config, *arguments: Any) -> Untaught:
    """Returns the teacher that a config names; see `runs.teacher.read_teacher`."""
    if not config.teacher:
        command = "finetune" if "task" in config else "pretrain"
        usual = expected(command, config).distillation.to_dict()
        for name, value in config.distillation.items():
            if value != usual[name]:
                raise ConfigError(
                    f"--config.distillation.{name}={value}: there is no teacher to learn from; "
                    "expected --config.teacher=RUN_OR_FOLDER as well."
                )
        return Untaught()
    from ptft_jax.runs.start.teacher import read_teacher

    return read_teacher(config, *arguments)


def _kernels(params: Params) -> Params:
    """Returns the matrices of linear maps in a tree of parameters."""
    found = {
        name: _kernels(value) if isinstance(value, dict) else value
        for name, value in params.items()
        if isinstance(value, dict) or (name == "kernel" and len(value))
    }
    return {name: value for name, value in found.items() if not isinstance(value, dict) or value}


def rereads_source(config: Config) -> bool:
    """Says whether a run that goes on needs what it started from: no checkpoint holds that."""
    return freezes(config) or bool(config.get("mixout")) or is_elastic(config)


def is_elastic(config: Config) -> bool:
    """Says whether parameters are pulled back to where they were after an earlier task."""
    given = config.get("continual")
    return given is not None and given.ewc > 0 and given.way == "sequence" and given.stage > 1


def has_rules(config: Config) -> bool:
    """Says whether not all parameters are trained at one rate from the start."""
    optimizer = config.optimizer
    partly = config.get("trainable", "all") != "all" or has_adapter(config)
    return partly or bool(optimizer.rules or optimizer.layer_decay != 1 or config.get("unfreeze"))


def has_adapter(config: Config) -> bool:
    """Says whether an adapter is trained in place of the encoder."""
    return "adapter" in config and bool(config.adapter.name)


def freezes(config: Config) -> bool:
    """Says whether a config leaves parameters untrained."""
    if not has_rules(config):
        return False
    from ptft_jax.runs.start.partly_trained import rules_in

    return any(rule.rate is None for rule in rules_in(config, layers=1 << 20))
