"""Evaluation in training's micro-batches: what fits in training fits there, and scores the same."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from small_corpus import SmallCorpus

from ptft_jax.data.pretraining.examples import PretrainingExamples, PretrainingSettings
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.runs.evaluators import pretraining_evaluator
from ptft_jax.training.mesh import MeshConfig, make_mesh

ALONE = SimpleNamespace(stops_here=lambda: False)


class Watched:
    """Examples that remember how many rows they were asked for at a time, and which."""

    fixed_shape = True

    def __init__(self, examples):
        self.examples, self.asked = examples, []

    def __len__(self):
        return len(self.examples)

    def batch(self, indices):
        self.asked.append(indices)
        return self.examples.batch(indices)


@pytest.mark.parametrize("max_examples", [0, 20], ids=["whole split", "part of it"])
def test_evaluation_takes_micro_batches_and_scores_the_same(max_examples):
    """1,024 rows in 32 micro-batches took 906 MiB in training and 7,156 in an evaluation."""
    corpus = SmallCorpus([[5, 7, 6, 9, 8, 7]] * 30, split="dev")
    settings = PretrainingSettings(max_seq_length=32)
    examples = PretrainingExamples(corpus, corpus.tokenizer(), settings)
    config = EncoderConfig(
        vocab_size=corpus.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    model, objective = build_model(config), PretrainingObjective()
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    found = []
    for accumulate in (1, 4):
        watched = Watched(examples)
        with jax.set_mesh(mesh):
            params = model.init(jax.random.key(0))
            evaluate = pretraining_evaluator(
                model, objective, watched, 16, accumulate, max_examples, mesh, ALONE
            )
            found.append((evaluate(params)["dev"], watched.asked))
    (whole, rows), (parts, fewer) = found
    assert {len(indices) for indices in rows} == {16}
    assert {len(indices) for indices in fewer} == {4}
    assert len(examples) > 32
    assert set(np.concatenate(rows)) == set(np.concatenate(fewer))
    assert parts == pytest.approx(whole, rel=1e-5)
