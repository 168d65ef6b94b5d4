"""Pairs of texts that mean the same, or whose likeness has a score: what vectors are learned from.

The texts of an example, two or, with one that does not mean the same, three, are segments of one
packed row, which attention keeps apart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ptft_jax.data.batches import Batch
from ptft_jax.data.hf_datasets import is_hf
from ptft_jax.data.tasks.choice import ChoiceExamples, ChoiceSplit
from ptft_jax.data.tasks.files.labels import check_characters, check_texts, scores
from ptft_jax.data.tasks.files.prepared import SPLITS, lacks, open_splits
from ptft_jax.data.tasks.files.reading import (
    Record,
    Table,
    find_split,
    fingerprint_of,
    listing,
    read_table,
    table_of,
)
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError


@dataclass(frozen=True)
class EmbeddingSettings:
    """Which columns of a table of one's own hold what.

    The first two have to be there. negative_column: a text that does not mean the same, perhaps not
    in every row. score_column: how alike the two texts are, a number. A file without the last two
    has pairs that mean the same.
    """

    first_column: str = "sentence1"
    second_column: str = "sentence2"
    negative_column: str = "negative"
    score_column: str = "score"


@dataclass(frozen=True)
class EmbeddingSplit:
    """The examples of one split, all lists of the same length.

    texts: two of each example, and perhaps one that does not mean the same as the first. scores:
    how alike the two are, float32 `[N]`; None: they mean the same. source: for messages.
    """

    texts: list[list[str]]
    scores: np.ndarray | None
    source: str
    labelled: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def likeness(self) -> np.ndarray:
        """The scores from 0, the lowest of the split, to 1, the highest; 1 without scores."""
        if self.scores is None:
            return np.ones(len(self), np.float32)
        low, high = self.scores.min(), self.scores.max()
        return (self.scores - low) / max(high - low, np.finfo(np.float32).tiny)

    def take(self, rows: np.ndarray) -> "EmbeddingSplit":
        """Returns these examples, int64 `[M]`."""
        found = None if self.scores is None else self.scores[rows]
        return EmbeddingSplit([self.texts[row] for row in rows], found, self.source)

    def fingerprint(self) -> str:
        """Returns a SHA-256 of texts and scores."""
        known = b"" if self.scores is None else self.scores.tobytes()
        counts = np.array([len(texts) for texts in self.texts], np.int8).tobytes()
        return fingerprint_of(chain.from_iterable(self.texts), known + counts)


@dataclass(frozen=True)
class EmbeddingData:
    """A task with its examples; see `table.TaskData`."""

    name: str
    splits: dict[str, EmbeddingSplit]
    eval_splits: tuple[str, ...] = ("dev",)
    label_names: None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of dev: correlation with scores, or how often the right text is the nearest."""
        has_scores = self.splits["dev"].scores is not None
        return ("spearman", "pearson") if has_scores else ("accuracy", "mrr")


@dataclass(frozen=True)
class EmbeddingTask:
    """Texts that vectors are learned from: a row of the table of tasks.

    read: makes the splits of what `data_dir` is to another task; None for a table of one's own,
    train and dev, and perhaps test, as .csv, .tsv, .jsonl or .parquet.
    """

    kind: ClassVar[str] = "embedding"

    suite: str = "own"
    read: Callable[[str | Path | None], dict[str, EmbeddingSplit]] | None = None
    language: str | None = None

    def load(
        self, name: str, data_dir: str | Path | None, settings: EmbeddingSettings | None = None
    ) -> EmbeddingData:
        """Returns the task's examples.

        Raises ConfigError for missing files, DataError for their content.
        """
        if self.read is not None:
            return EmbeddingData(name, self.read(data_dir))
        settings = settings or EmbeddingSettings()
        tables = _own_tables(name, data_dir, settings)
        splits = {split: _split_of(table, settings) for split, table in tables.items()}
        if splits["train"].scores is not None and not np.ptp(splits["train"].scores):
            raise DataError(
                f"{splits['train'].source}: all scores are {splits['train'].scores[0]:g}; expected "
                "at least two different ones, or no such column where all pairs mean the same"
            )
        return EmbeddingData(name, splits)


