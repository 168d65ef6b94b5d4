"""Examples that share a row are trained as those that have one each, in every kind of task."""

from functools import partial

import jax
import numpy as np
import pytest
from tokenizer_checks import wordpiece

from ptft_jax.data.tasks.choice import ChoiceExamples, ChoiceSplit
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.span.examples import SpanExamples
from ptft_jax.data.tasks.span.splits import Answer, SpanSplit
from ptft_jax.data.tasks.table import Split
from ptft_jax.data.tasks.tagging.examples import TaggingExamples
from ptft_jax.data.tasks.tagging.splits import TaggingSplit
from ptft_jax.data.tasks.training.features import Numbered
from ptft_jax.data.tasks.training.packed import PackedExamples
from ptft_jax.data.tokenizer.models import BERT_TOKENS
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.dropout import row_keys
from ptft_jax.objectives.added.regularized import FastGradient
from ptft_jax.objectives.choice import ChoiceObjective
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.span import SpanObjective
from ptft_jax.objectives.tagging import TaggingObjective
from ptft_jax.runs.features import with_features
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.mesh import MeshConfig, make_mesh, place_params, put_batch
from ptft_jax.training.step import init_state, make_train_step
from ptft_jax.training.updates.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer

TOKENIZER = wordpiece([*BERT_TOKENS, *"abcdefghij"])
EXAMPLES, LENGTH = 48, 40
RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice([*"abcdefghij"], n)) for n in RNG.integers(1, 16, EXAMPLES)]


def classification():
    split = Split(TEXTS, TEXTS[::-1], np.arange(EXAMPLES, dtype=np.int32) % 3, "")
    examples = ClassificationExamples(split, TOKENIZER, LENGTH)
    objective = ClassificationObjective(class_weights=(1.0, 2.0, 0.5))
    return examples, objective, ("pooler", "classification")


def tagging():
    words = [text.split() for text in TEXTS]
    tags = [np.array([ord(word) % 3 for word in some], np.int32) for some in words]
    # Some sentences are spread over windows.
    return (
        TaggingExamples(TaggingSplit(words, tags, ""), TOKENIZER, 13),
        TaggingObjective(),
        ("tagging",),
    )


