"""A trace holds the updates that were asked for, and its table what the devices did in them."""

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ptft_jax.errors import StorageError
from ptft_jax.training.mesh import MeshConfig, make_mesh
from ptft_jax.training.tracking.profile import Kernel, Tracer, kernels


@jax.jit
def step(state, batch):
    return jnp.sin(state) + batch, {}


def walk(folder, start, stop, done, until):
    """Makes updates on eight devices; returns what was shown."""
    shown = []
    state = jax.device_put(jnp.ones((8, 64)), NamedSharding(make_mesh(MeshConfig()), P("data")))
    with Tracer(folder, start, stop, done, lambda *args: shown.append(args)) as tracer:
        traced = tracer.around(step)
        for _ in range(done, until):
            state, _ = traced(state, jnp.float32(1))
    return shown


@pytest.mark.parametrize(("done", "updates"), [(0, 3), (3, 2)])
def test_each_update_is_counted_on_each_device(tmp_path, done, updates):
    """Once per update and device: not those around the range, nor the sum over devices.

    A run that resumes within the range has what is left of it.
    """
    ((found, file, rows),) = walk(tmp_path, 2, 5, done, 7)
    assert found == updates
    assert file.is_file()
    assert file.is_relative_to(tmp_path)
    # The host's own arrays may be copied meanwhile.
    (fusion,) = [row for row in rows if "fusion" in row.name]
    assert fusion.count == 1.0
    assert fusion.seconds > 0


def test_a_run_that_is_past_the_range_traces_nothing(tmp_path):
    """A job that is queued again with the same command line must go on."""
    assert walk(tmp_path / "profile", 2, 5, 5, 7) == []
    assert not (tmp_path / "profile").exists()


def test_a_trace_that_is_cut_off_is_ended(tmp_path):
    """Otherwise a process could never trace again."""
    assert walk(tmp_path, 2, 5, 0, 4) == []
    assert len(walk(tmp_path, 2, 5, 0, 5)) == 1


def test_a_trace_that_cannot_be_written_is_one_error(tmp_path):
    """It was a traceback of the profiler."""
    (tmp_path / "profile").write_text("in the way")
    with pytest.raises(StorageError, match=r"profile: .*leave --profile out"):
        walk(tmp_path / "profile", 0, 1, 0, 1)


def trace_file(folder, *planes):
    """Writes a trace of planes (name, {line: [(event, start in ns, ns), …]})."""
    text = ""
    for plane, lines in planes:
        numbers = {event: n for n, event in enumerate({e[0] for es in lines.values() for e in es})}
        text += f'planes {{ name: "{plane}"\n'
        for event, number in numbers.items():
            entry = f'value {{ id: {number} name: "{event}" }}'
            text += f"event_metadata {{ key: {number} {entry} }}\n"
        for line, events in lines.items():
            text += f'lines {{ name: "{line}"\n'
            for event, start, duration in events:
                times = f"offset_ps: {start * 1000} duration_ps: {duration * 1000}"
                text += f"events {{ metadata_id: {numbers[event]} {times} }}\n"
            text += "}\n"
        text += "}\n"
    file = folder / "host.xplane.pb"
    file.write_bytes(ProfileData.text_proto_to_serialized_xspace(text))
    return file


def test_kernels_of_a_gpu_are_those_of_its_streams(tmp_path):
    """What the host did meanwhile, and lines that sum kernels up, are no kernels."""
    stream = [("gemm", 0, 3000), ("gemm", 3000, 1000), ("add", 4000, 2000)]
    gpu = {"Stream #7(Compute)": stream, "XLA Modules": [("jit_step", 0, 6000)]}
    planes = [(f"/device:GPU:{n} (x)", gpu) for n in (0, 1)]
    file = trace_file(tmp_path, *planes, ("/host:CPU", {"python": [("wait", 0, 9000)]}))
    gemm, add = kernels(file, updates=2, devices=2)
    assert gemm == Kernel("gemm", 1.0, gemm.seconds)
    assert add == Kernel("add", 0.5, add.seconds)
    assert (gemm.seconds, add.seconds) == pytest.approx((2e-6, 1e-6))


def test_a_loop_counts_without_what_it_runs(tmp_path):
    """An operation of a TPU that runs others lies around them: both whole would count twice."""
    events = [("while", 0, 9000), ("dot", 1000, 3000), ("dot", 4000, 2000), ("after", 9000, 1000)]
    file = trace_file(tmp_path, ("/device:TPU:0", {"XLA Ops": events, "Steps": events}))
    found = kernels(file, updates=1, devices=1)
    assert [(one.name, one.count) for one in found] == [("dot", 2), ("while", 1), ("after", 1)]
    assert [one.seconds for one in found] == pytest.approx([5e-6, 4e-6, 1e-6])
