"""Published scores on dev sets, to stand beside one's own; never those of a test set."""

from typing import NamedTuple


class Published(NamedTuple):
    """A score that somebody published.

    Attributes:
        metric: as the task names it.
        percent: the score.
        source: a number in `SOURCES`.
    """

    metric: str
    percent: float
    source: int


SOURCES = {
    1: "bert-base-cased, one run: Hugging Face transformers, examples/pytorch/"
    "text-classification/README.md (rate 2e-5, batch 32, 3 epochs, 5 for MRPC and WNLI)",
    2: "BERT-base as in Warner et al. 2024 (ModernBERT), table 5, whose rates and epochs were "
    "searched for each task and whose RTE starts from MNLI",
}
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "cola": (Published("matthews_correlation", 56.53, 1), Published("matthews_correlation", 59, 2)),
    "sst2": (Published("accuracy", 92.32, 1), Published("accuracy", 93.1, 2)),
    "mrpc": (Published("accuracy", 84.07, 1), Published("f1", 88.85, 1)),
    "stsb": (Published("pearson", 88.64, 1), Published("spearman", 88.48, 1)),
    "qqp": (Published("accuracy", 90.71, 1), Published("f1", 87.49, 1)),
    "mnli": (Published("accuracy", 83.91, 1), Published("accuracy", 85.4, 2)),
    "qnli": (Published("accuracy", 90.66, 1), Published("accuracy", 91.6, 2)),
    "rte": (Published("accuracy", 65.70, 1), Published("accuracy", 78.2, 2)),
    "wnli": (Published("accuracy", 56.34, 1),),
}
"""Task → scores; MNLI's are those of the matched split."""
