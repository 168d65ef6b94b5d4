"""BERT-mini: 4 layers of 256 (4 heads), MLM + NSP pretraining.

One of the compact models of Turc et al. 2019, "Well-Read Students Learn Better", table 1.

    ptft pretrain --config=configs/pretrain/bert_mini.py --config.data_dir=DATA --run_dir=RUN

Expected: GLUE test average 65.8 after the authors' pretraining (google-research/bert README).
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config() -> Config:
    """Returns the config."""
    config = defaults.pretrain()
    config.model.num_hidden_layers = 4
    config.model.hidden_size = 256
    config.model.num_attention_heads = 4
    config.model.intermediate_size = 1024
    config.steps = 10_000
    config.batch_size = 128
    config.optimizer.learning_rate = 0.001
    config.schedule.warmup_ratio = 0.05
    return config
