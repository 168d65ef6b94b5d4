"""Scores of tasks that were learned one after another, as a table and a picture.

R[k, i] is the score on task i after task k (Lopez-Paz & Ranzato 2017).
"""

import dataclasses
from collections.abc import Sequence
from statistics import stdev

import numpy as np

from ptft_jax.runs.many.files import as_csv_text, as_svg


@dataclasses.dataclass(frozen=True)
class TaskMatrix:
    """What is known of such runs.

    Attributes:
        tasks: names, in the order in which they are learned, with the metric of each.
        scores: R for each seed, float64 [S, N, N], in percent; NaN where nothing was scored.
        alone: the score of a model that learned only that task, [S, N]; NaN where there is none.
    """

    tasks: tuple[tuple[str, str], ...]
    scores: np.ndarray
    alone: np.ndarray

    @property
    def final(self) -> np.ndarray:
        """The mean over tasks at the end, [S]."""
        return self.scores[:, -1].mean(axis=1)

    @property
    def forgotten(self) -> np.ndarray:
        """How far each task but the last is at the end below its best before, [S, N - 1]
        (Chaudhry et al. 2018, eq. 3; below 0 where later tasks helped).
        """
        before, last = self.scores[:, :-1, :-1], self.scores[:, -1, :-1]
        return np.nanmax(before, axis=1) - last

    @property
    def transfer(self) -> np.ndarray:
        """How far each task but the first is, when it has been learned, above a model that learned
        it alone, [S, N - 1]: what the tasks before gave or cost.
        """
        own = np.diagonal(self.scores, axis1=1, axis2=2)
        return (own - self.alone)[:, 1:]


def _shown(values: np.ndarray) -> str:
    """Returns mean and standard deviation over seeds."""
    found = values.ravel().tolist()
    if np.isnan(found).any():
        return ""
    spread = f" ± {stdev(found):.1f}" if len(found) > 1 else ""
    return f"{np.mean(found):.1f}{spread}"


def markdown(matrix: TaskMatrix, head: Sequence[str]) -> str:
    """Returns the table with `head` above it."""
    names = [f"{task}, {metric}" for task, metric in matrix.tasks]
    rows = [
        (f"after {task}", *map(_shown, matrix.scores[:, after].T))
        for after, (task, _) in enumerate(matrix.tasks)
    ]
    rows.append(("alone", *map(_shown, matrix.alone.T)))
    rows.append(("forgotten at the end", *map(_shown, matrix.forgotten.T), ""))
    rows.append(("forward transfer", "", *map(_shown, matrix.transfer.T)))
    lines = [f"- {line}" for line in head]
    lines += ["", f"| {' | '.join(['', *names])} |", f"|{'---|' * (len(names) + 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    means = {
        "at the end, mean of all tasks": matrix.final,
        "forgotten, mean": matrix.forgotten.mean(axis=1),
        "forward transfer, mean": matrix.transfer.mean(axis=1),
    }
    shown = [f"{name} {text}" for name, values in means.items() if (text := _shown(values))]
    return "\n".join([*lines, "", "; ".join(shown)]) + "\n"


def as_csv(matrix: TaskMatrix, seeds: Sequence[int]) -> str:
    """Returns every score, a line for each seed and pair of tasks; `after` "alone" is that."""
    rows = []
    for seed, scores, alone in zip(seeds, matrix.scores, matrix.alone, strict=True):
        lines = {task: row for (task, _), row in zip(matrix.tasks, scores, strict=True)}
        for after, row in {**lines, "alone": alone}.items():
            for (task, metric), score in zip(matrix.tasks, row.tolist(), strict=True):
                if not np.isnan(score):
                    rows.append((seed, after, task, metric, score))
    return as_csv_text(("seed", "after", "task", "metric", "score"), rows)


def picture(matrix: TaskMatrix) -> str:
    """Draws the score of each task over the tasks learned, and alone as a dotted line; SVG."""
    from matplotlib.figure import Figure  # takes a second

    names = [task for task, _ in matrix.tasks]
    size = max(4.0, 1.4 * len(names))
    figure = Figure(figsize=(size, 0.6 * size + 1), layout="constrained")
    axes = figure.subplots()
    for number, (name, metric) in enumerate(matrix.tasks):
        after = np.arange(number, len(names))
        means = matrix.scores[:, number:, number].mean(axis=0)
        axes.plot(after, means, "o-", color=f"C{number}", label=f"{name}, {metric}")
        for one in matrix.scores[:, number:, number] if len(matrix.scores) > 1 else ():
            axes.plot(after, one, ".", color=f"C{number}", alpha=0.4)
        alone = matrix.alone[:, number].mean()
        if not np.isnan(alone):
            axes.axhline(alone, color=f"C{number}", linestyle=":", linewidth=1)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("after learning")
    axes.set_ylabel("score in percent (dotted: learned alone)")
    axes.legend()
    return as_svg(figure)
