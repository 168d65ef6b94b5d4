"""Rows that hold several examples compute what the examples compute in rows of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.objectives.totals import loss_of
from ptft_jax.training.mesh import MeshConfig, make_mesh, put_batch, put_params

CONFIG = EncoderConfig(
    vocab_size=97,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=24,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    # Wide weights: with the usual ones attention is almost even and a leak would be small.
    initializer_range=0.3,
)
ROW, MASKED = 24, 3
# The examples of each row by length; rows are full, nearly full, and half empty.
ROWS = [[9, 8, 7], [20, 3], [5, 5, 5, 5], [12], [24], [3, 21], [6, 11], [4, 4, 4]]
MOST = max(map(len, ROWS))


def make_examples(seed: int = 0) -> list[dict[str, np.ndarray]]:
    """One dict for each example of ROWS, row after row, its arrays without padding."""
    rng = np.random.default_rng(seed)
    examples = []
    for length in np.concatenate(ROWS):
        masked = int(rng.integers(1, min(MASKED, length) + 1))
        examples.append(
            {
                "input_ids": rng.integers(0, 97, length),
                "token_type_ids": (np.arange(length) >= length // 2).astype(int),
                "positions": np.sort(rng.choice(length, masked, replace=False)),
                "labels": rng.integers(0, 97, masked),
                "next_sentence": rng.integers(0, 2),
            }
        )
    return examples


def lay_out(examples: list[dict[str, np.ndarray]], rows: list[list[int]]) -> dict[str, np.ndarray]:
    """A batch with the examples (numbers) of each row, written without the package's own code."""
    most, count = max(map(len, rows)), len(rows)
    names = ("input_ids", "attention_mask", "token_type_ids", "segment_ids", "position_ids")
    batch = {name: np.zeros((count, ROW), np.int32) for name in names}
    for name, width, dtype in (
        ("masked_lm_positions", most * MASKED, np.int32),
        ("masked_lm_ids", most * MASKED, np.int32),
        ("masked_lm_weights", most * MASKED, np.float32),
        ("pooled_positions", most, np.int32),
        ("next_sentence_labels", most, np.int32),
        ("next_sentence_weights", most, np.float32),
    ):
        batch[name] = np.zeros((count, width), dtype)
    for row, numbers in enumerate(rows):
        start = slot = 0
        for order, number in enumerate(numbers):
            example = examples[number]
            length, masked = len(example["input_ids"]), len(example["labels"])
            here, slots = slice(start, start + length), slice(slot, slot + masked)
            batch["input_ids"][row, here] = example["input_ids"]
            batch["token_type_ids"][row, here] = example["token_type_ids"]
            batch["attention_mask"][row, here] = 1
            batch["segment_ids"][row, here] = order + 1
            batch["position_ids"][row, here] = np.arange(length)
            batch["masked_lm_positions"][row, slots] = start + example["positions"]
            batch["masked_lm_ids"][row, slots] = example["labels"]
            batch["masked_lm_weights"][row, slots] = 1
            batch["pooled_positions"][row, order] = start
            batch["next_sentence_labels"][row, order] = example["next_sentence"]
            batch["next_sentence_weights"][row, order] = 1
            start, slot = start + length, slot + masked
    return batch


def both(examples: list[dict[str, np.ndarray]]) -> tuple[dict, dict]:
    """The examples packed as in ROWS, and each in a row of its own as ordinary BERT input."""
    numbers = iter(range(len(examples)))
    packed = lay_out(examples, [[next(numbers) for _ in row] for row in ROWS])
    alone = lay_out(examples, [[number] for number in range(len(examples))])
    del alone["segment_ids"], alone["position_ids"]
    return packed, alone


