"""The optimizers against torch and optax, the schedules against HF, and all of it on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ptft_jax.errors import ConfigError
from ptft_jax.training.mesh import MeshConfig, make_mesh
from ptft_jax.training.updates.optimizer import (
    OptimizerConfig,
    ScheduleConfig,
    decay_mask,
    make_optimizer,
    make_schedule,
)

AXES = {
    "layers": {
        "kernel": ("layers", "embed", "mlp"),
        "bias": ("layers", "mlp"),
        "layer_norm": {"scale": ("layers", "embed"), "bias": ("layers", "embed")},
    },
    "embeddings": {"word_embeddings": ("vocab", "embed")},
    "head": {"kernel": ("embed", "mlp"), "bias": ("mlp",)},
}
SHAPES = {
    "layers": {
        "kernel": (3, 8, 16),
        "bias": (3, 16),
        "layer_norm": {"scale": (3, 8), "bias": (3, 8)},
    },
    "embeddings": {"word_embeddings": (16, 8)},
    "head": {"kernel": (8, 4), "bias": (4,)},
}


def is_tuple(node):
    return isinstance(node, tuple)


def random_tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: np.float32(scale * rng.standard_normal(shape)), SHAPES, is_leaf=is_tuple
    )


def run(optimizer, params, gradients):
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup_steps", [0, 1, 7])
def test_schedules_equal_those_of_transformers(name, warmup_steps):
    """A run that follows an HF recipe sees the same learning rate at every step and the end."""
    torch = pytest.importorskip("torch")
    from transformers import optimization

    peak, steps = 3e-4, 20
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    make = getattr(optimization, f"get_{name}_schedule_with_warmup")
    total = {} if name == "constant" else {"num_training_steps": steps}
    theirs = make(optimizer, num_warmup_steps=warmup_steps, **total)
    ours = make_schedule(ScheduleConfig(name, warmup_steps=warmup_steps), peak, steps)
    for step in range(steps + 1):
        np.testing.assert_allclose(ours(step), theirs.get_last_lr()[0], rtol=1e-5, atol=1e-11)
        optimizer.step()
        theirs.step()


def test_one_cycle_equals_that_of_torch():
    """Smith's cycle as `OneCycleLR` has it, whose first and last update are 0 and `steps` here."""
    torch = pytest.importorskip("torch")
    peak, steps, warmup_steps = 3e-4, 20, 5
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        peak,
        total_steps=steps + 1,
        pct_start=(warmup_steps + 1) / (steps + 1),
        cycle_momentum=False,
    )
    # torch ends at a 10,000th of where it starts.
    config = ScheduleConfig("one_cycle", warmup_steps, end_learning_rate_ratio=1 / 25e4)
    ours = make_schedule(config, peak, steps)
    for step in range(steps + 1):
        np.testing.assert_allclose(ours(step), theirs.get_last_lr()[0], rtol=1e-5, err_msg=step)
        optimizer.step()
        theirs.step() if step < steps else None


def test_schedule_ends_and_ratio():
    """The warm-up share counts updates rounded up, and the end ratio is reached at `steps`."""
    config = ScheduleConfig("linear", warmup_ratio=0.11, end_learning_rate_ratio=0.25)
    rate = make_schedule(config, 2.0, 10)
    values = [float(rate(step)) for step in (0, 1, 2, 10, 12)]
    assert values == [0.0, 1.0, 2.0, 0.5, 0.5]
    assert rate(jnp.int32(3)).dtype == jnp.float32


def test_decay_mask_excludes_biases_and_layer_norm():
    """The mask reads parameter names alone, so axes and parameters give the same one."""
    mask = decay_mask(AXES)
    assert mask == decay_mask(random_tree(0))
    assert mask == {
        "layers": {
            "kernel": True,
            "bias": False,
            "layer_norm": {"scale": False, "bias": False},
        },
        "embeddings": {"word_embeddings": True},
        "head": {"kernel": True, "bias": False},
    }


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_adamw_equals_torch(max_grad_norm):
    """Twenty updates with the decay mask and clipping give the weights that torch gives."""
    torch = pytest.importorskip("torch")
    steps, rate = 20, 1e-2
    params = random_tree(0)
    # Small and large gradients in turn, so that clipping is both idle and active.
    gradients = [random_tree(1 + step, 0.01 if step % 3 else 1.0) for step in range(steps)]
    config = OptimizerConfig("adamw", rate, weight_decay=0.1, max_grad_norm=max_grad_norm)
    optimizer, schedule = make_optimizer(config, ScheduleConfig(warmup_steps=4), steps, AXES)
    ours = run(optimizer, params, gradients)

    leaves = [torch.nn.Parameter(torch.tensor(leaf)) for leaf in jax.tree.leaves(params)]
    decayed = jax.tree.leaves(decay_mask(params))
    groups = [
        {"params": [p for p, yes in zip(leaves, decayed, strict=True) if yes is want], **extra}
        for want, extra in ((True, {"weight_decay": 0.1}), (False, {"weight_decay": 0.0}))
    ]
    theirs = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), eps=1e-6)
    for step, gradient in enumerate(gradients):
        for group in theirs.param_groups:
            group["lr"] = float(schedule(step))
        for leaf, value in zip(leaves, jax.tree.leaves(gradient), strict=True):
            leaf.grad = torch.tensor(value)
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_(leaves, max_grad_norm)
        theirs.step()
    for our_leaf, leaf in zip(jax.tree.leaves(ours), leaves, strict=True):
        np.testing.assert_allclose(our_leaf, leaf.detach().numpy(), rtol=2e-5, atol=2e-6)


