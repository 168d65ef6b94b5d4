"""How a run ends: at its last update, or early, where `patience` says so."""

from collections.abc import Iterable, Mapping
from typing import Any

from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.record import RunRecord
from ptft_jax.training.patience import Patience


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


def by_split(metrics: Mapping[str, Any], splits: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns the metrics of a checkpoint, whose names begin with that of the split, by split."""
    return {
        split: {
            name.removeprefix(f"{split}_"): value
            for name, value in metrics.items()
            if name.startswith(f"{split}_")
        }
        for split in splits
    }
