"""What a trained model says of texts: words for masks, labels with scores, or a score.

[MASK] is the mask of every model, also of one whose tokenizer spells it otherwise (<mask>).
"""

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
from ptft_jax.runs.texts import checked, filled_batches, limit_of, warn_of_cut

_BATCH = 32
# What a person writes for a mask.
_MASK = "[MASK]"


class TextError(ConfigError):
    """A text that the model cannot be asked about."""


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
    texts = checked(texts)
    if not texts:
        return []
    if "classification" in run.model_config.heads:
        return _classify(run, texts, top)
    if "mlm" in run.model_config.heads:
        return _fill_masks(run, texts, top)
    raise ConfigError(
        f"{run.folder.path} is an encoder without a head that predicts: fine-tune it first, "
        "`ptft finetune --init_from`."
    )


def _classify(run: TrainedRun, texts: list[str], top: int) -> list[dict[str, Any]]:
    regression = run.record.labels is None and run.model_config.num_labels == 1
    names = run.record.labels or tuple(map(str, range(run.model_config.num_labels)))
    step = _classification_step(run.model_config, regression)
    results = []
    examples = _examples(run, texts)
    warn_of_cut(examples)
    for numbers, batch in filled_batches(examples, _BATCH):
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
    tokenizer = run.tokenizer
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
    return ClassificationExamples(split, run.tokenizer, limit_of(run))


# Kept between calls and between runs of one shape: who asks again need not wait for a compilation.
@lru_cache(maxsize=8)
def _classification_step(config: EncoderConfig, regression: bool) -> Callable[..., jax.Array]:
    model, objective = build_model(config), ClassificationObjective(regression=regression)
    return jax.jit(lambda params, batch: objective.predict(model.bind(params), batch))


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
