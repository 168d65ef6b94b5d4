"""Mixout computes with the starting values of some weights, the same ones wherever it runs."""

import jax
import jax.numpy as jnp
import numpy as np
from hf_reference import our_side, random_batch, reference
from task_batches import TASKS, classification

from ptft_jax.models.build import build_model
from ptft_jax.models.dropout import step_key
from ptft_jax.objectives.totals import loss_of
from ptft_jax.training.mesh import MeshConfig, make_mesh, put_batch, put_params
from ptft_jax.training.step import init_state, make_eval_step, make_train_step
from ptft_jax.training.updates.mixout import mixed
from ptft_jax.training.updates.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer

RATE, SEED = 0.3, 3
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


WEIGHTS = {"layers": {"kernel": normal(4, 16, 4, 8)}, "pooler": normal(16, 16), "head": normal(3)}
ORIGIN = {"layers": {"kernel": normal(3, 16, 4, 8)}, "pooler": normal(16, 16)}
AXES = {
    "layers": {"kernel": ("layers", "embed", "heads", "head_size")},
    "pooler": ("embed", "embed_out"),
    "head": ("labels",),
}


def mixed_on(mesh, number):
    """Returns the weights that step `number` computes with, and the gradient of their sum."""
    with jax.set_mesh(mesh):
        weights, origin = (put_params(tree, AXES, mesh) for tree in (WEIGHTS, ORIGIN))

        @jax.jit
        def compute(weights, origin, number):
            key = jax.random.key_data(step_key(SEED, number))
            found, back = jax.vjp(lambda tree: mixed(tree, origin, RATE, key), weights)
            return found, back(jax.tree.map(jnp.ones_like, found))[0]

        return jax.tree.map(np.asarray, compute(weights, origin, jnp.int32(number)))


def test_the_formula_of_the_paper_on_any_mesh():
    """Equation 5 with the mask that is found; a new mask at each step and in each layer."""
    one = make_mesh(MeshConfig(), jax.devices()[:1])
    found, gradients = mixed_on(one, 5)
    many = mixed_on(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), 5)
    jax.tree.map(np.testing.assert_array_equal, (found, gradients), many)
    pairs = [(tree["layers"]["kernel"][:3], tree["pooler"]) for tree in (found, ORIGIN, WEIGHTS)]
    masks = []
    for after, origin, weights in zip(*pairs, strict=True):
        mask = np.isclose(after, origin, rtol=0, atol=1e-7).astype(np.float32)
        expected = (mask * origin + (1 - mask) * weights - RATE * origin) / (1 - RATE)
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)
        assert abs(mask.mean() - RATE) < 4 * np.sqrt(RATE * (1 - RATE) / mask.size)
        masks.append(mask)
    first, second, _ = masks[0]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.2
    np.testing.assert_allclose(
        gradients["layers"]["kernel"][:3], (1 - masks[0]) / (1 - RATE), rtol=1e-6
    )
    for name, part in (("head", slice(None)), ("layers", slice(3, None))):
        before, after = (tree[name] for tree in (WEIGHTS, found))
        before, after = (x["kernel"] if name == "layers" else x for x in (before, after))
        np.testing.assert_array_equal(after[part], before[part])
    again, _ = mixed_on(one, 6)
    assert (again["pooler"] != found["pooler"]).mean() > 0.2


def test_a_step_computes_with_mixed_weights():
    """Its loss is that of these weights, in two parts on four devices as well."""
    heads, changes = TASKS[classification]
    model = reference(heads, num_hidden_layers=1, **changes)
    objective, batch, _ = classification(RNG, random_batch(3, rows=6))
    batch = {name: np.concatenate([rows, rows[:2]]) for name, rows in batch.items()}
    config, params = our_side(model, heads)
    ours = build_model(config)
    kernels = params["encoder"]["layers"]["feed_forward"]
    origin = {"encoder": {"layers": {"feed_forward": jax.tree.map(lambda one: one / 2, kernels)}}}
    optimizer, schedule = make_optimizer(OptimizerConfig(), ScheduleConfig(), 10, ours.axes())
    weights = mixed(params, origin, RATE, jax.random.key_data(step_key(SEED, jnp.int32(0))))
    expected = make_eval_step(ours, objective)(weights, jax.tree.map(jnp.asarray, batch))

    mesh = make_mesh(MeshConfig(data=2, fsdp=2), jax.devices()[:4])
    with jax.set_mesh(mesh):
        state = init_state(ours, optimizer, seed=0, params=params)
        settings = {"seed": SEED, "accumulate": 2, "mixout": RATE}
        step = make_train_step(ours, objective, optimizer, schedule, **settings)
        placed = put_params(origin, ours.axes(), mesh)
        _, metrics = step(state, put_batch(batch, mesh), origin=placed)
    np.testing.assert_allclose(metrics["loss"], loss_of(expected, expected.weight), rtol=1e-5)
