"""Full devices end a run with one error, which is not taken for a full disk."""

import jax
import jax.numpy as jnp
import pytest

from ptft_jax.errors import DeviceMemoryError
from ptft_jax.training.device_memory import fitting
from ptft_jax.training.storage import refusal


def test_what_does_not_fit_is_one_error():
    """More than a process can address: what JAX itself raises, with what to change behind it."""
    with pytest.raises(DeviceMemoryError) as caught, fitting(["raise accumulate", "wait"]):
        jax.block_until_ready(jax.jit(lambda: jnp.zeros(1 << 50))())
    assert "Out of memory" in str(caught.value)
    assert str(caught.value).endswith("Expected what fits: raise accumulate, or wait.")
    assert caught.value.__cause__ is not None
    assert refusal(caught.value.__cause__) is None


@pytest.mark.parametrize(
    "message", ["INTERNAL: ptxas failed", "RESOURCE_EXHAUSTED: /x/y.pb; No space left on device"]
)
def test_other_failures_keep_their_meaning(message):
    """A full disk would not be mended by smaller batches, nor would a broken compiler."""
    with pytest.raises(jax.errors.JaxRuntimeError), fitting(["raise accumulate"]):
        raise jax.errors.JaxRuntimeError(message)
