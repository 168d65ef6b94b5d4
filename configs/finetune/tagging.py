"""Tags of words: conll2003, wnut17, snips_slots, or sentences of your own.

    ptft finetune --config=configs/finetune/tagging.py:wnut17 --config.data_dir=FOLDER \\
        --init_from=RUN_OR_HF_DIR --run_dir=RUN

Without a task's name FOLDER holds train, dev and perhaps test as .conll, .txt or .tsv (a word on
each line, `tag_column` says where its tag is, a blank line between sentences) or as .jsonl
({"tokens": […], "tags": […]}). Tags of entities (B-PER, I-PER, O; IOB1, IOB2, IOBES, IO) are scored
by the F1 of seqeval, others (NOUN, VERB) by accuracy.

Learning rate and epochs are those of Hugging Face's `run_ner.py`. Expected on dev of conll2003
from bert-base-cased: F1 96.4 (Devlin et al. 2019, table 7; with the context of the document).
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config(task: str = "tagging") -> Config:
    """Returns the config of a task."""
    config = defaults.for_task(task)
    config.optimizer.learning_rate = 5e-5
    return config
