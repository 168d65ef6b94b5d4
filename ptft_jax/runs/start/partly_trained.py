"""A run that trains a part of its model, or parts at different rates.

Frozen parameters are not repeated in checkpoints: a run names them by their SHA-256 and reads them
from where it started.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ptft_jax.errors import ConfigError, PtftError
from ptft_jax.models.build import Model, Params
from ptft_jax.models.parts import named, sha256_of
from ptft_jax.runs.config import Config
from ptft_jax.runs.record import RunRecord
from ptft_jax.runs.start.starting_point import (
    StartingPoint,
    Trainable,
    freezes,
    has_adapter,
    load_starting_point,
)
from ptft_jax.training.updates.rules import ALL_BUT_NORMS, Rates, Rule, rules_of


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
        self._unfreeze = config.get("unfreeze", 0.0)
        self.rates = Rates(model, rules, frozenset(fresh), self._unfreeze)
        self.factors, self.opens = self.rates.factors, self.rates.opens
        drawn = config.get("reinit_layers", 0)
        if drawn and self.rates.parts.most_frozen > layers - drawn:
            raise ConfigError(
                f"reinit_layers={drawn}: the rules (trainable, optimizer.rules) freeze some of the "
                "layers that are drawn anew, which would never learn anything; expected all of "
                f"them trained, as with trainable=top{drawn}."
            )
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
        found = {}
        if self._unfreeze:
            found["unfrozen"] = (
                f"from the head down, all of it after {self._unfreeze:.0%} of the updates"
            )
        if not self._frozen:
            return found
        if self._caches:
            once = "the encoder runs once over each example, without dropout"
            found["features"] = once
        trained, all_of = self.rates.trained_parameters, self.rates.all_parameters
        share = f"{trained:,} of {all_of:,} parameters ({100 * trained / all_of:.2g} %)"
        return {"trained": f"{share}; the others stay as they are at the start", **found}

    def of(self, params: Params) -> Params:
        return params if self.parts is None else self.parts.trained(params)

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
        found = load_starting_point(
            source, model.heads, labels=record.labels, num_labels=model.num_labels
        )
        return found.chosen(record.config["init_layers"], record.config.get("reinit_layers", 0))
    except PtftError as error:
        raise ConfigError(
            f"{where} keeps the parameters of {source} frozen and holds only what it trained: "
            f"expected them there still. {error}"
        ) from error


def rules_in(config: Config, layers: int) -> list[Rule]:
    """Returns the rules of a config, for a model of so many layers."""
    optimizer = config.optimizer
    trainable = config.get("trainable", "all")
    first = []
    if trainable == "all" and has_adapter(config):
        if config.adapter.name == "houlsby":
            first = [ALL_BUT_NORMS]
        else:
            trainable = "head"
    return [*first, *rules_of(trainable, optimizer.layer_decay, optimizer.rules, layers)]
