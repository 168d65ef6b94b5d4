"""What a layout costs, read from the compiled train step, is what theory says.

Eight fake devices. The sums below are in bytes of float32 and are compared exactly: a gather that
is done twice, or a gradient that is reduced in two pieces, would show.
"""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from ptft_jax.models import partition
from ptft_jax.models.build import Model, build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.training.collectives import Collective
from ptft_jax.training.cost import StepCost, device_bytes, model_flops, recomputed_flops, step_cost
from ptft_jax.training.mesh import MeshConfig, make_mesh
from ptft_jax.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer
from ptft_jax.training.state import abstract_state

# As many positions as tokens: the gradient of an unused position would not be exchanged.
TOKENS, MASKED, ROWS = 16, 4, 32
CONFIG = EncoderConfig(
    vocab_size=512,
    hidden_size=32,
    num_attention_heads=8,
    intermediate_size=64,
    max_position_embeddings=TOKENS,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One layout of one model."""

    sizes: tuple[int, int, int]
    layers: int
    accumulate: int = 1
    remat: bool = False
    packed: bool = False
    dropout: bool = True

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.sizes))}-{self.layers}"

    @property
    def axes(self) -> dict[str, int]:
        return dict(zip(("data", "fsdp", "tensor"), self.sizes, strict=True))

    @property
    def config(self) -> EncoderConfig:
        rate = 0.1 if self.dropout else 0.0
        return CONFIG.replace(
            num_hidden_layers=self.layers,
            remat=self.remat,
            hidden_dropout_prob=rate,
            attention_probs_dropout_prob=rate,
        )


DATA = [
    Case((8, 1, 1), 2),
    Case((8, 1, 1), 3, accumulate=2, packed=True, dropout=False),
]
FSDP = [
    Case((1, 8, 1), 2, packed=True),
    Case((1, 8, 1), 4, accumulate=2, dropout=False),
    Case((1, 8, 1), 3, remat=True, dropout=False),
]
TENSOR = [
    Case((1, 1, 8), 2, packed=True),
    Case((1, 1, 8), 3, accumulate=2, remat=True, dropout=False),
]
MIXED = [Case((2, 2, 2), 3, accumulate=2, dropout=False)]


def row_shapes(packed: bool):
    """The arrays of a pretraining batch; packed rows have room for two examples."""
    pooled = 2 if packed else 1
    names = ["input_ids", "attention_mask", "token_type_ids"]
    names += ["segment_ids", "position_ids"] if packed else []
    return {
        **dict.fromkeys(names, ((TOKENS,), np.int32)),
        **dict.fromkeys(("masked_lm_positions", "masked_lm_ids"), ((MASKED,), np.int32)),
        "masked_lm_weights": ((MASKED,), np.float32),
        **dict.fromkeys(("pooled_positions", "next_sentence_labels"), ((pooled,), np.int32)),
        "next_sentence_weights": ((pooled,), np.float32),
    }


def cost_of(model: Model, sizes, accumulate=1, *, rows=ROWS, shapes=None) -> StepCost:
    mesh = make_mesh(MeshConfig(*sizes))
    optimizer, schedule = make_optimizer(OptimizerConfig(), ScheduleConfig(), 100, model.axes())
    return step_cost(
        model,
        PretrainingObjective(),
        optimizer,
        schedule,
        shapes or row_shapes(False),
        mesh,
        batch_size=rows,
        accumulate=accumulate,
    )


@functools.cache
def cost(case: Case) -> StepCost:
    shapes = row_shapes(case.packed)
    return cost_of(build_model(case.config), case.sizes, case.accumulate, shapes=shapes)


def large(one: Collective) -> int:
    """Bytes of what is no scalar: sums of the loss and of norms are scalars."""
    return one.times * sum(array.bytes for array in one.arrays if array.size > 1)


def exchanged(case: Case, kind: str, *axes: str) -> int:
    """Bytes of the arrays that a step exchanges in this way."""
    found = [c for c in cost(case).collectives if c.kind == kind and c.axes(case.axes) == axes]
    return sum(map(large, found))


def arrays(model: Model):
    """Yields path, abstract array and logical axes of every parameter."""
    paths = jax.tree_util.tree_leaves_with_path(model.abstract())
    axes = jax.tree.leaves(model.axes(), is_leaf=lambda node: isinstance(node, tuple))
    for (path, leaf), names in zip(paths, axes, strict=True):
        yield jax.tree_util.keystr(path), leaf, names


def parameter_bytes(case: Case, wanted) -> int:
    """Bytes of the parameters that `wanted(path, logical axes)` takes, as one device of the
    tensor axis has them."""
    total = 0
    for path, leaf, names in arrays(build_model(case.config)):
        if wanted(path, names):
            on_tensor = any(partition.LOGICAL_TO_MESH[name] == "tensor" for name in names)
            total += 4 * math.prod(leaf.shape) // (case.axes["tensor"] if on_tensor else 1)
    return total


def is_split(path: str, names: tuple[str, ...]) -> bool:
    """Whether fsdp splits a parameter."""
    return "embed" in names


@pytest.mark.parametrize("case", [*DATA, *FSDP, *TENSOR, *MIXED], ids=str)
def test_no_surprises(case):
    """Nothing is moved from device to device, and nothing is exchanged along an axis of size 1."""
    kinds = {one.kind for one in cost(case).collectives}
    assert kinds <= {"all-reduce", "all-gather", "reduce-scatter"}
    for one in cost(case).collectives:
        assert all(case.axes[axis] > 1 for axis in one.axes(case.axes))


@pytest.mark.parametrize("case", DATA, ids=str)
def test_data_reduces_the_gradients_once(case):
    """One all-reduce of every gradient for each micro-batch, and nothing else of any size."""
    gradients = parameter_bytes(case, lambda *_: True)
    assert exchanged(case, "all-reduce", "data") == case.accumulate * gradients
    assert {one.kind for one in cost(case).collectives} == {"all-reduce"}


@pytest.mark.parametrize("case", FSDP, ids=str)
def test_fsdp_gathers_twice_and_scatters_once(case):
    """Each layer is gathered going forward and again going backward, never kept in whole."""
    assert exchanged(case, "all-gather", "fsdp") == gathered(case)
    split = parameter_bytes(case, is_split)
    assert exchanged(case, "reduce-scatter", "fsdp") == case.accumulate * split
    whole = parameter_bytes(case, lambda path, names: not is_split(path, names))
    assert exchanged(case, "all-reduce", "fsdp") == case.accumulate * whole


def gathered(case: Case) -> int:
    """Bytes that are gathered over fsdp in an update.

    Going backward only the kernels are needed, and with remat all but the last bias. Embeddings,
    pooler and heads are gathered once for all micro-batches.
    """

    def is_layers(path, names):
        return is_split(path, names) and "layers" in names

    def is_needed_again(path, names):
        again = path != LAST_BIAS if case.remat else "kernel" in path
        return is_layers(path, names) and again

    layers = parameter_bytes(case, is_layers)
    once = parameter_bytes(case, is_split) - layers
    return once + case.accumulate * (layers + parameter_bytes(case, is_needed_again))


LAST_BIAS = "['encoder']['layers']['feed_forward']['layer_norm']['bias']"


@pytest.mark.parametrize("case", TENSOR, ids=str)
def test_tensor_reduces_activations_twice_per_layer_and_pass(case):
    """Two sums of activations forward and two backward for each layer; remat goes forward twice.

    Beside those the embeddings' sum (the vocabulary is split), the gradient of the MLM head's
    input, and three numbers for each prediction.
    """
    activation = 4 * ROWS * TOKENS * CONFIG.hidden_size
    passes = 3 if case.remat else 2
    head = 4 * ROWS * MASKED * CONFIG.hidden_size
    per_prediction = 3 * 4 * ROWS * MASKED
    expected = (2 * passes * case.layers + 1) * activation + head + per_prediction
    assert exchanged(case, "all-reduce", "tensor") == expected
    assert {one.kind for one in cost(case).collectives} == {"all-reduce"}


@pytest.mark.parametrize("case", MIXED, ids=str)
def test_mixed_layouts_pay_for_each_axis(case):
    """Axes do not make one another dearer: gathers stay inside fsdp, sums of activations in tensor.

    The gradient is reduced over data and fsdp together; XLA for CPU cuts it afterwards.
    """
    gradients = parameter_bytes(case, lambda *_: True)
    assert exchanged(case, "all-gather", "fsdp") == gathered(case)
    assert exchanged(case, "all-reduce", "data", "fsdp") == case.accumulate * gradients
    if case.axes["tensor"] > 1:
        rows = ROWS // (case.axes["data"] * case.axes["fsdp"])
        width = 4 * rows * CONFIG.hidden_size
        layers = (4 * case.layers + 1) * TOKENS * width + MASKED * width
        assert exchanged(case, "all-reduce", "tensor") == layers + 3 * 4 * rows * MASKED


@pytest.mark.parametrize("case", [*DATA, *FSDP], ids=str)
def test_products_are_those_of_the_formula(case):
    """Data and fsdp split all products evenly; the utilisation is computed by the formula."""
    pooled = 2 if case.packed else 1
    config = case.config
    row = model_flops(config, tokens=TOKENS, predictions=MASKED, pooled=pooled)
    row += recomputed_flops(config, TOKENS)
    # remat does not recompute the layers' last product, which nothing waits for.
    assert cost(case).matrix_flops * 8 == pytest.approx(
        ROWS * row, rel=0.06 if case.remat else 0.001
    )


def test_memory_under_fsdp():
    """BERT-base on 8 devices: an eighth of the state on each, and one layer in whole while it runs.

    Whole everywhere are biases without a dimension of hidden_size: 0.6 % more than an eighth.
    Gathered kernels that wait for the backward pass would take back what fsdp saves.
    """
    model = build_model(EncoderConfig())
    found = cost_of(model, (1, 8, 1)).memory
    optimizer, _ = make_optimizer(OptimizerConfig(), ScheduleConfig(), 100, model.axes())
    with jax.set_mesh(make_mesh(MeshConfig(8, 1, 1))):
        total = device_bytes(abstract_state(model, optimizer))
    state = found.arguments - found.batch
    assert state == found.params + found.opt_state
    whole = 3 * sum(
        4 * math.prod(leaf.shape)
        for path, leaf, names in arrays(model)
        if not is_split(path, names)
    )
    assert state == pytest.approx((total - whole) / 8 + whole, abs=64)
    assert state <= total / 8 * 1.007
    kernels = sum(
        4 * math.prod(leaf.shape)
        for path, leaf, names in arrays(model)
        if "layers" in names and "kernel" in path
    )
    word_table = 4 * model.config.padded_vocab_size * model.config.hidden_size
    # The gradients in their own layout, the word table and its gradient in whole, four rows of 16
    # tokens of activations: and no room for twelve layers.
    beside = found.gradients + 2 * word_table + found.kept
    assert found.temporaries - beside < kernels / 4
