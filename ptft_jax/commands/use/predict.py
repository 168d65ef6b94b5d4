r"""ptft predict --run_dir=RUN_OR_HF_DIR "text" … | --input=FILE | --split=test [--output=FILE]

Fills in [MASK]s with a pretraining run; gives labels, scores, entities or answers with a fine-tuned
one. [MASK] is the mask of every model, also of one whose tokenizer spells it otherwise (<mask>).

FILE is a table (.csv, .tsv, .jsonl, .parquet), whose text columns are those of the run's training
unless --text_column and --text_pair_column name others, or has one text per line; `-` reads
standard input. A pair in a line, or on the command line, has a tab in it ($'text A\ttext B' in
bash). --output=FILE.csv, .tsv or .jsonl gets a row for each row or line, in their order: its
number, all columns it came with, and the prediction. --json prints JSON lines instead of a table.

A tagger also reads FILE.conll, of a word on each line, and adds a column with the words' tags. A
question stands before its context, as the first text of a pair; FILE may then be .json in the
format of SQuAD, and --output=FILE.json gets the answers by their ids, {id: text}.

--adapter=RUN_OR_PEFT_DIR, given several times in place of --run_dir, asks each of these models:
what they have in common, the encoder that their adapters stand beside, is in memory once.

A run on episodes knows classes by the texts of --support=FILE, a table with labels, or a .json of
FewRel's format, of which --input may be one, too.

--split=test asks about a split of the run's own task, in its data or in --data_dir. --output=DIR
then gets the files that the server of GLUE, SuperGLUE or CLUE takes, --output=FILE.zip all of them
packed; --run_dir may be a folder of runs, of which the best one of each task predicts.
"""

import json
import shlex
from pathlib import Path
from typing import Any

from absl import flags
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ptft_jax.commands.screen import count, made, make_console, progress_bars, warnings_as_lines
from ptft_jax.commands.train.evaluate import RUN_OR_HF, TASK, define_reading_flags
from ptft_jax.commands.use.submit import is_submission, submit
from ptft_jax.commands.use.texts import (
    COLUMNS,
    Asked,
    check_fits,
    check_output,
    define_input_flags,
    read_input,
    read_sentences,
    read_split,
    read_support,
    rows_of,
    tagged_columns,
    write_file,
    write_rows,
)
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.runs.trained.asking.predictions import TextError
from ptft_jax.runs.trained.open import load_run, load_runs


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_reading_flags(values, RUN_OR_HF)
    define_input_flags(values, pairs=True)
    text = "Run or PEFT folder with an adapter; several are asked over one encoder."
    flags.DEFINE_multi_string("adapter", None, text, flag_values=values)
    text = "File of labelled texts, by which a run on episodes knows its classes."
    flags.DEFINE_string("support", None, text, flag_values=values)
    text = "File to make, .csv, .tsv, .jsonl, .json or .conll; with --split=test a folder or .zip."
    flags.DEFINE_string("output", None, text, flag_values=values)
    flags.DEFINE_string("task", None, TASK, flag_values=values)
    text = "Split of the run's task to predict, like test, instead of texts or a file."
    flags.DEFINE_string("split", None, text, flag_values=values)
    text = "Folder of the task's files for --split; else that of the run's training."
    flags.DEFINE_string("data_dir", None, text, flag_values=values)
    flags.DEFINE_bool("json", False, "Print JSON lines instead of a table.", flag_values=values)
    flags.DEFINE_integer(
        "top", 5, "Candidates to show; a file has all labels.", lower_bound=1, flag_values=values
    )


