"""What a report shows of a run on tags of words: entities, or a class of each word."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ptft_jax.data.tasks.tagging.examples import TaggingExamples
from ptft_jax.data.tasks.tagging.splits import TaggingSplit, are_entities
from ptft_jax.objectives.scores.entities import (
    DIFFERENCES,
    Difference,
    Entity,
    differences,
    entities_of,
    scheme_of,
)
from ptft_jax.runs.report.html import Html, element, percent, section, table, text
from ptft_jax.runs.report.measures import (
    bootstrap,
    confusion,
    counts_of_classes,
    precision_recall_f1,
    wilson,
)
from ptft_jax.runs.report.parts import (
    WORST,
    Analysis,
    Wrong,
    class_scores,
    confusion_matrix,
    lengths,
    reliability,
    worst_errors,
)

# Words of a long sentence that are shown around what is wrong in it.
_AROUND = 30
_SHOWN_CONFUSIONS = 12


def analysis(
    split: TaggingSplit,
    examples: TaggingExamples,
    predictions: Sequence[Sequence[tuple[int, float]]],
    names: Sequence[str],
    train: TaggingSplit,
) -> Analysis:
    """Returns the parts of a split.

    predictions: of each word of each sentence the tag's id and probability. names: of the tags.
    train: the training sentences of the same data.
    """
    assert split.tags is not None
    found_ids = [np.array([index for index, _ in tags], np.int64) for tags in predictions]
    gold, found = np.concatenate(split.tags), np.concatenate(found_ids)
    sure = np.array([score for tags in predictions for _, score in tags])
    right = gold == found
    sentence = np.repeat(np.arange(len(split)), split.num_words)
    words_right = np.stack([np.bincount(sentence, weights=right), split.num_words], axis=1)
    intervals = {"accuracy": bootstrap(words_right, lambda sums: sums[:, 0] / sums[:, 1])}
    if are_entities(names):
        parts = _entities(split, found_ids, names, train, intervals)
    else:
        counts = counts_of_classes(gold, found, len(names)).sum(axis=0)
        in_training = np.bincount(np.concatenate(train.tags or [gold[:0]]), minlength=len(names))
        parts = [
            confusion_matrix(names, confusion(gold, found, len(names))),
            class_scores(names, counts, in_training, "words"),
            _worst_words(split, found_ids, sure, names),
        ]
    limit = examples.buckets[-1]
    about = f"{examples.num_truncated:,} of {len(split):,} sentences are spread over several rows."
    lengths_ = lengths(
        examples.lengths, None, limit, "rows", about if examples.num_truncated else ""
    )
    counted = f"{len(split):,} sentences, {len(gold):,} words"
    return Analysis(
        counted, intervals, [*parts, reliability(sure, right, "tags of words"), lengths_]
    )


def _entities(
    split: TaggingSplit,
    found_ids: Sequence[np.ndarray],
    names: Sequence[str],
    train: TaggingSplit,
    intervals: dict[str, tuple[float, float]],
) -> list[Html | None]:
    gold = _named(split.tags or (), names)
    found = _named(found_ids, names)
    types = sorted({one.type for tags in (*gold, *found) for one in entities_of(tags)})
    counts = _counts(gold, found, types)
    micro = counts.sum(axis=2, keepdims=True)
    for place, name in enumerate(("precision", "recall", "f1")):
        intervals[name] = bootstrap(
            micro, lambda sums, place=place: precision_recall_f1(sums)[place][:, 0]
        )
    strict = _counts(gold, found, types, scheme_of(gold)).sum(axis=2, keepdims=True)
    intervals["f1_strict"] = bootstrap(strict, lambda sums: precision_recall_f1(sums)[2][:, 0])
    wrong = [differences(*pair) for pair in zip(gold, found, strict=True)]
    by_type = Counter(
        entity.type for tags in _named(train.tags or (), names) for entity in entities_of(tags)
    )
    return [
        class_scores(
            types, counts.sum(axis=0), np.array([by_type[name] for name in types]), "entities"
        ),
        _kinds_of_errors(wrong, types),
        _confused_types(wrong),
        _seen_before(split, gold, wrong, train, names),
        _worst_sentences(split, gold, found, wrong),
    ]


def _named(tags: Sequence[np.ndarray], names: Sequence[str]) -> list[list[str]]:
    return [[names[index] for index in map(int, some)] for some in tags]


def _counts(
    gold: Sequence[Sequence[str]],
    found: Sequence[Sequence[str]],
    types: Sequence[str],
    scheme: str | None = None,
) -> np.ndarray:
    """The counts `[sentences, 3, types]` of entities; see `measures`."""
    place = {name: index for index, name in enumerate(types)}
    counts = np.zeros((len(gold), 3, max(len(types), 1)))
    for row, pair in enumerate(zip(gold, found, strict=True)):
        truths, guesses = (set(entities_of(tags, scheme)) for tags in pair)
        for kind, some in enumerate((truths & guesses, guesses, truths)):
            for entity in some:
                counts[row, kind, place[entity.type]] += 1
    return counts


def _kinds_of_errors(wrong: Sequence[Sequence[Difference]], types: Sequence[str]) -> Html | None:
    each = [one for some in wrong for one in some]
    if not each:
        return None
    counts = Counter(
        (one.kind, (one.expected or one.found or Entity("", 0, 0)).type) for one in each
    )
    rows = []
    for name in types:
        row = [counts[kind, name] for kind in DIFFERENCES]
        rows.append((name, *(f"{count:,}" for count in row), f"{sum(row):,}"))
    totals = [sum(counts[kind, name] for name in types) for kind in DIFFERENCES]
    rows.append(("all", *(f"{count:,}" for count in totals), f"{sum(totals):,}"))
    return section(
        "Errors by kind",
        element(
            "p",
            "By the type of the labelled entity, of a spurious one by the predicted type. Missed: "
            "no entity was found there; spurious: none is there; type, boundary: one that overlaps "
            "was found, with another type or other ends; both: with another type and other ends.",
        ),
        table(["entities", *DIFFERENCES[:-1], "both", "all"], rows),
    )


def _confused_types(wrong: Sequence[Sequence[Difference]]) -> Html | None:
    pairs = Counter(
        (one.expected.type, one.found.type)
        for some in wrong
        for one in some
        if one.expected and one.found and one.expected.type != one.found.type
    )
    if not pairs:
        return None
    rows = [(a, b, f"{count:,}") for (a, b), count in pairs.most_common(_SHOWN_CONFUSIONS)]
    return section("Types taken for others", table(["label", "predicted", "entities"], rows))


def _seen_before(
    split: TaggingSplit,
    gold: Sequence[Sequence[str]],
    wrong: Sequence[Sequence[Difference]],
    train: TaggingSplit,
    names: Sequence[str],
) -> Html | None:
    """Recall of entities that occur in training, under their type or another, and of new ones."""
    known: dict[str, set[str]] = {}
    for words, tags in zip(train.words, _named(train.tags or (), names), strict=True):
        for entity in entities_of(tags):
            known.setdefault(_phrase(words, entity), set()).add(entity.type)
    groups = ("in training with this type", "in training with other types", "not in training")
    hits, all_ = Counter[str](), Counter[str]()
    for words, tags, differ in zip(split.words, gold, wrong, strict=True):
        lost = {one.expected for one in differ}
        for entity in entities_of(tags):
            types = known.get(_phrase(words, entity), set())
            group = groups[2 if not types else 0 if entity.type in types else 1]
            all_[group] += 1
            hits[group] += entity not in lost
    rows = []
    for group in groups:
        if all_[group]:
            low, high = wilson(hits[group], all_[group])
            recall = f"{hits[group] / all_[group]:.3f}"
            rows.append((group, f"{all_[group]:,}", recall, f"{low:.3f} to {high:.3f}"))
    if not rows:
        return None
    return section(
        "Entities seen before",
        element(
            "p",
            "Recall by whether the words of an entity are one in the training sentences of the "
            "data that is scored.",
        ),
        table(["entity", "labelled", "recall", "95 %"], rows),
    )


def _phrase(words: Sequence[str], entity: Entity) -> str:
    return " ".join(words[entity.start : entity.end]).lower()


def _worst_sentences(
    split: TaggingSplit,
    gold: Sequence[Sequence[str]],
    found: Sequence[Sequence[str]],
    wrong: Sequence[Sequence[Difference]],
) -> Html | None:
    worst = sorted(
        (row for row in range(len(split)) if wrong[row]),
        key=lambda row: (-len(wrong[row]), len(split.words[row])),
    )
    errors = []
    for row in worst[:WORST]:
        first = next(e for e in wrong[row][0][1:] if e is not None)
        shown = slice(max(first.start - _AROUND // 2, 0), first.start + 2 * _AROUND)
        kinds = Counter(one.kind for one in wrong[row])
        errors.append(
            Wrong(
                f"{len(entities_of(gold[row]))} labelled",
                f"{len(entities_of(found[row]))} found",
                [
                    ("label", _marked(split.words[row], entities_of(gold[row]), shown)),
                    ("found", _marked(split.words[row], entities_of(found[row]), shown)),
                ],
                ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
            )
        )
    return worst_errors(
        f"Sentences with most wrong entities, {len(errors)} of {len(worst):,} that have any.",
        errors,
    )


def _marked(words: Sequence[str], entities: Sequence[Entity], shown: slice) -> Html:
    """The words with their entities marked; those of a long sentence around what is wrong."""
    ends = range(*shown.indices(len(words)))
    parts: list[Html | str] = ["… "] if ends.start else []
    place = ends.start
    for entity in entities:
        if entity.start < place or entity.start >= ends.stop:
            continue
        parts.append(text(" ".join(words[place : entity.start])))
        name = element("small", entity.type)
        phrase = text(" ".join(words[entity.start : entity.end]))
        parts += [" ", element("mark", phrase, " ", name), " "]
        place = entity.end
    parts.append(text(" ".join(words[place : ends.stop])))
    return element("span", parts, " …" if ends.stop < len(words) else None)


def _worst_words(
    split: TaggingSplit, found_ids: Sequence[np.ndarray], sure: np.ndarray, names: Sequence[str]
) -> Html | None:
    """Words with the wrong tag of the highest probability, in their sentences."""
    gold, found = np.concatenate(split.tags or []), np.concatenate(found_ids)
    row_of = np.repeat(np.arange(len(split)), split.num_words)
    place_of = np.concatenate([np.arange(count) for count in split.num_words])
    wrong = np.flatnonzero(gold != found)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:WORST]
    errors = []
    for word in worst.tolist():
        words, place = split.words[int(row_of[word])], int(place_of[word])
        shown = slice(max(place - _AROUND // 2, 0), place + _AROUND)
        wanted = names[int(gold[word])]
        marked = _marked(words, [Entity(wanted, place, place + 1)], shown)
        errors.append(
            Wrong(wanted, names[int(found[word])], [("", marked)], percent(float(sure[word])))
        )
    return worst_errors(
        f"Wrong tags of the highest probability, {len(worst)} of {len(wrong):,}. Label → tag.",
        errors,
    )
