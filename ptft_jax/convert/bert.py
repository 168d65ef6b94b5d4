"""BERT's parameters under the names that Hugging Face's PyTorch classes give them.

`TABLE` is the whole correspondence. `to_hf` and `from_hf` apply it by reordering whole arrays, so
both are exact and linear (gradients convert by the same call as parameters), and going there and
back gives the same bytes.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ptft_jax.errors import DataError
from ptft_jax.models.config import EncoderConfig

_READABLE = (np.float32, np.float16, ml_dtypes.bfloat16)


class Row(NamedTuple):
    """One parameter of ours and the tensor, or one tensor per layer, that holds the same numbers.

    Attributes:
        path: the keys of our nested dict, joined by dots.
        axes: one letter for each axis of our array.
        name: the tensor's name; `{layer}` stands for the layer number where `axes` holds an `L`.
        named_axes: the tensor's axes in its own order, separated by spaces; letters written
            together are axes that the tensor holds flattened into one, and 1 is one of size one.
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
        if "L" not in self.axes:
            return [self.name]
        return [self.name.format(layer=layer) for layer in range(layers)]


# Axes: L layers, V vocabulary, S positions, Y token types, D hidden, N heads, H head size,
# F feed-forward, C the two classes of next-sentence prediction, K labels, A the two ends of an
# answer, O the one output of a choice, R rank and U virtual tokens of an
# adapter.
# PyTorch's Linear.weight is [out, in]; our kernels are [in, out], with attention heads unflattened.
TABLE: dict[str, tuple[Row, ...]] = {
    "encoder": (
        *(
            Row(f"encoder.embeddings.{name}", f"{axis}D", f"embeddings.{name}.weight", f"{axis} D")
            for name, axis in (
                ("word_embeddings", "V"),
                ("position_embeddings", "S"),
                ("token_type_embeddings", "Y"),
            )
        ),
        Row("encoder.embeddings.layer_norm.scale", "D", "embeddings.LayerNorm.weight", "D"),
        Row("encoder.embeddings.layer_norm.bias", "D", "embeddings.LayerNorm.bias", "D"),
        *(
            Row(f"encoder.layers.{ours}", axes, f"encoder.layer.{{layer}}.{theirs}", named_axes)
            for ours, axes, theirs, named_axes in (
                ("attention.query.kernel", "LDNH", "attention.self.query.weight", "NH D"),
                ("attention.query.bias", "LNH", "attention.self.query.bias", "NH"),
                ("attention.key.kernel", "LDNH", "attention.self.key.weight", "NH D"),
                ("attention.key.bias", "LNH", "attention.self.key.bias", "NH"),
                ("attention.value.kernel", "LDNH", "attention.self.value.weight", "NH D"),
                ("attention.value.bias", "LNH", "attention.self.value.bias", "NH"),
                ("attention.output.kernel", "LNHD", "attention.output.dense.weight", "D NH"),
                ("attention.output.bias", "LD", "attention.output.dense.bias", "D"),
                ("attention.layer_norm.scale", "LD", "attention.output.LayerNorm.weight", "D"),
                ("attention.layer_norm.bias", "LD", "attention.output.LayerNorm.bias", "D"),
                ("feed_forward.intermediate.kernel", "LDF", "intermediate.dense.weight", "F D"),
                ("feed_forward.intermediate.bias", "LF", "intermediate.dense.bias", "F"),
                ("feed_forward.output.kernel", "LFD", "output.dense.weight", "D F"),
                ("feed_forward.output.bias", "LD", "output.dense.bias", "D"),
                ("feed_forward.layer_norm.scale", "LD", "output.LayerNorm.weight", "D"),
                ("feed_forward.layer_norm.bias", "LD", "output.LayerNorm.bias", "D"),
            )
        ),
    ),
    "pooler": (
        # `E` is D again: a letter names one axis of an array only.
        Row("encoder.pooler.kernel", "DE", "pooler.dense.weight", "E D"),
        Row("encoder.pooler.bias", "D", "pooler.dense.bias", "D"),
    ),
    "mlm": (
        Row("heads.mlm.transform.kernel", "DE", "cls.predictions.transform.dense.weight", "E D"),
        Row("heads.mlm.transform.bias", "D", "cls.predictions.transform.dense.bias", "D"),
        Row("heads.mlm.layer_norm.scale", "D", "cls.predictions.transform.LayerNorm.weight", "D"),
        Row("heads.mlm.layer_norm.bias", "D", "cls.predictions.transform.LayerNorm.bias", "D"),
        Row("heads.mlm.bias", "V", "cls.predictions.bias", "V"),
    ),
    "nsp": (
        Row("heads.nsp.kernel", "DC", "cls.seq_relationship.weight", "C D"),
        Row("heads.nsp.bias", "C", "cls.seq_relationship.bias", "C"),
    ),
    "classification": (
        Row("heads.classification.kernel", "DK", "classifier.weight", "K D"),
        Row("heads.classification.bias", "K", "classifier.bias", "K"),
    ),
    "tagging": (
        Row("heads.tagging.kernel", "DK", "classifier.weight", "K D"),
        Row("heads.tagging.bias", "K", "classifier.bias", "K"),
    ),
    "span": (
        Row("heads.span.kernel", "DA", "qa_outputs.weight", "A D"),
        Row("heads.span.bias", "A", "qa_outputs.bias", "A"),
    ),
    "choice": (
        Row("heads.choice.kernel", "DO", "classifier.weight", "O D"),
        Row("heads.choice.bias", "O", "classifier.bias", "O"),
    ),
}

