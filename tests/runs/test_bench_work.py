"""What `ptft bench` feeds both sides, how they take turns, and what it makes of their times."""

import numpy as np
import pytest
from command_line import prepare_corpus

from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.examples import PretrainingExamples
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.models.config import EncoderConfig
from ptft_jax.runs import defaults
from ptft_jax.runs.bench import work
from ptft_jax.runs.bench.rounds import take_turns, times_as_fast
from ptft_jax.runs.bench.train import figures
from ptft_jax.runs.kinds.pretraining import row_shapes
from ptft_jax.runs.phases import pretraining_settings
from ptft_jax.training.resources.cost import model_flops

MODEL = EncoderConfig(
    vocab_size=300,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=64,
)


def config_of(**changes):
    config = defaults.pretrain()
    changes = {"batch_size": 6, "max_seq_length": 48, "max_predictions_per_seq": 7, **changes}
    for name, value in changes.items():
        config[name] = value
    return config


def test_sides_take_turns():
    """What else the machine does meets both sides: never all rounds of one, then the other's."""
    order, told = [], []
    sides = {name: lambda name=name: order.append(name) or len(order) for name in "AB"}
    found = take_turns(sides, 3, lambda what, done, total: told.append((done, total)))
    assert "".join(order) == "ABABAB"
    assert found == {"A": [1, 3, 5], "B": [2, 4, 6]}
    assert told == [(done, 6) for done in range(7)]


def test_ratios_pair_the_rounds():
    """A machine that is twice as slow in one round changes both sides, and not the ratio."""
    same = times_as_fast([1.0, 2.0, 4.0], [3.0, 6.0, 12.0])
    assert same == {"median": 3.0, "low": 3.0, "high": 3.0}


def test_the_utilisation_is_that_of_the_formula():
    """100 TFLOP in 2 s on 4 devices of 25 TFLOP/s is half of what they could do."""
    counts = work.Counts(rows=80, examples=100, tokens=1000, flops=100 * 10**12)
    found = figures([1.0, 2.0, 3.0], 10, counts, 4, 25.0)
    assert found["utilisation"] == 0.5
    assert found["tflops"] == 50
    assert found["step_ms"] == {"median": 200.0, "low": 100.0, "high": 300.0}
    assert (found["tokens_per_second"], found["sequences_per_second"]) == (500, 50)
    assert figures([1.0], 10, counts, 4, None)["utilisation"] is None


@pytest.mark.parametrize(
    ("changes", "examples", "predicted"),
    [
        ({}, 6, 7),
        ({"input_format": "full_sentences"}, 6, 7),
        ({"packing": True}, 12, 2 * 4),
        ({"packing": True, "max_sequences_per_pack": 6}, 18, 3 * 2),
    ],
)
def test_full_rows_are_batches_as_training_has_them(changes, examples, predicted):
    """The step that is measured must be the one that is compiled in a training."""
    config = config_of(**changes)
    batch = work.full_rows(config, MODEL)
    shapes = {name: (rows.shape[1:], rows.dtype) for name, rows in batch.items()}
    assert shapes == {name: (shape, np.dtype(k)) for name, (shape, k) in row_shapes(config).items()}
    alone = work.one_a_row(batch, pad_token_id=0)
    assert len(alone["input_ids"]) == examples
    assert alone["attention_mask"].sum() == 6 * 48
    assert ((alone["labels"] == alone["input_ids"]) | (alone["labels"] == work.NO_LABEL)).all()
    # 15 % of each example, rounded to whole tokens.
    assert (alone["labels"] != work.NO_LABEL).sum() == 6 * predicted


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    return prepare_corpus(tmp_path_factory.mktemp("work"))


def test_packed_examples_are_the_same_alone(corpus_dir):
    """PyTorch's side gets each example of our packed rows once: tokens, labels and pairs."""
    config = config_of(packing=True, short_seq_prob=1.0)
    corpus = Corpus.open(corpus_dir)
    tokenizer = TextTokenizer.load(corpus.tokenizer_dir)
    batch = PretrainingExamples(corpus, tokenizer, pretraining_settings(config)).batch(np.arange(6))
    alone = work.one_a_row(batch, pad_token_id=tokenizer.pad_token_id)
    labels = np.full(batch["input_ids"].shape, work.NO_LABEL)
    pairs = np.full(batch["input_ids"].shape, work.NO_LABEL)
    for row in range(6):
        there = batch["masked_lm_weights"][row] > 0
        labels[row, batch["masked_lm_positions"][row, there]] = batch["masked_lm_ids"][row, there]
        there = batch["next_sentence_weights"][row] > 0
        pairs[row, batch["pooled_positions"][row, there]] = batch["next_sentence_labels"][
            row, there
        ]
    number = 0
    for row, segments in enumerate(batch["segment_ids"]):
        for segment in range(1, segments.max() + 1):
            (places,) = np.nonzero(segments == segment)
            length = len(places)
            assert alone["attention_mask"][number].sum() == length
            for name, whole in (*batch.items(), ("labels", labels)):
                if name in ("input_ids", "token_type_ids", "labels"):
                    assert (alone[name][number, :length] == whole[row, places]).all()
            assert (alone["input_ids"][number, length:] == tokenizer.pad_token_id).all()
            assert alone["next_sentence_label"][number] == pairs[row, places[0]]
            number += 1
    assert number == len(alone["input_ids"]) > 6
    assert alone["input_ids"].shape[1] % 8 == 0


def test_padding_and_packing_need_the_same_flops():
    """Work that padding adds is no achievement: each example counts at its own length."""
    labels = np.full((2, 16), work.NO_LABEL)
    labels[0, :3], labels[1, :1] = 7, 7
    mask = np.zeros((2, 16), np.int64)
    mask[0, :12], mask[1, :5] = 1, 1
    counts = work.count([{"attention_mask": mask, "labels": labels}], 1, MODEL)
    assert counts == work.Counts(
        rows=1,
        examples=2,
        tokens=17,
        flops=model_flops(MODEL, tokens=12, predictions=3, pooled=1)
        + model_flops(MODEL, tokens=5, predictions=1, pooled=1),
    )
