"""What is known of accelerators: figures, the names that JAX gives them, and how full they are."""

import pytest

from ptft_jax.training.accelerators import ACCELERATORS, accelerator_of, peak_memory_gib


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
        ("NVIDIA A100-SXM4-80GB", "a100-80g"),
        ("NVIDIA A100 80GB PCIe", "a100-80g"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("TPU v4", "tpu-v4"),
        ("TPU v5 lite", "tpu-v5e"),
        ("TPU v5p", "tpu-v5p"),
        ("TPU v5", "tpu-v5p"),
        ("TPU v6 lite", "tpu-v6e"),
    ],
)
def test_devices_are_known_by_the_name_that_jax_gives_them(device_kind, name):
    """Without it a run on such a device has no utilisation."""
    assert accelerator_of(device_kind) == ACCELERATORS[name]


@pytest.mark.parametrize(
    "device_kind", ["cpu", "NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "TPU v4 lite"]
)
def test_a_device_with_another_peak_is_not_taken_for_its_namesake(device_kind):
    """A utilisation of the wrong peak is worse than none."""
    assert accelerator_of(device_kind) is None


def test_every_accelerator_has_its_dtypes():
    """float32 products are TF32 on an H200, half as fast."""
    assert ACCELERATORS["h200"].peak_tflops("bfloat16") == 989
    assert ACCELERATORS["h200"].peak_tflops("float32") == 494


class Device:
    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats


@pytest.mark.parametrize(
    ("stats", "gib"),
    [
        ([{"peak_bytes_in_use": 3 << 30, "bytes_in_use": 9 << 30}, {"peak_bytes_in_use": 1}], 3),
        ([None, {}], None),
    ],
)
def test_the_fullest_device_counts(stats, gib):
    """It is the one that runs out; a CPU counts nothing."""
    assert peak_memory_gib(map(Device, stats)) == gib
