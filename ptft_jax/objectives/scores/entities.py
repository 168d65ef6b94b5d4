"""Entities in sequences of tags, and how many of them a model finds, counted as seqeval counts.

A tag is O, or a prefix and a type (B-PER). Without a scheme tags are read leniently, as by
conlleval and by seqeval's default: whatever begins or ends an entity in any scheme does. In a
scheme (IOB1, IOB2, IOBES) only what is well-formed in it is an entity, as in seqeval with
`mode="strict"`. BILOU and BMES are IOBES in other letters and are read so.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ptft_jax.errors import ConfigError

Tags = Sequence[str]
_LETTERS = str.maketrans("LUM", "ESI")


class Entity(NamedTuple):
    """An entity of a sentence: its type, its first word, and the word after its last."""

    type: str
    start: int
    end: int


class EntityScore(NamedTuple):
    """Precision, recall and F1, 0.0 where undefined; `support` counts the entities to find."""

    precision: float
    recall: float
    f1: float
    support: int


# (prefixes of the tag before, prefixes of the tag, whether their types are equal; None: either)
_Pattern = tuple[str, str, bool | None]


class _Scheme(NamedTuple):
    """Between which tags an entity starts, goes on and ends (seqeval's `scheme.py`)."""

    prefixes: str
    starts: tuple[_Pattern, ...]
    goes_on: tuple[_Pattern, ...]
    ends: tuple[_Pattern, ...]


_ANY = "OBIES"
_SCHEMES = {
    "IOB1": _Scheme(
        "OBI",
        starts=(("OB", "I", None), ("I", "I", False), ("BI", "B", True)),
        goes_on=(("BI", "I", True),),
        ends=(("BI", "I", False), ("BI", "O", None), ("I", "B", None), ("B", "B", True)),
    ),
    "IOB2": _Scheme(
        "OBI",
        starts=((_ANY, "B", None),),
        goes_on=(("BI", "I", True),),
        ends=(("BI", "I", False), ("BI", "OB", None)),
    ),
    "IOBES": _Scheme(
        _ANY,
        starts=((_ANY, "BS", None),),
        goes_on=(("BI", "IE", True),),
        ends=(("SE", _ANY, None),),
    ),
}


def entities_of(tags: Tags, scheme: str | None = None) -> list[Entity]:
    """The entities of one sentence, in order; `scheme` None reads the tags leniently.

    Raises ConfigError for a prefix that is none, or none of the scheme.
    """
    found = _SCHEMES[scheme].prefixes if scheme else _ANY
    parts = [_split(tag, found) for tag in (*tags, "O")]
    return _lenient(parts) if scheme is None else _strict(parts, _SCHEMES[scheme])


def scheme_of(sentences: Iterable[Tags]) -> str:
    """The scheme that sentences are tagged in, also where some tags are not well-formed in it.

    IOBES where one of its own prefixes occurs; IOB2 where an entity begins with B, though none of
    its type ends before it; IOB1 where all others begin with I.
    """
    begins = set()
    for tags in sentences:
        parts = [("O", "_"), *(_split(tag, _ANY) for tag in tags)]
        for before, now in itertools.pairwise(parts):
            if now[0] in "ES":
                return "IOBES"
            if now[0] != "O" and (before[0] == "O" or before[1] != now[1]):
                begins.add(now[0])
    return "IOB1" if begins == {"I"} else "IOB2"


def entity_scores(
    gold: Sequence[Tags], predicted: Sequence[Tags], scheme: str | None = None
) -> tuple[EntityScore, dict[str, EntityScore]]:
    """The score over all entities (micro average), and that of each type, sorted by name.

    An entity counts as found when its type and both of its ends are right. Raises ValueError when
    sentences differ in length.
    """
    truths, guesses, hits = Counter[str](), Counter[str](), Counter[str]()
    for ours, theirs in _pairs(gold, predicted):
        expected, found = set(entities_of(ours, scheme)), set(entities_of(theirs, scheme))
        truths.update(entity.type for entity in expected)
        guesses.update(entity.type for entity in found)
        hits.update(entity.type for entity in expected & found)
    by_type = {
        name: _score(hits[name], guesses[name], truths[name]) for name in sorted(truths | guesses)
    }
    return _score(hits.total(), guesses.total(), truths.total()), by_type


class Difference(NamedTuple):
    """An entity that is wrong, and how: one of `DIFFERENCES`; None for what is not there."""

    kind: str
    expected: Entity | None
    found: Entity | None


DIFFERENCES = ("missed", "spurious", "type", "boundary", "type and boundary")


def differences(gold: Tags, predicted: Tags) -> list[Difference]:
    """What is wrong with the entities of one sentence, in their order; tags are read leniently.

    A found entity and one to find that overlap are one difference: each belongs to one at most, of
    equal type first, then to that with which it shares most words.
    """
    truths, guesses = set(entities_of(gold)), set(entities_of(predicted))
    truths, guesses = truths - guesses, guesses - truths
    shared = [
        (ours.type == theirs.type, words, ours, theirs)
        for ours in sorted(truths)
        for theirs in sorted(guesses)
        if (words := min(ours.end, theirs.end) - max(ours.start, theirs.start)) > 0
    ]
    found = []
    for same, _, ours, theirs in sorted(shared, key=lambda one: (-one[0], -one[1], *one[2:])):
        if ours in truths and theirs in guesses:
            truths.remove(ours)
            guesses.remove(theirs)
            moved = "boundary" if ours[1:] != theirs[1:] else ""
            kind = " and ".join(filter(None, ["" if same else "type", moved]))
            found.append(Difference(kind, ours, theirs))
    found += [Difference("missed", entity, None) for entity in truths]
    found += [Difference("spurious", None, entity) for entity in guesses]
    return sorted(found, key=lambda one: min(e[1:] for e in one[1:] if e is not None))


def tag_accuracy(gold: Sequence[Tags], predicted: Sequence[Tags]) -> float:
    """The share of words with the right tag; 0.0 without words."""
    right = [
        tag == guess
        for tags, guesses in _pairs(gold, predicted)
        for tag, guess in zip(tags, guesses, strict=True)
    ]
    return sum(right) / len(right) if right else 0.0


def _pairs(gold: Sequence[Tags], predicted: Sequence[Tags]) -> list[tuple[Tags, Tags]]:
    if [*map(len, gold)] != [*map(len, predicted)]:
        raise ValueError("predicted tags are not as many as the words of their sentences")
    return list(zip(gold, predicted, strict=True))


def _score(hits: int, guesses: int, truths: int) -> EntityScore:
    precision, recall = hits / max(guesses, 1), hits / max(truths, 1)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return EntityScore(precision, recall, f1, truths)


def _split(tag: str, allowed: str) -> tuple[str, str]:
    """The prefix and the type of a tag; "_" is the type of tags without one, as in seqeval."""
    prefix = tag[:1].translate(_LETTERS)
    if not prefix or prefix not in allowed or tag[1:2] not in ("", "-"):
        raise ConfigError(
            f"the tag {tag!r} is no tag of an entity: expected O, or one of "
            f"{', '.join(allowed[1:])} with a type, as B-PER"
        )
    return prefix, tag[2:] or "_"


def _lenient(parts: list[tuple[str, str]]) -> list[Entity]:
    entities = []
    before, type_before, start = "O", "_", 0
    for place, (prefix, kind) in enumerate(parts):
        changes = before != "O" and kind != type_before
        if changes or before in "ES" or (before in "BI" and prefix in "BSO"):
            entities.append(Entity(type_before, start, place))
        changes = prefix != "O" and kind != type_before
        if changes or prefix in "BS" or (before in "ESO" and prefix in "EI"):
            start = place
        before, type_before = prefix, kind
    return entities


def _strict(parts: list[tuple[str, str]], scheme: _Scheme) -> list[Entity]:
    entities = []
    place, before = 0, ("O", "_")
    while place < len(parts):
        end = place + 1
        if _fits(before, parts[place], scheme.starts):
            while end < len(parts) and _fits(parts[end - 1], parts[end], scheme.goes_on):
                end += 1
            if end < len(parts) and _fits(parts[end - 1], parts[end], scheme.ends):
                entities.append(Entity(parts[place][1], place, end))
        place, before = end, parts[end - 1]
    return entities


def _fits(before: tuple[str, str], now: tuple[str, str], patterns: Iterable[_Pattern]) -> bool:
    return any(
        before[0] in first and now[0] in second and same in (None, before[1] == now[1])
        for first, second, same in patterns
    )
