"""What stands between products on a real GPU, and a step that gives the same numbers twice."""

import jax
import numpy as np
import pytest
from kernel_checks import Norm, activation_results, pretraining_batch, relative_errors

from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.training.mesh import MeshConfig, make_mesh, put_batch
from ptft_jax.training.step import init_state, make_train_step
from ptft_jax.training.updates.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer


@pytest.mark.parametrize(
    "case", [Norm(4, 128, 768), Norm(3, 96, 1024), Norm(3, 41, 312), Norm(4, 32, 256, rate=0.0)]
)
def test_residual_and_norm_are_those_of_xla(case):
    exact, xla = (case.results("xla", dtype) for dtype in ("float32", "bfloat16"))
    found = case.results("kernel", "bfloat16")
    errors, allowed = relative_errors(found, exact), relative_errors(xla, exact)
    worse = {name: e for name, e in errors.items() if e > max(5e-3, 1.3 * allowed[name])}
    assert not worse
    # What is dropped forward gets no gradient.
    assert np.array_equal(found["x"] == 0, xla["x"] == 0)


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize(("rows", "size"), [(64, 3072), (5, 80)])
def test_the_activation_is_that_of_xla(name, rows, size):
    exact, xla = (activation_results(name, rows, size, "xla", t) for t in ("float32", "bfloat16"))
    found = activation_results(name, rows, size, "kernel", "bfloat16")
    errors, allowed = relative_errors(found, exact), relative_errors(xla, exact)
    worse = {one: e for one, e in errors.items() if e > max(5e-3, 1.3 * allowed[one])}
    assert not worse


CONFIG = EncoderConfig(
    vocab_size=500,
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=512,
    max_position_embeddings=192,
    dtype="bfloat16",
)


def train(tokens: int, start=None, steps=range(6), **keys):
    """Returns losses and the state on the host after some steps, from `start` if it is given."""
    mesh = make_mesh(MeshConfig())
    model = build_model(CONFIG.replace(**keys))
    optimizer, schedule = make_optimizer(OptimizerConfig(), ScheduleConfig(), 100, model.axes())
    with jax.set_mesh(mesh):
        state = init_state(model, optimizer, seed=0)
        if start is not None:
            state = jax.tree.map(
                lambda like, saved: jax.device_put(saved, like.sharding), state, start
            )
        step = make_train_step(model, PretrainingObjective(), optimizer, schedule, seed=0)
        losses = []
        for number in steps:
            batch = pretraining_batch(16, tokens, packed=True, seed=number)
            state, metrics = step(state, put_batch(batch, mesh))
            losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state)


@pytest.mark.parametrize("tokens", [64, 192])
def test_a_run_that_is_resumed_gives_the_same_numbers(tokens):
    """Bit for bit, in every loss and parameter: a program compiled anew, from the saved state."""
    losses, state = train(tokens)
    before, half = train(tokens, steps=range(3))
    after, resumed = train(tokens, start=half, steps=range(3, 6))
    assert [*before, *after] == losses
    for one, two in zip(jax.tree.leaves(state), jax.tree.leaves(resumed), strict=True):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("tokens", [64, 192])
def test_kernels_learn_as_xla_does(tokens):
    """The same losses to bfloat16's rounding, with the same dropout."""
    exact, _ = train(tokens, dtype="float32", attention="xla", fused="xla")
    found, _ = train(tokens)
    np.testing.assert_allclose(found, exact, rtol=5e-3)
