"""Everything here needs a GPU: `JAX_PLATFORMS=cuda python -m pytest tests/gpu`."""

from pathlib import Path

import jax
import pytest
from kernel_checks import TRITON_WARNING

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips these tests where there is no GPU, and lets kernels be lowered in them."""
    here = [item for item in items if HERE in item.path.parents]
    # Asked only if one is to run: the backend takes a second to start.
    absent = bool(here) and jax.default_backend() != "gpu"
    for item in here:
        item.add_marker(pytest.mark.filterwarnings(TRITON_WARNING))
        if absent:
            item.add_marker(pytest.mark.skip(reason="needs a GPU and JAX_PLATFORMS=cuda"))
