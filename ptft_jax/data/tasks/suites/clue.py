"""Chinese tasks of CLUE (Xu et al. 2020) and FewCLUE (Xu et al. 2021), from their JSON lines.

CLUE's files are `train.json`, `dev.json` and `test1.1.json` (in tasks that have had another test
set before) or `test.json`; FewCLUE's `train_few_all.json`, `dev_few_all.json` and
`test_public.json` are read where those are not there.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ptft_jax.data.foreign_files import read_json_object
from ptft_jax.data.tasks.benchmark import ClassificationTask
from ptft_jax.data.tasks.choice import ChoiceTask
from ptft_jax.data.tasks.files.reading import read_table
from ptft_jax.data.tasks.submissions import ById, JsonLines, Submission
from ptft_jax.errors import DataError

_FILES = {
    "train": ("train.json", "train_few_all.json"),
    "dev": ("dev.json", "dev_few_all.json"),
    "test": ("test1.1.json", "test.json", "test_public.json"),
}
_clue = partial(
    ClassificationTask,
    "clue",
    files=_FILES,
    label="label",
    test_has_labels=True,
    language="zh",
    id="id",
)


def _file(name: str) -> Submission:
    return Submission({"test": f"{name}_predict.json"}, JsonLines("id"))


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


# Characters kept on each side of a gap: with an idiom about 128 tokens.
_AROUND = 60
_GAP = re.compile("#idiom[0-9]*#")


def _chid_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """CLUE's form has the answers in a file beside (`dev_answer.json`), by the gaps' names."""
    table = read_table(path)
    file = path.with_name(f"{path.stem}_answer.json")
    answers = read_json_object(file) if file.is_file() else {}
    for row, number in enumerate(table.lines):
        record = {name: values[row] for name, values in table.columns.items()}
        yield number, record | {"answers": answers, "record": number}


def _chid(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each gap the choices are the text around it with each idiom in it.

    FewCLUE has one gap a text, CLUE several texts with gaps that share their idioms, each of which
    fills one gap at most; the other gaps of a text stay empty.
    """
    content, candidates = record["content"], record["candidates"]
    for text in content if isinstance(content, list) else [content]:
        for gap in _GAP.finditer(text):
            before, after = (
                _GAP.sub("()", part) for part in (text[: gap.start()], text[gap.end() :])
            )
            before, after = before[-_AROUND:], after[:_AROUND]
            row = {
                "context": "",
                "choices": [f"{before}{idiom}{after}" for idiom in candidates],
                "label": record.get("answer"),
                "id": record.get("id"),
            }
            if isinstance(content, list):
                row |= {"id": gap[0], "group": record["record"]}
                row["label"] = record["answers"].get(gap[0])
            yield row


def _c3_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Dialogues (`d-….json`) and mixed texts (`m-….json`), each a file with one JSON list."""
    number = 0
    for file in (path, path.with_name(f"m{path.name.removeprefix('d')}")):
        if not file.is_file():
            continue
        try:
            entries = json.loads(file.read_text("utf-8"))
        except ValueError as error:
            raise DataError(f"{file}: not JSON ({error}); fetch it again") from error
        for place, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
            match entry:
                case [[*text], [*asked], *_]:  # and a number that nothing is known by here
                    number += 1
                    yield number, {"text": text, "questions": asked}
                case _:
                    raise DataError(
                        f"{file}, entry {place}: {str(entry)[:60]}; expected [[text, …], "
                        "[question, …], id], as in a file of C3"
                    )


def _c3(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for question in record["questions"]:
        choices = [f"{question['question']} {choice}" for choice in question["choice"]]
        row = {"context": " ".join(record["text"]), "choices": choices}
        if "id" in question:
            row["id"] = question["id"]
        if "answer" in question:
            row["label"] = question["choice"].index(question["answer"])
        yield row


_choice = partial(ChoiceTask, "clue", language="zh")
CLUE: dict[str, ClassificationTask | ChoiceTask] = {
    "afqmc": _clue(
        folder="afqmc",
        submission=_file("afqmc"),
        texts=("sentence1", "sentence2"),
        label_names=("different", "same"),
        labels_in_file=("0", "1"),
    ),
    "bustm": _clue(
        folder="bustm",
        submission=_file("bustm"),
        texts=("sentence1", "sentence2"),
        label_names=("different", "same"),
        labels_in_file=("0", "1"),
    ),
    "c3": _choice(
        folder="c3",
        files={
            "train": ("d-train.json",),
            "dev": ("d-dev.json",),
            "test": ("test1.1.json", "test.json"),
        },
        reader=_c3_records,
        flatten=_c3,
        submission=_file("c311"),
    ),
    "chid": _choice(
        folder="chid",
        files=_FILES,
        reader=_chid_records,
        flatten=_chid,
        submission=Submission({"test": "chid11_predict.json"}, ById()),
    ),
    "cluewsc": _clue(
        folder="cluewsc",
        texts=("text",),
        label_names=("false", "true"),
        flatten=_cluewsc,
        submission=_file("cluewsc11"),
    ),
    "cmnli": _clue(
        folder="cmnli",
        submission=_file("cmnli"),
        texts=("sentence1", "sentence2"),
        label_names=("entailment", "neutral", "contradiction"),
        no_label="-",
    ),
    "csl": _clue(
        folder="csl",
        submission=_file("csl"),
        texts=("keywords", "abst"),
        label_names=("false", "true"),
        labels_in_file=("0", "1"),
        flatten=_csl,
    ),
    "eprstmt": _clue(
        folder="eprstmt",
        submission=_file("eprstmt"),
        texts=("sentence",),
        label_names=("negative", "positive"),
        labels_in_file=("Negative", "Positive"),
    ),
    "iflytek": _clue(
        folder="iflytek",
        submission=_file("iflytek"),
        texts=("sentence",),
        label_names=tuple(str(number) for number in range(119)),
    ),
    "ocnli": _clue(
        folder="ocnli",
        submission=_file("ocnli_50k"),
        texts=("sentence1", "sentence2"),
        label_names=("entailment", "neutral", "contradiction"),
        no_label="-",
        files=_FILES | {"train": ("train.50k.json", "train.json", "train.10k.json")},
    ),
    "tnews": _clue(
        folder="tnews",
        submission=_file("tnews11"),
        texts=("sentence",),
        label_names=tuple(_NEWS.split()),
        labels_in_file=tuple(str(n) for n in range(100, 117) if n not in (105, 111)),
    ),
}
