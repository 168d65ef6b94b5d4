"""Fine-tuning on a task of SuperGLUE: boolq, cb, copa, multirc, record, rte, wic or wsc.

    ptft finetune --config=configs/finetune/superglue.py:wic --config.data_dir=SUPERGLUE_DIR \\
        --init_from=RUN_OR_HF_DIR --run_dir=RUN

`data_dir` is the folder with BoolQ/, CB/, …, as the benchmark ships them (train.jsonl, val.jsonl),
or hf:FOLDER_OR_NAME; without it the data comes from TFDS, if it is prepared there.
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config(task: str = "") -> Config:
    """Returns the config of a task."""
    if task == "rte":  # GLUE has it in another layout
        task = "superglue_rte"
    return defaults.for_task(task, "superglue")
