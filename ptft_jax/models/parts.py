"""The parameters that a run trains, and those that it leaves as they are, as two trees.

Gradient, optimizer state and checkpoints are those of the trained tree alone. Layers are stacked,
so an array of layers may be cut: its last ones are trained, and the first ones lie in the frozen
tree under the same name.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.models.build import Model, Params


class Share(NamedTuple):
    """How many of a parameter's layers are trained, the last ones, of how many.

    A parameter without layers counts as one.
    """

    trained: int
    of: int


class Parts:
    """Cuts a model's parameters into a trained and a frozen tree, and joins them again.

    Attributes:
        shares: the `Share` of each parameter, in a nested dict like theirs.
        first_layer: the lowest layer that a gradient has to reach; 0: it goes on to the embeddings.
        most_frozen: in how many layers, the first ones, some parameter is frozen.
    """

    def __init__(self, model: Model, shares: Params):
        self.shares = shares
        self._axes, self._shapes = model.axes(), model.abstract()
        encoder = dict(named(shares["encoder"]))
        trained = [share for name, share in encoder.items() if name.startswith("layers/")]
        self.most_frozen = max(
            share.of - share.trained
            for name, share in encoder.items()
            if name.startswith("layers/")
        )
        self.first_layer = model.config.num_hidden_layers - max(share.trained for share in trained)
        if any(s.trained for name, s in encoder.items() if name.startswith("embeddings/")):
            self.first_layer = 0

    def trained(self, params: Params) -> Params:
        """Returns the trained part of a tree of arrays, which may lack some."""
        return _part(params, self.shares, lambda share: (share.of - share.trained, share.of))

    def frozen(self, params: Params) -> Params:
        """Returns the frozen part of a tree of arrays; {} where all are trained."""
        return _part(params, self.shares, lambda share: (0, share.of - share.trained))

    def join(self, trained: Params, frozen: Params) -> Params:
        """Returns the whole tree of two parts, inside or outside `jax.jit`."""
        return _join(trained, frozen)

    def axes(self) -> Params:
        """Returns the logical axes of each trained array."""
        return _matching(self._axes, self.trained(self._shapes))

    def abstract(self) -> Params:
        """Returns the trained part with `jax.ShapeDtypeStruct` leaves."""
        return self.trained(self._shapes)


def _join(trained: Params, frozen: Params) -> Params:
    joined = {**frozen, **trained}
    for name in trained.keys() & frozen.keys():
        one, other = trained[name], frozen[name]
        is_dict = isinstance(one, dict)
        joined[name] = _join(one, other) if is_dict else jnp.concatenate([other, one])
    return joined


def named(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each leaf of a nested dict with its path, like "encoder/layers/attention/…"."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from named(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value


def nested(leaves: Mapping[str, Any]) -> Params:
    """Returns the nested dict of values by path."""
    tree: Params = {}
    for path, value in leaves.items():
        *above, name = path.split("/")
        place = tree
        for one in above:
            place = place.setdefault(one, {})
        place[name] = value
    return tree


def sha256_of(params: Params) -> str:
    """Returns a SHA-256 of the names, shapes and values of float32 arrays on the host."""
    digest = hashlib.sha256()
    for name, value in sorted(named(params)):
        array = np.ascontiguousarray(value, np.float32)
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(array)
    return digest.hexdigest()


def _part(params: Params, shares: Params, places: Any) -> Params:
    """Returns what lies at `places`, a function from a share to a start and an end of layers."""
    part: Params = {}
    for name, value in params.items():
        if isinstance(value, dict):
            below = _part(value, shares[name], places)
            if below:
                part[name] = below
            continue
        start, end = places(shares[name])
        if end - start == shares[name].of:
            part[name] = value
        elif end > start:
            is_shape = isinstance(value, jax.ShapeDtypeStruct)
            shape = (end - start, *value.shape[1:])
            part[name] = value.update(shape=shape) if is_shape else value[start:end]
    return part


def _matching(tree: Params, part: Params) -> Params:
    """Returns the leaves of a tree that a part of it has."""
    return {
        name: _matching(tree[name], value) if isinstance(value, dict) else tree[name]
        for name, value in part.items()
    }
