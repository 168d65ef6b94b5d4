"""Multiple choice: a context with some choices, one of which is right.

Each choice is a text of its own, `[CLS] context [SEP] choice [SEP]`, and all those of an example
are segments of one packed row, which attention keeps apart: what HF's `BertForMultipleChoice`
computes in a row for each choice, all padded to the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ptft_jax.data.batches import Batch, InEpochs
from ptft_jax.data.hf_datasets import is_hf
from ptft_jax.data.tasks.classification import format_texts, length_buckets_of
from ptft_jax.data.tasks.files.labels import check_characters
from ptft_jax.data.tasks.files.prepared import benchmark_tables
from ptft_jax.data.tasks.files.reading import (
    Flatten,
    Needed,
    Reader,
    Table,
    absent,
    find_split,
    fingerprint_of,
    listing,
    read_table,
    splits_to_read,
)
from ptft_jax.data.tasks.submissions import Submission
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError

_COLUMNS = ("context", "choices")
_OPTIONAL = ("label", "names", "answers", "group", "id")


@dataclass(frozen=True)
class ChoiceSettings:
    """Which columns of a table of one's own hold what.

    In a CSV or TSV the choices are columns of their own, `choices` followed by 0, 1, 2, …
    """

    context_column: str = "context"
    choices_column: str = "choices"
    label_column: str = "label"


@dataclass(frozen=True)
class ChoiceSplit:
    """The examples of one split, all lists of the same length.

    contexts: "" everywhere where choices are whole texts. labels: the right choices, int32 `[N]`;
    None where they are not known. is_right: all choices that count as right, bool `[N, P]`, where
    there may be several; None for those of `labels`. names: what a benchmark calls the choices,
    where they are texts made of them. answers: all texts that are right, where an answer is scored
    by its text. groups: int `[N]`, of examples that have the same choices, each of which is right
    for one of them at most. ids: as in `table.Split`.
    """

    contexts: list[str]
    choices: list[list[str]]
    labels: np.ndarray | None
    source: str
    is_right: np.ndarray | None = None
    names: list[list[str]] | None = None
    answers: list[list[str]] | None = None
    groups: np.ndarray | None = None
    ids: list[Any] | None = None

    def __len__(self) -> int:
        return len(self.contexts)

    @property
    def labelled(self) -> bool:
        """Whether the right choices are known."""
        return self.labels is not None

    def take(self, rows: np.ndarray) -> "ChoiceSplit":
        """Returns these examples, int64 `[M]`."""
        contexts = [self.contexts[row] for row in rows]
        choices = [self.choices[row] for row in rows]
        labels, right = (
            held if held is None else held[rows] for held in (self.labels, self.is_right)
        )
        return ChoiceSplit(contexts, choices, labels, self.source, right)

    def fingerprint(self) -> str:
        """Returns a SHA-256 of texts and labels."""
        each = zip(self.contexts, self.choices, strict=True)
        texts = (text for context, choices in each for text in (context, *choices))
        return fingerprint_of(texts, b"" if self.labels is None else self.labels.tobytes())


@dataclass(frozen=True)
class ChoiceData:
    """A task with its examples; see `table.TaskData`."""

    name: str
    splits: dict[str, ChoiceSplit]
    metrics: tuple[str, ...] = ("accuracy",)
    eval_splits: tuple[str, ...] = ("dev",)
    label_names: None = None


@dataclass(frozen=True)
class ChoiceTask:
    """A task of multiple choice: a row of the table of tasks.

    suite, folder, files, reader, language, hub, tfds, tfds_rows: as in `ClassificationTask`.
    flatten: makes of a record rows with `context`, `choices` (a list) and, where it is known,
    `label`: the number of the right choice from 0, the choice itself, or a list of them; perhaps
    `names`, `answers`, `group` and `id`, see `ChoiceSplit`. None for a table of one's own, whose
    columns `ChoiceSettings` names.
    submission: as in `ClassificationTask`.
    """

    kind: ClassVar[str] = "choice"

    suite: str
    folder: str = ""
    files: dict[str, tuple[str, ...]] | None = None
    reader: Reader | None = None
    flatten: Flatten | None = None
    metrics: tuple[str, ...] = ("accuracy",)
    language: str | None = "en"
    submission: Submission | None = None
    hub: str = ""
    tfds: str = ""
    tfds_rows: Flatten | None = None

    def load(
        self,
        name: str,
        data_dir: str | Path | None,
        settings: ChoiceSettings | None = None,
        needed: Needed | None = None,
    ) -> ChoiceData:
        """Returns the task's examples; `needed` as of `ClassificationTask.load`.

        Raises ConfigError for missing files, DataError for their content.
        """
        if is_hf(data_dir) or (self.tfds and not data_dir):
            found = self._read_prepared(data_dir or "", settings, needed)
            return ChoiceData(name, found, self.metrics)
        folder = Path(data_dir or "") / self.folder
        if not data_dir or not folder.is_dir():
            raise ConfigError(
                f"--config.data_dir={data_dir or ''}: the task '{name}' needs a folder with "
                f"{self.folder or 'train and dev'}"
                + ("" if not data_dir else f"; {listing(Path(data_dir))}")
            )
        splits = {}
        for split, required in splits_to_read(("train", "dev", "test"), needed).items():
            if self.files is None:
                path = find_split(folder, split)
            else:
                files = [folder / file for file in self.files.get(split, ())]
                path = next((file for file in files if file.is_file()), None)
            if path is not None:
                splits[split] = self.read(path, settings)
            elif required and self.files is not None:
                train = folder / self.files["train"][0] if needed is None else None
                raise ConfigError(absent(folder, self.files.get(split, (split,)), train))
            elif required:
                raise ConfigError(
                    f"{folder} has no {split}.jsonl, .parquet, .csv or .tsv; {listing(folder)}"
                )
        return ChoiceData(name, splits, self.metrics)

    def _read_prepared(
        self, data_dir: str | Path, settings: ChoiceSettings | None, needed: Needed | None
    ) -> dict[str, ChoiceSplit]:
        splits = {"train": "train", "dev": "validation", "test": "test"}
        flatten = self.tfds_rows or self.flatten or _own_columns(settings or ChoiceSettings())
        tables = benchmark_tables(
            data_dir, self.hub, self.tfds, splits, _COLUMNS[:2], _OPTIONAL, flatten, needed
        )
        return {split: _split_of(table) for split, (table, _) in tables.items()}

    def read(self, path: str | Path, settings: ChoiceSettings | None = None) -> ChoiceSplit:
        """Returns the examples of one file in the task's form, with or without labels."""
        flatten = self.flatten or _own_columns(settings or ChoiceSettings())
        table = read_table(path, _COLUMNS, optional=_OPTIONAL, reader=self.reader, flatten=flatten)
        return _split_of(table)