def span():
    places = [2 * (len(text) // 4) for text in TEXTS]
    answers = [(Answer(text[at], at),) for text, at in zip(TEXTS, places, strict=True)]
    answers[::5] = [()] * len(answers[::5])
    numbers = list(range(EXAMPLES))
    split = SpanSplit(TEXTS, numbers, TEXTS[::-1], list(map(str, numbers)), answers, "")
    examples = SpanExamples(split, TOKENIZER, LENGTH, doc_stride=2, max_query_length=16)
    return examples, SpanObjective(), ("span",)


def choice():
    choices = [[TEXTS[n - k][:9] for k in range(2 + n % 2)] for n in range(EXAMPLES)]
    split = ChoiceSplit(TEXTS, choices, np.arange(EXAMPLES, dtype=np.int32) % 2, "")
    examples = ChoiceExamples(split, TOKENIZER, LENGTH)
    return examples, ChoiceObjective(label_smoothing=0.1), ("pooler", "choice")


def disturbed():
    """Choices, each of which is moved by a gradient of its own."""
    examples, objective, heads = choice()
    return examples, FastGradient(objective, weight=3.0, epsilon=2.0), heads


def small_model(heads, **changes):
    """Returns a model of one wide-valued layer with these heads, and no dropout in the encoder."""
    config = EncoderConfig(
        vocab_size=TOKENIZER.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
        heads=heads,
        num_labels=3,
    )
    return build_model(config.replace(**changes))


def updated(model, objective, batch, mesh, accumulate=1):
    """Returns loss, gradient norm and tokens of an update, and the parameters after it."""
    optimizer, schedule = make_optimizer(
        # With so large an eps an update is proportional to its gradient.
        OptimizerConfig(learning_rate=1.0, eps=1.0, max_grad_norm=0.0, weight_decay=0.0),
        ScheduleConfig(),
        10,
        model.axes(),
    )
    with jax.set_mesh(mesh):
        state = init_state(model, optimizer, seed=0)
        step = make_train_step(model, objective, optimizer, schedule, seed=0, accumulate=accumulate)
        state, metrics = step(state, put_batch(batch, mesh))
        kept = [float(metrics[name]) for name in ("loss", "grad_norm", "tokens")]
        return kept, jax.tree.map(np.asarray, state.params)


@pytest.mark.parametrize("kind", [classification, tagging, span, choice, disturbed])
def test_packed_equals_unpacked(kind):
    """The same examples, in fewer rows: equal loss, gradient norm, tokens and updated parameters.

    On eight devices and in two micro-batches, of which the last hold empty rows; and in one row.
    """
    examples, objective, heads = kind()
    model = small_model(heads)
    one = make_mesh(MeshConfig(), jax.devices()[:1])
    many = make_mesh(MeshConfig(data=4, fsdp=2))
    cases = [(7, 55, many, 2), *([(0, 3, one, 1)] if kind in (classification, span) else [])]
    for first, last, mesh, accumulate in cases:
        size, unit = last - first, accumulate * mesh.size
        packed = PackedExamples(examples, TOKENIZER.pad_token_id, size, unit=unit)
        indices = np.arange(first, last)
        rows, few = examples.batch(indices), packed.batch(indices)
        assert len(few["input_ids"]) == (16 if mesh is many else 1)
        assert few["segment_ids"].max() > 1
        expected, params = updated(model, objective, rows, one)
        found, others = updated(model, objective, few, mesh, accumulate=accumulate)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), others, params)


@pytest.mark.parametrize(("kind", "packing"), [(tagging, False), (span, True), (choice, True)])
def test_features_stand_for_tokens(kind, packing, tmp_path):
    """What the encoder gave once makes the sums of any later batch, with dropout before the head.

    In a later epoch than the one that they were computed in, on eight devices.
    """
    examples, objective, heads = kind()
    model = small_model(heads, classifier_dropout=0.5)
    rows = Numbered(examples)
    if packing:
        rows = PackedExamples(rows, TOKENIZER.pad_token_id, 16, unit=8)
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    with jax.set_mesh(mesh):
        params = place_params(model.init(jax.random.key(0)), model.axes())
        where = {"folder": tmp_path, "mesh": mesh, "job": Job(), "say": print}
        made, _ = with_features(model, params, rows, {}, batch_size=16, **where)
        few, many = made.batch(np.arange(50, 66)), rows.batch(np.arange(50, 66))
        assert not few.keys() & {"input_ids", "rows"}
        keys = row_keys(0, np.int32(3), len(few["attention_mask"]))
        sums = jax.jit(lambda batch: objective(model.bind(params), batch, keys=keys))
        found, expected = sums(put_batch(few, mesh)), sums(put_batch(many, mesh))
        assert float(next(iter(found.loss.values()))) > 0
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), found, expected)
    assert not list(tmp_path.iterdir())


def test_rows_of_a_batch_do_not_depend_on_the_devices():
    """More devices only add empty rows at the end; the shapes of batches are few."""
    examples, *_ = classification()
    one, eight = (PackedExamples(examples, 0, 48, unit=unit) for unit in (1, 8))
    shapes = set()
    for start in range(0, 480, 48):
        indices = np.arange(start, start + 48)
        few, more = one.batch(indices), eight.batch(indices)
        for name, rows in few.items():
            real = min(len(rows), len(more[name]))
            np.testing.assert_array_equal(rows[:real], more[name][:real])
            assert not more["attention_mask"][real:].any()
            assert not few["attention_mask"][real:].any()
        shapes.add(few["input_ids"].shape)
        assert few["weights"].sum() == 48
    assert len(shapes) <= 2
