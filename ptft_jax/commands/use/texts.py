"""Texts to ask a model about: from lines or from the columns of a table; and what came of them."""

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from ptft_jax.data.tasks.catalogue import TASKS
from ptft_jax.data.tasks.choice import ChoiceSettings, ChoiceTask
from ptft_jax.data.tasks.episodes.splits import EpisodeSettings, read_episodes
from ptft_jax.data.tasks.files.conll import TaggedFile, is_columns, read_tagged, with_column
from ptft_jax.data.tasks.files.reading import SUFFIXES, read_table, separators
from ptft_jax.data.tasks.span.splits import SpanTask, read_squad
from ptft_jax.data.tasks.tagging.splits import TaggingSplit
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.runs.config import check_place
from ptft_jax.runs.folder import open_run
from ptft_jax.runs.trained.asking.splits import columns_of, split_of, texts_of
from ptft_jax.runs.trained.open import Run
from ptft_jax.training.resources.storage import write_atomically

# The last is SQuAD's file of predictions by the ids of their questions.
OUTPUTS = (".csv", ".tsv", ".jsonl", ".json")
# Files of a word on each line, which taggers read and write.
COLUMNS = ".conll"


class Asked(NamedTuple):
    """Texts, a pair as a tuple of two, and the columns of the rows that they come from.

    Of a column file, `sentences`, they are lists of words; so they are where one is to be made of
    sentences that come from elsewhere, which have no lines.
    """

    texts: Sequence[Any]
    columns: Mapping[str, Sequence[Any]]
    sentences: TaggedFile | None = None


def define_input_flags(values: flags.FlagValues, *, pairs: bool) -> None:
    """Defines the flags of texts, or of texts and pairs of them."""
    table = ", ".join(SUFFIXES)
    text = f"File with one text per line (- reads standard input), or a table ({table})."
    flags.DEFINE_string("input", None, text, flag_values=values)
    text = "Column of a table that holds the texts; else as in the run's training, or text."
    flags.DEFINE_string("text_column", None, text, flag_values=values)
    if pairs:
        text = "Column of a table that holds the second texts of pairs."
        flags.DEFINE_string("text_pair_column", None, text, flag_values=values)


def read_input(values: flags.FlagValues, run: Run) -> Asked:
    """Reads what --input names: each line, or each row of a table, is asked about.

    Raises:
        ConfigError: there is no such file, or no such column is named.
        DataError: it is not UTF-8 or no table (with the line), or holds no text.
    """
    source = values.input
    if source != "-" and not Path(source).is_file():
        raise ConfigError(f"--input={source}: there is no such file.")
    if Path(source).suffix == ".json" and "span" in run.model_config.heads:
        return _read_questions(source)
    if Path(source).suffix == ".json" and "episode" in run.config:
        split = read_episodes(source, EpisodeSettings(), unlabelled=True)
        return Asked(split.marked or split.texts, {"text": split.texts})
    if Path(source).suffix not in SUFFIXES:
        for name in ("text_column", "text_pair_column"):
            if name in values and values[name].value is not None:
                raise ConfigError(f"--{name}: expected a table ({', '.join(SUFFIXES)}) as --input.")
        texts = _read_lines(source)
        return Asked(texts, {"text": texts})
    task = TASKS.get(run.config.get("task"))
    if isinstance(task, ChoiceTask):
        split = task.read(source, ChoiceSettings(**run.config.table))
        parts = zip(split.contexts, split.choices, strict=True)
        asked: list[Any] = [(context, *choices) for context, choices in parts]
        return Asked(asked, {"context": split.contexts, "choices": split.choices})
    names = _columns_of(run)
    if values.text_column is not None:
        names = (values.text_column,)
    if "text_pair_column" in values and values.text_pair_column is not None:
        names = (names[0], values.text_pair_column)
    table = read_table(source)
    for name in names:
        if name not in table.columns:
            mend = separators(table.path, table.columns)
            mend = mend or "; name one by --text_column (and --text_pair_column)"
            raise ConfigError(
                f"--input={source} has no column {name!r}: its columns are "
                f"{', '.join(table.columns)}{mend}."
            )
    for row in range(len(table)):
        for name in names:
            if not isinstance(table.columns[name][row], str):
                raise DataError(
                    f"{table.at(row)}: column {name!r} holds {table.columns[name][row]!r}; "
                    "expected a text."
                )
    parts = [table.columns[name] for name in names]
    if len(parts) == 1:
        # In a cell a tab is white space; in a line it stands between the two of a pair.
        return Asked([text.replace("\t", " ") for text in parts[0]], table.columns)
    return Asked(list(zip(*parts, strict=True)), table.columns)