def _own_columns(settings: ChoiceSettings) -> Flatten:
    def rows(record: dict[str, Any]) -> list[dict[str, Any]]:
        choices = record.get(settings.choices_column)
        if choices is None:
            choices, number = [], 0
            while f"{settings.choices_column}{number}" in record:
                choices.append(record[f"{settings.choices_column}{number}"])
                number += 1
            if not number:
                raise KeyError(settings.choices_column)
        row = {"context": record[settings.context_column], "choices": choices}
        return [row | {"label": record.get(settings.label_column)}]

    return rows


def _split_of(table: Table) -> ChoiceSplit:
    contexts, choices = table.columns["context"], table.columns["choices"]
    for row, (context, some) in enumerate(zip(contexts, choices, strict=True)):
        if not isinstance(some, list) or len(some) < 2:
            raise DataError(f"{table.at(row)}: choices {some!r}; expected a list of at least two")
        for text in (context, *some):
            if not isinstance(text, str):
                raise DataError(f"{table.at(row)}: {text!r} is no text; expected one in quotes")
            check_characters(table, row, "choices", text)
        if not all(map(str.strip, some)):
            raise DataError(f"{table.at(row)}: choices {some!r}; expected no empty one")
    found = table.columns.get("label")
    source = str(table.path)
    names, groups = table.columns.get("names"), table.columns.get("group")
    ids = table.columns.get("id", [])
    more: dict[str, Any] = {"names": names, "ids": ids if ids and None not in ids else None}
    more["groups"] = None if groups is None else np.array(groups)
    if found is None or all(label in (None, "", -1, "-1") for label in found):
        return ChoiceSplit(contexts, choices, None, source, **more)
    more["answers"] = table.columns.get("answers")
    right = [_right(table, row, label, choices[row]) for row, label in enumerate(found)]
    is_right = None
    if any(len(some) > 1 for some in right):
        is_right = np.zeros((len(right), max(map(len, choices))), bool)
        for row, some in enumerate(right):
            is_right[row, some] = True
    labels = np.array([some[0] for some in right], np.int32)
    return ChoiceSplit(contexts, choices, labels, source, is_right, **more)


