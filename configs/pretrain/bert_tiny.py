"""BERT-tiny: 2 layers of 128 (2 heads), MLM + NSP pretraining.

One of the compact models of Turc et al. 2019, "Well-Read Students Learn Better", table 1.

    ptft pretrain --config=configs/pretrain/bert_tiny.py --config.data_dir=DATA --run_dir=RUN

Expected: see the demo's row in docs/results.md; this size is for trying things out.
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config() -> Config:
    """Returns the config."""
    config = defaults.pretrain()
    config.model.num_hidden_layers = 2
    config.model.hidden_size = 128
    config.model.num_attention_heads = 2
    config.model.intermediate_size = 512
    config.steps = 2_000
    config.batch_size = 64
    config.optimizer.learning_rate = 0.001
    config.schedule.warmup_ratio = 0.1
    config.eval_every = 500
    config.checkpoint_every = 500
    return config
