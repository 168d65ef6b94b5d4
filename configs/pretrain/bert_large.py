"""BERT-large: 24 layers of 1024 (16 heads), MLM + NSP pretraining.

The large model of Devlin et al. 2019, in bfloat16 with rematerialised layers.

    ptft pretrain --config=configs/pretrain/bert_large.py --config.data_dir=DATA --run_dir=RUN

Expected: GLUE test average 82.1 after the authors' pretraining (Devlin et al. 2019, table 1).
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config() -> Config:
    """Returns the config."""
    config = defaults.pretrain()
    config.model.num_hidden_layers = 24
    config.model.hidden_size = 1024
    config.model.num_attention_heads = 16
    config.model.intermediate_size = 4096
    config.model.dtype = "bfloat16"
    config.model.remat = True
    # Sequences of 128 for nine tenths of the updates, of 512 for the rest (appendix A.2).
    config.phases = ({"step_ratio": 0.9, "max_seq_length": 512, "max_predictions_per_seq": 80},)
    return config
