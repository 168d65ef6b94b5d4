"""Evaluation in training's micro-batches: what fits in training fits there, and scores the same."""

import jax
import numpy as np
import pytest
from command_line import prepare_corpus

import ptft_jax
from ptft_jax.models.build import build_model
from ptft_jax.runs.kinds.pretraining import Pretraining
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.mesh import MeshConfig, make_mesh


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


@pytest.mark.parametrize("eval_examples", [0, 10], ids=["whole split", "part of it"])
def test_evaluation_takes_micro_batches_and_scores_the_same(tmp_path, eval_examples):
    """1,024 rows in 32 micro-batches took 906 MiB in training and 7,156 in an evaluation."""
    config = ptft_jax.get_config("pretrain/bert_tiny")
    config.data_dir = str(prepare_corpus(tmp_path))
    config.batch_size, config.max_seq_length, config.eval_examples = 8, 16, eval_examples
    config.max_predictions_per_seq = 3
    config.model.hidden_size = config.model.intermediate_size = 16
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    found = []
    for accumulate in (1, 4):
        config.accumulate = accumulate
        kind = Pretraining(config)
        start = kind.starting_point(None, None)
        watched = Watched(kind.scored(kind.phases[0], start.tokenizer)["dev"])
        model = build_model(start.config)
        with jax.set_mesh(mesh):
            score = kind.evaluate(model, kind.phases[0], {"dev": watched}, mesh, Job())
            found.append((score(model.init(jax.random.key(0)))["dev"], watched.asked))
    (whole, rows), (parts, fewer) = found
    assert {len(indices) for indices in rows} == {8}
    assert {len(indices) for indices in fewer} == {2}
    assert len(watched) > 16
    assert len(rows) == (-(-len(watched) // 8) if eval_examples == 0 else 2)
    assert set(np.concatenate(rows)) == set(np.concatenate(fewer))
    assert parts == pytest.approx(whole, rel=1e-5)