def test_lamb_equals_optax_where_all_is_adapted():
    """On arrays that are one layer each and are decayed, this is optax.lamb."""
    axes = {"a": {"kernel": ("embed", "mlp")}, "b": {"kernel": ("embed",)}}
    rng = np.random.default_rng(0)
    trees = [
        {"a": {"kernel": rng.standard_normal((4, 6))}, "b": {"kernel": rng.standard_normal(5)}}
        for _ in range(6)
    ]
    params, *gradients = jax.tree.map(np.float32, trees)
    config = OptimizerConfig("lamb", 0.02, weight_decay=0.05, max_grad_norm=0.0)
    ours, _ = make_optimizer(config, ScheduleConfig("constant"), 5, axes)
    theirs = optax.lamb(0.02, eps=1e-6, weight_decay=0.05)
    for a, b in zip(
        jax.tree.leaves(run(ours, params, gradients)),
        jax.tree.leaves(run(theirs, params, gradients)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_lamb_adapts_each_stacked_layer_by_itself():
    """Stacking layers is a matter of storage: the update equals that of separate layers."""
    params = random_tree(0)
    # Layers of very different norms: one common ratio would be far off.
    params["layers"]["kernel"] *= np.float32([1.0, 10.0, 100.0])[:, None, None]
    gradients = [random_tree(1 + step) for step in range(5)]

    def unstack(tree):
        layers = {str(i): jax.tree.map(lambda leaf: leaf[i], tree["layers"]) for i in range(3)}  # noqa: B023
        return {**tree, "layers": layers}

    layer_axes = jax.tree.map(lambda names: names[1:], AXES["layers"], is_leaf=is_tuple)
    separate_axes = {**AXES, "layers": {str(i): layer_axes for i in range(3)}}
    config, schedule = OptimizerConfig("lamb", 0.02), ScheduleConfig()
    stacked, _ = make_optimizer(config, schedule, 10, AXES)
    separate, _ = make_optimizer(config, schedule, 10, separate_axes)
    ours = unstack(run(stacked, params, gradients))
    reference = run(separate, unstack(params), [unstack(g) for g in gradients])
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_lamb_leaves_undecayed_parameters_to_adam():
    """Biases and LayerNorm get plain Adam updates, as in the code of the LAMB authors."""
    params, gradients = random_tree(0), [random_tree(1)]
    results = []
    for name in ("lamb", "adamw"):
        optimizer, _ = make_optimizer(OptimizerConfig(name, 0.02), ScheduleConfig(), 10, AXES)
        results.append(run(optimizer, params, gradients))
    lamb, adamw = results
    np.testing.assert_array_equal(lamb["head"]["bias"], adamw["head"]["bias"])
    np.testing.assert_array_equal(
        lamb["layers"]["layer_norm"]["scale"], adamw["layers"]["layer_norm"]["scale"]
    )
    assert not np.allclose(lamb["head"]["kernel"], adamw["head"]["kernel"])


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_updates_are_the_same_on_a_mesh(name):
    """Clipping and trust ratios take their norms over whole arrays, not over a device's part."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    specs = {"embed": "fsdp", "mlp": "tensor", "vocab": "tensor", "layers": None}
    shardings = jax.tree.map(
        lambda names: NamedSharding(mesh, P(*(specs[n] for n in names))),
        AXES,
        is_leaf=is_tuple,
    )
    params, gradients = random_tree(0), [random_tree(1), random_tree(2)]
    optimizer, _ = make_optimizer(OptimizerConfig(name, 0.02), ScheduleConfig(), 10, AXES)
    alone = run(optimizer, params, gradients)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(params, shardings)
        assert sharded["layers"]["kernel"].sharding.spec == P(None, "fsdp", "tensor")
        on_mesh = run(optimizer, sharded, [jax.device_put(g, shardings) for g in gradients])
        assert on_mesh["layers"]["kernel"].sharding == sharded["layers"]["kernel"].sharding
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(on_mesh), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerConfig(name="adanw"), "nearest: adamw"),
        (lambda: OptimizerConfig(learning_rate=0.0), r"learning_rate=0\.0 .*above 0"),
        (lambda: OptimizerConfig(learning_rate=float("nan")), "learning_rate=nan"),
        (lambda: OptimizerConfig(b2=1.0), "b2=1.0 .*below 1"),
        (lambda: OptimizerConfig(weight_decay=-0.1), "weight_decay=-0.1"),
        (lambda: OptimizerConfig(max_grad_norm=-1), "max_grad_norm=-1"),
        (lambda: ScheduleConfig(name="cosin"), "nearest: cosine"),
        (lambda: ScheduleConfig(warmup_steps=-1), "warmup_steps=-1"),
        (lambda: ScheduleConfig(warmup_steps=0.1), "warmup_ratio"),
        (lambda: ScheduleConfig(warmup_ratio=1.5), "warmup_ratio=1.5"),
        (lambda: ScheduleConfig(warmup_steps=5, warmup_ratio=0.1), "both set"),
        (lambda: make_schedule(ScheduleConfig(warmup_steps=11), 1.0, 10), "longer than the run"),
        (lambda: make_schedule(ScheduleConfig(), 1.0, 0), "steps=0"),
    ],
)
def test_bad_settings_are_named(make, message):
    """A setting that cannot work is refused with its name, value and range."""
    with pytest.raises(ConfigError, match=message):
        make()
