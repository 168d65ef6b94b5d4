"""Several tasks of labelled texts as one: learned together, or each after the one before it.

Each task has outputs of its own, a stretch of columns of one head. Which example of which task
comes when is a function of (seed, index) alone, so that the place in the stream is one number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from ptft_jax.data.batches import Batch
from ptft_jax.data.ragged import firsts
from ptft_jax.data.randomness import shuffled_index
from ptft_jax.data.tasks.classification import ClassificationExamples, Formatted, format_texts
from ptft_jax.data.tasks.files.reading import nearest
from ptft_jax.data.tasks.table import Split, TableSettings, TaskData
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError

WAYS = ("sequence", "together", "alone")


@dataclass(frozen=True)
class SeveralSettings:
    """Which tasks there are, and which of them are learned and scored.

    tasks: names of the catalogue, each perhaps with "@" and the folder of its files in place of
    `data_dir`. way: "together" learns all at once, "sequence" those up to number `stage` (from 1),
    of which the earlier ones are replayed, "alone" that one only. replay: share of the examples
    that are of earlier tasks. temperature: a task of n examples is drawn in proportion to
    n^(1 / temperature): 1 as often as it has examples, 2 by their square root.
    """

    tasks: tuple[str, ...]
    way: str = "sequence"
    stage: int = 0
    replay: float = 0.0
    temperature: float = 1.0

    @property
    def stages(self) -> range:
        """The numbers of the tasks that are scored, from 0."""
        if self.way == "together":
            return range(len(self.tasks))
        return range(0 if self.way == "sequence" else self.stage - 1, self.stage)


class Columns(NamedTuple):
    """The outputs of a task: `width` columns of the head from `start` on; one for a regression."""

    start: int
    width: int


@dataclass(frozen=True)
class SeveralSplit:
    """Examples of some tasks, one task behind the other; `numbers` says which tasks they are."""

    parts: tuple[Split, ...]
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def labelled(self) -> bool:
        """Whether all labels are known."""
        return all(part.labelled for part in self.parts)

    @property
    def labels(self) -> np.ndarray | None:
        """All labels, classes as they are numbered in their task: float32 `[N]`."""
        found = [part.labels for part in self.parts if part.labels is not None]
        return np.concatenate(found).astype(np.float32) if self.labelled else None

    @property
    def source(self) -> str:
        """Where it came from, for messages."""
        return ", ".join(part.source for part in self.parts)

    def take(self, rows: np.ndarray) -> "SeveralSplit":
        """Returns these examples, int64 `[M]` ascending; a task without any is left out."""
        found, first = {}, 0
        for number, part in zip(self.numbers, self.parts, strict=True):
            own = rows[(first <= rows) & (rows < first + len(part))] - first
            first += len(part)
            if len(own):
                found[number] = part.take(own)
        return SeveralSplit(tuple(found.values()), tuple(found))

    def fingerprint(self) -> str:
        """Returns a SHA-256 of all texts and labels."""
        return " ".join(part.fingerprint() for part in self.parts)


@dataclass(frozen=True)
class SeveralData:
    """Several tasks with their examples; see `TaskData`.

    tasks: each by itself. columns: of each. splits: "train" of all; those that are scored have the
    name of their task, with what follows "dev" in the split's (mnli_matched).
    """

    name: str
    tasks: tuple[TaskData, ...]
    columns: tuple[Columns, ...]
    splits: dict[str, SeveralSplit]
    label_names: tuple[str, ...]
    eval_splits: tuple[str, ...]
    metrics: tuple[str, ...] = ("score",)


@dataclass(frozen=True)
class SeveralTask:
    """The row of the table of tasks that stands for several others."""

    kind: ClassVar[str] = "several"
    suite: str = "own"

    def load(
        self, name: str, data_dir: str | Path | None, settings: SeveralSettings | None = None
    ) -> SeveralData:
        """Returns the examples of all tasks; see `ClassificationTask.load`.

        Raises ConfigError as well for names that are not of such tasks, or that come twice.
        """
        settings = settings or SeveralSettings(())
        _check(settings)
        tasks = tuple(_load(task, data_dir) for task in settings.tasks)
        _check_names([task.name for task in tasks])
        ends = np.cumsum([task.num_labels for task in tasks]).tolist()
        columns = tuple(
            Columns(end - task.num_labels, task.num_labels)
            for end, task in zip(ends, tasks, strict=True)
        )
        labels = [
            f"{task.name}/{label}" if label else task.name
            for task in tasks
            for label in (task.label_names or ("",))
        ]
        splits = {
            _name(task, split): SeveralSplit(
                (replace(one, metrics=one.metrics or task.metrics),), (number,)
            )
            for number, task in enumerate(tasks)
            for split, one in task.splits.items()
            if split != "train"
        }
        train = SeveralSplit(tuple(t.splits["train"] for t in tasks), tuple(range(len(tasks))))
        scored = [tasks[number] for number in settings.stages]
        names = tuple(_name(task, split) for task in scored for split in task.eval_splits)
        splits = {"train": train, **splits}
        return SeveralData(name, tasks, columns, splits, tuple(labels), names)


def _name(task: TaskData, split: str) -> str:
    return task.name + (split.removeprefix("dev") if split.startswith("dev") else f"_{split}")


def _check(settings: SeveralSettings) -> None:
    tasks, stage = settings.tasks, settings.stage
    if len(tasks) < 2:
        raise ConfigError(
            f"--config.tasks={tasks}: expected two tasks or more, like \"('cola', 'rte')\"."
        )
    if settings.way not in WAYS:
        raise ConfigError(f"--config.continual.way={settings.way}: expected {', '.join(WAYS)}.")
    if settings.way == "together" and stage:
        raise ConfigError(
            f"--config.continual.stage={stage}: all tasks are learned together; expected 0."
        )
    if settings.way != "together" and not 1 <= stage <= len(tasks):
        raise ConfigError(
            f"--config.continual.stage={stage}: expected the number of a task, 1 to {len(tasks)}; "
            "`ptft finetune` makes all of them one after another where it is 0."
        )
    if not 0 <= settings.replay < 1:
        raise ConfigError(
            f"--config.continual.replay={settings.replay}: expected a share from 0 up to below 1."
        )
    if not settings.temperature >= 0.1:
        raise ConfigError(
            f"--config.continual.temperature={settings.temperature}: expected 0.1 or more."
        )


def _check_names(names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--config.tasks: {twice!r} is named twice; expected each task once.")


def _load(task: str, data_dir: str | Path | None) -> TaskData:
    from ptft_jax.data.tasks.catalogue import TASKS  # where this module is a row

    name, _, folder = task.partition("@")
    known = [name for name, row in TASKS.items() if row.kind == "classification"]
    if name not in known:
        raise ConfigError(
            f"--config.tasks: {name!r}{nearest(name, known)}: expected tasks of labelled texts: "
            f"{', '.join(known)}."
        )
    found = TASKS[name].load(name, folder or data_dir or None, TableSettings())
    if found.problem_type == "multi_label_classification":
        raise ConfigError(f"--config.tasks: {name!r} has several labels for each text.")
    return found


def draws(sizes: Sequence[int], current: int | None, settings: SeveralSettings) -> list[int]:
    """How many examples of each task an epoch has.

    `sizes` are theirs; `current` is the place of the one that an epoch goes through once, and all
    others together have the share `replay`. None: they have as many as there are examples in all.
    """
    weights = np.array(sizes, np.float64) ** (1 / settings.temperature)
    counts = np.zeros(len(sizes), np.int64)
    total = sum(sizes)
    if current is not None:
        counts[current], weights[current] = sizes[current], 0
        total = round(sizes[current] * settings.replay / (1 - settings.replay))
    if not weights.any():
        return counts.tolist()
    exact = total * weights / weights.sum()
    found = np.floor(exact).astype(np.int64)
    # What is left over goes to the largest remainders.
    found[np.argsort(found - exact, kind="stable")[: total - found.sum()]] += 1
    return (counts + found).tolist()


class SeveralExamples(ClassificationExamples):
    """Random access to the examples of several tasks; see `ClassificationExamples`.

    An epoch of training has `counts` examples of each task, in mixed order; at its end all examples
    of a task have come equally often, but for one time. `number` is the first task. Batches have
    `tasks` as well, int32 `[B, 1]`, the number of each example's task; labels are float32.
    """

    def __init__(
        self,
        split: SeveralSplit,
        tokenizer: TextTokenizer,
        max_seq_length: int,
        counts: Sequence[int] | None = None,
        **more: Any,
    ) -> None:
        """Tokenises a split; `counts` None: each example once."""
        self._sizes = np.array([len(part) for part in split.parts])
        self.counts = self._sizes if counts is None else np.array(counts)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._tasks = np.repeat(np.array(split.numbers, np.int32), self._sizes)
        self.number = split.numbers[0]
        # Its texts are formatted below, part by part.
        whole: Any = split
        super().__init__(whole, tokenizer, max_seq_length, **more)

    def _formatted(self, split: Any, tokenizer: TextTokenizer, max_seq_length: int) -> Formatted:
        # Some are of single texts, and some of pairs.
        found = [
            format_texts(part.texts_a, part.texts_b, tokenizer, max_seq_length)
            for part in split.parts
        ]
        tokens, _, lengths, seconds, cut = map(np.concatenate, zip(*found, strict=True))
        return Formatted(tokens, firsts(lengths), lengths, seconds, cut)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def in_order(self) -> Self:
        found = super().in_order()
        found.counts = self._sizes
        return found

    def rows(self, indices: np.ndarray) -> np.ndarray:
        if not self._shuffle:
            return super().rows(indices)
        epochs, places = np.divmod(np.asarray(indices, np.int64), len(self))
        places = shuffled_index(places, len(self), self._seed, epochs)
        ends = np.cumsum(self.counts)
        parts = np.searchsorted(ends, places, side="right")
        found = np.zeros_like(places)
        for part in np.unique(parts):
            here = parts == part
            count, size = self.counts[part], int(self._sizes[part])
            drawn = epochs[here] * count + places[here] - (ends[part] - count)
            own_epochs, rows = np.divmod(drawn, size)
            rows = shuffled_index(rows, size, self._seed, own_epochs, f"task {part}")
            found[here] = self._starts[part] + rows
        return found

    def batch(self, indices: np.ndarray) -> Batch:
        return super().batch(indices) | {"tasks": self._tasks[self.rows(indices)][:, None]}
