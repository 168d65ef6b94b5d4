"""Chinese tasks of CLUE (Xu et al. 2020) and FewCLUE (Xu et al. 2021), from their JSON lines.

CLUE's files are `train.json`, `dev.json` and `test.json`; FewCLUE's `train_few_all.json`,
`dev_few_all.json` and `test_public.json` are read where those are not there.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ptft_jax.data.tasks.choice import ChoiceTask
from ptft_jax.data.tasks.table import ClassificationTask
from ptft_jax.errors import DataError

_FILES = {
    "train": ("train.json", "train_few_all.json"),
    "dev": ("dev.json", "dev_few_all.json"),
    "test": ("test.json", "test_public.json"),
}
_clue = partial(
    ClassificationTask, "clue", files=_FILES, label="label", test_has_labels=True, language="zh"
)
# Of TNEWS, in the order of their numbers 100 to 116, of which 105 and 111 do not occur.
_NEWS = (
    "news_story news_culture news_entertainment news_sports news_finance news_house news_car "
    "news_edu news_tech news_military news_travel news_world news_stock news_agriculture news_game"
)


def _csl(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {**record, "keywords": " ".join(record["keyword"])}


def _cluewsc(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The noun and the pronoun are marked in the text, `_noun_` and `[pronoun]`."""
    target, text = record["target"], record["text"]
    marks = [(int(target["span1_index"]), target["span1_text"], "_", "_")]
    marks.append((int(target["span2_index"]), target["span2_text"], "[", "]"))
    for start, span, before, after in sorted(marks, reverse=True):
        end = start + len(span)
        text = f"{text[:start]}{before}{text[start:end]}{after}{text[end:]}"
    yield {**record, "text": text}


def _chid(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """FewCLUE's form, one gap a text: the choices are the text with each idiom in it."""
    filled = [record["content"].replace("#idiom#", idiom) for idiom in record["candidates"]]
    yield {"context": "", "choices": filled, "label": record.get("answer")}


def _c3_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Dialogues (`d-….json`) and mixed texts (`m-….json`), each a file with one JSON list."""
    number = 0
    for file in (path, path.with_name(f"m{path.name.removeprefix('d')}")):
        if not file.is_file():
            continue
        try:
            entries = json.loads(file.read_text("utf-8"))
            found = [{"text": text, "questions": asked} for text, asked, _ in entries]
        except (ValueError, TypeError) as error:
            raise DataError(f"{file}: not a file of C3 ({error}); fetch it again") from error
        for record in found:
            number += 1
            yield number, record


def _c3(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for question in record["questions"]:
        choices = [f"{question['question']} {choice}" for choice in question["choice"]]
        row = {"context": " ".join(record["text"]), "choices": choices}
        if "answer" in question:
            row["label"] = question["choice"].index(question["answer"])
        yield row


_choice = partial(ChoiceTask, "clue", language="zh")
CLUE: dict[str, ClassificationTask | ChoiceTask] = {
    "afqmc": _clue(
        folder="afqmc",
        texts=("sentence1", "sentence2"),
        label_names=("different", "same"),
        labels_in_file=("0", "1"),
    ),
    "bustm": _clue(
        folder="bustm",
        texts=("sentence1", "sentence2"),
        label_names=("different", "same"),
        labels_in_file=("0", "1"),
    ),
    "c3": _choice(
        folder="c3",
        files={"train": ("d-train.json",), "dev": ("d-dev.json",)},
        reader=_c3_records,
        flatten=_c3,
    ),
    "chid": _choice(folder="chid", files=_FILES, flatten=_chid),
    "cluewsc": _clue(
        folder="cluewsc", texts=("text",), label_names=("false", "true"), flatten=_cluewsc
    ),
    "cmnli": _clue(
        folder="cmnli",
        texts=("sentence1", "sentence2"),
        label_names=("entailment", "neutral", "contradiction"),
        no_label="-",
    ),
    "csl": _clue(
        folder="csl",
        texts=("keywords", "abst"),
        label_names=("false", "true"),
        labels_in_file=("0", "1"),
        flatten=_csl,
    ),
    "eprstmt": _clue(
        folder="eprstmt",
        texts=("sentence",),
        label_names=("negative", "positive"),
        labels_in_file=("Negative", "Positive"),
    ),
    "iflytek": _clue(
        folder="iflytek",
        texts=("sentence",),
        label_names=tuple(str(number) for number in range(119)),
    ),
    "ocnli": _clue(
        folder="ocnli",
        texts=("sentence1", "sentence2"),
        label_names=("entailment", "neutral", "contradiction"),
        no_label="-",
        files=_FILES | {"train": ("train.50k.json", "train.json", "train.10k.json")},
    ),
    "tnews": _clue(
        folder="tnews",
        texts=("sentence",),
        label_names=tuple(_NEWS.split()),
        labels_in_file=tuple(str(n) for n in range(100, 117) if n not in (105, 111)),
    ),
}
