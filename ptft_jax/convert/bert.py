"""BERT's parameters under the names that Hugging Face's PyTorch classes give them.

`TABLE` is the whole correspondence. `to_hf` and `from_hf` apply it; both are NumPy only and exact.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ptft_jax.convert.mapping import Row, from_named, to_named
from ptft_jax.errors import DataError
from ptft_jax.models.config import EncoderConfig

# Axes: L layers, V vocabulary, S positions, Y token types, D hidden, N heads, H head size,
# F feed-forward, C the two classes of next-sentence prediction, K labels.
# PyTorch's Linear.weight is [out, in]; our kernels are [in, out], with attention heads unflattened.
TABLE: dict[str, tuple[Row, ...]] = {
    "encoder": (
        Row("encoder.embeddings.word_embeddings", "VD", "embeddings.word_embeddings.weight", "V D"),
        Row(
            "encoder.embeddings.position_embeddings",
            "SD",
            "embeddings.position_embeddings.weight",
            "S D",
        ),
        Row(
            "encoder.embeddings.token_type_embeddings",
            "YD",
            "embeddings.token_type_embeddings.weight",
            "Y D",
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
}

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

    Works on any tree with the shapes of the parameters: gradients come out as PyTorch's gradients.

    Args:
        params: the parameter tree, of JAX or NumPy arrays.
        config: `config.heads` decides which tensors there are; heads that the tree has beyond them
            are left out. The encoder's names begin with `bert.` where there is a head other than
            the pooler.

    Returns:
        name → array, without the rows that pad the vocabulary and without the tied decoder.

    Raises:
        DataError: a parameter is missing or has another shape than the config says.
    """
    ours, theirs = _sizes(config)
    tensors = to_named(_rows(config.heads), params, ours, theirs)
    prefix = PREFIX if set(config.heads) - {"pooler"} else ""
    return {
        prefix + name if head_of(name) in ("encoder", "pooler") else name: tensor
        for name, tensor in tensors.items()
    }


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
        spelled[known] = name
    for copy, source in TIED.items():
        if copy in spelled and source in spelled and "mlm" in config.heads:
            if not np.array_equal(tensors[spelled[copy]], tensors[spelled[source]]):
                raise DataError(
                    f"Tensor {spelled[copy]} differs from {spelled[source]}: expected a decoder "
                    "tied to the word embeddings. A model with an untied decoder cannot be read."
                )
            del spelled[copy]
    kept = {known: tensors[name] for known, name in spelled.items() if known not in BUFFERS}
    ours, theirs = _sizes(config)
    return from_named(
        _rows(config.heads), kept, ours, theirs, describe=lambda name: spelled.get(name, name)
    )


def canonical(name: str) -> str:
    """Returns a tensor's name as `TABLE` spells it: no `bert.`, LayerNorm's `weight` and `bias`."""
    name = name.removeprefix(PREFIX)
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        if name.endswith(f"LayerNorm.{old}"):
            name = name.removesuffix(old) + new
    return name


def head_of(name: str) -> str | None:
    """Returns the part of the model that a tensor belongs to, a key of `TABLE`, or None."""
    name = canonical(name)
    if name.startswith(("embeddings.", "encoder.")):
        return "encoder"
    if name in TIED:
        return "mlm"
    for head, rows in TABLE.items():
        if any(name == row.name for row in rows):
            return head
    return None


def _rows(heads: tuple[str, ...]) -> list[Row]:
    return [
        row for part, rows in TABLE.items() if part == "encoder" or part in heads for row in rows
    ]


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
    }
    return theirs | {"V": config.padded_vocab_size}, theirs
