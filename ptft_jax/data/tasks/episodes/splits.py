"""Texts of classes, or sentences with two marked entities, from which episodes are drawn.

train, dev and test may have classes of their own each: what is learned is to tell classes apart by
a few texts of each. A sentence with entities, of FewRel's format (Han et al. 2018), gets `@` around
its head and `#` around its tail, which are words of any vocabulary (the punctuation markers of Zhou
and Chen 2021).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ptft_jax.data.foreign_files import read_json, read_json_object
from ptft_jax.data.tasks.files.labels import (
    check_texts,
    class_ids,
    find_labels,
    is_unlabelled,
)
from ptft_jax.data.tasks.files.reading import find_split, fingerprint_of, listing, read_table
from ptft_jax.data.tasks.table import split_of
from ptft_jax.errors import ConfigError, DataError

HEAD, TAIL = "@", "#"
_NAMES = "pid2name.json"


class Marked(NamedTuple):
    """A sentence as words, markers among them, and which words the two of each entity are."""

    words: list[str]
    head: tuple[int, int]
    tail: tuple[int, int]


@dataclass(frozen=True)
class EpisodeSettings:
    """Which columns of a table of one's own hold what."""

    text_column: str = "text"
    label_column: str = "label"


@dataclass(frozen=True)
class EpisodeSplit:
    """The texts of one split, all lists of the same length.

    texts: with the markers where there are entities. labels: of `names`, int32 `[N]`; None where
    they are not known. marked: the sentences with entities; None for plain texts. source: for
    messages.
    """

    texts: list[str]
    labels: np.ndarray | None
    names: tuple[str, ...]
    marked: list[Marked] | None
    source: str

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def labelled(self) -> bool:
        """Whether the classes are known."""
        return self.labels is not None

    def take(self, rows: np.ndarray) -> "EpisodeSplit":
        """Returns these examples, int64 `[M]`."""
        marked = self.marked and [self.marked[row] for row in rows]
        labels = None if self.labels is None else self.labels[rows]
        texts = [self.texts[row] for row in rows]
        return EpisodeSplit(texts, labels, self.names, marked, self.source)

    def fingerprint(self) -> str:
        """Returns a SHA-256 of texts and labels."""
        return fingerprint_of(self.texts, b"" if self.labels is None else self.labels.tobytes())


@dataclass(frozen=True)
class EpisodeData:
    """A task with its texts; see `table.TaskData`."""

    name: str
    splits: dict[str, EpisodeSplit]
    metrics: tuple[str, ...] = ("accuracy",)
    eval_splits: tuple[str, ...] = ("dev",)
    label_names: None = None


@dataclass(frozen=True)
class EpisodeTask:
    """Texts of classes that episodes are drawn from: a row of the table of tasks.

    files: the file of each split, in FewRel's format; None for data of one's own: train and dev,
    and perhaps test, each a .json of that format or a table (.csv, .tsv, .jsonl, .parquet).
    """

    kind: ClassVar[str] = "episodes"

    suite: str = "own"
    files: Mapping[str, str] | None = None
    language: str | None = None

    def load(
        self, name: str, data_dir: str | Path | None, settings: EpisodeSettings | None = None
    ) -> EpisodeData:
        """Returns the task's texts.

        Raises ConfigError for missing files, DataError for their content.
        """
        if not data_dir or not Path(data_dir).is_dir():
            files = "train and dev (and perhaps test) as .json, .csv, .tsv, .jsonl or .parquet"
            raise ConfigError(
                f"--config.data_dir={data_dir or ''}: the task '{name}' needs a folder with "
                f"{files if self.files is None else ', '.join(self.files.values())}"
            )
        splits = {}
        for split in ("train", "dev", "test"):
            path = self.path(Path(data_dir), split)
            if path is not None:
                splits[split] = read_episodes(
                    path, settings or EpisodeSettings(), unlabelled=split == "test"
                )
            elif split != "test":
                wanted = f"{split}.json, .csv, .tsv, .jsonl or .parquet"
                raise ConfigError(
                    f"data_dir={data_dir} has no "
                    f"{wanted if self.files is None else self.files[split]}; "
                    f"{listing(Path(data_dir))}"
                )
        forms = {split.marked is None for split in splits.values()}
        if len(forms) > 1:
            raise ConfigError(
                f"data_dir={data_dir}: some splits are plain texts and some have entities; "
                "expected one form."
            )
        return EpisodeData(name, splits)

    def path(self, folder: Path, split: str) -> Path | None:
        """Returns the file of a split in a folder, None where there is none."""
        if self.files is not None:
            path = folder / self.files[split]
            return path if path.is_file() else None
        path, table = folder / f"{split}.json", find_split(folder, split)
        if path.is_file() and table is not None:
            raise ConfigError(
                f"{folder} holds {path.name} and {table.name}: keep one file for the split "
                f"'{split}'"
            )
        return path if path.is_file() else table


