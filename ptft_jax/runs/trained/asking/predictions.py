"""What a trained model says of texts: words for masks, labels, scores, tags, or answers.

[MASK] is the mask of every model, also of one whose tokenizer spells it otherwise (<mask>).
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.scores.metrics import check_outputs, softmax
from ptft_jax.runs.folder import TrainedRun
from ptft_jax.runs.kinds.finetuning import SOME
from ptft_jax.runs.trained.asking.answers import answer
from ptft_jax.runs.trained.asking.by_support import classify_by_support
from ptft_jax.runs.trained.asking.choices import choose
from ptft_jax.runs.trained.asking.embeddings import few_shot_way, is_trained
from ptft_jax.runs.trained.asking.tagging import tag
from ptft_jax.runs.trained.asking.texts import (
    PACKAGE,
    Share,
    Text,
    buckets_for,
    checked,
    filled_batches,
    in_blocks,
    limit_of,
    longer_than,
    outputs_of,
)
from ptft_jax.runs.trained.one_task import check_task

# What a person writes for a mask.
_MASK = "[MASK]"


class TextError(ConfigError):
    """A text that the model cannot be asked about."""


# Is told how many texts are done, and how many there are.
Progress = Callable[[int, int], None]


def predict(
    run: TrainedRun,
    texts: Iterable[Any],
    top: int = 5,
    progress: Progress | None = None,
    support: Mapping[str, Iterable[Any]] | None = None,
) -> list[dict[str, Any]]:
    """Predicts with a run; see `Run.predict`.

    Raises:
        ConfigError: the run has no such head.
        DataError: its outputs are not finite.
        TextError: a text without [MASK] was given to fill in, one where the run takes pairs, or
            one whose [MASK] lies beyond the length of the run's texts.
    """
    told = progress or (lambda done, total: None)
    check_task(run)
    if "episode" in run.config:
        return classify_by_support(run, texts, support, top, told)
    if support is not None:
        raise ConfigError(f"support: {run.folder.path} was not trained on episodes; leave it out.")
    if "choice" in run.model_config.heads:
        return choose(run, texts, told)
    tags = "tagging" in run.model_config.heads
    texts = checked(texts, pairs=not tags, words=tags)
    if not texts:
        return []
    if tags:
        return tag(run, texts, told)
    if "classification" in run.model_config.heads or few_shot_way(run):
        return _classify(run, texts, top, told)
    if "span" in run.model_config.heads:
        return answer(run, _questions(run, texts), top, told)
    if "mlm" in run.model_config.heads:
        return _fill_masks(run, texts, top, told)
    if is_trained(run):
        raise ConfigError(
            f"{run.folder.path} makes vectors of texts: ask `ptft embed`, or `embed` in Python."
        )
    raise ConfigError(
        f"{run.folder.path} is an encoder without a head that predicts: fine-tune it first, "
        "`ptft finetune --init_from`."
    )


def _classify(
    run: TrainedRun, texts: list[Text], top: int, progress: Progress
) -> list[dict[str, Any]]:
    asked = list(zip(texts, _parts(run, texts), strict=True))
    longer = longer_than(limit_of(run))
    results = in_blocks(asked, partial(_classify_some, run, top), progress, longer)
    one_class = len({one.get("label") for one in results}) == 1 and "label" in results[0]
    if one_class and len(set(texts)) >= SOME:
        warnings.warn(
            f"all {len(texts):,} texts got the label {results[0]['label']!r}: unless they are all "
            "alike, the model tells nothing apart; `ptft evaluate` scores it on labelled texts",
            stacklevel=2,
            skip_file_prefixes=(PACKAGE,),
        )
    return results


# A text as it came, and as a list of one or of the two of a pair.
_Asked = tuple[Text, list[str]]


def _classify_some(
    run: TrainedRun, top: int, asked: list[_Asked], told: Share
) -> tuple[list[dict[str, Any]], int]:
    problem_type = run.record.problem_type or "single_label_classification"
    names = run.record.labels or tuple(map(str, range(run.model_config.num_labels)))
    parts = [parts for _, parts in asked]
    if few_shot_way(run):
        from ptft_jax.runs.trained.asking.few_shot import logits_of

        examples, logits = logits_of(run, _split(parts), buckets_for(run, parts), told)
    else:
        examples = _examples(run, parts)
        logits = outputs_of(run, ClassificationObjective(), examples, told)["logits"][:, 0]
    results = []
    for (text, _), row in zip(asked, logits, strict=True):
        if problem_type == "regression":
            results.append({"text": text, "score": float(row[0])})
            continue
        several = problem_type == "multi_label_classification"
        probabilities = 1 / (1 + np.exp(-row)) if several else softmax(row)
        order = np.argsort(-probabilities)[:top]
        scores = {names[i]: float(probabilities[i]) for i in order}
        if several:
            found = [name for name, logit in zip(names, row, strict=True) if logit > 0]
            results.append({"text": text, "labels": found, "scores": scores})
        else:
            results.append({"text": text, "label": names[order[0]], "scores": scores})
    return results, examples.num_truncated


def _fill_masks(
    run: TrainedRun, texts: list[Text], top: int, progress: Progress
) -> list[dict[str, Any]]:
    mask = run.tokenizer.mask_token
    parts = [[t.replace(_MASK, mask) for t in two] for two in _parts(run, texts)]
    for text, two in zip(texts, parts, strict=True):
        # A blank line in a file of texts asks nothing.
        if not any(mask in part for part in two) and "".join(two).strip():
            raise TextError(f"{text!r} has no [MASK] to fill in; write [MASK] where a word is.")
    asked = list(zip(texts, parts, strict=True))
    return in_blocks(asked, partial(_fill_some, run, top), progress, longer_than(limit_of(run)))


def _fill_some(
    run: TrainedRun, top: int, asked: list[_Asked], told: Share
) -> tuple[list[dict[str, Any]], int]:
    tokenizer = run.tokenizer
    examples = _examples(run, [parts for _, parts in asked])
    for number, (text, parts) in enumerate(asked):
        ids = examples.batch(np.array([number]))["input_ids"]
        if np.sum(ids == tokenizer.mask_token_id) < "".join(parts).count(tokenizer.mask_token):
            raise TextError(
                f"{text!r}: a [MASK] lies beyond the {examples.buckets[-1]} tokens of this run; "
                "shorten the text."
            )
    step = _mlm_step(run.model_config)
    results: list[dict[str, Any]] = [{}] * len(asked)
    for numbers, batch in filled_batches(examples, told=told):
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
                probabilities = softmax(logits[row, place, : tokenizer.vocab_size])
                order = np.argsort(-probabilities)[:top]
                masks.append(
                    [
                        {"token": tokenizer.text_of(int(i)), "score": float(probabilities[i])}
                        for i in order
                    ]
                )
            best = [candidates[0]["token"] for candidates in masks]
            text, parts = asked[number]
            filled = _filled("\t".join(parts), tokenizer.mask_token, best)
            results[number] = {"text": text, "filled": filled, "masks": masks}
    return results, examples.num_truncated


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
    takes_pairs = "span" in heads or None
    if "classification" in heads or few_shot_way(run):
        takes_pairs = run.record.pairs
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
            pair = "a question and its context" if "span" in heads else "a pair of texts"
            raise TextError(
                f"{text!r} has {len(found) - 1} tabs: expected {pair} with one tab between them, "
                "as this run or the other texts here have them."
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
    buckets, split = buckets_for(run, parts), _split(parts)
    return ClassificationExamples(split, run.tokenizer, limit_of(run), length_buckets=buckets)


def _split(parts: list[list[str]]) -> Split:
    return Split(
        texts_a=[two[0] for two in parts],
        texts_b=[two[1] for two in parts] if len(parts[0]) == 2 else None,
        labels=None,
        source="text",
    )


# Kept between calls and between runs of one shape: who asks again need not wait for a compilation.
@lru_cache(maxsize=8)
def _mlm_step(config: EncoderConfig) -> Callable[..., jax.Array]:
    model = build_model(config)

    @jax.jit
    def step(params: Any, batch: Any, positions: Any) -> jax.Array:
        encoder = model.bind(params)
        return encoder.mlm_logits(encoder.last_hidden_state(batch), positions)

    return step
