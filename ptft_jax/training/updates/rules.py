"""What is trained at which rate: one table of rules by the paths of parameters."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, Params
from ptft_jax.models.parts import Parts, Share, named, nested

_BODY = "encoder/(embeddings|layers)/.*"
# Adapters are trained whatever is frozen.
_BASE = "encoder/(?!.*/adapter/)"
_TOP = re.compile(r"top(\d+)")
_KEYS = ("rate", "by_layer", "below")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What becomes of the parameters whose whole path a pattern matches.

    Attributes:
        pattern: a regular expression on paths such as "encoder/layers/attention/query/kernel".
        rate: multiplies the learning rate; None freezes.
        by_layer: the rate is raised to the number of layers from the top: 1 at the last one, one
            more at each below it, L + 1 at the embeddings, 0 at pooler and heads (Bao et al. 2022,
            BEiT, `LayerDecayValueAssigner`).
        below: only layers of a lower number; None: all.
    """

    pattern: str
    rate: float | None
    by_layer: bool = False
    below: int | None = None


# Of Houlsby's adapters, which are trained with the LayerNorms of the layers.
ALL_BUT_NORMS = Rule("encoder/(?!.*/adapter/|layers/.*/layer_norm/).*", None)


def rules_of(trainable: str, layer_decay: float, rules: Sequence[Any], layers: int) -> list[Rule]:
    """Returns the rules that a config's keys stand for.

    Args:
        trainable: "all"; "head": the encoder is frozen; "topK": embeddings and all but the last K
            layers are; "bias": all but biases are (BitFit, Ben Zaken et al. 2022). Heads are
            always trained.
        layer_decay: the factor from each layer to the one below it; 1.0: none.
        rules: pairs of a pattern and None, a factor, or a dict of `Rule`'s other attributes.
        layers: of the model.

    Raises:
        ConfigError: a key's value cannot be.
    """
    found = []
    top = _TOP.fullmatch(trainable)
    if trainable == "head":
        found.append(Rule(f"{_BASE}.*", None))
    elif trainable == "bias":
        found.append(Rule(f"{_BASE}.*(?<!/bias)", None))
    elif top is not None and 1 <= int(top[1]) <= layers:
        found.append(Rule(f"{_BASE}embeddings/.*", None))
        found.append(Rule(f"{_BASE}layers/.*", None, below=layers - int(top[1])))
    elif trainable != "all":
        raise ConfigError(
            f"trainable={trainable!r}: expected all, head, bias or topK with K from 1 to {layers}, "
            "like top2"
        )
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"optimizer.layer_decay={layer_decay}: expected more than 0, at most 1")
    if layer_decay < 1:
        found.append(Rule(_BODY, layer_decay, by_layer=True))
    return [*found, *map(_rule, rules)]


def _rule(pair: Any) -> Rule:
    """Reads one entry of `optimizer.rules`."""
    named_as = f"optimizer.rules: {pair!r}"
    if not isinstance(pair, Sequence) or len(pair) != 2 or not isinstance(pair[0], str):
        raise ConfigError(
            f"{named_as}: expected a pair like ('encoder/embeddings/.*', None): a pattern and None "
            "(frozen), a factor, or a dict with 'rate'"
        )
    pattern, value = pair
    settings = dict(value) if isinstance(value, Mapping) else {"rate": value}
    unknown = settings.keys() - set(_KEYS)
    if unknown or "rate" not in settings:
        raise ConfigError(f"{named_as}: expected the keys {', '.join(_KEYS)}, of them 'rate'")
    rate = settings["rate"]
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < float("inf")):
        raise ConfigError(f"{named_as}: expected a rate above 0, or None for frozen")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{named_as}: the pattern is no regular expression: {error}") from error
    return Rule(pattern, **settings)


