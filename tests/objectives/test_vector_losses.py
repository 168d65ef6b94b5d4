"""Losses of vectors are those of sentence-transformers, whatever the micro-batches and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hf_reference import gradients_of, our_side, reference, relative_gradients
from sentence_transformers.sentence_transformer import losses

from ptft_jax.convert.bert import to_hf
from ptft_jax.models.build import build_model
from ptft_jax.models.dropout import row_keys
from ptft_jax.objectives.embedding import Contrast, Likeness
from ptft_jax.objectives.totals import loss_of
from ptft_jax.training.mesh import MeshConfig, make_mesh, put_batch, put_params
from ptft_jax.training.step import init_state, make_train_step

EXAMPLES, TOKENS = 8, 7
HEADS = ("pooler",)  # of which vectors make no use


def texts(count, seed=0):
    """Returns rows of `count` texts of random tokens, a segment each."""
    rng = np.random.default_rng(seed)
    rows, width = EXAMPLES, count * TOKENS
    lengths = rng.integers(3, TOKENS + 1, (rows, count))
    batch = {
        name: np.zeros((rows, width), np.int32)
        for name in ("input_ids", "token_type_ids", "segment_ids", "position_ids")
    }
    starts = np.cumsum(lengths, axis=1) - lengths
    for row in range(rows):
        for text in range(count):
            here = slice(starts[row, text], starts[row, text] + lengths[row, text])
            batch["input_ids"][row, here] = rng.integers(5, 99, lengths[row, text])
            batch["segment_ids"][row, here] = text + 1
            batch["position_ids"][row, here] = np.arange(lengths[row, text])
    return batch | {
        "attention_mask": (batch["segment_ids"] > 0).astype(np.int32),
        "pooled_positions": starts[:, None].astype(np.int32),
        "choice_mask": np.ones((rows, 1, count), np.int32),
        "text_numbers": np.arange(rows * count, dtype=np.int32).reshape(rows, 1, count),
        "weights": np.ones((rows, 1), np.float32),
        "labels": rng.permutation(rows).astype(np.float32)[:, None] // 2 / rows,
    }


class Given(torch.nn.Module):
    """Stands for a model of sentence-transformers: vectors are given."""

    def forward(self, features):
        return features

    def get_embedding_dimension(self):
        return 48


def their_vectors(model, batch):
    """Returns the mean of each text's last hidden states, as features of sentence-transformers."""
    found = []
    for text in range(batch["pooled_positions"].shape[2]):
        means = []
        for row in range(EXAMPLES):
            ids = batch["input_ids"][row][batch["segment_ids"][row] == text + 1]
            hidden = model(torch.tensor(ids[None], dtype=torch.long)).last_hidden_state
            means.append(hidden[0].mean(0))
        found.append({"sentence_embedding": torch.stack(means)})
    return found


CASES = {
    "ranking": (2, (), lambda model: losses.MultipleNegativesRankingLoss(model)),
    "with negatives": (3, (), lambda model: losses.MultipleNegativesRankingLoss(model)),
    "cosent": (2, (), lambda model: losses.CoSENTLoss(model)),
    "cosine": (2, (), lambda model: losses.CosineSimilarityLoss(model)),
    "matryoshka": (
        *(2, (48, 12)),
        lambda model: losses.MatryoshkaLoss(
            model, losses.MultipleNegativesRankingLoss(model), [48, 12]
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_sentence_transformers(case):
    count, dims, theirs = CASES[case]
    batch = texts(count)
    model = reference(HEADS)
    model.pooler.requires_grad_(False)
    expected = theirs(Given())(their_vectors(model, batch), torch.tensor(batch["labels"][:, 0]))
    expected.backward()
    config, params = our_side(model, HEADS)
    objective = Contrast(loss="cosent" if case == "cosent" else "ranking", dims=dims)
    if case == "cosine":
        objective = Likeness()
    ours, batch = build_model(config), {name: jnp.asarray(one) for name, one in batch.items()}

    def loss(params):
        totals = objective(ours.bind(params), batch, keys=row_keys(0, jnp.int32(0), EXAMPLES))
        return loss_of(totals, objective.weights(batch))

    found, grads = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(found, expected.item(), rtol=1e-4)
    grads = {name: one for name, one in to_hf(grads, config).items() if "pooler" not in name}
    for name, apart in relative_gradients(grads, gradients_of(model)).items():
        assert apart < 1e-3, name


@pytest.mark.parametrize("loss", ["ranking", "cosent"])
def test_micro_batches_and_devices_do_not_change_a_step(loss):
    """With dropout: the second pass of cached gradients has the masks of the first one."""
    batch = texts(3)
    # An example that fills up, one without a third text, and two with the same second text.
    batch["weights"][5] = 0
    batch["choice_mask"][2, 0, 2] = 0
    batch["text_numbers"][3, 0, 1] = batch["text_numbers"][4, 0, 1]
    config, params = our_side(reference(HEADS), HEADS)
    config = config.replace(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    model, found = build_model(config), {}
    for name, mesh, accumulate in (
        ("one", MeshConfig(1, 1, 1), 1),
        ("micro-batches", MeshConfig(1, 1, 1), 4),
        ("devices", MeshConfig(2, 2, 2), 1),
        ("both", MeshConfig(2, 2, 2), 2),
    ):
        if loss == "cosent" and name in ("micro-batches", "devices"):
            continue
        optimizer, schedule = optax.sgd(0.1), optax.constant_schedule(0.1)
        mesh = make_mesh(mesh, jax.devices()[: 1 if name in ("one", "micro-batches") else 8])
        with jax.set_mesh(mesh):
            state = init_state(model, optimizer, 0, put_params(params, model.axes(), mesh))
            step = make_train_step(
                *(model, Contrast(loss=loss), optimizer, schedule), seed=1, accumulate=accumulate
            )
            state, metrics = step(state, put_batch(batch, mesh))
            found[name] = jax.tree.map(np.asarray, (state.params, metrics["loss"]))
    for name in found.keys() - {"one"}:
        np.testing.assert_allclose(found[name][1], found["one"][1], rtol=1e-5)
        for got, wanted in zip(*map(jax.tree.leaves, (found[name], found["one"])), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_examples_without_weight_and_equal_texts_count_nothing():
    """What fills up a batch is no other text, and what is equal to one's own is not held apart."""
    config, params = our_side(reference(HEADS), HEADS)
    model, objective = build_model(config), Contrast()

    def loss(batch):
        batch = {name: jnp.asarray(one) for name, one in batch.items()}
        totals = objective(model.bind(params), batch, keys=None)
        return float(totals.loss["embedding"])

    batch = texts(2)
    alone = {name: one[:5] for name, one in batch.items()}
    filled = {**batch, "weights": batch["weights"].copy()}
    filled["weights"][5:] = 0
    assert loss(filled) == pytest.approx(loss(alone), rel=1e-5)
    # The sixth example is the first one again: the loss of the first is what it was without it.
    again = {name: np.concatenate([one[:5], one[:1]]) for name, one in batch.items()}
    again["weights"] = np.array([1, 0, 0, 0, 0, 1], np.float32)[:, None]
    assert loss(again) == pytest.approx(0, abs=1e-5)
