"""A split of a run's task, asked about, and its answers as a benchmark's server takes them."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data.tasks.catalogue import TASKS
from ptft_jax.data.tasks.choice import ChoiceSplit
from ptft_jax.data.tasks.embedding import EmbeddingSplit
from ptft_jax.data.tasks.episodes.splits import EpisodeSplit
from ptft_jax.data.tasks.span.splits import SpanSplit
from ptft_jax.data.tasks.submissions import Submission
from ptft_jax.data.tasks.table import Split
from ptft_jax.errors import ConfigError
from ptft_jax.objectives.scores.metrics import distinct_choices
from ptft_jax.runs.folder import TrainedRun
from ptft_jax.runs.kinds.kind import kind_of
from ptft_jax.runs.trained.evaluate import check_data


def splits_of(run: TrainedRun, data: str | None = None) -> dict[str, Any]:
    """Returns the splits of a run's task by name, from its own data or other data of the form.

    Raises:
        ConfigError: the run has no task, or the data has other labels.
        DataError: the data is damaged.
    """
    if run.record.command != "finetune":
        raise ConfigError(
            f"--split: {run.folder.path} was not fine-tuned on a task; name a file by --input."
        )
    config = copy.deepcopy(run.config)
    if data is not None:
        config.data_dir = data
    kind: Any = kind_of(run.record.command, config)
    check_data(run, kind, others=True)
    return kind.task.splits


def find_split(splits: Mapping[str, Any], name: str, run: TrainedRun) -> Any:
    """Returns a split; ConfigError where the task has none of this name."""
    if name not in splits:
        raise ConfigError(
            f"--split={name}: {run.config.data_dir or 'the data'} of {run.config.task!r} has no "
            f"such split; there are {', '.join(splits)}."
        )
    return splits[name]


def texts_of(split: Any) -> list[Any]:
    """Returns the texts of a split as `Run.predict` takes them."""
    if isinstance(split, Split):
        if split.texts_b is None:
            # In a text a tab is white space; between the two of a pair it is not.
            return [text.replace("\t", " ") for text in split.texts_a]
        return list(zip(split.texts_a, split.texts_b, strict=True))
    if isinstance(split, ChoiceSplit):
        rows = zip(split.contexts, split.choices, strict=True)
        return [(context, *choices) for context, choices in rows]
    if isinstance(split, EpisodeSplit):
        return split.marked or split.texts
    if isinstance(split, EmbeddingSplit):
        raise ConfigError(
            "--split: this run makes vectors of texts; expected `ptft embed --input=FILE`, or "
            "`ptft evaluate --split` for scores."
        )
    if isinstance(split, SpanSplit):
        contexts = [split.contexts[number] for number in split.context_of]
        return list(zip(split.questions, contexts, strict=True))
    return split.words


def columns_of(split: Any) -> dict[str, list[Any]]:
    """Returns what stands beside the predictions for a split's rows."""
    if isinstance(split, Split):
        texts = {"text": split.texts_a}
        if split.texts_b is not None:
            texts = {"text_a": split.texts_a, "text_b": split.texts_b}
        return {"id": ids_of(split), **texts}
    if isinstance(split, EpisodeSplit):
        return {"text": split.texts}
    if isinstance(split, ChoiceSplit):
        return {"id": ids_of(split), "context": split.contexts, "choices": split.choices}
    if isinstance(split, SpanSplit):
        return {"id": split.ids, "question": split.questions}
    return {"words": split.words}


def ids_of(split: Any) -> list[Any]:
    """Returns the ids under which a benchmark knows a split's examples."""
    return list(range(len(split))) if split.ids is None else split.ids


def words_of(run: TrainedRun, submission: Submission) -> tuple[Any, ...]:
    """Returns the answers that a submission has for the labels, in their order; () without any."""
    task: Any = TASKS[run.config.task]
    if submission.words or run.record.labels is None:
        return submission.words
    return task.labels_in_file or task.label_names


def answers_of(
    run: TrainedRun,
    submission: Submission,
    split: Any,
    predictions: Sequence[Mapping[str, Any]],
) -> list[Any]:
    """Returns what `Run.predict` found for a split as the answers of a submission."""
    if isinstance(split, ChoiceSplit):
        chosen = [found["choice"] for found in predictions]
        if split.groups is not None:
            shares = np.zeros((len(split), max(map(len, split.choices))))
            for row, found in enumerate(predictions):
                shares[row, : len(found["scores"])] = found["scores"]
            chosen = distinct_choices(shares, split.groups).tolist()
        if split.names is None:
            return chosen
        return [names[number] for names, number in zip(split.names, chosen, strict=True)]
    labels = run.record.labels
    if labels is None:
        low, high = getattr(TASKS[run.config.task], "score_range", None) or (-np.inf, np.inf)
        return [f"{min(max(found['score'], low), high):.3f}" for found in predictions]
    words = dict(zip(labels, words_of(run, submission), strict=True))
    return [words[found["label"]] for found in predictions]


def submission_of(run: TrainedRun) -> Submission:
    """Returns how predictions of a run's task are handed in; ConfigError where they are not.

    The ids of examples are in the benchmark's own files, not in TFDS.
    """
    submission = getattr(TASKS.get(run.config.get("task")), "submission", None)
    if submission is None:
        raise ConfigError(
            f"{run.folder.path}: the task {run.config.get('task')!r} has no official form of "
            "predictions but a table; name the output .jsonl, .csv or .tsv (.json of answers, "
            ".conll of tags)."
        )
    return submission