class Rates:
    """What a table of rules makes of a model: which part is trained, and how fast.

    Attributes:
        parts: the trained and the frozen part.
        factors: of each trained parameter the factor of its learning rate, float32, a scalar or one
            for each of its layers, [L, 1, …].
        opens: in the same form, after which share of the run it begins to learn; None: all begin
            at its start.
    """

    def __init__(
        self,
        model: Model,
        rules: Sequence[Rule],
        fresh: frozenset[str] = frozenset(),
        unfreeze: float = 0.0,
    ):
        """Applies the rules that match, in their order: factors multiply, None freezes.

        Args:
            model: the model.
            rules: the rules.
            fresh: paths of parameters that come from the seed, which are trained whatever the
                rules say: nothing would be learned through them.
            unfreeze: the share of the run, below 1, by which all that is trained has begun to
                learn: first pooler and heads, then, in equal steps, each layer below, at last the
                embeddings (Howard & Ruder 2018, ULMFiT).

        Raises:
            ConfigError: a rule matches nothing, all is frozen, frozen layers lie above trained
                ones of the same parameter, or there is no layer to unfreeze.
        """
        layers = model.config.num_hidden_layers
        unused = list(rules)
        shares: dict[str, Share] = {}
        self._all: dict[str, np.ndarray] = {}
        depths: dict[str, np.ndarray] = {}
        for path, axes in named(model.axes()):
            stacked = axes[:1] == ("layers",)
            depth = np.arange(layers, 0, -1.0) if stacked else np.array([0.0])
            if path.startswith("encoder/embeddings/"):
                depth += layers + 1
            rates = np.ones(len(depth))
            for rule in rules:
                if not re.fullmatch(rule.pattern, path):
                    continue
                unused = [one for one in unused if one is not rule]
                applies = np.full(len(depth), True)
                if rule.below is not None:
                    applies = np.arange(len(depth)) < (rule.below if stacked else 0)
                if rule.rate is None:
                    rates[applies] *= 0 if path not in fresh else 1
                else:
                    factors = rule.rate ** (depth if rule.by_layer else np.ones(len(depth)))
                    rates[applies] *= factors[applies]
            trained = int(np.count_nonzero(rates))
            if np.any(rates[: len(rates) - trained]):
                raise ConfigError(
                    f"the rules freeze layers of {path} above trained ones; expected the frozen "
                    "ones to be the first: a gradient has to come down to the trained ones"
                )
            shares[path], self._all[path] = Share(trained, len(depth)), rates
            depths[path] = depth
        if unused:
            known = "; ".join(list(shares)[:6])
            raise ConfigError(
                f"optimizer.rules: {unused[0].pattern!r} matches no parameter; there are {known}; …"
            )
        if not any(share.trained for share in shares.values()):
            raise ConfigError("the rules freeze all parameters: there is nothing to train")
        self.parts = Parts(model, nested(shares))
        self._shapes = dict(named(model.abstract()))
        self.factors = jax.tree.map(np.float32, self._beside(self._all))
        self.opens: Params | None = None
        if unfreeze:
            deepest = max(
                np.max(depths[path][rates > 0], initial=0) for path, rates in self._all.items()
            )
            if not deepest:
                raise ConfigError(
                    f"unfreeze={unfreeze}: no layer below the heads is trained; expected 0, or "
                    "another `trainable`"
                )
            self.opens = self._beside(
                {path: unfreeze * depth / deepest for path, depth in depths.items()}
            )

    def _beside(self, values: Mapping[str, np.ndarray]) -> Params:
        """Returns values of each layer by path as a tree that broadcasts with what is trained."""
        return jax.tree.map(
            lambda layers, shape: layers.reshape(-1, *[1] * (shape.ndim - 1)),
            self.parts.trained(nested(values)),
            self.parts.abstract(),
        )

    @property
    def trained_parameters(self) -> int:
        """The number of trained values."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.parts.abstract()))

    @property
    def all_parameters(self) -> int:
        """The number of values of the model."""
        return sum(math.prod(shape.shape) for shape in self._shapes.values())

    def explained(self) -> list[tuple[str, tuple[int, ...], tuple[float, ...]]]:
        """Returns of each parameter its path, its shape and the factor of each of its layers."""
        return [
            (path, self._shapes[path].shape, tuple(rates.tolist()))
            for path, rates in self._all.items()
        ]
