"""The one table of tasks: a task is a row, and the row's type says which kind it is."""

from pathlib import Path
from typing import Any, ClassVar, Protocol

from ptft_jax.data.tasks.choice import ChoiceTask
from ptft_jax.data.tasks.files.reading import Needed, nearest
from ptft_jax.data.tasks.several import SeveralTask
from ptft_jax.data.tasks.suites.clue import CLUE
from ptft_jax.data.tasks.suites.embedding import EMBEDDING
from ptft_jax.data.tasks.suites.episodes import EPISODES
from ptft_jax.data.tasks.suites.glue import GLUE
from ptft_jax.data.tasks.suites.squad import SQUAD
from ptft_jax.data.tasks.suites.superglue import SUPERGLUE
from ptft_jax.data.tasks.suites.tagging import TAGGING
from ptft_jax.data.tasks.suites.text_sets import TEXT_SETS
from ptft_jax.data.tasks.table import TableTask
from ptft_jax.errors import ConfigError


class Task(Protocol):
    """A row of the table of tasks.

    Attributes:
        kind: the module in `data/tasks` and in `runs/kinds` that knows such tasks.
        suite: the benchmark it belongs to, "own" for data of one's own.
    """

    kind: ClassVar[str]

    @property
    def suite(self) -> str: ...

    def load(self, name: str, data_dir: str | Path | None, settings: Any = None) -> Any:
        """Returns the task's examples, from files or, without a folder, from TFDS.

        `settings` are the kind's own. Raises ConfigError for missing files, DataError for their
        content.
        """
        ...


TASKS: dict[str, Task] = {
    **GLUE,
    **SUPERGLUE,
    **CLUE,
    **SQUAD,
    **TEXT_SETS,
    "text": TableTask(),
    **TAGGING,
    "choice": ChoiceTask("own", language=None),
    **EMBEDDING,
    **EPISODES,
    "several": SeveralTask(),
}
"""Name → row."""


def find_task(name: str) -> Task:
    """Returns the row of a task; ConfigError for a name that there is not, with the nearest."""
    if not name:
        raise ConfigError("no task is named: write --config=configs/finetune/glue.py:TASK.")
    if name not in TASKS:
        raise ConfigError(
            f"no task '{name}'{nearest(name, TASKS)}; the tasks are: {', '.join(TASKS)}"
        )
    return TASKS[name]


def load_task(
    name: str,
    data_dir: str | Path | None = None,
    settings: Any = None,
    needed: Needed | None = None,
) -> Any:
    """Returns the examples of a task; see `Task.load` and `find_task`.

    `needed` is for kinds that can read less than all; see `Needed`.
    """
    load: Any = find_task(name).load
    return load(name, data_dir or None, settings, *([] if needed is None else [needed]))


def tasks_of(suite: str) -> dict[str, Task]:
    """Returns the rows of a benchmark, by name."""
    return {name: task for name, task in TASKS.items() if task.suite == suite}
