"""Fine-tuning on a Chinese task of CLUE or FewCLUE.

Tasks: afqmc, bustm, c3, chid, cluewsc, cmnli, csl, eprstmt, iflytek, ocnli and tnews.

    ptft finetune --config=configs/finetune/clue.py:tnews --config.data_dir=CLUE_DIR \\
        --init_from=RUN_OR_HF_DIR --run_dir=RUN

`data_dir` is the folder with afqmc/, tnews/, …, with train.json and dev.json
(FewCLUE: train_few_all.json and dev_few_all.json).
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config(task: str = "") -> Config:
    """Returns the config of a task."""
    return defaults.for_task(task, "clue")
