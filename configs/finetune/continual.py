"""Several tasks of labelled texts, one after another (continual learning) or all together.

    ptft finetune --config=configs/finetune/continual.py --config.data_dir=GLUE_DIR \\
        --config.tasks="('cola', 'rte', 'mrpc', 'sst2')" --init_from=RUN_OR_HF_DIR --run_dir=RUN

Each task is a run, RUN/1-cola, that starts from the one before; after each all tasks so far are
scored, and RUN has the matrix of the scores, with what was forgotten and how each task did against
a run on it alone. A task may name the folder of its files, 'imdb@DIR'. Against forgetting:
`continual.replay` (a share of examples of earlier tasks), `continual.ewc` (elastic weight
consolidation), `continual.lwf` (learning without forgetting), or `adapter.name` (an adapter for
each task). `--config.continual.way=together` learns all at once, in one run.
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config() -> Config:
    """Returns the config."""
    config = defaults.for_task("several")
    config.eval_every = 0
    config.checkpoint_every = 0
    return config
