"""BERT-small: 4 layers of 512 (8 heads), MLM + NSP pretraining.

One of the compact models of Turc et al. 2019, "Well-Read Students Learn Better", table 1.

    ptft pretrain --config=configs/pretrain/bert_small.py --config.data_dir=DATA --run_dir=RUN

Expected: GLUE test average 71.2 after the authors' pretraining (google-research/bert README).
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config() -> Config:
    """Returns the config."""
    config = defaults.pretrain()
    config.model.num_hidden_layers = 4
    config.model.hidden_size = 512
    config.model.num_attention_heads = 8
    config.model.intermediate_size = 2048
    config.steps = 125_000
    config.batch_size = 256
    config.optimizer.learning_rate = 0.0005
    config.schedule.warmup_ratio = 0.04
    return config