ARCHITECTURES: dict[tuple[str, ...], str] = {
    (): "BertModel",
    ("pooler",): "BertModel",
    ("mlm",): "BertForMaskedLM",
    ("pooler", "nsp"): "BertForNextSentencePrediction",
    ("pooler", "mlm", "nsp"): "BertForPreTraining",
    ("pooler", "classification"): "BertForSequenceClassification",
    ("tagging",): "BertForTokenClassification",
    ("span",): "BertForQuestionAnswering",
    ("pooler", "choice"): "BertForMultipleChoice",
}
"""The PyTorch class with exactly these heads. Without a pooler `BertModel` makes a fresh one."""

PREFIX = "bert."
"""What every class but `BertModel` itself puts before the names of the encoder and the pooler."""

TIED = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Copies that some files carry beside the tensor they are tied to."""

BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
"""Constants, not parameters, that older files carry."""


def to_hf(params: Mapping[str, Any], config: EncoderConfig) -> dict[str, np.ndarray]:
    """Returns the parameters as float32 tensors with the names and shapes of the PyTorch class.

    Args:
        params: the parameter tree, or one of the same shapes (gradients, moments), of JAX or NumPy
            arrays.
        config: `config.heads` decides which tensors there are; heads that the tree has beyond them
            are left out. The encoder's names begin with `bert.` where there is a head other than
            the pooler.

    Returns:
        name → array, without the rows that pad the vocabulary and without the tied decoder.

    Raises:
        DataError: a parameter is missing or has another shape than the config says.
    """
    ours, theirs = _sizes(config)
    prefix = PREFIX if set(config.heads) - {"pooler"} else ""
    by_path = flatten_dict(dict(params), sep=".")
    tensors: dict[str, np.ndarray] = {}
    for row in _rows(config):
        shape = tuple(ours[axis] for axis in row.axes)
        if row.path not in by_path:
            raise DataError(f"Parameter {row.path} is missing: expected shape {shape}.")
        array = np.asarray(by_path[row.path], dtype=np.float32)
        _check_shape(f"Parameter {row.path}", array.shape, shape)
        # What is larger than in the file is padding of ours.
        array = array[tuple(slice(theirs[axis]) for axis in row.axes)]
        axes = row.axes.replace("L", "")
        order = [axes.index(axis) for axis in _letters(row)]
        layers = array if "L" in row.axes else array[None]
        for name, layer in zip(row.names(ours["L"]), layers, strict=True):
            tensor = layer.transpose(order).reshape(row.named_shape(theirs))
            name = prefix + name if head_of(name) in ("encoder", "pooler") else name
            # A copy of its own: safetensors writes an array's buffer, whatever its strides.
            tensors[name] = np.array(tensor, order="C")
    return tensors


def from_hf(tensors: Mapping[str, np.ndarray], config: EncoderConfig) -> dict[str, Any]:
    """Returns the parameter tree of `config` from tensors named as the PyTorch classes name them.

    Reads names with and without `bert.`, the older `gamma` and `beta` of LayerNorm, and files that
    carry buffers or a copy of the tied decoder. Half precision is widened to float32.

    Args:
        tensors: name → array; exactly those that `config.heads` calls for.
        config: the model to build the tree for.

    Returns:
        Nested dict of float32 NumPy arrays; vocabulary padding is zero.

    Raises:
        DataError: a name is unknown, missing or given twice, a shape or dtype does not fit, or a
            decoder is not tied to the word embeddings.
    """
    spelled: dict[str, str] = {}
    for name in tensors:
        known = canonical(name)
        if known in spelled:
            raise DataError(
                f"Tensors {spelled[known]} and {name} are the same parameter: expected one of them."
            )
        if known not in BUFFERS:
            spelled[known] = name
    for copy, source in TIED.items():
        if copy in spelled and source in spelled and "mlm" in config.heads:
            if not np.array_equal(tensors[spelled[copy]], tensors[spelled[source]]):
                raise DataError(
                    f"Tensor {spelled[copy]} differs from {spelled[source]}: expected a decoder "
                    "tied to the word embeddings. A model with an untied decoder cannot be read."
                )
            del spelled[copy]
    ours, theirs = _sizes(config)
    rows = _rows(config)
    wanted = {name: row for row in rows for name in row.names(ours["L"])}
    for known, name in spelled.items():
        if known not in wanted:
            raise DataError(
                f"Tensor {name} has no place in this model: expected only tensors of the "
                f"configured {ours['L']} layers and heads. Check num_hidden_layers and the heads "
                "asked for."
            )
    params: dict[str, Any] = {}
    for row in rows:
        shape, layers = row.named_shape(theirs), []
        for known in row.names(ours["L"]):
            if known not in spelled:
                raise DataError(
                    f"Tensor {known} is missing: expected shape {shape} for {row.path}."
                )
            name, tensor = spelled[known], tensors[spelled[known]]
            if tensor.dtype not in _READABLE:
                raise DataError(
                    f"Tensor {name} has dtype {tensor.dtype}: expected float32, float16 or "
                    "bfloat16."
                )
            _check_shape(f"Tensor {name}", tensor.shape, shape)
            layers.append(_read_one(row, tensor.astype(np.float32), ours, theirs))
        params[row.path] = np.stack(layers) if "L" in row.axes else layers[0]
    return unflatten_dict(params, sep=".")


def canonical(name: str) -> str:
    """Returns a tensor's name as `TABLE` spells it: no `bert.`, LayerNorm's `weight` and `bias`."""
    name = name.removeprefix(PREFIX)
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        if name.endswith(f"LayerNorm.{old}"):
            name = name.removesuffix(old) + new
    return name


def head_of(name: str, model_class: str | None = None) -> str | None:
    """Returns the part of the model that a tensor belongs to, a key of `TABLE`, or None.

    Several classes call their head `classifier`: `model_class` tells which is meant, None stands
    for sequence classification.
    """
    name = canonical(name)
    if name.startswith(("embeddings.", "encoder.")):
        return "encoder"
    if name in TIED:
        return "mlm"
    named = [head for head, rows in TABLE.items() if any(name == row.name for row in rows)]
    if len(named) > 1:
        model_class = model_class or ARCHITECTURES["pooler", "classification"]
        own = next((heads for heads, known in ARCHITECTURES.items() if known == model_class), ())
        named = [head for head in named if head in own]
    return named[0] if named else None


def _rows(config: EncoderConfig) -> list[Row]:
    parts = [part for part in TABLE if part == "encoder" or part in config.heads]
    rows = [row for part in parts for row in TABLE[part]]
    if config.adapter is None:
        return rows
    from ptft_jax.convert.adapters.names import FORMS

    return [*rows, *FORMS[config.adapter.name].rows(config.adapter)]


def _sizes(config: EncoderConfig) -> tuple[dict[str, int], dict[str, int]]:
    """Returns the size of each axis letter in our tree, and in the file."""
    theirs = {
        "L": config.num_hidden_layers,
        "V": config.vocab_size,
        "S": config.max_position_embeddings,
        "Y": config.type_vocab_size,
        "D": config.hidden_size,
        "E": config.hidden_size,
        "N": config.num_attention_heads,
        "H": config.hidden_size // config.num_attention_heads,
        "F": config.intermediate_size,
        "C": 2,
        "K": config.num_labels,
        "A": 2,
        "O": 1,
        "1": 1,
        "U": 1 if config.adapter is None else config.adapter.num_virtual_tokens,
        "R": 1 if config.adapter is None else config.adapter.columns,
    }
    return theirs | {"V": config.padded_vocab_size}, theirs


def _read_one(
    row: Row, tensor: np.ndarray, ours: Mapping[str, int], theirs: Mapping[str, int]
) -> np.ndarray:
    """Returns one layer of a row in our order of axes, padded to our sizes."""
    named = _letters(row)
    axes = row.axes.replace("L", "")
    array = tensor.reshape([theirs[axis] for axis in named])
    array = array.transpose([named.index(axis) for axis in axes])
    padding = [(0, ours[axis] - theirs[axis]) for axis in axes]
    return np.ascontiguousarray(np.pad(array, padding))


def _letters(row: Row) -> str:
    return row.named_axes.replace(" ", "").replace("1", "")


def _check_shape(what: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(shape) != expected:
        raise DataError(
            f"{what} has shape {tuple(shape)}: expected {expected} from the model's config. "
            "The config and the weights belong to different models."
        )
