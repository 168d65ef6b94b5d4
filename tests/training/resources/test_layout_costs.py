"""What a layout costs, read from the compiled train step, is what the formulas of `ptft plan` say.

Eight fake devices. Bytes are compared exactly: a gather that is done twice, or a gradient that is
reduced in two pieces, would show.
"""

import dataclasses
import functools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled_program import Program
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ptft_jax.models.build import Model, build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.training.mesh import MeshConfig, make_mesh
from ptft_jax.training.resources.cost import (
    Memory,
    compile_step,
    device_bytes,
    exchanges,
    model_flops,
    recomputed_flops,
)
from ptft_jax.training.step import abstract_state
from ptft_jax.training.updates.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer

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


DATA = [Case((8, 1, 1), 3, accumulate=2, packed=True)]
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


def row_shapes(packed: bool, tokens: int = TOKENS, masked: int = MASKED):
    """The arrays of a pretraining batch; packed rows have room for two examples."""
    pooled = 2 if packed else 1
    names = ["input_ids", "attention_mask", "token_type_ids"]
    names += ["segment_ids", "position_ids"] if packed else []
    return {
        **dict.fromkeys(names, ((tokens,), np.int32)),
        **dict.fromkeys(("masked_lm_positions", "masked_lm_ids"), ((masked,), np.int32)),
        "masked_lm_weights": ((masked,), np.float32),
        **dict.fromkeys(("pooled_positions", "next_sentence_labels"), ((pooled,), np.int32)),
        "next_sentence_weights": ((pooled,), np.float32),
    }


def compiled(
    model: Model, sizes, accumulate=1, *, packed=False, rows=ROWS, tokens=TOKENS, masked=MASKED
) -> tuple[jax.stages.Compiled, Memory]:
    optimizer, schedule = make_optimizer(OptimizerConfig(), ScheduleConfig(), 100, model.axes())
    return compile_step(
        model,
        PretrainingObjective(next_sentence="nsp" in model.config.heads),
        optimizer,
        schedule,
        row_shapes(packed, tokens, masked),
        make_mesh(MeshConfig(*sizes)),
        batch_size=rows,
        accumulate=accumulate,
    )


@functools.cache
def program(case: Case) -> Program:
    model = build_model(case.config)
    return Program(compiled(model, case.sizes, case.accumulate, packed=case.packed)[0])


def executed(case: Case) -> dict[tuple[str, tuple[str, ...]], int]:
    """Bytes that the step exchanges by kind and axes; sums of losses and norms are scalars."""
    found: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for one in program(case).collectives():
        large = sum(array.bytes for array in one.arrays if array.size > 1)
        found[one.kind, one.axes(case.axes)] += one.times * large
    return dict(+found)


def expected(case: Case) -> dict[tuple[str, tuple[str, ...]], int]:
    """The same by the formulas."""
    found = exchanges(
        build_model(case.config),
        case.axes,
        row_shapes(case.packed),
        batch_size=ROWS,
        accumulate=case.accumulate,
    )
    theory: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for one in found:
        # XLA for CPU has no other way to write a reduce-scatter.
        kind = "all-reduce" if one.kind == "reduce-scatter" else one.kind
        theory[kind, one.axes] += one.bytes
    return dict(theory)


@pytest.mark.parametrize("case", [*DATA, *FSDP, *TENSOR, *MIXED], ids=str)
def test_a_step_exchanges_what_theory_says(case):
    """Each axis pays its own price and no other: nothing is moved, no sum is made twice.

    `data` sums every gradient once per update, however many micro-batches. `fsdp` gathers each
    layer forward and again backward, and cuts its gradient. `tensor` sums activations twice per
    layer and pass.
    """
    found, theory = executed(case), expected(case)
    if case.remat and case.axes["fsdp"] > 1:
        # The last bias of a layer is not needed again.
        bias = 4 * case.accumulate * case.layers * CONFIG.hidden_size
        theory["all-gather", ("fsdp",)] -= bias
    assert found == theory


def test_accumulation_exchanges_gradients_once():
    """Over `data` an update of four micro-batches executes the exchanges of arrays that one does.

    Executed: occurrences in the program times the trips of the loops around them.
    """

    def times(accumulate):
        case = Case((8, 1, 1), 2, accumulate=accumulate, dropout=False)
        found = program(case).collectives()
        return sum(one.times for one in found if any(array.size > 1 for array in one.arrays))

    assert times(4) == times(1) > 0


