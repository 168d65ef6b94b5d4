"""Attention on a real GPU in bfloat16: as exact as XLA's, the same masks, no leak."""

import jax
import numpy as np
import pytest
from kernel_checks import (
    Attention,
    check_no_leak,
    dropped_probabilities,
    relative_errors,
)

from ptft_jax.models.attention import Request, choose
from ptft_jax.models.partition import current_device

# What rounding to bfloat16 does; XLA's own are 3e-3 and 8e-3.
BOUNDS = {"context": 5e-3, "qkv": 1.2e-2, "bias": 1.2e-2}
CASES = [
    ("kernel", Attention(128, 64, packed=True, rate=0.1, rows=3, heads=3)),
    ("kernel", Attention(96, 64, rate=0.1, rows=3, heads=3)),
    ("kernel", Attention(27, 16, packed=True, rows=3, heads=3)),
    ("kernel", Attention(512, 64, packed=True, rate=0.1, rows=3, heads=3)),
    ("kernel", Attention(512, 64, rows=3, heads=3)),
    ("kernel", Attention(160, 128, packed=True, rate=0.1, rows=3, heads=3)),
    ("kernel", Attention(201, 32, rate=0.1, rows=3, heads=3)),
    ("cudnn", Attention(128, 64, rows=3, heads=3)),
    ("cudnn", Attention(512, 64, rows=3, heads=3)),
]
BACKENDS = [("xla", 128), ("kernel", 128), ("kernel", 320), ("cudnn", 128)]


@pytest.mark.parametrize(("backend", "case"), CASES, ids=str)
def test_a_backend_computes_what_xla_does_in_float32(backend, case):
    with jax.default_matmul_precision("highest"):
        exact = case.results("xla", "float32")
    errors = relative_errors(case.results(backend, "bfloat16"), exact)
    assert all(errors[name] < bound for name, bound in BOUNDS.items()), errors


@pytest.mark.parametrize("tokens", [64, 128, 100, 512])
def test_the_kernel_drops_the_entries_that_xla_drops(tokens):
    found, wanted = (dropped_probabilities(name, tokens, "bfloat16") for name in ("kernel", "xla"))
    assert np.array_equal(found, wanted)
    assert abs(found.mean() - 0.1) < 0.01


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("backend", "tokens"), BACKENDS)
def test_no_example_reaches_another(backend, tokens, packed):
    if packed and backend == "cudnn":
        pytest.skip("cuDNN is refused for packed rows: it keeps their examples not apart")
    check_no_leak(backend, tokens, "bfloat16", packed=packed)


def test_auto_takes_the_kernel_here():
    """On the GPU that these tests run on, by what JAX says of it."""
    device = current_device()
    assert device.platform == "gpu"
    request = Request("bfloat16", 64, 128, packed=True, dropout=0.1)
    assert choose("auto", request, device)[0] == "kernel"
