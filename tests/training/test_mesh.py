"""The mesh for given sizes and devices, and the checks that divide work by it."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from ptft_jax.errors import ConfigError
from ptft_jax.training import mesh as mesh_module
from ptft_jax.training.mesh import MeshConfig, check_batch, check_model, make_mesh, process_rows


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 4}, (2, 4, 1)),
        ({"data": 2, "fsdp": -1, "tensor": 2}, (2, 2, 2)),
        ({"data": 1, "fsdp": 1, "tensor": 8}, (1, 1, 8)),
    ],
)
def test_sizes(sizes, expected):
    """-1 takes the devices that the other axes leave, and all axes are Explicit."""
    mesh = make_mesh(MeshConfig(**sizes))
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.devices.shape == expected
    assert mesh.axis_types == (AxisType.Explicit,) * 3
    assert sorted(d.id for d in mesh.devices.flat) == sorted(d.id for d in jax.devices())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 2}, "needs 2 devices, but there are 8; for example mesh.data=8"),
        ({"fsdp": 3}, "needs a multiple of 3 devices, but there are 8"),
        ({"data": 3, "fsdp": 2, "tensor": 4}, "example mesh.data=1 mesh.fsdp=2 mesh.tensor=4"),
        ({"fsdp": 16}, "for example mesh.data=1 mesh.fsdp=8 mesh.tensor=1"),
        ({"fsdp": -1}, "only one axis can be -1"),
        ({"tensor": 0}, "mesh.tensor=0"),
        ({"across_hosts": "host"}, "across_hosts='host': expected one of data, fsdp"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    """The error names the sizes, the number of devices and sizes that would fit."""
    with pytest.raises(ConfigError, match=message):
        make_mesh(MeshConfig(**sizes))


def fake_devices(processes, local):
    """Devices of several processes, listed out of order and with the ids that JAX gives on CPU."""
    return [
        SimpleNamespace(id=2048 * process + i, process_index=process, platform="cpu")
        for process in reversed(range(processes))
        for i in range(local)
    ]


@pytest.fixture
def plain_mesh(monkeypatch):
    """Let fake devices stand in a mesh: only their placement is looked at."""

    def create_device_mesh(shape, devices, **_):
        return np.array(devices, dtype=object).reshape(shape)

    def plain(devices, axes, axis_types):
        return SimpleNamespace(devices=devices, shape=dict(zip(axes, devices.shape, strict=True)))

    monkeypatch.setattr(mesh_module.mesh_utils, "create_device_mesh", create_device_mesh)
    monkeypatch.setattr(mesh_module, "Mesh", plain)


@pytest.mark.usefixtures("plain_mesh")
def test_processes_follow_one_another_along_data(monkeypatch):
    """fsdp and tensor stay inside a process, whose rows are contiguous and in process order."""
    mesh = make_mesh(MeshConfig(data=-1, fsdp=2, tensor=1), fake_devices(processes=3, local=4))
    owners = np.vectorize(lambda device: device.process_index)(mesh.devices)
    assert owners.shape == (6, 2, 1)
    assert (owners == np.repeat([0, 1, 2], 2)[:, None, None]).all()
    rows = []
    for process in range(3):
        monkeypatch.setattr(mesh_module.jax, "process_index", lambda process=process: process)
        rows.append(process_rows(mesh, 24))
    np.testing.assert_array_equal(rows, np.arange(24).reshape(3, 8))


@pytest.mark.usefixtures("plain_mesh")
@pytest.mark.parametrize(
    ("sizes", "across", "rows"),
    [
        # fsdp of 4 over two processes of 2 devices: pairs of processes share a place along data.
        ({"fsdp": 4}, "fsdp", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]),
        # tensor of 4 over two processes: both hold the same rows.
        ({"tensor": 4}, "tensor", [[*range(8)], [*range(8)], [*range(8, 16)], [*range(8, 16)]]),
        # What fits into a process stays there, though it may run across.
        ({"fsdp": 2}, "tensor", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]),
    ],
)
def test_an_inner_axis_runs_across_processes_where_it_may(monkeypatch, sizes, across, rows):
    """fsdp and tensor leave a process only as far as they are larger than it, when asked to."""
    mesh = make_mesh(MeshConfig(**sizes, across_hosts=across), fake_devices(4, local=2))
    for process in range(4):
        monkeypatch.setattr(mesh_module.jax, "process_index", lambda process=process: process)
        assert process_rows(mesh, 16).tolist() == rows[process]
    owners = np.vectorize(lambda device: device.process_index)(mesh.devices)
    for fixed in owners.reshape(owners.shape[0], -1):
        assert len(set(fixed)) == max(1, np.prod([*sizes.values()]) // 2)


@pytest.mark.usefixtures("plain_mesh")
def test_hosts_of_one_tpu_slice_are_one_block():
    """All hosts of a slice share its interconnect, so fsdp may span them without being let out."""
    devices = fake_devices(processes=4, local=2)
    for device in devices:
        device.platform, device.slice_index = "tpu", device.process_index // 2
    mesh = make_mesh(MeshConfig(fsdp=4), devices)
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert (slices == np.array([0, 1])[:, None, None]).all()


@pytest.mark.usefixtures("plain_mesh")
def test_tensor_axis_wider_than_a_process():
    """A model split across processes is refused with sizes that stay inside one."""
    with pytest.raises(ConfigError, match=r"the 2 devices of each process.*fsdp=1 mesh.tensor=2"):
        make_mesh(MeshConfig(tensor=4), fake_devices(processes=4, local=2))


def test_check_batch():
    """The batch splits evenly over micro-batches and devices, tensor aside."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    check_batch(16, 4, mesh)
    with pytest.raises(ConfigError, match=r"batch_size=20 .* = 16; nearest: 16 or 32"):
        check_batch(20, 4, mesh)
    with pytest.raises(ConfigError, match=r"nearest: 16$"):
        check_batch(3, 4, mesh)
    with pytest.raises(ConfigError, match="accumulate=0 must be at least 1"):
        check_batch(16, 0, mesh)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_attention_heads", 6, "num_attention_heads=6 .*mesh.tensor=4; set mesh.tensor=2"),
        ("intermediate_size", 510, "intermediate_size=510 .*set mesh.tensor=2"),
        ("padded_vocab_size", 30522, "model.vocab_size_multiple"),
        ("hidden_size", 63, "hidden_size=63 .*mesh.fsdp=2; set mesh.fsdp=1"),
    ],
)
def test_check_model(key, value, message):
    """A dimension that its mesh axis does not divide is named before JAX meets it."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=4))
    sizes = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "padded_vocab_size": 1024,
    }
    check_model(SimpleNamespace(**sizes), mesh)
    with pytest.raises(ConfigError, match=message):
        check_model(SimpleNamespace(**{**sizes, key: value}), mesh)