@pytest.mark.parametrize("case", [*DATA, *FSDP], ids=str)
def test_products_are_those_of_the_formula(case):
    """Data and fsdp split all products evenly; the utilisation is computed by the formula."""
    pooled = 2 if case.packed else 1
    config = case.config
    row = model_flops(config, tokens=TOKENS, predictions=MASKED, pooled=pooled)
    row += recomputed_flops(config, TOKENS)
    # remat does not recompute the layers' last product, which nothing waits for.
    assert program(case).matrix_flops() * 8 == pytest.approx(
        ROWS * row, rel=0.06 if case.remat else 0.001
    )


def test_memory_under_fsdp():
    """An eighth of BERT-base's state on each of 8 devices, and one layer in whole while it runs.

    Gathered kernels that wait for the backward pass would take back what fsdp saves: with four
    layers more the temporaries would grow by those in whole.
    """
    few, more = (build_model(EncoderConfig(num_hidden_layers=layers)) for layers in (2, 6))
    (_, first), (_, second) = (compiled(model, (1, 8, 1)) for model in (few, more))
    optimizer, _ = make_optimizer(OptimizerConfig(), ScheduleConfig(), 100, more.axes())
    with jax.set_mesh(make_mesh(MeshConfig(8, 1, 1))):
        total = device_bytes(abstract_state(more, optimizer))
    state = second.params + second.opt_state
    # Whole everywhere are a few biases without a dimension of hidden_size.
    assert total / 8 <= state <= total / 8 * 1.01
    leaves = jax.tree_util.tree_leaves_with_path(few.abstract()["encoder"]["layers"])
    kernels = sum(4 * math.prod(leaf.shape[1:]) for path, leaf in leaves if "kernel" in str(path))
    grown = (second.temporaries - first.temporaries) / 4
    assert kernels / 8 <= grown < kernels / 2


@pytest.mark.parametrize(
    ("sizes", "rows", "tokens", "remat", "most"),
    [
        # Activations are nearly all of it: kept, they would be three times the memory.
        ((8, 1, 1), 64, 128, True, 1.15),
        # Two rows of 64 on a device: gathered kernels that wait would be half of it.
        ((1, 8, 1), 16, 64, False, 1.25),
    ],
    ids=["remat", "fsdp"],
)
def test_unrolled_layers_free_what_a_loop_frees(sizes, rows, tokens, remat, most):
    """Layers side by side need no more memory than layers in a loop, which are easier to free.

    XLA merges what is to be computed or gathered again in the backward pass with the forward
    pass's, unless something keeps it from that: what `remat` and `fsdp` save would be lost.
    """
    config = EncoderConfig(
        vocab_size=512,
        hidden_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=tokens,
        heads=("mlm",),
        remat=remat,
    )
    loop, unrolled = (
        compiled(
            build_model(config.replace(unroll=unroll)), sizes, rows=rows, tokens=tokens, masked=8
        )[1].temporaries
        for unroll in (1, None)
    )
    assert unrolled < most * loop, (unrolled / 2**20, loop / 2**20)


def test_a_gather_in_nested_loops_counts_as_often_as_it_runs():
    """A model that scans over layers inside micro-batches has each collective once in its text."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)

    def loops(x, w):
        def inner(x, w):
            return jnp.tanh(x @ jax.reshard(w, P(None, None))), None

        def outer(x, _):
            return jax.lax.scan(inner, x, w)[0], None

        return jax.lax.scan(outer, x, None, length=3)[0]

    shapes = (((8, 16), P("a", None)), ((5, 16, 16), P(None, "b", None)))
    with jax.set_mesh(mesh):
        arguments = [
            jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
            for shape, spec in shapes
        ]
        read = Program(jax.jit(loops).lower(*arguments).compile())
    gathers = [one for one in read.collectives() if one.kind == "all-gather"]
    assert sum(one.times * one.bytes for one in gathers) == 3 * 5 * 16 * 16 * 4
    assert {one.axes({"a": 2, "b": 4}) for one in gathers} == {("b",)}
    assert read.matrix_flops() == 3 * 5 * 2 * (8 // 2) * 16 * 16
