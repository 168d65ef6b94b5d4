"""A training state of a few hundred numbers, laid out over a mesh, and its checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ptft_jax.training.checkpoints.store import Checkpoints
from ptft_jax.training.step import TrainState

SPECS = {"dense": {"kernel": P("fsdp", "tensor"), "bias": P(None)}}
CONFIG = {"model": {"hidden_size": 8}, "seed": 1}
TOKENIZER = {"version": "1.0", "model": {"vocab": {"[PAD]": 0, "Übung": 1}}}
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))


def make_state(mesh, seed=0, width=16):
    rng = np.random.default_rng(seed)
    params = {
        "dense": {
            "kernel": np.float32(rng.standard_normal((8, width))),
            "bias": np.float32(rng.standard_normal(width)),
        }
    }
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), SPECS)
    params = jax.device_put(params, shardings)
    with jax.set_mesh(mesh):
        opt_state = OPTIMIZER.init(params)
    opt_state = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(seed, leaf.dtype) if leaf.ndim else leaf, opt_state
    )
    replicated = NamedSharding(mesh, P())
    opt_state = jax.tree.map(
        lambda leaf: leaf if leaf.ndim else jax.device_put(leaf, replicated), opt_state
    )
    scalars = [jax.device_put(np.int32(seed + n), replicated) for n in range(3)]
    return TrainState(scalars[0], params, opt_state, *scalars[1:])


def abstract(state):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def save(checkpoints, step, state, metrics=None):
    checkpoints.save(step, state, step * 32, metrics or {})


def checkpoints_in(folder, **options):
    """Returns the checkpoints of a run with a small config and tokenizer."""
    return Checkpoints(folder, config=CONFIG, tokenizer_json=TOKENIZER, **options)