def _own_tables(
    name: str, data_dir: str | Path | None, settings: EmbeddingSettings
) -> Mapping[str, Table]:
    wanted = (settings.first_column, settings.second_column)
    optional = [name for name in (settings.score_column, settings.negative_column) if name]

    def flatten(record: Record) -> list[Record]:
        # Of JSON lines some may have what others have not.
        known = {name: record[name] for name in wanted if name in record}
        return [known | {name: record.get(name) for name in optional}]

    tables = {}
    if is_hf(data_dir):
        found = open_splits(data_dir or "", "", "")
        for split, known in SPLITS.items():
            theirs = next((name for name in known if name in found), None)
            if theirs is not None:
                source = found[theirs]
                rows = source.records()
                tables[split] = table_of(
                    Path(source.source), rows, wanted, optional, flatten, "row"
                )
            elif split != "test":
                raise lacks(data_dir or "", " or ".join(known), found)
        return tables
    if not data_dir or not Path(data_dir).is_dir():
        raise ConfigError(
            f"--config.data_dir={data_dir or ''}: the task '{name}' needs a folder with train and "
            "dev (and perhaps test) as .csv, .tsv, .jsonl or .parquet, or hf:NAME"
        )
    for split in SPLITS:
        path = find_split(data_dir, split)
        if path is not None:
            tables[split] = read_table(path, wanted, optional=optional, flatten=flatten)
        elif split != "test":
            raise ConfigError(
                f"data_dir={data_dir} has no {split}.csv, .tsv, .jsonl or .parquet; "
                f"{listing(Path(data_dir))}"
            )
    return tables


def _split_of(table: Table, settings: EmbeddingSettings) -> EmbeddingSplit:
    pair = (settings.first_column, settings.second_column)
    check_texts(table, pair)
    first, second = (table.columns[name] for name in pair)
    negatives = table.columns.get(settings.negative_column) or [None] * len(table)
    texts = []
    for row, (*both, negative) in enumerate(zip(first, second, negatives, strict=True)):
        texts.append([*both, negative] if negative not in (None, "") else both)
        for text in texts[-1]:
            if not isinstance(text, str):
                raise DataError(f"{table.at(row)}: {text!r} is no text; expected one in quotes")
            check_characters(table, row, settings.first_column, text)
    found = None
    known = table.columns.get(settings.score_column, ())
    if any(score not in (None, "") for score in known):
        found = scores(table, settings.score_column, None)
    return EmbeddingSplit(texts, found, str(table.path))


class EmbeddingExamples(ChoiceExamples):
    """Random access to the examples of one split, one packed row each; see `ChoiceExamples`."""

    def __init__(self, split: EmbeddingSplit, tokenizer: TextTokenizer, *args: Any, **more: Any):
        """Tokenises a split; arguments as for `ClassificationExamples`, lengths of a text."""
        inner = ChoiceSplit([""] * len(split), split.texts, None, split.source)
        super().__init__(inner, tokenizer, *args, **more)
        self._likeness = split.likeness
        numbers: dict[str, int] = {}
        self._numbers = np.zeros((len(split), self._most), np.int32)
        for row, texts in enumerate(split.texts):
            for place, text in enumerate(texts):
                self._numbers[row, place] = numbers.setdefault(text, len(numbers))

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at global `indices` (int64 `[B]`), padded together.

        As `ChoiceExamples.batch`, where a choice is a text; labels are how alike the first two are,
        from 0 to 1, float32 `[B, 1]`, and text_numbers are equal where texts are, int32
        `[B, 1, C]`.
        """
        rows = self.rows(indices)
        batch = super().batch(indices)
        batch["labels"] = self._likeness[rows][:, None].astype(np.float32)
        batch["text_numbers"] = self._numbers[rows][:, None]
        return batch