def _right(table: Table, row: int, label: Any, choices: Sequence[str]) -> list[int]:
    """The numbers of the right choices of a row."""
    numbers = []
    for one in label if isinstance(label, list) else [label]:
        if isinstance(one, str) and one in choices:
            numbers.append(choices.index(one))
        elif str(one).isdecimal() and int(one) < len(choices):
            numbers.append(int(one))
        else:
            raise DataError(
                f"{table.at(row)}: label {one!r}; expected a number from 0 to {len(choices) - 1}, "
                "or one of the choices"
            )
    if not numbers:
        raise DataError(f"{table.at(row)}: no choice is right; expected one at least")
    return numbers


class ChoiceExamples(InEpochs):
    """Random access to the examples of one split, one packed row each; see `data.batches.Examples`.

    `buckets` are the lengths of rows: as many times those of a choice as an example has choices.
    `lengths` are the tokens of each example, int64 [N]; `is_cut` says which have a choice that did
    not fit into `max_seq_length`, bool [N], and `num_truncated` how many.
    """

    token_keys = ()

    def __init__(
        self,
        split: ChoiceSplit,
        tokenizer: TextTokenizer,
        max_seq_length: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        length_buckets: Sequence[int] | None = None,
    ) -> None:
        """Tokenises a split; arguments as for `ClassificationExamples`, lengths of a choice."""
        self._counts = np.array([len(choices) for choices in split.choices], np.int64)
        self._most = int(self._counts.max())
        lengths = length_buckets_of(max_seq_length, length_buckets)
        self.buckets = tuple(self._most * length for length in lengths)
        self._pad_token_id = tokenizer.pad_token_id
        self._labels, self._seed, self._shuffle = split.labels, seed, shuffle
        each = [choice for choices in split.choices for choice in choices]
        contexts = [
            context
            for context, choices in zip(split.contexts, split.choices, strict=True)
            for _ in choices
        ]
        first, second = (contexts, each) if any(contexts) else (each, None)
        self._texts = format_texts(first, second, tokenizer, max_seq_length)
        self._first = np.cumsum(self._counts) - self._counts
        self.lengths = np.add.reduceat(self._texts.lengths, self._first)
        self.is_cut = np.logical_or.reduceat(self._texts.is_cut, self._first)
        self.num_truncated = int(self.is_cut.sum())

    def __len__(self) -> int:
        return len(self._counts)

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at global `indices` (int64 `[B]`), padded together.

        input_ids, attention_mask, token_type_ids, segment_ids (1, 2, … by choice, 0 padding) and
        position_ids (from 0 in each choice) are int32 `[B, T]`; pooled_positions (the place of
        each choice's [CLS]) and choice_mask (1 where there is a choice) int32 `[B, 1, C]`; weights
        float32 `[B, 1]` (ones), labels int32 `[B, 1]`; a split without labels has none here.
        """
        rows = self.rows(indices)
        texts, most = self._texts, self._most
        length = next(bucket for bucket in self.buckets if bucket >= self.lengths[rows].max())
        counts = self._counts[rows]
        batch = {
            name: np.zeros((len(rows), length), np.int32)
            for name in ("token_type_ids", "segment_ids", "position_ids")
        }
        input_ids = np.full((len(rows), length), self._pad_token_id, np.int32)
        pooled = np.zeros((len(rows), most), np.int32)
        for row, (first, count) in enumerate(zip(self._first[rows], counts, strict=True)):
            place = 0
            for choice in range(count):
                text = first + choice
                size, start = int(texts.lengths[text]), int(texts.starts[text])
                here = slice(place, place + size)
                input_ids[row, here] = texts.tokens[start : start + size]
                batch["token_type_ids"][row, place + texts.first_lengths[text] : here.stop] = 1
                batch["segment_ids"][row, here] = choice + 1
                batch["position_ids"][row, here] = np.arange(size)
                pooled[row, choice] = place
                place += size
        batch |= {
            "input_ids": input_ids,
            "attention_mask": (batch["segment_ids"] > 0).astype(np.int32),
            "pooled_positions": pooled[:, None],
            "choice_mask": (np.arange(most) < counts[:, None, None]).astype(np.int32),
            "weights": np.ones((len(rows), 1), np.float32),
        }
        if self._labels is not None:
            batch["labels"] = self._labels[rows][:, None]
        return batch
