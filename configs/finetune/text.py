"""Fine-tuning on a table of your own: train and dev as .csv, .tsv, .jsonl or .parquet.

    ptft finetune --config=configs/finetune/text.py --config.data_dir=FOLDER \\
        --init_from=RUN_OR_HF_DIR --run_dir=RUN

Columns: `table.text_column` ("text"), `table.text_pair_column` (none), `table.label_column`
("label"). The labels are those found in the train file; `table.regression` reads numbers instead.
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config() -> Config:
    """Returns the config."""
    config = defaults.finetune()
    config.task = "text"
    return config
