"""What a model trained on spans answers to questions about contexts."""

from collections.abc import Callable
from functools import partial
from typing import Any

from ptft_jax.data.tasks.catalogue import TASKS
from ptft_jax.data.tasks.span.examples import SpanExamples
from ptft_jax.data.tasks.span.splits import SpanSplit
from ptft_jax.objectives.span import SpanObjective
from ptft_jax.runs.folder import TrainedRun
from ptft_jax.runs.kinds.span import examples_of
from ptft_jax.runs.trained.asking.texts import Share, in_blocks, limit_of, outputs_of

# The longest window of a model whose training is not known, as in transformers' pipeline.
_WINDOW = 384


def answer(
    run: TrainedRun,
    pairs: list[tuple[str, str]],
    top: int,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """Answers questions, each a pair of question and context; see `Run.predict`.

    Raises DataError where the model's outputs are not finite.
    """
    longer = "questions are longer than this model takes"
    return in_blocks(pairs, partial(_answer, run, top), progress, longer)


def _answer(
    run: TrainedRun, top: int, pairs: list[tuple[str, str]], told: Share
) -> tuple[list[dict[str, Any]], int]:
    contexts: dict[str, int] = {}
    split = SpanSplit(
        context_of=[contexts.setdefault(context, len(contexts)) for _, context in pairs],
        contexts=list(contexts),
        questions=[question.lstrip() for question, _ in pairs],
        ids=[str(number) for number in range(len(pairs))],
        answers=None,
        source="texts",
    )
    examples = _examples(run, split)
    outputs = outputs_of(run, SpanObjective(), examples, told)
    found = examples.decode(outputs, threshold_of(run))
    return [
        {"text": pair, "answer": one.pop("text"), **one, "nbest": one["nbest"][:top]}
        for pair, one in zip(pairs, found, strict=True)
    ], examples.num_truncated


def _examples(run: TrainedRun, split: SpanSplit) -> SpanExamples:
    """Returns windows as in the run's training, or of usual sizes where that is not known."""
    config = run.config
    if "doc_stride" in config:
        version = config.version or TASKS[config.task].version  # type: ignore[attr-defined]
        return examples_of(split, run.tokenizer, config, version == "2.0")
    length = min(_WINDOW, limit_of(run))
    return SpanExamples(
        split,
        run.tokenizer,
        length,
        doc_stride=min(128, length // 3),
        max_query_length=min(64, length // 6),
    )


def threshold_of(run: TrainedRun) -> float:
    """Returns the config's null_score_threshold, else that which was best on dev, else 0."""
    if run.config.get("null_score_threshold") is not None:
        return run.config.null_score_threshold
    if not run.folder.has_checkpoint():
        return 0.0
    with run.folder.checkpoints() as checkpoints:
        tuned = checkpoints.meta(run.step)["metrics"].get("dev_best_f1_thresh")
    return 0.0 if tuned is None else tuned
