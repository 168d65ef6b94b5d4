"""Tagged sentences out of data sets that the library `datasets` reads."""

from pathlib import Path
from typing import Any

from ptft_jax.data.hf_datasets import HfSplit, read_hf
from ptft_jax.data.tasks.files.conll import TaggedFile
from ptft_jax.data.tasks.files.prepared import SPLITS, lacks
from ptft_jax.data.tasks.files.reading import Needed, splits_to_read
from ptft_jax.errors import ConfigError, DataError

# What words and tags are called; entities before parts of speech where there are both.
_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "tags", "labels", "slots", "pos_tags", "upos")


def read_prepared(data_dir: str | Path, needed: Needed | None = None) -> dict[str, TaggedFile]:
    """Returns the sentences of each split, tags that are numbers of classes by their names.

    Raises ConfigError where there is no such data set, split or column, DataError for a row.
    """
    found, files = read_hf(data_dir), {}
    for split, required in splits_to_read(SPLITS, needed).items():
        known = SPLITS[split]
        theirs = next((name for name in known if name in found), None)
        if theirs is not None:
            files[split] = _tagged(found[theirs], unlabelled=split == "test")
        elif required:
            raise lacks(data_dir, " or ".join(known), found)
    return files


def _tagged(source: HfSplit, *, unlabelled: bool) -> TaggedFile:
    words_in, tags_in = (
        next((name for name in names if name in source.columns), None) for names in (_WORDS, _TAGS)
    )
    if words_in is None or (tags_in is None and not unlabelled):
        raise ConfigError(
            f"{source.source} has the columns {', '.join(source.columns)}; expected words as "
            f"{' or '.join(_WORDS)} and tags as {', '.join(_TAGS)}"
        )
    names = source.class_names(tags_in) if tags_in else ()
    words, tags, rows = [], [], []
    for number, record in source.records([name for name in (words_in, tags_in) if name]):
        some = record[words_in]
        theirs = record[tags_in] if tags_in else [None] * len(some)
        place = f"{source.source}, row {number}"
        if len(some) != len(theirs):
            raise DataError(f"{place}: {len(some)} words and {len(theirs)} tags")
        if not all(isinstance(word, str) and word for word in some):
            raise DataError(f"{place}: words {str(some)[:80]}; expected texts")
        # A data set without labels has -1 for them.
        tags.append([_name_of(tag, names, place) for tag in theirs])
        words.append(list(some))
        rows.append([number] * len(some))
    known = {tag for some in tags for tag in some}
    if None in known and not unlabelled:
        raise DataError(f"{source.source}: some words have no tag; expected one for each")
    return TaggedFile(Path(source.source), words, None if None in known else tags, rows, unit="row")


def _name_of(tag: Any, names: tuple[str, ...], place: str) -> str | None:
    if isinstance(tag, str) or tag in (None, -1):
        return None if tag == -1 else tag
    if isinstance(tag, int) and 0 <= tag < len(names):
        return names[tag]
    raise DataError(f"{place}: the tag {tag!r}; expected a text, or the number of a class")
