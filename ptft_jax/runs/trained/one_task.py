"""One task of a run on several, as a model of its own."""

import dataclasses
from typing import Any

from ptft_jax.errors import ConfigError
from ptft_jax.runs.folder import TrainedRun


def of_task(run: TrainedRun, task: str) -> TrainedRun:
    """Returns the run with the outputs of one of its tasks alone.

    Raises:
        ConfigError: it was not trained on several tasks, or not on this one.
    """
    tasks = run.record.tasks
    if task not in tasks:
        known = f"expected one of {', '.join(tasks)}" if tasks else "it has one task; leave it out"
        raise ConfigError(f"task={task!r}: {run.folder.path} was not trained on it: {known}.")
    columns = [i for i, label in enumerate(run.record.labels or ()) if _task_of(label) == task]
    start, width = columns[0], len(columns)
    heads = dict(run.params["heads"])
    heads["classification"] = {
        name: array[..., start : start + width] for name, array in heads["classification"].items()
    }
    config = run.model_config.replace(num_labels=width)
    names = tuple(str(label).partition("/")[2] for label in (run.record.labels or ()))
    record = dataclasses.replace(
        run.record,
        config={**run.record.config, "task": task},
        model=dataclasses.asdict(config),
        labels=names[start : start + width] if width > 1 else None,
        pairs=None,
        problem_type="single_label_classification" if width > 1 else "regression",
    )
    return dataclasses.replace(
        run, record=record, model_config=config, params={**run.params, "heads": heads}
    )


def check_task(run: TrainedRun) -> None:
    """Raises ConfigError for a run on several tasks, whose outputs mean nothing all together."""
    if tasks := run.record.tasks:
        raise ConfigError(
            f"{run.folder.path} was trained on {', '.join(tasks)}: expected --task with one of "
            "them (`of_task` in Python)."
        )


def _task_of(label: Any) -> str:
    return str(label).partition("/")[0]
