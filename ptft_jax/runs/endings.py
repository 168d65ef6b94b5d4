"""How a run ends: at its last update, or early, where `patience` says so."""

from collections.abc import Mapping
from typing import Any

from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.record import RunRecord
from ptft_jax.training.checkpoints.retention import Best, best_of

# Metrics by step; None where a value was not finite.
Evaluations = Mapping[int, Mapping[str, float | None]]


class Patience:
    """Says when `most` evaluations in a row were no better than the best one before them.

    Nothing of it is saved: the best checkpoint is always kept, and evaluations come at every
    `every`-th update, so a run that goes on from a checkpoint knows how many came after the best.
    """

    def __init__(self, most: int, every: int, best: Best, saved: Evaluations):
        """Begins where checkpoints with the metrics `saved` leave off; `best`: see `best_of`."""
        self.most = most
        self._every = every
        self._best = best
        self._evaluated = dict(saved)

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation; None without a finite one."""
        return best_of(self._evaluated, self._best)

    def improves(self, step: int, metrics: Mapping[str, float | None]) -> bool:
        """Takes an evaluation and says whether it is better than all before: it has to be saved."""
        self._evaluated[step] = metrics
        return self.best_step == step

    def is_over(self, step: int) -> bool:
        """Says whether a run ends after `step` updates, whose evaluation was made if it was due."""
        return step // self._every - (self.best_step or 0) // self._every >= self.most

    def __str__(self) -> str:
        name, _ = self._best
        best = self.best_step
        if best is None:
            return f"{name} was not finite in {self.most} evaluations"
        value = self._evaluated[best][name]
        return f"no {name} better than {value:.4f} of step {best:,} in {self.most} evaluations"


def ended_before(
    folder: RunFolder, record: RunRecord, steps: int, patience: Patience | None
) -> tuple[int, dict[str, Any]] | None:
    """Returns the updates and results of a run that this very command has brought to its end.

    Args:
        folder, record: see `RunFolder.finished`.
        steps: how long the run is to be, unless it ends early.
        patience: knows its evaluations; None where it cannot end early.
    """
    latest = folder.checkpoints().latest_step()
    end = scored = steps
    if patience is not None and latest is not None:
        end = latest if patience.is_over(latest) else steps
        scored = patience.best_step or end
    results = folder.finished(record, end, latest, scored)
    return None if results is None else (end, results)


def share(made: int, steps: int, patience: Patience | None) -> str:
    """Returns how many updates were made of those that were to be, in words."""
    if made == steps:
        return f"all {steps:,} updates"
    return f"{made:,} of {steps:,} updates ({patience})"
