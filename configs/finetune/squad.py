"""Extractive question answering: SQuAD 1.1 and 2.0, CMRC 2018, and any data in their format.

    ptft finetune --config=configs/finetune/squad.py --config.version=2.0 \\
        --config.data_dir=SQUAD_DIR --init_from=RUN_OR_HF_DIR --run_dir=RUN
    ptft finetune --config=configs/finetune/squad.py:cmrc2018 --config.data_dir=CMRC_DIR \\
        --init_from=RUN_OR_HF_DIR --run_dir=RUN

`data_dir` holds train.json and dev.json (or train-v1.1.json, cmrc2018_train.json, …). A task after
the colon is squad (1.1), squad_v2 or cmrc2018. The settings are those of Hugging Face's `run_qa.py`
examples (learning rate 3e-5, batch 12, 2 epochs, windows of 384 tokens with a stride of 128), with
10 % of warm-up as in Devlin et al. 2019.

Published on dev: from bert-base-uncased with these settings F1 88.52 and exact match 81.22 (SQuAD
1.1, transformers examples).
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config(task: str = "squad") -> Config:
    """Returns the config of a task."""
    config = defaults.for_task(task)
    config.epochs = 2.0
    config.batch_size = 12
    config.max_seq_length = 384
    config.length_buckets = (128, 192, 256, 320, 384)
    config.optimizer.learning_rate = 3e-5
    return config
