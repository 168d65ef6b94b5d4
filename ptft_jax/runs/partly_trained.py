"""A run that trains a part of its model, or parts at different rates.

Frozen parameters are not repeated in checkpoints: a run names them by their SHA-256 and reads them
from where it started.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ptft_jax.errors import ConfigError, PtftError
from ptft_jax.models.build import Model, Params
from ptft_jax.models.parts import named, sha256_of
from ptft_jax.runs.config import Config
from ptft_jax.runs.record import RunRecord
from ptft_jax.runs.starting_point import (
    StartingPoint,
    Trainable,
    freezes,
    load_starting_point,
)
from ptft_jax.training.mesh import put_params
from ptft_jax.training.rules import Rates, Rule, rules_of
from ptft_jax.training.step import TrainStep


class PartlyTrained(Trainable):
    """Which parameters of a run are trained, how fast, and where the others are; see `Trainable`.

    Attributes:
        rates: what the config's rules make of the model.
    """

    def __init__(
        self,
        config: Config,
        model: Model,
        params: Params,
        init_from: str | None,
        record: RunRecord | None = None,
    ):
        """Applies a config's rules.

        Args:
            config: of a run that trains.
            model: the model.
            params: those that the run starts from, on the host; what they lack is trained in any
                case.
            init_from: where they come from.
            record: of the run that goes on, or is read.

        Raises:
            ConfigError: a rule cannot be, there is nothing that could be frozen, or the frozen
                parameters are not those that the run was started with.
        """
        super().__init__(model)
        self._config, self._model = config, model
        if freezes(config) and init_from is None:
            raise ConfigError(
                "a run that freezes parameters (trainable, optimizer.rules) needs --init_from: "
                "frozen parameters from the seed would never learn anything."
            )
        fresh = {path for path, _ in named(model.abstract())} - {path for path, _ in named(params)}
        layers = model.config.num_hidden_layers
        rules = rules_in(config, layers)
        self.rates = Rates(model, rules, frozenset(fresh))
        self.factors = self.rates.factors
        self._all_axes = self.axes
        self._frozen = self.rates.parts.frozen(params)
        if self._frozen:
            self.parts, self.sha256 = self.rates.parts, sha256_of(self._frozen)
            self.axes = self.parts.axes()
        if self._caches and (self.parts is None or self.parts.first_layer < layers):
            raise ConfigError(
                f"cache_features=True with trainable={config.trainable!r}: a part of the encoder "
                "is trained, so what it gives changes with every update; expected trainable=head."
            )
        if record is not None and record.frozen not in (None, self.sha256):
            raise ConfigError(
                f"{record.init_from} holds other parameters (SHA-256 {str(self.sha256)[:12]}) than "
                f"those that this run was started from and keeps frozen ({record.frozen[:12]}): "
                "bring them back, or start another run from the new ones."
            )

    def facts(self) -> dict[str, str]:
        if not self._frozen:
            return {}
        once = "the encoder runs once over each example, without dropout"
        more = {"features": once} if self._caches else {}
        trained, all_of = self.rates.trained_parameters, self.rates.all_parameters
        share = f"{trained:,} of {all_of:,} parameters ({100 * trained / all_of:.2g} %)"
        return {"trained": f"{share}; the others stay as they are at the start"} | more

    def of(self, params: Params) -> Params:
        return params if self.parts is None else self.parts.trained(params)

    def frozen(self, mesh: Mesh) -> Params:
        return put_params(self._frozen, self._all_axes, mesh)

    def with_frozen(
        self, step: TrainStep, evaluate: Callable[[Params], Any], frozen: Params
    ) -> tuple[TrainStep, Callable[[Params], Any]]:
        if not frozen:
            return step, evaluate
        join = self.rates.parts.join
        return partial(step, frozen=frozen), lambda params: evaluate(join(params, frozen))

    @property
    def _caches(self) -> bool:
        return bool(self._config.get("cache_features"))

    def with_features(
        self,
        examples: list[Any],
        scored: list[Mapping[str, Any]],
        params: Params,
        frozen: Params,
        **where: Any,
    ) -> tuple[list[Any], list[Mapping[str, Any]]]:
        if not self._caches:
            return examples, scored
        from ptft_jax.runs.features import with_features

        whole, config = self.rates.parts.join(params, frozen), self._config
        where["batch_size"] = config.eval_batch_size or config.batch_size // config.accumulate
        # A fine-tuning has one phase.
        made, also = with_features(self._model, whole, examples[0], scored[0], **where)
        return [made], [also]

    def whole(self, trained: Params) -> Params:
        """Returns all parameters, of which the frozen ones come from the host."""
        return self.rates.parts.join(trained, jax.tree.map(jnp.asarray, self._frozen))


def base_of(record: RunRecord, where: str) -> StartingPoint:
    """Returns what a run with frozen parameters started from.

    Raises:
        ConfigError: it is not there any more.
    """
    model, source = record.encoder_config, str(record.init_from)
    try:
        return load_starting_point(
            source, model.heads, labels=record.labels, num_labels=model.num_labels
        )
    except PtftError as error:
        raise ConfigError(
            f"{where} keeps the parameters of {source} frozen and holds only what it trained: "
            f"expected them there still. {error}"
        ) from error


def rules_in(config: Config, layers: int) -> list[Rule]:
    """Returns the rules of a config, for a model of so many layers."""
    optimizer = config.optimizer
    trainable = config.get("trainable", "all")
    return rules_of(trainable, optimizer.layer_decay, optimizer.rules, layers)