def read_episodes(
    path: str | Path, settings: EpisodeSettings, *, unlabelled: bool = False
) -> EpisodeSplit:
    """Returns the texts of one file, a .json of FewRel's format or a table.

    unlabelled: whether the classes may be missing. Raises ConfigError where it is not there,
    DataError for its content.
    """
    path = Path(path)
    if path.suffix == ".json":
        split = _read_fewrel(path)
        if split.labels is None and not unlabelled:
            raise DataError(
                f"{path} is a list of sentences; expected {{relation: [sentence, …], …}}"
            )
        return split
    text, label = settings.text_column, settings.label_column
    table = read_table(path, (text,) if unlabelled else (text, label), optional=(label,))
    if not unlabelled:
        check_texts(table, (text,))
    texts = split_of(table, (text,), None, (), None).texts_a
    if unlabelled and (label not in table.columns or is_unlabelled(table, label, ())):
        return EpisodeSplit(texts, None, (), None, str(path))
    names = find_labels(table, label, False)
    return EpisodeSplit(texts, class_ids(table, label, names), names, None, str(path))


def _read_fewrel(path: Path) -> EpisodeSplit:
    """Reads {relation: [{"tokens": […], "h": [name, id, [[places], …]], "t": …}, …], …}.

    A file beside it, pid2name.json, {relation: [name, description]}, has their names. A list of
    sentences in place of the object has no relations.
    """
    if not path.is_file():
        raise ConfigError(f"no such file: {path}")
    content = read_json(path)
    relations = content if isinstance(content, dict) else {"": content}
    if not relations:
        raise DataError(f"{path} holds no sentences; expected some of each relation")
    names = _names_of(path.parent / _NAMES)
    marked, labels = [], []
    for number, (relation, sentences) in enumerate(relations.items()):
        if not isinstance(sentences, list) or not sentences:
            raise DataError(f"{path}: {relation!r} holds no list of sentences (FewRel's format)")
        for place, sentence in enumerate(sentences):
            try:
                marked.append(with_markers(sentence))
            except ValueError as error:
                where = f"{relation!r}, sentence {place}" if relation else f"sentence {place}"
                raise DataError(f"{path}: {where}: {error}") from error
            labels.append(number)
    texts = [" ".join(one.words) for one in marked]
    if not isinstance(content, dict):
        return EpisodeSplit(texts, None, (), marked, str(path))
    shown = tuple(names.get(relation, relation) for relation in relations)
    if len(set(shown)) < len(shown):  # two relations may have one name
        shown = tuple(relations)
    return EpisodeSplit(texts, np.array(labels, np.int32), shown, marked, str(path))


def _names_of(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    found = read_json_object(path)
    if not all(isinstance(words, list) and words for words in found.values()):
        raise DataError(f"{path}: expected {{relation: [name, description], …}}")
    return {relation: str(words[0]) for relation, words in found.items()}


def with_markers(sentence: Any) -> Marked:
    """Returns a sentence of FewRel's format with markers around the first mention of each entity.

    Raises ValueError for another form.
    """
    if not isinstance(sentence, Mapping) or not {"tokens", "h", "t"} <= sentence.keys():
        raise ValueError(f"{str(sentence)[:80]} has no tokens, h and t")
    words = sentence["tokens"]
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise ValueError(f"tokens={str(words)[:80]}: expected a list of words")
    if any("\ud800" <= character <= "\udfff" for character in "".join(words)):
        raise ValueError(f"tokens={words!r:.80}: half of a surrogate pair is no character")
    spans = {
        marker: _mention(key, sentence[key], len(words))
        for key, marker in (("h", HEAD), ("t", TAIL))
    }
    # What holds the other is opened first, and closed last.
    spans = dict(sorted(spans.items(), key=lambda one: (one[1][0], -one[1][1])))
    found: list[str] = []
    begun, ended = {}, {}
    for place, word in enumerate(words):
        for marker, (first, _) in spans.items():
            if place == first:
                begun[marker] = len(found)
                found.append(marker)
        found.append(word)
        for marker, (_, last) in reversed(spans.items()):
            if place == last:
                ended[marker] = len(found)
                found.append(marker)
    return Marked(found, *((begun[marker], ended[marker]) for marker in (HEAD, TAIL)))


def _mention(key: str, entity: Any, count: int) -> tuple[int, int]:
    match entity:
        case [_, _, [[*places], *_]] if places and all(type(place) is int for place in places):
            first, last = min(places), max(places)
        case _:
            raise ValueError(
                f"{key}={str(entity)[:80]}: expected [name, id, [[places of its words], …]]"
            )
    if not 0 <= first <= last < count:
        raise ValueError(f"{key}={str(entity)[:80]}: expected places from 0 to {count - 1}")
    return first, last
