"""A split of a run's task, asked about, and its answers as a benchmark's server takes them."""

import copy
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np

from ptft_jax.data.tasks.catalogue import TASKS
from ptft_jax.data.tasks.choice import ChoiceSplit
from ptft_jax.data.tasks.embedding import EmbeddingSplit
from ptft_jax.data.tasks.episodes.splits import EpisodeSplit
from ptft_jax.data.tasks.files.reading import Needed
from ptft_jax.data.tasks.span.splits import SpanSplit
from ptft_jax.data.tasks.submissions import Submission
from ptft_jax.data.tasks.table import Split
from ptft_jax.data.tasks.tagging.splits import TaggingSplit
from ptft_jax.errors import ConfigError
from ptft_jax.objectives.scores.metrics import distinct_choices
from ptft_jax.runs.folder import TrainedRun
from ptft_jax.runs.kinds.kind import kind_of
from ptft_jax.runs.trained.evaluate import check_data, with_data


def split_of(run: TrainedRun, name: str, data: str | None = None) -> Any:
    """Returns a split of a run's task, from its own data or other data of the form.

    Raises:
        ConfigError: the run has no task, or there is no such split.
        DataError: the data is damaged, or has other labels.
    """
    if run.record.command != "finetune":
        raise ConfigError(
            f"--split: {run.folder.path} was not fine-tuned on a task; name a file by --input."
        )
    config = run.config if data is None else with_data(run.config, data)
    needed = Needed((name,), run.record.labels)
    kind: Any = kind_of(run.record.command, copy.deepcopy(config), needed)
    check_data(run, kind, others=True)
    splits = kind.task.splits
    if name not in splits:
        raise ConfigError(
            f"--split={name}: {config.data_dir or 'the data'} of {config.task!r} has no such "
            f"split; there are {', '.join(other for other in splits if len(splits[other]))}."
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


def columns_of(split: Any, run: TrainedRun) -> dict[str, list[Any]]:
    """Returns what stands beside the predictions for a split's rows, labels where it has them."""
    gold = _gold_of(split, run) if split.labelled else {}
    if isinstance(split, Split):
        texts = {"text": split.texts_a}
        if split.texts_b is not None:
            texts = {"text_a": split.texts_a, "text_b": split.texts_b}
        return {"id": ids_of(split), **texts, **gold}
    if isinstance(split, EpisodeSplit):
        return {"text": split.texts, **gold}
    if isinstance(split, ChoiceSplit):
        texts = {"context": split.contexts, "choices": split.choices}
        return {"id": ids_of(split), **texts, **gold}
    if isinstance(split, SpanSplit):
        return {"id": split.ids, "question": split.questions, **gold}
    return {"words": split.words, **gold}


def _gold_of(split: Any, run: TrainedRun) -> dict[str, list[Any]]:
    """Returns the labels of a split, in the words and the form of predictions."""
    names: Any = split.names if isinstance(split, EpisodeSplit) else run.record.labels
    if isinstance(split, SpanSplit):
        return {"answers": [[one.text for one in answers] for answers in split.answers or ()]}
    if isinstance(split, TaggingSplit):
        return {"labels": [[names[tag] for tag in tags] for tags in split.tags or ()]}
    labels: Any = split.labels
    if isinstance(split, ChoiceSplit) and split.is_right is not None:
        return {"label": ["|".join(map(str, np.flatnonzero(row))) for row in split.is_right]}
    if isinstance(split, ChoiceSplit):
        return {"label": labels.tolist()}
    if names is None:  # 3.8, and not 3.799999952316284
        return {"label": [float(str(score)) for score in labels]}
    if labels.ndim == 2:
        return {"label": ["|".join(compress(names, row)) for row in labels]}
    return {"label": [names[label] for label in labels]}


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
