"""BERT-medium: 8 layers of 512 (8 heads), MLM + NSP pretraining.

One of the compact models of Turc et al. 2019, "Well-Read Students Learn Better", table 1.

    ptft pretrain --config=configs/pretrain/bert_medium.py --config.data_dir=DATA --run_dir=RUN

Expected: GLUE test average 73.5 after the authors' pretraining (google-research/bert README).
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config() -> Config:
    """Returns the config."""
    config = defaults.pretrain()
    config.model.num_hidden_layers = 8
    config.model.hidden_size = 512
    config.model.num_attention_heads = 8
    config.model.intermediate_size = 2048
    return config
