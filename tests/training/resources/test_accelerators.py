"""What is known of accelerators: figures, and the names that JAX gives them."""

import pytest

from ptft_jax.training.resources.accelerators import ACCELERATORS, accelerator_of


def test_accelerators_are_plausible():
    """A figure in a wrong unit would be off by a factor of a thousand, or of two."""
    for name, device in ACCELERATORS.items():
        assert 10 <= device.float32_tflops <= device.bfloat16_tflops <= 3000, name
        assert 10 <= device.memory_gb <= 300, name
        assert device.network_gbs <= device.link_gbs < device.memory_gbs < 10_000, name


@pytest.mark.parametrize(
    ("device_kind", "name"),
    [
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40g"),
        ("NVIDIA A100 80GB PCIe", "a100-80g"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("TPU v5 lite", "tpu-v5e"),
        ("TPU v5", "tpu-v5p"),
        ("TPU v6 lite", "tpu-v6e"),
        # Another peak than its namesake's: a utilisation of the wrong one is worse than none.
        ("cpu", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("TPU v4 lite", None),
    ],
)
def test_devices_are_known_by_the_name_that_jax_gives_them(device_kind, name):
    """Without it a run on such a device has no utilisation."""
    assert accelerator_of(device_kind) == (name and ACCELERATORS[name])