def _read_questions(source: str) -> Asked:
    """Reads a file in the format of SQuAD; where its answers stand does not matter."""
    split = read_squad(source, unanswerable=True, misplaced_allowed=1.0)
    contexts = [split.contexts[number] for number in split.context_of]
    texts = list(zip(split.questions, contexts, strict=True))
    return Asked(texts, {"id": split.ids, "question": split.questions})


def read_support(source: str, run: Run) -> dict[str, list[Any]]:
    """Reads labelled texts as `Run.predict` takes them; errors as of `read_input`."""
    settings = EpisodeSettings(**run.config.table) if "episode" in run.config else EpisodeSettings()
    split = read_episodes(source, settings)
    assert split.labels is not None
    texts: Sequence[Any] = split.marked or split.texts
    found: dict[str, list[Any]] = {name: [] for name in split.names}
    for text, label in zip(texts, split.labels, strict=True):
        found[split.names[label]].append(text)
    return found


def read_sentences(source: str, run: Run) -> Asked:
    """Reads a column file, whose sentences are asked about; errors as of `read_input`."""
    if not is_tagger(run):
        raise ConfigError(f"--input={source}: {run.path} is no tagger; expected texts.")
    file = read_tagged(source, run.config.get("word_column", 0), None)
    return Asked(file.words, {"words": file.words}, file)


def read_split(values: flags.FlagValues, output: Path | None) -> Asked:
    """Reads the split of a run's task that --split names; errors as of `split_of`."""
    run = open_run(values.run_dir, values.checkpoint)
    split = split_of(run, values.split, values.data_dir)
    texts, file, columns = texts_of(split), None, columns_of(split, run)
    if output is not None and output.suffix in (".csv", ".tsv") and "answers" in columns:
        # A table has no lists; what a question has several of is parted as labels are.
        columns["answers"] = ["|".join(answers) for answers in columns["answers"]]
    if output is not None and output.suffix == COLUMNS:
        if not isinstance(split, TaggingSplit):
            raise ConfigError(f"--output={output}: {run.folder.path} is no tagger.")
        file = TaggedFile(Path(split.source), split.words, None, [])
        if is_columns(file.path):
            file = read_tagged(file.path, run.config.get("word_column", 0), None)
    return Asked(texts, columns, file)


def _columns_of(run: Run) -> tuple[str, ...]:
    """Returns the text columns of what a run was fine-tuned on, else the usual name."""
    if "span" in run.model_config.heads:
        return SpanTask.texts
    texts = getattr(TASKS.get(run.config.get("task")), "texts", None)
    if texts is not None:
        return texts
    table = run.config.get("table") or {}
    pair = table.get("text_pair_column")
    first = table.get("text_column") or table.get("first_column", "text")
    return (first, *([pair] if pair else []))


