"""What devices answer that have no memory left, as one error that says what to change."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax

from ptft_jax.errors import DeviceMemoryError
from ptft_jax.training.storage import refusal


@contextmanager
def fitting(remedies: Sequence[str]) -> Iterator[None]:
    """Turns what full devices answer into DeviceMemoryError.

    Args:
        remedies: what needs less memory, each in words with its present value.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        # A full disk is RESOURCE_EXHAUSTED as well; it says so.
        if "RESOURCE_EXHAUSTED" not in str(error) or refusal(error):
            raise
        raise DeviceMemoryError(
            f"the devices have no memory left: {str(error).splitlines()[0]}\n"
            f"Expected what fits: {', or '.join(remedies)}."
        ) from error
