"""What of a model a run trains and what it leaves as its starting point has it.

Frozen parameters are not repeated in checkpoints: a run names them by their SHA-256 and reads them
from where it started.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ptft_jax.errors import ConfigError, PtftError
from ptft_jax.models.build import Model, Params
from ptft_jax.models.parts import Parts, join, named, sha256_of
from ptft_jax.runs.config import Config
from ptft_jax.runs.record import RunRecord
from ptft_jax.training.mesh import put_params
from ptft_jax.training.rules import Rates, Rule, rules_of

if TYPE_CHECKING:
    from ptft_jax.runs.starting_point import StartingPoint


def freezes(config: Config) -> bool:
    """Says whether a config leaves parameters untrained."""
    return any(rule.rate is None for rule in _rules(config, layers=1 << 20))


class Trainable:
    """Which parameters of a run are trained, how fast, and where the others are.

    Attributes:
        rates: what the config's rules make of the model; None: all is trained at one rate.
        sha256: of the frozen parameters; None where there are none.
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
        rules = _rules(config, model.config.num_hidden_layers)
        self._axes = model.axes()
        self._frozen: Params = {}
        self.rates = self.sha256 = None
        if not rules:
            return
        if freezes(config) and init_from is None:
            raise ConfigError(
                "a run that freezes parameters (trainable, optimizer.rules) needs --init_from: "
                "frozen parameters from the seed would never learn anything."
            )
        fresh = {path for path, _ in named(model.abstract())} - {path for path, _ in named(params)}
        self.rates = Rates(model, rules, frozenset(fresh))
        self._frozen = self.rates.parts.frozen(params)
        self.sha256 = sha256_of(self._frozen) if self._frozen else None
        if record is not None and record.frozen not in (None, self.sha256):
            raise ConfigError(
                f"{record.init_from} holds other parameters (SHA-256 {str(self.sha256)[:12]}) than "
                f"those that this run was started from and keeps frozen ({record.frozen[:12]}): "
                "bring them back, or start another run from the new ones."
            )

    @property
    def parts(self) -> Parts | None:
        """The trained and the frozen part; None where all is trained."""
        return None if self.rates is None else self.rates.parts

    @property
    def axes(self) -> Params:
        """The logical axes of the trained parameters."""
        return self._axes if self.parts is None else self.parts.axes()

    def of(self, params: Params) -> Params:
        """Returns the trained part of a tree of parameters."""
        return params if self.parts is None else self.parts.trained(params)

    def frozen(self, mesh: Mesh) -> Params:
        """Returns the frozen parameters, laid out over a mesh."""
        return put_params(self._frozen, self._axes, mesh)

    def whole(self, trained: Params) -> Params:
        """Returns all parameters, of which the frozen ones come from the host."""
        return join(trained, jax.tree.map(jnp.asarray, self._frozen))


def base_of(record: RunRecord, where: str) -> "StartingPoint":
    """Returns what a run with frozen parameters started from.

    Raises:
        ConfigError: it is not there any more.
    """
    from ptft_jax.runs.starting_point import load_starting_point

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


def explained(rates: Rates, config: Config) -> Iterable[tuple[str, tuple[int, ...], str, str, str]]:
    """Yields of each parameter path, shape, what of it is trained, its rate and its decay."""
    from ptft_jax.training.optimizer import UNDECAYED_NAMES

    optimizer = config.optimizer
    for path, shape, factors in rates.explained():
        trained = [factor for factor in factors if factor]
        what = "trained" if len(trained) == len(factors) else "frozen"
        if 0 < len(trained) < len(factors):
            what = f"layers {len(factors) - len(trained)} to {len(factors) - 1}"
        peaks = [f"{optimizer.learning_rate * factor:.3g}" for factor in trained]
        rate = "" if not peaks else peaks[0]
        if peaks and peaks[-1] != peaks[0]:
            rate = f"{peaks[0]} … {peaks[-1]}"
        decays = trained and path.rpartition("/")[2] not in UNDECAYED_NAMES
        yield path, shape, what, rate, f"{optimizer.weight_decay:g}" if decays else ""


def _rules(config: Config | Mapping[str, Any], layers: int) -> list[Rule]:
    optimizer = config["optimizer"]
    trainable = config.get("trainable", "all")
    return rules_of(trainable, optimizer["layer_decay"], optimizer["rules"], layers)
