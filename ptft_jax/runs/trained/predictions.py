"""What a trained model says of texts: words for masks, labels, scores, tags, or answers.

[MASK] is the mask of every model, also of one whose tokenizer spells it otherwise (<mask>).
"""

import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.metrics import check_outputs
from ptft_jax.runs.folder import TrainedRun
from ptft_jax.runs.kinds.classification import SOME
from ptft_jax.runs.trained.answers import answer
from ptft_jax.runs.trained.choices import choose
from ptft_jax.runs.trained.tagging import tag
from ptft_jax.runs.trained.texts import (
    PACKAGE,
    Text,
    checked,
    filled_batches,
    limit_of,
    outputs_step,
    warn_of_cut,
)

_BATCH = 32
# What a person writes for a mask.
_MASK = "[MASK]"


class TextError(ConfigError):
    """A text that the model cannot be asked about."""


# Is told how many texts are done, and how many there are.
Progress = Callable[[int, int], None]


def predict(
    run: TrainedRun,
    texts: Iterable[Text | list[str]],
    top: int = 5,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Predicts with a run; see `Run.predict`.

    Raises:
        ConfigError: the run has no such head.
        DataError: its outputs are not finite.
        TextError: a text without [MASK] was given to fill in, one where the run takes pairs, or
            one whose [MASK] lies beyond the length of the run's texts.
    """
    told = progress or (lambda done, total: None)
    if "choice" in run.model_config.heads:
        return choose(run, texts, told)
    tags = "tagging" in run.model_config.heads
    texts = checked(texts, pairs=not tags, words=tags)
    if not texts:
        return []
    if tags:
        return tag(run, texts, told)
    if "classification" in run.model_config.heads:
        return _classify(run, texts, top, told)
    if "span" in run.model_config.heads:
        return answer(run, _questions(run, texts), top, told)
    if "mlm" in run.model_config.heads:
        return _fill_masks(run, texts, top, told)
    raise ConfigError(
        f"{run.folder.path} is an encoder without a head that predicts: fine-tune it first, "
        "`ptft finetune --init_from`."
    )


def _classify(
    run: TrainedRun, texts: list[Text], top: int, progress: Progress
) -> list[dict[str, Any]]:
    problem_type = run.record.problem_type or "single_label_classification"
    names = run.record.labels or tuple(map(str, range(run.model_config.num_labels)))
    step = outputs_step(run.model_config, ClassificationObjective())
    results = []
    examples = _examples(run, _parts(run, texts))
    warn_of_cut(examples)
    for numbers, batch in filled_batches(examples, _BATCH):
        logits = np.asarray(step(run.params, batch)["logits"])[: len(numbers), 0]
        check_outputs(logits)
        for number, row in zip(numbers, logits, strict=True):
            if problem_type == "regression":
                results.append({"text": texts[number], "score": float(row[0])})
                continue
            several = problem_type == "multi_label_classification"
            probabilities = 1 / (1 + np.exp(-row)) if several else _softmax(row)
            order = np.argsort(-probabilities)[:top]
            scores = {names[i]: float(probabilities[i]) for i in order}
            if several:
                found = [name for name, logit in zip(names, row, strict=True) if logit > 0]
                results.append({"text": texts[number], "labels": found, "scores": scores})
            else:
                results.append({"text": texts[number], "label": names[order[0]], "scores": scores})
        progress(len(results), len(texts))
    one_class = len({one.get("label") for one in results}) == 1 and "label" in results[0]
    if one_class and len(set(texts)) >= SOME:
        warnings.warn(
            f"all {len(texts):,} texts got the label {results[0]['label']!r}: unless they are all "
            "alike, the model tells nothing apart; `ptft evaluate` scores it on labelled texts",
            stacklevel=2,
            skip_file_prefixes=(PACKAGE,),
        )
    return results


def _fill_masks(
    run: TrainedRun, texts: list[Text], top: int, progress: Progress
) -> list[dict[str, Any]]:
    tokenizer = run.tokenizer
    parts = [[t.replace(_MASK, tokenizer.mask_token) for t in p] for p in _parts(run, texts)]
    asked = [sum(part.count(tokenizer.mask_token) for part in two) for two in parts]
    for text, two, masks in zip(texts, parts, asked, strict=True):
        # A blank line in a file of texts asks nothing.
        if not masks and "".join(two).strip():
            raise TextError(f"{text!r} has no [MASK] to fill in; write [MASK] where a word is.")
    examples = _examples(run, parts)
    for number, (text, masks) in enumerate(zip(texts, asked, strict=True)):
        ids = examples.batch(np.array([number]))["input_ids"]
        if np.sum(ids == tokenizer.mask_token_id) < masks:
            raise TextError(
                f"{text!r}: a [MASK] lies beyond the {examples.buckets[-1]} tokens of this run; "
                "shorten the text."
            )
    warn_of_cut(examples)
    step = _mlm_step(run.model_config)
    results = []
    for numbers, batch in filled_batches(examples, _BATCH):
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
            best = [candidates[0]["token"] for candidates in masks]
            filled = _filled("\t".join(parts[number]), tokenizer.mask_token, best)
            results.append({"text": texts[number], "filled": filled, "masks": masks})
        progress(len(results), len(texts))
    return results


def _filled(text: str, mask: str, tokens: list[str]) -> str:
    """Returns a text with its masks replaced by tokens; ## goes on with the word before."""
    pieces = text.split(mask)
    filled = pieces[0]
    for token, piece in zip(tokens, pieces[1:], strict=True):
        if token.startswith("##"):
            filled, token = filled.rstrip(" "), token[2:]
        filled += (token.strip() or mask) + piece
    return filled


def _parts(run: TrainedRun, texts: list[Text]) -> list[list[str]]:
    """Returns each text as a list of one, or of the two of a pair, as the run was trained."""
    heads = run.model_config.heads
    takes_pairs = run.record.pairs if "classification" in heads else "span" in heads or None
    if takes_pairs is None:
        # An encoder of unknown training, or one that learned single sentences and pairs alike.
        takes_pairs = any(isinstance(text, tuple) or "\t" in text for text in texts)
    parts = []
    for text in texts:
        if isinstance(text, tuple):
            found = list(text)
        else:
            found = text.split("\t") if takes_pairs else [text]
        if takes_pairs and len(found) != 2:
            raise TextError(
                f"{text!r} has {len(found) - 1} tabs: expected a pair of texts with one tab "
                "between them, as this run or the other texts here have them."
            )
        if takes_pairs and run.model_config.type_vocab_size < 2:
            raise TextError(f"{text!r} is a pair: this model has one token type, expected two.")
        if not takes_pairs and len(found) == 2:
            raise TextError(f"{text!r} is a pair of texts: this run takes single texts.")
        parts.append(found)
    return parts


def _questions(run: TrainedRun, texts: list[Text]) -> list[tuple[str, str]]:
    """Returns each text as a question and its context."""
    pairs = [(question, context) for question, context in _parts(run, texts)]
    for question, context in pairs:
        if not context.strip():
            raise TextError(f"{question!r} has an empty context; write it behind the tab.")
    return pairs


def _examples(run: TrainedRun, parts: list[list[str]]) -> ClassificationExamples:
    """Tokenises texts as those that the run was trained on."""
    split = Split(
        texts_a=[two[0] for two in parts],
        texts_b=[two[1] for two in parts] if len(parts[0]) == 2 else None,
        labels=None,
        source="text",
    )
    return ClassificationExamples(split, run.tokenizer, limit_of(run))


# Kept between calls and between runs of one shape: who asks again need not wait for a compilation.
@lru_cache(maxsize=8)
def _mlm_step(config: EncoderConfig) -> Callable[..., jax.Array]:
    model = build_model(config)

    @jax.jit
    def step(params: Any, batch: Any, positions: Any) -> jax.Array:
        encoder = model.bind(params)
        return encoder.mlm_logits(encoder.last_hidden_state(batch), positions)

    return step


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()