def _read_lines(source: str) -> list[str]:
    content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    texts = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            texts.append(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{source}, line {number}: not UTF-8 ({error.reason}).") from error
    if not any(map(str.strip, texts)):
        raise DataError(f"{source}: no text; expected one per line.")
    return texts


def is_tagger(run: Run) -> bool:
    """Returns whether a run tags words."""
    return "tagging" in run.model_config.heads


def check_output(output: str, source: str | None, from_split: bool) -> Path:
    """Returns the path of a file to make; raises ConfigError for another suffix or place.

    `source` is the input: of columns, columns can be made, and of a split of tagged words.
    """
    path = Path(output)
    known = OUTPUTS
    if from_split:
        known = (*OUTPUTS, COLUMNS)
    elif source is not None and Path(source).suffix == COLUMNS:
        known = (".jsonl", COLUMNS)
    if path.suffix not in known or path.is_dir():
        raise ConfigError(
            f"--output={output}: expected the name of a file to make, ending in {', '.join(known)}."
        )
    check_place("output", path.parent)
    return path


def rows_of(asked: Asked, predictions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row per text: its number from 1, the columns it came with, and what was predicted.

    `prediction` is a label (or several, with | between them), a number, that of a choice from 0
    (`prediction_text` is what it says), the text with its masks filled in, or a list of entities or
    tags; `probability` that of the label or choice. Where a column has one of these names, the new
    one gets a _ behind it.
    """
    rows = []
    for number, found in enumerate(predictions):
        row = {name: values[number] for name, values in asked.columns.items()}
        if "masks" in found:
            new: dict[str, Any] = {"prediction": found["filled"], "masks": found["masks"]}
        elif "choice" in found:
            best = found["scores"][found["choice"]]
            new = {"prediction": found["choice"], "prediction_text": found["label"]}
            new |= {"probability": best, "scores": found["scores"]}
        elif "labels" in found:
            new = {"prediction": "|".join(found["labels"]), "scores": found["scores"]}
        elif "answer" in found:
            new = {"prediction": found["answer"], "probability": found["score"]}
            new |= {key: found[key] for key in ("start", "end", "nbest")}
        elif "label" in found:
            best = found["scores"][found["label"]]
            new = {"prediction": found["label"], "probability": best, "scores": found["scores"]}
        elif "words" in found:
            new = {"prediction": found["tags"], "probability": found["scores"]}
        else:
            new = {
                "prediction": next(found[n] for n in ("entities", "tags", "score") if n in found)
            }
        taken = asked.columns.keys()
        named = {_free(name, taken): value for name, value in ({"row": number + 1} | new).items()}
        rows.append(named | row)
    return rows


def _free(name: str, taken: Any) -> str:
    return _free(f"{name}_", taken) if name in taken else name


def check_fits(path: Path, asked: Asked, run: Run) -> None:
    """Raises an error where a file cannot hold what is asked or what is found.

    ConfigError for the tags of words in a table, and for a .json file where texts have no ids;
    DataError for a column that cannot stand in a TSV file, which has no quotes.
    """
    if is_tagger(run) and path.suffix in (".csv", ".tsv"):
        raise ConfigError(f"--output={path}: a text has many tags; name the output .jsonl.")
    answers = "span" in run.model_config.heads and "id" in asked.columns
    if path.suffix == ".json" and not answers:
        raise ConfigError(
            f"--output={path}: a .json file holds answers by the ids of their questions; expected "
            "a model that answers, with --input=FILE.json in the format of SQuAD, or a .jsonl."
        )
    for name, values in asked.columns.items() if path.suffix == ".tsv" else ():
        if not _is_nested(values):
            for value in values:
                _tsv_field(name, value)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Writes rows of the same columns in the form of the file's suffix, in one move.

    Returns the columns that the file has, none of a .json of answers by their ids. A .csv or .tsv
    leaves out columns with lists or objects in them. What JSON cannot hold (dates) is written as
    text.
    """
    names = list(rows[0])
    if path.suffix == ".json":
        names = []
        answers = {row["id"]: row["prediction"] for row in rows}
        text = json.dumps(answers, ensure_ascii=False, indent=1) + "\n"
    elif path.suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows]
        text = "".join(lines)
    else:
        names = [name for name in names if not _is_nested([row[name] for row in rows])]
        page = io.StringIO(newline="")
        if path.suffix == ".csv":
            writer = csv.writer(page, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([row[name] for name in names] for row in rows)
        else:
            page.write("\t".join(_tsv_field("header", name) for name in names) + "\n")
            for row in rows:
                page.write("\t".join(_tsv_field(name, row[name]) for name in names) + "\n")
        text = page.getvalue()
    write_file(path, text)
    return names


def tagged_columns(file: TaggedFile, predictions: Sequence[Mapping[str, Any]]) -> str:
    """Returns the text of a column file with the predicted tags as its last column.

    Of sentences from elsewhere the first column has the words.
    """
    tags = [found["tags"] for found in predictions]
    if file.lines:
        return with_column(file, tags)
    blocks = []
    for words, some in zip(file.words, tags, strict=True):
        pairs = zip(words, some, strict=True)
        blocks.append("".join(f"{_tsv_field('words', word)}\t{tag}\n" for word, tag in pairs))
    return "\n".join(blocks)


def write_file(path: Path, text: str) -> None:
    """Writes a text in one move, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Half of a surrogate pair, which JSON can spell out, is written as it was spelled.
    write_atomically(path, text.encode("utf-8", "backslashreplace").decode())


def _is_nested(values: Sequence[Any]) -> bool:
    return any(isinstance(value, list | dict) for value in values)


def _tsv_field(name: str, value: Any) -> str:
    field = "" if value is None else str(value)
    if any(character in field for character in "\t\r\n"):
        raise DataError(
            f"column {name!r}: {field[:60]!r} holds a tab or a line break, which a .tsv cannot: "
            "name the output .csv or .jsonl."
        )
    return field
