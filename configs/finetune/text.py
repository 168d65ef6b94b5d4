"""Fine-tuning on labelled texts of your own, or snips, trec, imdb or xnli_LANGUAGE.

    ptft finetune --config=configs/finetune/text.py --config.data_dir=FOLDER \\
        --init_from=RUN_OR_HF_DIR --run_dir=RUN

`data_dir` holds train and dev as .csv, .tsv, .jsonl or .parquet, or as folders with a folder of
.txt files for each label. Columns: `table.text_column` ("text"), `table.text_pair_column` (none),
`table.label_column` ("label"). The labels are those found in the train file; `table.regression`
reads numbers instead, `table.multi_label` any number of labels a text. Or a folder that Hugging
Face's `datasets` saved, hf:FOLDER, or hf:NAME of the Hub; docs/data.md says more.
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config(task: str = "text") -> Config:
    """Returns the config."""
    return defaults.for_task(task)
