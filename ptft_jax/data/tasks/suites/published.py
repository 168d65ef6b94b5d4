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
    3: "roberta.base, fairseq, examples/roberta/README.md (rates searched, 10 epochs at most; "
    "what starts from MNLI is not said)",
    4: "bert-base-uncased, one run: Hugging Face transformers, examples/pytorch/"
    "question-answering/README.md (rate 3e-5, batch 12, 2 epochs)",
    5: "BERT-base, Devlin et al. 2019: table 2 (SQuAD 1.1), 4 (SWAG) and 7 (CoNLL-2003, with the "
    "context of the document)",
    6: "roberta.large, fairseq, examples/roberta/README.md",
    7: "BERT-base (Chinese): README.md of CLUEbenchmark/CLUE, its columns of dev sets (rate 2e-5, "
    "3 epochs; CMNLI and CMRC 3e-5, 2 epochs; CSL 1e-5, 5 epochs; C3 8 epochs)",
    8: "BERT-base (Chinese), mean of ten runs: README_EN.md of ymcui/Chinese-BERT-wwm",
}
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "cola": (
        Published("matthews_correlation", 56.53, 1),
        Published("matthews_correlation", 59, 2),
        Published("matthews_correlation", 63.6, 3),
    ),
    "sst2": (
        Published("accuracy", 92.32, 1),
        Published("accuracy", 93.1, 2),
        Published("accuracy", 94.8, 3),
    ),
    "mrpc": (
        Published("accuracy", 84.07, 1),
        Published("f1", 88.85, 1),
        Published("accuracy", 90.2, 3),
    ),
    "stsb": (Published("pearson", 88.64, 1), Published("spearman", 88.48, 1)),
    "qqp": (
        Published("accuracy", 90.71, 1),
        Published("f1", 87.49, 1),
        Published("accuracy", 91.9, 3),
    ),
    "mnli": (
        Published("accuracy", 83.91, 1),
        Published("accuracy", 85.4, 2),
        Published("accuracy", 87.6, 3),
    ),
    "qnli": (
        Published("accuracy", 90.66, 1),
        Published("accuracy", 91.6, 2),
        Published("accuracy", 92.8, 3),
    ),
    "rte": (
        Published("accuracy", 65.70, 1),
        Published("accuracy", 78.2, 2),
        Published("accuracy", 78.7, 3),
    ),
    "wnli": (Published("accuracy", 56.34, 1),),
    "squad": (
        Published("f1", 88.52, 4),
        Published("exact_match", 81.22, 4),
        Published("f1", 88.5, 5),
        Published("exact_match", 80.8, 5),
    ),
    "squad_v2": (Published("f1", 89.4, 6), Published("exact_match", 86.5, 6)),
    "swag": (Published("accuracy", 81.6, 5),),
    "conll2003": (Published("f1", 96.4, 5),),
    "afqmc": (Published("accuracy", 74.16, 7),),
    "tnews": (Published("accuracy", 56.09, 7),),
    "iflytek": (Published("accuracy", 60.37, 7),),
    "cmnli": (Published("accuracy", 79.47, 7),),
    "csl": (Published("accuracy", 79.63, 7),),
    "c3": (Published("accuracy", 65.70, 7),),
    "cmrc2018": (
        Published("f1", 85.48, 7),
        Published("exact_match", 64.77, 7),
        Published("f1", 84.0, 8),
        Published("exact_match", 64.4, 8),
    ),
    "xnli_zh": (Published("accuracy", 77.4, 8),),
}
"""Task → scores; MNLI's are those of the matched split.

CHID and CLUEWSC stand in other forms here than in CLUE's table; of SuperGLUE no scores on dev were
found whose source says how they were made.
"""
