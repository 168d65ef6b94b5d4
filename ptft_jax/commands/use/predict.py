r"""ptft predict --run_dir=RUN_OR_HF_DIR "text" … | --input=FILE [--json] [--top=5]

Fills in [MASK]s with a pretraining run, gives labels with scores with a fine-tuned one. [MASK] is
the mask of every model, also of one whose tokenizer spells it otherwise (<mask>).

A FILE has one text per line; `-` reads standard input. The two texts of a pair are separated by a
tab ($'text A\ttext B' in bash). --json prints one JSON object per text instead of a table.
"""

import json
import sys
from pathlib import Path
from typing import Any

from absl import flags
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ptft_jax.commands.screen import make_console, warnings_as_lines
from ptft_jax.commands.train.evaluate import define_reading_flags
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.runs.open import load_run
from ptft_jax.runs.predictions import TextError


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_reading_flags(values)
    flags.DEFINE_string("input", None, "File with one text per line, or -.", flag_values=values)
    flags.DEFINE_bool("json", False, "Print JSON lines instead of a table.", flag_values=values)
    flags.DEFINE_integer("top", 5, "Candidates to show.", lower_bound=1, flag_values=values)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    if not values.run_dir:
        raise ConfigError("--run_dir is missing: name the folder of the run.")
    if bool(positional) == bool(values.input):
        raise ConfigError('expected either texts ("…") or --input=FILE.')
    texts = read_texts(values.input) if values.input else positional
    opened = load_run(values.run_dir, values.checkpoint)
    try:
        with warnings_as_lines():
            predictions = opened.predict(texts, values.top)
    except TextError as error:
        if values.input:
            raise DataError(f"{values.input}: {error}") from error
        raise
    if values.json:
        for prediction in predictions:
            print(json.dumps(prediction, ensure_ascii=False))
    else:
        make_console().print(predictions_table(predictions))


def read_texts(source: str, *, keep_blank: bool = False) -> list[str]:
    """Reads one text per line from a file or, for "-", from standard input.

    Lines without a text are left out unless `keep_blank`.

    Raises:
        ConfigError: there is no such file.
        DataError: it is not UTF-8 (with the line), or holds no text.
    """
    if source != "-" and not Path(source).is_file():
        raise ConfigError(f"--input={source}: there is no such file.")
    content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    texts = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{source}, line {number}: not UTF-8 ({error.reason}).") from error
        if keep_blank or text.strip():
            texts.append(text)
    if not any(map(str.strip, texts)):
        raise DataError(f"{source}: no text; expected one per line.")
    return texts


def predictions_table(predictions: list[dict[str, Any]]) -> Table:
    """Returns what `Run.predict` found as a table for the screen."""
    if "masks" in predictions[0]:
        table = Table("text", "mask", "candidates", box=SIMPLE_HEAD)
        for prediction in predictions:
            for place, candidates in enumerate(prediction["masks"], 1):
                shown = "  ".join(f"{c['token'].strip()} {c['score']:.3f}" for c in candidates)
                table.add_row(prediction["text"], str(place), shown)
        return table
    if "score" in predictions[0]:
        table = Table("text", "score", box=SIMPLE_HEAD)
        for prediction in predictions:
            table.add_row(prediction["text"], f"{prediction['score']:.4f}")
        return table
    table = Table("text", "label", "scores", box=SIMPLE_HEAD)
    for prediction in predictions:
        shown = "  ".join(f"{name} {score:.3f}" for name, score in prediction["scores"].items())
        table.add_row(prediction["text"], prediction["label"], shown)
    return table
