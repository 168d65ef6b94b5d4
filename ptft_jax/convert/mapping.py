"""Moves arrays between our parameter tree and files of named tensors, as a table of rows says.

A model family is a tuple of `Row`s (data, see `bert.py`); everything here works from the rows.
All of it is reordering of whole arrays, so it is exact, it is linear (gradients convert by the same
call as parameters), and going there and back gives the same bytes.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ptft_jax.errors import DataError

LAYER_AXIS = "L"
"""The letter of the axis that our tree stacks and that the files spell out as `{layer}`."""

_READABLE = (np.float32, np.float16, ml_dtypes.bfloat16)


class Row(NamedTuple):
    """One parameter of ours and the tensor, or one tensor per layer, that holds the same numbers.

    Attributes:
        path: the keys of our nested dict, joined by dots.
        axes: one letter for each axis of our array.
        name: the tensor's name; `{layer}` stands for the layer number where `axes` holds an `L`.
        named_axes: the tensor's axes in its own order, separated by spaces; letters written
            together are axes that the tensor holds flattened into one.
    """

    path: str
    axes: str
    name: str
    named_axes: str

    def named_shape(self, theirs: Mapping[str, int]) -> tuple[int, ...]:
        """Returns the shape of one named tensor, with the sizes of the axes in the file."""
        return tuple(math.prod(theirs[axis] for axis in group) for group in self.named_axes.split())

    def names(self, layers: int) -> list[str]:
        """Returns the names of the row's tensors, in the order of the layers."""
        if LAYER_AXIS not in self.axes:
            return [self.name]
        return [self.name.format(layer=layer) for layer in range(layers)]


def to_named(
    rows: Iterable[Row],
    params: Mapping[str, Any],
    ours: Mapping[str, int],
    theirs: Mapping[str, int],
) -> dict[str, np.ndarray]:
    """Returns the named float32 tensors that hold the parameters of `rows`.

    Args:
        rows: the parameters wanted; the tree may hold others.
        params: nested dict of arrays, or of anything with the same shapes (gradients, moments).
        ours: size of each axis letter in our tree.
        theirs: size of each axis letter in the file. Where it is smaller, the rest is padding of
            ours and is cut off.

    Raises:
        DataError: a parameter is missing or has another shape.
    """
    tensors: dict[str, np.ndarray] = {}
    by_path = flatten_dict(dict(params), sep=".")
    for row in rows:
        shape = tuple(ours[axis] for axis in row.axes)
        if row.path not in by_path:
            raise DataError(f"Parameter {row.path} is missing: expected shape {shape}.")
        array = np.asarray(by_path[row.path], dtype=np.float32)
        _check_shape(f"Parameter {row.path}", array.shape, shape)
        array = array[tuple(slice(theirs[axis]) for axis in row.axes)]
        axes = row.axes.replace(LAYER_AXIS, "")
        order = [axes.index(axis) for group in row.named_axes.split() for axis in group]
        layers = array if LAYER_AXIS in row.axes else array[None]
        for name, layer in zip(row.names(ours[LAYER_AXIS]), layers, strict=True):
            tensor = layer.transpose(order).reshape(row.named_shape(theirs))
            # A copy of its own: safetensors writes an array's buffer, whatever its strides.
            tensors[name] = np.array(tensor, order="C")
    return tensors


def from_named(
    rows: Iterable[Row],
    tensors: Mapping[str, np.ndarray],
    ours: Mapping[str, int],
    theirs: Mapping[str, int],
    describe: Callable[[str], str] = str,
) -> dict[str, Any]:
    """Returns the nested dict of float32 arrays that `rows` describe, read from named tensors.

    Half-precision tensors are widened, which is exact. Padding of ours is filled with zeros.

    Args:
        rows: every parameter that the tree is to have.
        tensors: exactly the tensors of those rows.
        ours: size of each axis letter in our tree.
        theirs: size of each axis letter in the file.
        describe: turns a row's name into the name that a message should show.

    Raises:
        DataError: a tensor is missing, left over, or has another shape or an integer dtype.
    """
    rows = list(rows)
    wanted = {name: row for row in rows for name in row.names(ours[LAYER_AXIS])}
    for name in tensors:
        if name not in wanted:
            raise DataError(
                f"Tensor {describe(name)} has no place in this model: expected only tensors of "
                f"the configured {ours[LAYER_AXIS]} layers and heads. Check num_hidden_layers and "
                "the heads asked for."
            )
    for name, row in wanted.items():
        if name not in tensors:
            raise DataError(
                f"Tensor {describe(name)} is missing: expected shape {row.named_shape(theirs)} "
                f"for {row.path}."
            )
    params: dict[str, Any] = {}
    for row in rows:
        layers = []
        for name in row.names(ours[LAYER_AXIS]):
            tensor = tensors[name]
            if tensor.dtype not in _READABLE:
                raise DataError(
                    f"Tensor {describe(name)} has dtype {tensor.dtype}: expected float32, float16 "
                    "or bfloat16."
                )
            _check_shape(f"Tensor {describe(name)}", tensor.shape, row.named_shape(theirs))
            layers.append(_read_one(row, tensor.astype(np.float32), ours, theirs))
        params[row.path] = np.stack(layers) if LAYER_AXIS in row.axes else layers[0]
    return unflatten_dict(params, sep=".")


def _read_one(
    row: Row, tensor: np.ndarray, ours: Mapping[str, int], theirs: Mapping[str, int]
) -> np.ndarray:
    """Returns one layer of a row in our order of axes, padded to our sizes."""
    named = row.named_axes.replace(" ", "")
    axes = row.axes.replace(LAYER_AXIS, "")
    array = tensor.reshape([theirs[axis] for axis in named])
    array = array.transpose([named.index(axis) for axis in axes])
    padding = [(0, ours[axis] - theirs[axis]) for axis in axes]
    return np.ascontiguousarray(np.pad(array, padding))


def _check_shape(what: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(shape) != expected:
        raise DataError(
            f"{what} has shape {tuple(shape)}: expected {expected} from the model's config. "
            "The config and the weights belong to different models."
        )
