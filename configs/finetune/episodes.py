"""Few-shot classification of classes that were not trained on: FewRel, or texts of your own.

    ptft finetune --config=configs/finetune/episodes.py:fewrel --config.data_dir=FOLDER \\
        --init_from=RUN_OR_HF_DIR --run_dir=RUN

FOLDER holds FewRel's train_wiki.json and val_wiki.json, perhaps val_pubmed.json (the split `test`,
other relations of another domain) and pid2name.json. Without `:fewrel` it holds train and dev, and
perhaps test, each as .json in that format or as a table (.csv, .tsv, .jsonl, .parquet) with the
columns `text` and `label`; dev may have other classes than train, and usually has. With entities
write --config.episode.pooling=entities.

An episode has `episode.n_way` classes, each known by `episode.k_shot` texts (its support), and
`episode.queries` other texts of each to be classified: to the class whose prototype, the mean of
its support's vectors, is nearest (Snell et al. 2017). `batch_size` counts texts, of whole episodes.
Scores are means over `episode.eval_episodes` episodes, the same for every run, with half of their
95 % interval.
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config(task: str = "episodes") -> Config:
    """Returns the config of a task."""
    config = defaults.for_task(task)
    config.batch_size = 200  # four episodes
    if task == "fewrel":
        config.episode.pooling = "entities"
        config.episode.eval = ((5, 5), (5, 1), (10, 5), (10, 1))
    return config
