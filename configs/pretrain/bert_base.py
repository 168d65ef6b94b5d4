"""BERT-base: 12 layers of 768 (12 heads), MLM + NSP pretraining.

The base model of Devlin et al. 2019; batch 256, 1M updates, learning rate 1e-4, 1 % of warm-up.

    ptft pretrain --config=configs/pretrain/bert_base.py --config.data_dir=DATA --run_dir=RUN

Expected: GLUE test average 79.6 after the authors' pretraining (Devlin et al. 2019, table 1).
docs/recipes/wikipedia_bert_base.md goes from set-up to export.
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config() -> Config:
    """Returns the config."""
    config = defaults.pretrain()
    # Sequences of 128 for nine tenths of the updates, of 512 for the rest (appendix A.2).
    config.phases = ({"step_ratio": 0.9, "max_seq_length": 512, "max_predictions_per_seq": 80},)
    return config
