"""Classification with a few examples of each class: sst2, snips, or a table of your own.

    ptft finetune --config=configs/finetune/few_shot.py:sst2 --config.data_dir=GLUE_DIR \\
        --init_from=RUN_OR_HF_DIR --run_dir=RUN

Any task of classes can be named; without one `data_dir` is that of text.py. Eight examples of each
class are drawn by the seed (`examples_per_class`; of a table of your own that has few already: 0).
The way is SetFit's, for encoders of sentences; `--config.few_shot.way=prompt` asks a masked
language model for the word in a template instead, with `few_shot.template` and `few_shot.words`,
and with `--config.epochs=0` it is not trained at all.

Pairs, rate and batch size are those of Tunstall et al. 2022, section 4.
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config(task: str = "text") -> Config:
    """Returns the config of a task."""
    config = defaults.for_task(task)
    config.few_shot.way = "setfit"
    config.examples_per_class = 8
    config.batch_size = 16
    config.epochs = 1.0
    return config
