"""Fine-tuning on a GLUE task: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli.

    ptft finetune --config=configs/finetune/glue.py:mrpc --config.data_dir=GLUE_DIR \\
        --init_from=RUN_OR_HF_DIR --run_dir=RUN

`data_dir` is the folder with CoLA/, SST-2/, …; without it the data comes from TFDS. The settings
are those of Hugging Face's `run_glue.py` examples (learning rate 2e-5, batch 32, 3 epochs, 5 for
mrpc and wnli), with 10 % of warm-up as in Devlin et al. 2019.

Expected on dev from bert-base-cased with such settings, as published in the transformers
examples: cola 56.5 (Matthews), sst2 92.3, mrpc 84.1/88.9 (accuracy/F1), stsb 88.6 (Pearson),
qqp 90.7/87.5, mnli 83.9/84.1, qnli 90.7, rte 65.7. docs/results.md has what was measured here,
docs/recipes/glue_table.md the loop for a whole table.
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config(task: str = "") -> Config:
    """Returns the config of a task."""
    config = defaults.for_task(task, "glue")
    if task in ("mrpc", "wnli"):
        config.epochs = 5.0
    return config
