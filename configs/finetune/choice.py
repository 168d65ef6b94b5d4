"""Fine-tuning on multiple choice: a table of your own, or swag.

    ptft finetune --config=configs/finetune/choice.py --config.data_dir=FOLDER \\
        --init_from=RUN_OR_HF_DIR --run_dir=RUN

`data_dir` holds train and dev as .jsonl or .parquet with the columns `context`, `choices` (a list)
and `label` (the number of the right one from 0, or its text); in a .csv or .tsv the choices are
columns `choices0`, `choices1`, … For `choice.py:swag` it holds SWAG's train.csv and val.csv.
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config(task: str = "choice") -> Config:
    """Returns the config."""
    return defaults.for_task(task)
