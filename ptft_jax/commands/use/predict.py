r"""ptft predict --run_dir=RUN "text" … | --input=FILE [--json] [--top=5]

Fills in [MASK]s with a pretraining run, gives labels with scores with a fine-tuned one. [MASK] is
the mask of every model, also of one whose tokenizer spells it otherwise (<mask>).

A FILE has one text per line; `-` reads standard input. The two texts of a pair are separated by a
tab ($'text A\ttext B' in bash). --json prints one JSON object per text instead of a table.
"""

import json
import sys
from collections.abc import Iterable
from itertools import batched
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ptft_jax.commands.screen import make_console
from ptft_jax.commands.train.evaluate import define_reading_flags
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.models.build import build_model
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.metrics import check_outputs
from ptft_jax.runs.folder import TrainedRun, open_run

_BATCH = 32
# What a person writes for a mask.
_MASK = "[MASK]"


class TextError(ConfigError):
    """A text that the model cannot be asked about."""


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
    opened = open_run(values.run_dir, values.checkpoint)
    try:
        predictions = predict(opened, texts, values.top)
    except TextError as error:
        if values.input:
            raise DataError(f"{values.input}: {error}") from error
        raise
    if values.json:
        for prediction in predictions:
            print(json.dumps(prediction, ensure_ascii=False))
    else:
        make_console().print(predictions_table(predictions))


def read_texts(source: str) -> list[str]:
    """Reads one text per line from a file or, for "-", from standard input.

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
        if text.strip():
            texts.append(text)
    if not texts:
        raise DataError(f"{source}: no text; expected one per line.")
    return texts


def predict(run: TrainedRun, texts: Iterable[str], top: int = 5) -> list[dict[str, Any]]:
    """Predicts with a run.

    Args:
        run: a run with an MLM or a classification head.
        texts: texts; the two of a pair are separated by a tab.
        top: how many candidates to return for each text or mask.

    Returns:
        A dict per text: `text`, and `masks` (a list of candidates per [MASK]; BPE's and Unigram's
        have a space before them where they begin a word), or `label` and `scores`, or `score` for
        a regression.

    Raises:
        ConfigError: the run has no such head.
        DataError: its outputs are not finite.
        TextError: a text without [MASK] was given to fill in, one where the run takes pairs, or
            one whose [MASK] lies beyond the length of the run's texts.
    """
    texts = list(texts)
    if "classification" in run.model_config.heads:
        return _classify(run, texts, top)
    if "mlm" in run.model_config.heads:
        return _fill_masks(run, texts, top)
    raise ConfigError(
        f"{run.folder.path} is an encoder without a head that predicts: fine-tune it first, "
        "`ptft finetune --init_from`."
    )


def _classify(run: TrainedRun, texts: list[str], top: int) -> list[dict[str, Any]]:
    model = build_model(run.model_config)
    regression = run.record.labels is None and run.model_config.num_labels == 1
    objective = ClassificationObjective(regression=regression)
    names = run.record.labels or tuple(map(str, range(run.model_config.num_labels)))
    step = jax.jit(lambda params, batch: objective.predict(model.bind(params), batch))
    results = []
    examples = _examples(run, texts)
    if examples.num_truncated:
        print(
            f"{examples.num_truncated} of {len(texts)} texts are longer than the "
            f"{examples.buckets[-1]} tokens of this run and were cut",
            file=sys.stderr,
        )
    for numbers, batch in _batches(examples):
        logits = np.asarray(step(run.params, batch))[: len(numbers)]
        check_outputs(logits)
        for number, row in zip(numbers, logits, strict=True):
            if regression:
                results.append({"text": texts[number], "score": float(row[0])})
                continue
            probabilities = _softmax(row)
            order = np.argsort(-probabilities)[:top]
            scores = {names[i]: float(probabilities[i]) for i in order}
            results.append({"text": texts[number], "label": names[order[0]], "scores": scores})
    return results


def _fill_masks(run: TrainedRun, texts: list[str], top: int) -> list[dict[str, Any]]:
    tokenizer, model = run.tokenizer, build_model(run.model_config)
    masked = [text.replace(_MASK, tokenizer.mask_token) for text in texts]
    for text, own in zip(texts, masked, strict=True):
        if tokenizer.mask_token not in own:
            raise TextError(f"{text!r} has no [MASK] to fill in; write [MASK] where a word is.")
    examples = _examples(run, masked)
    for number, (text, own) in enumerate(zip(texts, masked, strict=True)):
        ids = examples.batch(np.array([number]))["input_ids"]
        if np.sum(ids == tokenizer.mask_token_id) < own.count(tokenizer.mask_token):
            raise TextError(
                f"{text!r}: a [MASK] lies beyond the {examples.buckets[-1]} tokens of this run; "
                "shorten the text."
            )
    results = []

    @jax.jit
    def step(params: Any, batch: Any, positions: Any) -> jax.Array:
        encoder = model.bind(params)
        return encoder.mlm_logits(encoder.last_hidden_state(batch), positions)

    for numbers, batch in _batches(examples):
        is_mask = batch["input_ids"] == tokenizer.mask_token_id
        most = max(1, int(is_mask.sum(axis=1).max()))
        positions = np.zeros((len(is_mask), most), np.int32)
        for row, mask in enumerate(is_mask):
            found = np.flatnonzero(mask)
            positions[row, : len(found)] = found
        logits = np.asarray(step(run.params, batch, positions))[: len(numbers)]
        check_outputs(logits)
        for row, number in enumerate(numbers):
            masks = []
            for place in range(int(is_mask[row].sum())):
                probabilities = _softmax(logits[row, place, : tokenizer.vocab_size])
                order = np.argsort(-probabilities)[:top]
                masks.append(
                    [
                        {"token": tokenizer.text_of(int(i)), "score": float(probabilities[i])}
                        for i in order
                    ]
                )
            results.append({"text": texts[number], "masks": masks})
    return results


def _examples(run: TrainedRun, texts: list[str]) -> ClassificationExamples:
    """Tokenises the texts as those that the run was trained on."""
    takes_pairs = run.record.pairs if "classification" in run.model_config.heads else None
    if takes_pairs is None:
        # An encoder of unknown training, or one that learned single sentences and pairs alike.
        takes_pairs = "\t" in "".join(texts)
    pairs = [text.split("\t") for text in texts] if takes_pairs else [[text] for text in texts]
    for text, parts in zip(texts, pairs, strict=True):
        if takes_pairs and len(parts) != 2:
            raise TextError(
                f"{text!r} has {len(parts) - 1} tabs: expected a pair of texts with one tab "
                "between them, as this run or the other texts here have them."
            )
    split = Split(
        texts_a=[parts[0] for parts in pairs],
        texts_b=[parts[1] for parts in pairs] if takes_pairs else None,
        labels=None,
        source="text",
    )
    length = run.config.get("max_seq_length", run.model_config.max_position_embeddings)
    return ClassificationExamples(split, run.tokenizer, length)


def _batches(
    examples: ClassificationExamples,
) -> Iterable[tuple[list[int], dict[str, np.ndarray]]]:
    """Yields the numbers of the texts in a batch, and the batch filled up to its full size."""
    size = min(_BATCH, len(examples))
    for numbers in batched(range(len(examples)), size):
        filled = [*numbers, *[numbers[-1]] * (size - len(numbers))]
        yield list(numbers), examples.batch(np.array(filled, np.int64))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def predictions_table(predictions: list[dict[str, Any]]) -> Table:
    """Returns what `predict` found as a table for the screen."""
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
