"""Losses of episodes are those of a prototypical network in PyTorch, on any layout."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hf_reference import gradients_of, our_side, reference, relative_gradients, torch_inputs

from ptft_jax.convert.bert import to_hf
from ptft_jax.data.tasks.episodes.drawing import EpisodeShape
from ptft_jax.models.build import build_model
from ptft_jax.models.dropout import row_keys
from ptft_jax.objectives.prototypes import Prototypes, prototype_logits
from ptft_jax.objectives.totals import loss_of
from ptft_jax.training.mesh import MeshConfig, make_mesh, put_batch, put_params
from ptft_jax.training.step import init_state, make_train_step

SHAPE = EpisodeShape(n_way=3, k_shot=2, queries=2)
WITH_NONE = EpisodeShape(n_way=3, k_shot=2, queries=2, na_rate=2.0)
EPISODES = 2
HEADS = ("pooler",)  # of which vectors make no use


def texts(shape, pooling, seed=0):
    """Returns two episodes of random tokens, a row for each text."""
    rng, count = np.random.default_rng(seed), EPISODES * shape.size
    lengths = rng.integers(4, 11, count)
    mask = (np.arange(10) < lengths[:, None]).astype(np.int32)
    places = np.zeros((count, 1), np.int32)
    if pooling == "entities":
        places = rng.integers(0, 4, (count, 1, 2)).astype(np.int32)
    queries = np.tile(np.arange(shape.size) >= shape.supports, EPISODES)
    return {
        "input_ids": (rng.integers(5, 99, mask.shape) * mask).astype(np.int32),
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(mask),
        "pooled_positions": places,
        "weights": np.ones((count, 1), np.float32),
        "query_weights": queries.astype(np.float32)[:, None],
        "labels": np.tile(shape.labels, EPISODES)[:, None],
        "episodes": np.repeat(np.arange(EPISODES, dtype=np.int32), shape.size)[:, None],
    }


def their_loss(model, batch, shape, pooling):
    """Returns the mean cross-entropy over squared distances, episode by episode."""
    hidden = model(**torch_inputs(batch)).last_hidden_state
    if pooling == "entities":
        places = torch.tensor(batch["pooled_positions"][:, 0]).long()
        vectors = torch.cat([hidden[torch.arange(len(hidden)), places[:, i]] for i in (0, 1)], 1)
    elif pooling == "cls":
        vectors = hidden[:, 0]
    else:
        mask = torch.tensor(batch["attention_mask"])[:, :, None]
        vectors = (hidden * mask).sum(1) / mask.sum(1)
    losses, logits = [], []
    for episode in vectors.reshape(EPISODES, shape.size, -1):
        support = episode[: shape.supports].reshape(shape.n_way, shape.k_shot, -1)
        means = support.mean(1)
        if shape.of_none:
            means = torch.cat([means, means.mean(0, keepdim=True)])
        queries = episode[shape.supports :]
        logits.append(-((queries[:, None] - means) ** 2).sum(-1))
        labels = torch.tensor(shape.labels[shape.supports :]).long()
        losses.append(torch.nn.functional.cross_entropy(logits[-1], labels, reduction="sum"))
    return sum(losses) / (EPISODES * len(labels)), vectors, torch.stack(logits)


@pytest.mark.parametrize(
    ("pooling", "shape"), [("mean", SHAPE), ("cls", WITH_NONE), ("entities", WITH_NONE)]
)
def test_loss_and_gradients_are_those_of_pytorch(pooling, shape):
    """Over 24 or more random vectors; logits on the host, too."""
    batch = texts(shape, pooling)
    model = reference(HEADS)
    model.pooler.requires_grad_(False)
    expected, vectors, logits = their_loss(model, batch, shape, pooling)
    expected.backward()
    config, params = our_side(model, HEADS)
    objective = Prototypes(pooling, shape.n_way, EPISODES, shape.of_none > 0)
    ours, batch = build_model(config), {name: jnp.asarray(one) for name, one in batch.items()}

    def loss(params):
        keys = row_keys(0, jnp.int32(0), len(batch["labels"]))
        return loss_of(objective(ours.bind(params), batch, keys=keys), objective.weights(batch))

    found, grads = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(found, expected.item(), rtol=1e-4)
    grads = {name: one for name, one in to_hf(grads, config).items() if "pooler" not in name}
    for name, apart in relative_gradients(grads, gradients_of(model)).items():
        assert apart < 1e-3, name
    each = vectors.detach().numpy().reshape(EPISODES, shape.size, -1)
    supports = each[:, : shape.supports].reshape(EPISODES, shape.n_way, shape.k_shot, -1)
    on_host = prototype_logits(supports, each[:, shape.supports :], shape.of_none > 0)
    np.testing.assert_allclose(on_host, logits.detach().numpy(), rtol=1e-4, atol=1e-4)


def test_micro_batches_and_devices_do_not_change_a_step():
    """An episode's texts are spread over both; with dropout."""
    batch = texts(SHAPE, "mean") | {"segment_ids": texts(SHAPE, "mean")["attention_mask"]}
    config, params = our_side(reference(HEADS), HEADS)
    config = config.replace(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    model, found = build_model(config), []
    for mesh, accumulate in ((MeshConfig(1, 1, 1), 1), (MeshConfig(2, 2, 2), 2)):
        optimizer, schedule = optax.sgd(0.01), optax.constant_schedule(0.01)
        mesh = make_mesh(mesh, jax.devices()[: 8 if accumulate > 1 else 1])
        with jax.set_mesh(mesh):
            state = init_state(model, optimizer, 0, put_params(params, model.axes(), mesh))
            objective = Prototypes("mean", SHAPE.n_way, EPISODES)
            step = make_train_step(
                *(model, objective, optimizer, schedule), seed=1, accumulate=accumulate
            )
            state, metrics = step(state, put_batch(batch, mesh))
            found.append(jax.tree.map(np.asarray, (state.params, metrics["loss"])))
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-5)
    for got, wanted in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
