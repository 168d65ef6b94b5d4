"""Tagged sentences are read into splits: entities (O, B-PER, I-PER) or tags of words (NOUN).

The tags of a task are those of its train split.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from ptft_jax.data.hf_datasets import is_hf
from ptft_jax.data.tasks.files.conll import SUFFIXES, TaggedFile, read_tagged
from ptft_jax.data.tasks.files.reading import Needed, listing, nearest, splits_to_read
from ptft_jax.data.tasks.tagging.prepared import read_prepared
from ptft_jax.errors import ConfigError, DataError

# In all of IOB1, IOB2, IOBES, BILOU and BMES.
_ENTITY = re.compile("[BIESLUM]-.+", re.DOTALL)
_BARE = {"O", "B", "I"}
_OWN = {
    split: tuple(f"{split}{suffix}" for suffix in SUFFIXES) for split in ("train", "dev", "test")
}


@dataclass(frozen=True)
class TaggingSettings:
    """Which columns of a column file hold the words and their tags; -1 is the last."""

    word_column: int = 0
    tag_column: int = -1


@dataclass(frozen=True)
class TaggingTask:
    """A task of tagged sentences: a row of the table of tasks.

    folder: of the files, which `data_dir` is or holds. files: our split → the names that its file
    goes by, of which one is there. A test split may be missing, or without tags. language: of the
    sentences, "" if any.
    """

    kind: ClassVar[str] = "tagging"

    suite: str = "own"
    folder: str = ""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _OWN)
    language: str = ""

    def load(
        self,
        name: str,
        data_dir: str | Path | None,
        settings: TaggingSettings | None = None,
        needed: Needed | None = None,
    ) -> "TaggingData":
        """Returns the task's sentences; ConfigError for missing files, DataError for their content.

        Entities are scored by F1, tags of words by accuracy. `needed` as of
        `ClassificationTask.load`.
        """
        settings = settings or TaggingSettings()
        if not data_dir:
            raise ConfigError(
                f"the task '{name}' needs --config.data_dir=DIR, a folder with "
                + "; ".join(" or ".join(names) for names in self.files.values())
                + ", or hf:NAME"
            )
        if is_hf(data_dir):
            return _data_of(name, read_prepared(data_dir, needed), needed)
        folder = Path(data_dir)
        folder = folder / self.folder if (folder / self.folder).is_dir() else folder
        files = {}
        for split, required in splits_to_read(self.files, needed).items():
            path = _find(folder, self.files[split], required=required)
            if path is not None:
                columns = settings.word_column, settings.tag_column
                files[split] = read_tagged(path, *columns, unlabelled=split == "test")
        return _data_of(name, files, needed)


@dataclass(frozen=True)
class TaggingSplit:
    """The sentences of one split.

    words: of each sentence. tags: of each word, ids int32 of the task's `label_names`; None where
    they are not known. source: where it came from, for messages.
    """

    words: list[list[str]]
    tags: list[np.ndarray] | None
    source: str

    def __len__(self) -> int:
        return len(self.words)

    @property
    def labelled(self) -> bool:
        """Whether the tags are known."""
        return self.tags is not None

    def take(self, rows: np.ndarray) -> "TaggingSplit":
        """The sentences of these rows, int64 `[M]`."""
        tags = self.tags and [self.tags[row] for row in rows]
        return TaggingSplit([self.words[row] for row in rows], tags, self.source)

    def fingerprint(self) -> str:
        """SHA-256 of words and tags."""
        sha256 = hashlib.sha256()
        for words in self.words:
            sha256.update(f"{words!r}\n".encode())
        for tags in self.tags or ():
            sha256.update(tags.tobytes())
        return sha256.hexdigest()

    @property
    def num_words(self) -> list[int]:
        """The number of words of each sentence."""
        return [len(words) for words in self.words]


@dataclass(frozen=True)
class TaggingData:
    """A task with its sentences.

    label_names: the tag of each id. metrics: the first decides which checkpoint is best.
    eval_splits: what is scored during training.
    """

    name: str
    splits: dict[str, TaggingSplit]
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]
    eval_splits: tuple[str, ...] = ("dev",)


def _data_of(name: str, files: Mapping[str, TaggedFile], needed: Needed | None) -> TaggingData:
    names = tag_names(files["train"]) if needed is None else needed.labels or ()
    metrics = ("f1", "precision", "recall", "accuracy")
    return TaggingData(
        name=name,
        splits={
            split: TaggingSplit(
                file.words, None if file.tags is None else tag_ids(file, names), str(file.path)
            )
            for split, file in files.items()
        },
        label_names=names,
        metrics=metrics if are_entities(names) else ("accuracy",),
    )


def _find(folder: Path, names: Sequence[str], *, required: bool) -> Path | None:
    """The one file of these names in a folder, None for one that need not be there."""
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        both = " and ".join(str(path.relative_to(folder)) for path in found)
        raise ConfigError(f"{folder} holds {both}: keep one of them")
    if not found and required:
        raise ConfigError(f"data_dir={folder} has no {' or '.join(names)}; {listing(folder)}")
    return found[0] if found else None


def tag_names(train: TaggedFile) -> tuple[str, ...]:
    """The tags of a train file, O first, the others sorted.

    A type that occurs with one prefix may occur with the others of the file in another split, so
    all of them are there; I also where there is B alone. Raises DataError where tags of entities
    and others are mixed, or where all are equal.
    """
    found = {tag for tags in train.tags or () for tag in tags}
    if len(found) < 2:
        raise DataError(
            f"{train.path}: all words have the tag {next(iter(found))!r}; expected at least two "
            "different ones. tag_column says where the tags are"
        )
    entities = {tag for tag in found if _ENTITY.fullmatch(tag)}
    others = found - entities - {"O"}
    if others and entities and "O" in found:
        wrong = min(others, key=lambda tag: sum(tags.count(tag) for tags in train.tags or ()))
        raise DataError(
            f"{_first_at(train, wrong)}: the tag {wrong!r} among tags of entities; expected O, or "
            "a prefix and a type, as B-PER"
        )
    if entities and not others:
        prefixes = {tag[0] for tag in entities}
        prefixes |= {"I"} if prefixes == {"B"} else set()
        found = {"O"} | {f"{prefix}-{tag[2:]}" for prefix in prefixes for tag in entities}
    return tuple(sorted(found, key=lambda tag: (tag != "O", tag)))


def are_entities(names: Sequence[str]) -> bool:
    """Whether tags name entities (O and prefixes), not words of a class each."""
    return all(name == "O" or _ENTITY.fullmatch(name) for name in names) or set(names) <= _BARE


def tag_ids(file: TaggedFile, names: Sequence[str]) -> list[np.ndarray]:
    """The ids of each sentence's tags, int32; DataError for a tag that is not among the names."""
    ids = {name: index for index, name in enumerate(names)}
    found = []
    for number, tags in enumerate(file.tags or ()):
        unknown = next((place for place, tag in enumerate(tags) if tag not in ids), None)
        if unknown is not None:
            shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            raise DataError(
                f"{file.at(number, unknown)}: the tag {tags[unknown]!r} is not among those of the "
                f"train split{nearest(tags[unknown], names)}: {shown}"
            )
        found.append(np.array([ids[tag] for tag in tags], np.int32))
    return found


def inside_ids(names: Sequence[str]) -> dict[int, int]:
    """The ids of tags that begin an entity, each with that of the tag which goes on with it.

    What further tokens of a word are labelled with, as with `--label_all_tokens` of transformers'
    run_ner.py.
    """
    ids = {name: index for index, name in enumerate(names)}
    pairs = ((name, "I" + name[1:]) for name in names if name[:1] == "B")
    return {ids[name]: ids[inside] for name, inside in pairs if inside in ids}


def _first_at(file: TaggedFile, tag: str) -> str:
    number = next(i for i, tags in enumerate(file.tags or ()) if tag in tags)
    return file.at(number, (file.tags or [])[number].index(tag))
