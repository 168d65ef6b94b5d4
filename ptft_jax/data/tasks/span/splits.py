"""Questions about contexts, whose answers are stretches of the context: the format of SQuAD.

SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018) and CMRC 2018 (Cui et al. 2019) share it: `data` →
`paragraphs` → a `context` and its `qas`, each with an `id`, a `question` and `answers`, each of
which has a `text` and the character of the context at which it begins, `answer_start`.

An answer that does not stand at its `answer_start` is misplaced. Where its text occurs exactly
once in the context, it is taken from there. Any other has no place: it is no target of training,
but it is still an answer to score against, as for the official scripts, which read texts alone.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ptft_jax.data.foreign_files import read_json_object
from ptft_jax.data.hf_datasets import is_hf
from ptft_jax.data.tasks.files.prepared import open_splits
from ptft_jax.data.tasks.files.reading import Needed, fingerprint_of, splits_to_read
from ptft_jax.errors import ConfigError, DataError

# The share of misplaced answers up to which a file is used: CMRC 2018 dev has 2.1 %.
MISPLACED_ALLOWED = 0.05
VERSIONS = ("1.1", "2.0")
_SHOWN = 3
_MEND = "expected a file in the format of SQuAD"


# Where a question stands in its file, its context, and the question's object.
Question = tuple[str, str, Mapping[str, Any]]


class Answer(NamedTuple):
    """An answer's text and the character at which it begins; None where it has no place."""

    text: str
    start: int | None


class Misplaced(NamedTuple):
    """An answer that does not stand where its file says; `start` is where it was found, if at all.

    `stated` is the file's answer_start, `there` the text at it.
    """

    question_id: str
    stated: int
    text: str
    there: str
    start: int | None

    def __str__(self) -> str:
        place = "in no one place" if self.start is None else f"at {self.start}"
        return (
            f"{self.question_id}: {_cut(self.text)} is said to be at {self.stated}, where "
            f"{_cut(self.there)} stands; it was found {place}"
        )


@dataclass(frozen=True)
class SpanSplit:
    """The questions of one split; all lists but `contexts` are of the same length.

    contexts: each once. context_of: which of them a question is about. answers: those of each
    question, none where the context does not answer it; None as a whole for a split without
    answers. misplaced: the answers that did not stand where the file says. unplaced: how many
    questions were left out because none of their answers has a place.
    """

    contexts: list[str]
    context_of: list[int]
    questions: list[str]
    ids: list[str]
    answers: list[tuple[Answer, ...]] | None
    source: str
    misplaced: tuple[Misplaced, ...] = ()
    unplaced: int = 0

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def labelled(self) -> bool:
        """Whether the answers are known."""
        return self.answers is not None

    def fingerprint(self) -> str:
        """SHA-256 of the texts and the answers."""
        answers = repr((self.context_of, self.answers)).encode()
        return fingerprint_of(chain(self.contexts, self.questions, self.ids), answers)

    def with_places(self) -> "SpanSplit":
        """The split without the questions whose answers have no place, which cannot be learnt."""
        if self.answers is None:
            return self
        kept = [
            row
            for row, answers in enumerate(self.answers)
            if not answers or any(answer.start is not None for answer in answers)
        ]
        return dataclasses.replace(self.take(kept), unplaced=len(self) - len(kept))

    def take(self, rows: Sequence[int] | np.ndarray) -> "SpanSplit":
        """The questions of these rows."""
        names = ("context_of", "questions", "ids", "answers")
        held = {name: getattr(self, name) for name in names}
        return dataclasses.replace(
            self, **{n: values and [values[row] for row in rows] for n, values in held.items()}
        )


@dataclass(frozen=True)
class SpanSettings:
    """How a file is read.

    version: "1.1", in which every question has an answer, "2.0", in which it may have none, or ""
    for the task's own. misplaced_answers_allowed: the share of misplaced answers up to which a file
    is used in training.
    """

    version: str = ""
    misplaced_answers_allowed: float = MISPLACED_ALLOWED

    def __post_init__(self):
        if self.version not in ("", *VERSIONS):
            raise ConfigError(f"version={self.version!r}: expected {' or '.join(VERSIONS)}")
        if not 0 <= self.misplaced_answers_allowed <= 1:
            raise ConfigError(
                f"misplaced_answers_allowed={self.misplaced_answers_allowed}: expected a share "
                "from 0 to 1"
            )

    def allowed(self, split: str, needed: Needed | None) -> float:
        """The share for a split: scores read texts alone, so only training sets a limit."""
        return self.misplaced_answers_allowed if needed is None and split != "test" else 1.0


