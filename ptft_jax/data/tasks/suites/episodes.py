"""Few-shot classification: FewRel (Han et al. 2018, Gao et al. 2019), or texts of one's own."""

from ptft_jax.data.tasks.episodes.splits import EpisodeTask

EPISODES = {
    "fewrel": EpisodeTask(
        "episodes",
        {"train": "train_wiki.json", "dev": "val_wiki.json", "test": "val_pubmed.json"},
        "en",
    ),
    "episodes": EpisodeTask(),
}
