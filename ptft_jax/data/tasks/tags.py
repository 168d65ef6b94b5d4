"""The set of tags of a task: O and entities (B-PER, I-PER), or tags of words (NOUN)."""

import re
from collections.abc import Sequence

import numpy as np

from ptft_jax.data.tasks.conll import TaggedFile
from ptft_jax.data.tasks.reading import nearest
from ptft_jax.errors import DataError

# In all of IOB1, IOB2, IOBES, BILOU and BMES.
_ENTITY = re.compile("[BIESLUM]-.+", re.DOTALL)
_BARE = {"O", "B", "I"}


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
