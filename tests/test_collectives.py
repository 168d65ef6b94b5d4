"""Collectives, trip counts and FLOPs are read from the text of compiled programs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ptft_jax.training.collectives import Array, Program

SIZES = {"a": 2, "b": 4}


@pytest.fixture
def mesh():
    return jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)


def program(function, mesh, *arguments) -> Program:
    """Compiles a function of arrays given as (shape, spec)."""
    with jax.set_mesh(mesh):
        abstract = [
            jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
            for shape, dtype, spec in arguments
        ]
        return Program(jax.jit(function).lower(*abstract).compile().as_text())


def test_a_gather_in_nested_loops_counts_as_often_as_it_runs(mesh):
    """A model that scans over layers inside micro-batches has each collective once in its text."""

    def loops(x, w):
        def inner(x, w):
            return jnp.tanh(x @ jax.reshard(w, P(None, None))), None

        def outer(x, _):
            return jax.lax.scan(inner, x, w)[0], None

        return jax.lax.scan(outer, x, None, length=3)[0]

    read = program(
        loops,
        mesh,
        ((8, 16), jnp.float32, P("a", None)),
        ((5, 16, 16), jnp.float32, P(None, "b", None)),
    )
    gathers = [one for one in read.collectives() if one.kind == "all-gather"]
    assert sum(one.times * one.bytes for one in gathers) == 3 * 5 * 16 * 16 * 4
    assert {one.axes(SIZES) for one in gathers} == {("b",)}
    assert read.matrix_flops() == 3 * 5 * 2 * (8 // 2) * 16 * 16


def test_an_all_reduce_that_is_cut_is_a_reduce_scatter(mesh):
    """The CPU backend writes the one as the other; costs of the two differ by a factor of two."""

    def product(x, w):
        return jnp.einsum("ij,jk->ik", x, w, out_sharding=P(None, None))

    def cut(x, w):
        return jax.reshard(product(x, w), P("b", None))

    def cut_along_the_other(x, w):
        return jax.reshard(product(x, w), P("a", None))

    arguments = ((16, 32), jnp.float32, P(None, "b")), ((32, 8), jnp.float32, P("b", None))
    for function, kind in (
        (product, "all-reduce"),
        (cut, "reduce-scatter"),
        (cut_along_the_other, "all-reduce"),
    ):
        (one,) = program(function, mesh, *arguments).collectives()
        assert (one.kind, one.axes(SIZES)) == (kind, ("b",))
        assert one.arrays == (Array("f32", (16, 8)),)


def test_bfloat16_is_counted_as_two_bytes(mesh):
    """The CPU backend exchanges it as float32, which no accelerator does."""

    def function(x, w):
        w = jax.reshard(w.astype(jnp.bfloat16), P("a", None))
        return jnp.einsum("ij,jk->ik", x, w, out_sharding=P(None, None))

    read = program(
        function,
        mesh,
        ((16, 32), jnp.bfloat16, P(None, "a")),
        ((32, 8), jnp.float32, P("a", "b")),
    )
    sizes = {one.kind: one.bytes for one in read.collectives()}
    assert sizes == {"all-gather": 16 * 8 * 2, "all-reduce": 16 * 8 * 2}


HLO = """HloModule made_up, entry_computation_layout={(f32[4,8]{1,0})->f32[4,8]{1,0}}

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[], f32[4,8]{1,0}) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%p), index=1
  %start = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%x), replica_groups=[2,4]<=[8]
  %done = f32[16,8]{1,0} all-gather-done(%start)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %t = (s32[], f32[4,8]{1,0}) tuple(%i, %x)
}

%condition (q: (s32[], f32[4,8])) -> pred[] {
  %q = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

%add (l: f32[], r: f32[]) -> f32[] {
  %l = f32[] parameter(0)
  %r = f32[] parameter(1)
  ROOT %s = f32[] add(%l, %r)
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %t0 = (s32[], f32[4,8]{1,0}) tuple(%zero, %x)
  %w = (s32[], f32[4,8]{1,0}) while(%t0), body=%body, backend_config={"known_trip_count":{"n":"7"}}
  %y = f32[4,8]{1,0} get-tuple-element(%w), index=1
  %rs = f32[1,8]{1,0} reduce-scatter(%y), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  %moved = f32[4,8]{1,0} collective-permute(%y), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %alone = f32[4,8]{1,0} all-reduce(%y), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}
  ROOT %z = f32[4,8]{1,0} all-to-all(%moved), replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}
}
"""


def test_every_form_in_which_groups_are_written():
    """XLA versions and backends write groups and asynchronous collectives in different forms."""
    found = {one.kind: one for one in Program(HLO).collectives()}
    assert "all-reduce" not in found  # a group of one exchanges nothing
    gather = found["all-gather"]
    assert (gather.times, gather.bytes) == (7, 16 * 8 * 4)
    assert gather.groups == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert gather.axes(SIZES) == ("b",)
    scattered = found["reduce-scatter"]
    assert (scattered.bytes, scattered.groups[1]) == (2 * 8 * 4, (1, 5))
    assert scattered.axes(SIZES) == ("a",)
    assert found["collective-permute"].groups == ((0, 1, 2, 3),)
    assert found["all-to-all"].groups == ((0, 4), (1, 5), (2, 6), (3, 7))


def test_unknown_groups_are_an_error():
    """A form that is read wrongly would give wrong costs without a word."""
    with pytest.raises(ValueError, match="not known"):
        Program(HLO.replace("[2,4]<=[8]", "someday{}")).collectives()
    with pytest.raises(ValueError, match="no HLO module"):
        Program("nothing")


def test_flops_agree_with_xla():
    """XLA's own count covers a loop's body once; without a loop the two must agree."""

    def layers(x, w):
        for k in range(3):
            x = jnp.tanh(x @ w[k])
        return x

    shapes = (
        jax.ShapeDtypeStruct((64, 128), np.float32),
        jax.ShapeDtypeStruct((3, 128, 128), np.float32),
    )
    compiled = jax.jit(layers).lower(*shapes).compile()
    counted = Program(compiled.as_text()).matrix_flops()
    assert counted == 3 * 2 * 64 * 128 * 128
    analysis: Any = compiled.cost_analysis()
    assert counted == pytest.approx(analysis["flops"], rel=0.02)
