"""The table of BERT's names is complete, exact in both directions, and strict about strangers."""

import jax
import ml_dtypes
import numpy as np
import pytest
from hf_reference import SMALL, reference, tensors_of

from ptft_jax.convert.bert import ARCHITECTURES, TIED, from_hf, to_hf
from ptft_jax.errors import DataError
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig

HEAD_SETS = [heads for heads in ARCHITECTURES if heads]
KEYS = {name: value for name, value in SMALL.items() if "dropout" not in name}


def config_of(heads, **changes):
    return EncoderConfig(heads=heads, **{**KEYS, **changes})


@pytest.fixture
def tensors():
    """The state of a BertForPreTraining, free to be damaged."""
    return dict(tensors_of(reference(("pooler", "mlm", "nsp"))))


PRETRAINING = config_of(("pooler", "mlm", "nsp"))


@pytest.mark.parametrize("heads", HEAD_SETS, ids="+".join)
def test_round_trip_is_byte_equal(heads):
    """HF → ours → HF gives every tensor of the class back, bytes and all; only tied copies go."""
    theirs = tensors_of(reference(heads, num_labels=3))
    config = config_of(heads, num_labels=3)
    back = to_hf(from_hf(theirs, config), config)
    assert theirs.keys() - back.keys() == (TIED.keys() if "mlm" in heads else set())
    for name, tensor in back.items():
        assert tensor.dtype == np.float32
        assert tensor.shape == theirs[name].shape
        assert tensor.tobytes() == theirs[name].tobytes(), name


@pytest.mark.parametrize("heads", [(), *HEAD_SETS], ids="+".join)
def test_the_tree_is_the_models_own(heads):
    """What `from_hf` builds is what the model declares: same keys, shapes and dtypes."""
    config = config_of(heads, num_labels=3)
    declared = build_model(config).abstract()
    there = to_hf(jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), declared), config)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, np.dtype(leaf.dtype)), from_hf(there, config))
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, np.dtype(leaf.dtype)), declared)


def test_a_square_kernel_is_transposed():
    """A kernel whose sides are equal passes every shape check, so its values are looked at."""
    theirs = tensors_of(reference(("pooler",)))
    params = from_hf(theirs, config_of(("pooler",)))
    np.testing.assert_array_equal(
        params["encoder"]["pooler"]["kernel"], theirs["pooler.dense.weight"].T
    )
    query = theirs["encoder.layer.2.attention.self.query.weight"]
    np.testing.assert_array_equal(
        params["encoder"]["layers"]["attention"]["query"]["kernel"][2, 5, 3, 7],
        query[3 * 12 + 7, 5],
    )


def test_the_vocabulary_is_padded_with_zeros_and_stripped(tensors):
    """Rows beyond the vocabulary exist only on our side, whatever they have come to hold."""
    params = from_hf(tensors, PRETRAINING)
    words = params["encoder"]["embeddings"]["word_embeddings"]
    assert words.shape == (128, 48)
    assert not words[99:].any()
    assert not params["heads"]["mlm"]["bias"][99:].any()
    words[99:] = 7.0
    back = to_hf(params, PRETRAINING)
    assert back["bert.embeddings.word_embeddings.weight"].shape == (99, 48)
    assert back["cls.predictions.bias"].shape == (99,)


def test_older_spellings_are_read(tensors):
    """Files from TensorFlow conversions say gamma and beta; older ones carry a position buffer."""
    expected = from_hf(tensors, PRETRAINING)
    older = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
    }
    older["bert.embeddings.position_ids"] = np.arange(40)[None]
    jax.tree.map(np.testing.assert_array_equal, from_hf(older, PRETRAINING), expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_widened(tensors, dtype):
    """Every half-precision number is a float32, so reading such a file loses nothing."""
    halves = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    back = to_hf(from_hf(halves, PRETRAINING), PRETRAINING)
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, halves[name].astype(np.float32))


def test_a_decoder_that_is_not_tied_is_refused(tensors):
    """Dropping a decoder of its own would change every prediction without a word."""
    tensors["cls.predictions.decoder.weight"] = tensors["cls.predictions.decoder.weight"] + 1
    with pytest.raises(DataError, match=r"cls\.predictions\.decoder\.weight differs.*tied"):
        from_hf(tensors, PRETRAINING)


LAYER = "bert.encoder.layer.1.intermediate.dense.weight"


def test_names_that_do_not_fit_are_refused(tensors):
    """Unknown, missing and repeated names stop the import, each by name."""
    with pytest.raises(DataError, match=r"bert\.encoder\.layer\.3\.output\.dense\.bias has no pla"):
        from_hf({**tensors, "bert.encoder.layer.3.output.dense.bias": np.ones(48)}, PRETRAINING)
    with pytest.raises(DataError, match=r"cls\.species\.weight has no place"):
        from_hf({**tensors, "cls.species.weight": np.ones((6, 48))}, PRETRAINING)
    with pytest.raises(DataError, match=r"decoder\.weight has no place"):
        from_hf(
            {n: t for n, t in tensors.items() if not n.startswith("cls.") or "decoder" in n},
            config_of(("pooler",)),
        )
    twice = {**tensors, LAYER.removeprefix("bert."): tensors[LAYER]}
    with pytest.raises(DataError, match="are the same parameter"):
        from_hf(twice, PRETRAINING)
    del tensors[LAYER]
    with pytest.raises(
        DataError, match=r"encoder\.layer\.1\.intermediate\.dense\.weight is missing.*\(80, 48\)"
    ):
        from_hf(tensors, PRETRAINING)


def test_shapes_and_dtypes_that_do_not_fit_are_refused(tensors):
    """A transposed or integer tensor is named together with what was expected."""
    with pytest.raises(DataError, match=rf"{LAYER}.*\(48, 80\).*expected \(80, 48\)"):
        from_hf({**tensors, LAYER: tensors[LAYER].T}, PRETRAINING)
    with pytest.raises(DataError, match=rf"{LAYER} has dtype int64"):
        from_hf({**tensors, LAYER: tensors[LAYER].astype(np.int64)}, PRETRAINING)
    params = from_hf(tensors, PRETRAINING)
    params["heads"]["nsp"]["kernel"] = np.ones((2, 48), np.float32)
    with pytest.raises(DataError, match=r"heads\.nsp\.kernel has shape \(2, 48\).*\(48, 2\)"):
        to_hf(params, PRETRAINING)
    del params["heads"]["nsp"]
    with pytest.raises(DataError, match=r"heads\.nsp\.kernel is missing"):
        to_hf(params, PRETRAINING)
