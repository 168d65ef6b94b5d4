"""One call of a Pallas kernel."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ptft_jax.models.partition import current_device


def launch(
    kernel: Callable[..., None],
    *arrays: jax.Array,
    name: str,
    grid: tuple[int, ...],
    in_specs: Sequence[pl.BlockSpec],
    out_specs: Any,
    out_shape: Any,
    num_warps: int,
    num_stages: int = 1,
    aliases: dict[int, int] | None = None,
) -> Any:
    """Runs a kernel over a grid of blocks; arguments as those of `pallas_call`.

    On a CPU the kernel is interpreted, which is how its numbers are tested there.
    """
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=list(in_specs),
        out_specs=out_specs,
        out_shape=out_shape,
        compiler_params=plgpu.CompilerParams(num_warps=num_warps, num_stages=num_stages),
        interpret=current_device().platform == "cpu",
        input_output_aliases=aliases or {},
        name=name,
    )(*arrays)


def power_of_two(size: int) -> int:
    """Returns the smallest power of two of at least `size`: Triton's blocks have such sizes."""
    return 1 << (size - 1).bit_length()


def pieces(size: int) -> list[tuple[int, int]]:
    """Returns start and width of equal pieces of a power of two that cover `size` closely.

    768 is 3 x 256, and not three quarters of 1,024. The last piece may go past the end.
    """
    width = power_of_two(size)
    while 8 * (-size % width) > size:
        width //= 2
    return [(start, width) for start in range(0, size, width)]


def rows_per_block(rows: int, most: int) -> int:
    """Returns the largest power of two up to `most` that divides a number of rows."""
    return min(most, rows & -rows)
