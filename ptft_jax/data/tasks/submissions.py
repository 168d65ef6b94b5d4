"""Files of predictions as the servers of GLUE, SuperGLUE and CLUE take them.

The forms are those of the benchmarks' own instructions (gluebenchmark.com/faq,
super.gluebenchmark.com/faq, CLUE's submit_examples) and of the code of their authors (jiant).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ptft_jax.data.foreign_files import read_json_object
from ptft_jax.data.tasks.files.reading import read_table, text_lines
from ptft_jax.errors import DataError

COMPLETE = ("glue", "superglue")
"""The benchmarks whose servers want the files of all tasks."""


class Found(NamedTuple):
    """A prediction in a file: its place, the example's id, and the answer."""

    place: str
    id: Any
    answer: Any


class Layout(Protocol):
    """How ids of examples and answers to them stand in a file."""

    def write(self, ids: Sequence[Any], answers: Sequence[Any]) -> str:
        """The text of a file."""
        ...

    def read(self, path: Path) -> list[Found]:
        """The predictions of a file in their order; DataError for content of another form."""
        ...


class IndexedRows:
    """GLUE: a TSV file, `index` and `prediction`."""

    _HEADER = "index\tprediction\n"

    def write(self, ids: Sequence[Any], answers: Sequence[Any]) -> str:
        rows = zip(ids, answers, strict=True)
        return self._HEADER + "".join(f"{index}\t{answer}\n" for index, answer in rows)

    def read(self, path: Path) -> list[Found]:
        header, *lines = [*text_lines(path)] or [""]
        if header != self._HEADER:
            raise DataError(f"{path}, line 1: {header[:60]!r}; expected index and prediction")
        found = []
        for number, line in enumerate(lines, 2):
            index, _, answer = line.rstrip("\n").partition("\t")
            place = f"{path}, line {number}"
            if not index.isdecimal() or not answer or "\t" in answer:
                raise DataError(f"{place}: {line[:60]!r}; expected an index, a tab, a prediction")
            found.append(Found(place, int(index), answer))
        return found


@dataclass(frozen=True)
class JsonLines:
    """SuperGLUE and CLUE: an object per line, the id under `key`, the answer under `label`."""

    key: str

    def write(self, ids: Sequence[Any], answers: Sequence[Any]) -> str:
        rows = [{self.key: i, "label": answer} for i, answer in zip(ids, answers, strict=True)]
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def read(self, path: Path) -> list[Found]:
        table = read_table(path, (self.key, "label"))
        rows = zip(table.columns[self.key], table.columns["label"], strict=True)
        return [Found(table.at(row), *found) for row, found in enumerate(rows)]


class Passages:
    """MultiRC: a passage on each line, with its questions and their answers.

    The id of an answer is that of its passage, its question and its own.
    """

    def write(self, ids: Sequence[Any], answers: Sequence[Any]) -> str:
        lines = []
        rows = list(zip(ids, answers, strict=True))
        for passage, of_passage in groupby(rows, key=lambda row: row[0][0]):
            questions = []
            for question, found in groupby(of_passage, key=lambda row: row[0][1]):
                labels = [{"idx": index, "label": label} for (_, _, index), label in found]
                questions.append({"idx": question, "answers": labels})
            lines.append({"idx": passage, "passage": {"questions": questions}})
        return "".join(json.dumps(line) + "\n" for line in lines)

    def read(self, path: Path) -> list[Found]:
        table = read_table(path, ("idx", "passage"))
        found = []
        for row, passage in enumerate(table.columns["passage"]):
            first = table.columns["idx"][row]
            try:
                found += [
                    Found(table.at(row), (first, question["idx"], one["idx"]), one["label"])
                    for question in passage["questions"]
                    for one in question["answers"]
                ]
            except (KeyError, TypeError) as error:
                raise DataError(
                    f"{table.at(row)}: expected questions with answers, each with idx ({error!r})"
                ) from error
        return found


class ById:
    """CHID, SQuAD and CMRC: one JSON object, the answers by their ids."""

    def write(self, ids: Sequence[Any], answers: Sequence[Any]) -> str:
        return json.dumps(dict(zip(ids, answers, strict=True)), ensure_ascii=False, indent=1) + "\n"

    def read(self, path: Path) -> list[Found]:
        content = read_json_object(path, "expected answers by the ids of their questions")
        return [Found(str(path), index, answer) for index, answer in content.items()]


@dataclass(frozen=True)
class Submission:
    """What a benchmark wants to have of a task.

    files: our split → the name of its file. words: of the labels, in the order of their ids, where
    the server has other ones than the data; ids of labels where they are numbers there.
    """

    files: Mapping[str, str]
    layout: Layout
    words: tuple[Any, ...] = ()


def check_file(path: Path, layout: Layout, ids: Sequence[Any], words: Sequence[Any]) -> None:
    """Raises DataError unless a file holds predictions of exactly these examples.

    words: all answers that there can be; none where any may be.
    """
    again = "remove the file, and it is made again"
    found = layout.read(path)
    for one, expected in zip(found, ids, strict=False):
        if one.id != expected:
            raise DataError(
                f"{one.place}: a prediction for {one.id!r} where that for {expected!r} is "
                f"expected: it is of another task or split; {again}"
            )
        if words and one.answer not in words:
            shown = ", ".join(map(str, words[:20]))
            raise DataError(
                f"{one.place}: prediction {one.answer!r}; expected one of {shown}: it is of "
                f"another task; {again}"
            )
    if len(found) != len(ids):
        raise DataError(
            f"{path} has {len(found):,} predictions for {len(ids):,} examples; expected one for "
            f"each; {again}"
        )
