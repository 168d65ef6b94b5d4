"""Vectors of texts: from pairs of your own, from inference (nli) or from scores (sts).

    ptft finetune --config=configs/finetune/embed.py --config.data_dir=FOLDER \\
        --init_from=RUN_OR_HF_DIR --run_dir=RUN

FOLDER holds train and dev, and perhaps test, as .csv, .tsv, .jsonl or .parquet with the columns
`sentence1` and `sentence2`; perhaps `negative`, a text that does not mean the same as the first;
and perhaps `score`, how alike the two are. Without scores pairs mean the same, and each is told
from the others of its batch: the larger that is the better, and `accumulate` cuts it into parts
that fit into memory without changing the loss.
`embed.py:nli` trains on MNLI's pairs of which one follows from the other, `embed.py:sts` on STS-B's
scores; both take GLUE's folder and are scored on STS-B.

Rate, batch size and scale are those of sentence-transformers' examples.
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config(task: str = "embed") -> Config:
    """Returns the config of a task."""
    config = defaults.for_task(task)
    config.batch_size = 16 if task == "sts" else 128
    config.epochs = 4.0 if task == "sts" else 1.0
    return config