@dataclass(frozen=True)
class SpanData:
    """A task with its questions; see `SpanTask`."""

    name: str
    splits: dict[str, SpanSplit]
    metrics: tuple[str, ...]
    version: str
    by_character: bool
    eval_splits: tuple[str, ...] = ("dev",)
    label_names: None = None

    @property
    def unanswerable(self) -> bool:
        """Whether a question may have no answer."""
        return self.version == "2.0"


@dataclass(frozen=True)
class SpanTask:
    """A task of questions and answers: a row of the table of tasks.

    files: names that a file may have, with {split} and {version} to fill in. version: see
    `SpanSettings`. by_character: scored as CMRC 2018 is, by characters, and not by words.
    hub, tfds: version → its name on the Hub (without hf:) and in TFDS, where it is there.
    """

    kind: ClassVar[str] = "span"
    texts: ClassVar[tuple[str, str]] = ("question", "context")

    suite: str
    files: tuple[str, ...]
    version: str = "1.1"
    by_character: bool = False
    metrics: tuple[str, ...] = ("f1", "exact_match")
    language: str = "en"
    hub: Mapping[str, str] = field(default_factory=dict)
    tfds: Mapping[str, str] = field(default_factory=dict)

    def load(
        self,
        name: str,
        data_dir: str | Path | None,
        settings: SpanSettings | None = None,
        needed: Needed | None = None,
    ) -> SpanData:
        """Returns the task's questions: train and dev, and test where there is one.

        `needed` as of `ClassificationTask.load`.

        Raises ConfigError for a missing file, DataError for the content of one.
        """
        settings = settings or SpanSettings()
        version = settings.version or self.version
        names = {
            split: [name.format(split=split, version=version) for name in self.files]
            for split in ("train", "dev", "test")
        }
        prepared = self.tfds.get(version, "")
        if is_hf(data_dir) or (prepared and not data_dir):
            found = open_splits(data_dir or "", self.hub.get(version, ""), prepared)
            return self._data(name, version, _read_prepared(found, version, settings, needed))
        if not data_dir or not Path(data_dir).is_dir():
            raise ConfigError(
                f"data_dir={data_dir}: expected a folder with {names['train'][0]} and "
                f"{names['dev'][0]}, in the format of SQuAD"
            )
        splits = {}
        for split, required in splits_to_read(names, needed).items():
            path = _find(Path(data_dir), names[split], split, required=required)
            if path is None:
                continue
            splits[split] = read_squad(path, version == "2.0", settings.allowed(split, needed))
            if needed is None and split != "test" and not splits[split].labelled:
                raise DataError(f"{path} has no answers; expected some to learn from")
        return self._data(name, version, splits)

    def _data(self, name: str, version: str, splits: dict[str, SpanSplit]) -> SpanData:
        if "train" in splits:
            splits["train"] = splits["train"].with_places()
        if "train" in splits and not len(splits["train"]):
            raise DataError(
                f"{splits['train'].source}: no answer of any question stands in its context; "
                "expected some to learn from"
            )
        return SpanData(name, splits, self.metrics, version, self.by_character)


def _read_prepared(
    found: Mapping[str, Any], version: str, settings: SpanSettings, needed: Needed | None
) -> dict[str, SpanSplit]:
    """The splits of a data set of `datasets` or TFDS, which has a row for each question."""
    splits = {}
    names = {"train": "train", "dev": "validation", "test": "test"}
    for split, required in splits_to_read(names, needed).items():
        theirs = names[split]
        if theirs in found:
            source = found[theirs]
            rows = [_of_record(number, record) for number, record in source.records()]
            allowed = settings.allowed(split, needed)
            splits[split] = _split_of(source.source, rows, version == "2.0", allowed)
        elif required:
            raise ConfigError(f"there is no split {theirs}; there are: {', '.join(found)}")
    return splits


def _of_record(number: int, record: Mapping[str, Any]) -> Question:
    place = f"row {number}"
    answers = record.get("answers")
    if not isinstance(answers, Mapping):
        return place, record.get("context", ""), record
    pairs = zip(answers.get("text", ()), answers.get("answer_start", ()), strict=False)
    listed = [{"text": text, "answer_start": start} for text, start in pairs]
    return place, record.get("context", ""), {**record, "answers": listed}


def _find(folder: Path, names: Sequence[str], split: str, *, required: bool) -> Path | None:
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        held = " and ".join(path.name for path in found)
        raise ConfigError(f"{folder} holds {held}: keep one file for the split '{split}'")
    if not found and required:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:20])
        raise ConfigError(
            f"data_dir={folder} has no {' or '.join(names)}; there are: {there or 'no files'}"
        )
    return found[0] if found else None


