"""Collectives, trip counts and FLOPs are read rightly from the text of compiled programs."""

import jax
import jax.numpy as jnp
import pytest
from compiled_program import Array, Program
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

SIZES = {"a": 2, "b": 4}


@pytest.fixture
def mesh():
    return jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)


def program(function, mesh, *arguments) -> Program:
    """Compiles a function of float32 arrays given as (shape, spec)."""
    with jax.set_mesh(mesh):
        abstract = [
            jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
            for shape, spec in arguments
        ]
        return Program(jax.jit(function).lower(*abstract).compile())


def test_a_gather_in_nested_loops_counts_as_often_as_it_runs(mesh):
    """A model that scans over layers inside micro-batches has each collective once in its text."""

    def loops(x, w):
        def inner(x, w):
            return jnp.tanh(x @ jax.reshard(w, P(None, None))), None

        def outer(x, _):
            return jax.lax.scan(inner, x, w)[0], None

        return jax.lax.scan(outer, x, None, length=3)[0]

    read = program(loops, mesh, ((8, 16), P("a", None)), ((5, 16, 16), P(None, "b", None)))
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

    arguments = ((16, 32), P(None, "b")), ((32, 8), P("b", None))
    for function, kind in (
        (product, "all-reduce"),
        (cut, "reduce-scatter"),
        (cut_along_the_other, "all-reduce"),
    ):
        (one,) = program(function, mesh, *arguments).collectives()
        assert (one.kind, one.axes(SIZES)) == (kind, ("b",))
        assert one.arrays == (Array("f32", (16, 8)),)