def run(values: flags.FlagValues, words: list[str]) -> None:
    """Runs the command."""
    if bool(values.run_dir) == bool(values.adapter):
        raise ConfigError("expected --run_dir=RUN or, once or several times, --adapter=RUN.")
    if values.adapter and (values.split or values.checkpoint):
        raise ConfigError("--adapter: expected texts or --input=FILE beside it.")
    if [bool(words), bool(values.input), bool(values.split)].count(True) != 1:
        raise ConfigError('expected one of texts ("…"), --input=FILE and --split=NAME.')
    if values.data_dir and not values.split:
        raise ConfigError("--data_dir: expected --split=NAME beside it.")
    if values.split and is_submission(values.output):
        submit(values)
        return
    output = None
    if values.output is not None:
        output = check_output(values.output, values.input, bool(values.split))
        if values.adapter and output.suffix in (COLUMNS, ".json"):
            raise ConfigError(
                f"--output={output}: expected .csv, .tsv or .jsonl, in which a column says which "
                "--adapter a row is of."
            )
    if values.task and (values.adapter or values.split):
        raise ConfigError(
            "--task: expected --run_dir and texts or --input=FILE beside it; splits are those of "
            "an exported task."
        )
    if values.adapter:
        runs = load_runs(values.adapter)
    else:
        runs = [load_run(values.run_dir, values.checkpoint)]
        if values.task:
            runs = [runs[0].of_task(values.task)]
    opened = runs[0]
    asked = Asked(words, {"text": words})
    if values.split:
        asked = read_split(values, output)
    elif values.input:
        in_columns = Path(values.input).suffix == COLUMNS
        asked = read_sentences(values.input, opened) if in_columns else read_input(values, opened)
    if output is not None:
        check_fits(output, asked, opened)
    support = read_support(values.support, opened) if values.support else None
    top = values.top
    if output is not None and not values["top"].present:
        # Whoever reads a file wants the scores of all labels, and the screen has room for a few.
        counts = [len(support or ()) + 1]
        counts += [max(run.model_config.num_labels, len(run.labels or ())) for run in runs]
        top = max(top, *counts)
    try:
        # Standard output holds the predictions alone.
        with warnings_as_lines(), progress_bars(Console(stderr=True)) as bars:
            each = [
                run.predict(
                    asked.texts,
                    top,
                    lambda done, total: bars("Predicting", done, total),
                    support=support,
                )
                for run in runs
            ]
    except TextError as error:
        if values.input:
            raise DataError(f"{values.input}: {error}") from error
        raise
    # Several models are told apart by their names.
    named = [*zip([{"adapter": name} for name in values.adapter or ()] or [{}], each, strict=True)]
    sentences = None if values.adapter else asked.sentences
    if output is not None and sentences is not None and output.suffix == COLUMNS:
        write_file(output, tagged_columns(sentences, each[0]))
        _made(output, {"sentences": count(len(each[0]))})
    elif output is not None:
        rows = [{**name, **row} for name, found in named for row in rows_of(asked, found)]
        names = write_rows(output, rows)
        rows_of_file = {"rows": count(len(rows)), "columns": ", ".join(names)}
        _made(output, rows_of_file if names else {"answers": f"{count(len(rows))}, {{id: text}}"})
    elif values.json:
        for name, found in named:
            for prediction in found:
                print(json.dumps({**name, **prediction}, ensure_ascii=False))
    elif sentences is not None:
        print(tagged_columns(sentences, each[0]), end="")
    else:
        for name, found in named:
            table = predictions_table(found)
            table.title = name.get("adapter")
            make_console().print(table)


def _made(output: Path, what: dict[str, str]) -> None:
    following = [f"head -3 {shlex.quote(str(output))}"]
    made(make_console(), "predicted", {"file": str(output), **what}, following)


def predictions_table(predictions: list[dict[str, Any]]) -> Table:
    """Returns what `Run.predict` found as a table for the screen."""
    if "masks" in predictions[0]:
        table = Table("text", "mask", "candidates", box=SIMPLE_HEAD)
        for prediction in predictions:
            for place, candidates in enumerate(prediction["masks"], 1):
                shown = "  ".join(f"{c['token'].strip()} {c['score']:.3f}" for c in candidates)
                table.add_row(_shown(prediction), str(place), shown)
        return table
    if "answer" in predictions[0]:
        table = Table("question", "answer", "score", "characters", box=SIMPLE_HEAD)
        for found in predictions:
            place = f"{found['start']}:{found['end']}"
            table.add_row(found["text"][0], found["answer"], f"{found['score']:.3f}", place)
        return table
    if "entities" in predictions[0] or "tags" in predictions[0]:
        column, name = ("entities", "type") if "entities" in predictions[0] else ("tags", "tag")
        table = Table("text", column, box=SIMPLE_HEAD)
        for prediction in predictions:
            parts = (f"{p['text']} {p[name]} {p['score']:.3f}" for p in prediction[column])
            table.add_row(_shown(prediction), "  ".join(parts))
        return table
    if "score" in predictions[0]:
        table = Table("text", "score", box=SIMPLE_HEAD)
        for prediction in predictions:
            table.add_row(_shown(prediction), f"{prediction['score']:.4f}")
        return table
    if "choice" in predictions[0]:
        table = Table("context", "choice", "", "score", box=SIMPLE_HEAD)
        for found in predictions:
            score = f"{found['scores'][found['choice']]:.3f}"
            table.add_row(found["text"][0], str(found["choice"]), found["label"], score)
        return table
    table = Table("text", "label", "scores", box=SIMPLE_HEAD)
    for prediction in predictions:
        shown = "  ".join(f"{name} {score:.3f}" for name, score in prediction["scores"].items())
        label = prediction["label"] if "label" in prediction else ", ".join(prediction["labels"])
        table.add_row(_shown(prediction), label, shown)
    return table


def _shown(prediction: dict[str, Any]) -> str:
    text = prediction["text"]
    return text if isinstance(text, str) else "\t".join(text)