def read_squad(
    path: str | Path, unanswerable: bool = False, misplaced_allowed: float = MISPLACED_ALLOWED
) -> SpanSplit:
    """Reads a file in the format of SQuAD.

    Answers are all there or all absent. Raises DataError for content of another form (with the
    question's id), for a question without an answer unless `unanswerable`, for no question at all,
    and where more than `misplaced_allowed` of the answers do not stand where the file says.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no such file: {path}")
    return _split_of(str(path), list(_questions(path)), unanswerable, misplaced_allowed)


def _split_of(
    path: str, rows: Sequence[Question], unanswerable: bool, misplaced_allowed: float
) -> SpanSplit:
    """The split of questions that come from `path`."""
    if not rows:
        raise DataError(f"{path} has no questions; {_MEND} with at least one")
    contexts: dict[str, int] = {}
    context_of, questions, ids, answers = [], [], {}, []
    misplaced: list[Misplaced] = []
    has_answers = "answers" in rows[0][2]
    for place, context, qa in rows:
        name = _text(path, place, qa, "id")
        where = f"{place} (id {name!r})"
        if name in ids:
            raise DataError(f"{path}: {where} has the id of {ids[name]}; expected one id each")
        if ("answers" in qa) != has_answers:
            raise DataError(
                f"{path}: {where} has {'no' if has_answers else 'the'} key 'answers', unlike the "
                "first question; expected answers for all questions, or for none"
            )
        ids[name] = place
        # As in transformers' run_qa: some questions of SQuAD begin with many spaces. CMRC 2018 has
        # an empty one.
        questions.append(_text(path, where, qa, "question", may_be_empty=True).lstrip())
        context_of.append(contexts.setdefault(context, len(contexts)))
        if has_answers:
            answers.append(tuple(_answers(path, where, qa, context, name, misplaced)))
            if not answers[-1] and not unanswerable:
                raise DataError(
                    f"{path}: {where} has no answer; expected one, or --config.version=2.0, where "
                    "a question may have none"
                )
    total = sum(map(len, answers))
    if len(misplaced) > misplaced_allowed * total:
        listed = "; ".join(map(str, misplaced[:_SHOWN]))
        raise DataError(
            f"{path}: {len(misplaced)} of {total} answers do not stand at their answer_start, a "
            f"count of characters of the context from 0; expected at most {misplaced_allowed:.1%}. "
            f"{listed}{'; …' if len(misplaced) > _SHOWN else ''}. Mend them, or allow more by "
            "--config.misplaced_answers_allowed"
        )
    return SpanSplit(
        list(contexts),
        context_of,
        questions,
        list(ids),
        answers if has_answers else None,
        path,
        tuple(misplaced),
    )


def _questions(path: Path) -> Iterator[Question]:
    content = read_json_object(path, _MEND)
    for i, article in enumerate(_list(path, "the file", content, "data")):
        place = f"data[{i}]"
        for j, paragraph in enumerate(_list(path, place, article, "paragraphs")):
            inner = f"{place}.paragraphs[{j}]"
            questions = _list(path, inner, paragraph, "qas")
            context = _text(path, inner, paragraph, "context")
            if not context.strip():
                raise DataError(f"{path}: {inner} has an empty 'context'; expected a text")
            for k, question in enumerate(questions):
                yield f"{inner}.qas[{k}]", context, question


def _answers(
    path: str,
    where: str,
    qa: Mapping[str, Any],
    context: str,
    question_id: str,
    misplaced: list[Misplaced],
) -> Iterator[Answer]:
    for answer in _list(path, where, qa, "answers"):
        text = _text(path, where, answer, "text", may_be_empty=True)
        stated = _get(path, where, answer, "answer_start")
        if not isinstance(stated, int) or isinstance(stated, bool):
            raise DataError(
                f"{path}: {where} holds {stated!r} as 'answer_start'; expected a whole number"
            )
        there = context[stated : stated + len(text)] if stated >= 0 else ""
        start = stated
        if not text or there != text:
            start = context.find(text) if text else -1
            once = start >= 0 and context.find(text, start + 1) < 0
            start = start if once else None
            misplaced.append(Misplaced(question_id, stated, text, there, start))
        yield Answer(text, start)


def _get(path: str | Path, place: str, value: Any, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise DataError(
            f"{path}: {place} holds a {type(value).__name__} where an object with '{key}' is "
            "expected"
        )
    if key not in value:
        raise DataError(
            f"{path}: {place} has no key '{key}'; its keys are: {', '.join(value) or 'none'}"
        )
    return value[key]


def _list(path: str | Path, place: str, value: Any, key: str) -> Sequence[Any]:
    found = _get(path, place, value, key)
    if not isinstance(found, list):
        raise DataError(f"{path}: {place} holds no list as '{key}'; {_MEND}")
    return found


def _text(path: str | Path, place: str, value: Any, key: str, *, may_be_empty: bool = False) -> str:
    found = _get(path, place, value, key)
    if not isinstance(found, str) or not (found or may_be_empty):
        raise DataError(f"{path}: {place} holds {found!r} as '{key}'; expected a text")
    return found


def _cut(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