def totals_and_gradients(params, batch, mesh=None):
    model, objective = build_model(CONFIG), PretrainingObjective()

    def loss(params, batch):
        totals = objective(model.bind(params), batch, keys=None)
        return loss_of(totals, totals.weight), totals

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    if mesh is None:
        (_, totals), grads = step(params, batch)
    else:
        with jax.set_mesh(mesh):
            placed = put_params(jax.device_get(params), model.axes(), mesh)
            (_, totals), grads = step(placed, put_batch(batch, mesh))
    return jax.device_get((totals, grads))


@pytest.fixture(scope="module")
def params():
    return build_model(CONFIG).init(jax.random.key(0))


@pytest.mark.parametrize("sizes", [None, (8, 1, 1), (2, 2, 2)])
def test_loss_sums_and_gradients_are_those_of_the_examples_alone(params, sizes):
    """Packing is a matter of speed: MLM and NSP sums, metrics and every gradient stay."""
    packed, alone = both(make_examples())
    mesh = None
    if sizes is not None:
        mesh = make_mesh(MeshConfig(*sizes))
        # Rows have to divide; a row of padding weighs nothing.
        fill = -len(alone["input_ids"]) % 8
        alone = {name: np.pad(rows, ((0, fill), (0, 0))) for name, rows in alone.items()}
    found, found_grads = totals_and_gradients(params, packed, mesh)
    wanted, wanted_grads = totals_and_gradients(params, alone)
    assert wanted.weight == {"mlm": wanted.weight["mlm"], "nsp": sum(map(len, ROWS))}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), found, wanted)
    # Relative to the tensor's largest value; the key's bias has no gradient but rounding.
    least = 1e-7 * max(np.abs(gradient).max() for gradient in jax.tree.leaves(wanted_grads))
    wanted_grads, found_grads = (
        jax.tree_util.tree_leaves_with_path(grads) for grads in (wanted_grads, found_grads)
    )
    for (path, gradient), (_, other) in zip(wanted_grads, found_grads, strict=True):
        difference, largest = np.abs(gradient - other).max(), np.abs(gradient).max()
        assert difference < 3e-6 * largest + least, (jax.tree_util.keystr(path), largest)


def hidden_states(params, batch, config=CONFIG, mesh=None):
    model = build_model(config)
    run = jax.jit(lambda params, batch: model.bind(params).hidden_states(batch))
    if mesh is None:
        states = run(params, batch)
    else:
        with jax.set_mesh(mesh):
            placed = put_params(jax.device_get(params), model.axes(), mesh)
            states = run(placed, put_batch(batch, mesh))
    return [np.asarray(state.astype(jnp.float32)) for state in jax.device_get(states)]


@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [("float32", None), ("bfloat16", None), ("float32", (2, 2, 2)), ("bfloat16", (2, 2, 2))],
)
def test_no_example_sees_another(params, dtype, sizes):
    """Every token of one example in each row is changed: all others keep every bit.

    A model that leaks learns from text that has nothing to do with the example; it costs accuracy
    and shows in no loss curve (NeoBERT, table on packing: -2.8 % GLUE).
    """
    mesh = None if sizes is None else make_mesh(MeshConfig(*sizes))
    config = CONFIG.replace(dtype=dtype)
    packed, _ = both(make_examples())
    before = hidden_states(params, packed, config, mesh)
    for changed in range(1, MOST + 1):
        here = packed["segment_ids"] == changed
        other = dict(packed)
        other["input_ids"] = np.where(here, (packed["input_ids"] + 7) % 97, packed["input_ids"])
        other["token_type_ids"] = np.where(here, 1 - packed["token_type_ids"], 0) + np.where(
            here, 0, packed["token_type_ids"]
        )
        other = {name: rows.astype(np.int32) for name, rows in other.items()}
        after = hidden_states(params, other, config, mesh)
        unchanged = (packed["segment_ids"] > 0) & ~here
        for one, two in zip(before, after, strict=True):
            assert np.array_equal(one[unchanged], two[unchanged])
        assert not np.array_equal(before[-1][here], after[-1][here])
