"""Checkpoints of a run: state, position in the data, config and tokenizer, written by Orbax.

One folder per step, named by its number:
    params/      the parameters, readable by themselves (`restore_params`)
    opt_state/   the optimizer's state; absent in an imported run, which can only be started from
    meta/        JSON: step, next_index (position in the data), config, metrics
    tokenizer/   JSON: the content of tokenizer.json
Orbax writes a folder under a temporary name and renames it when it is complete, so a run that is
killed while it saves keeps its earlier checkpoints.
"""

import json
import logging
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import checkpoint_managers

from ptft_jax.errors import ConfigError, DataError
from ptft_jax.training.state import TrainState
from ptft_jax.training.writers import json_ready

# Without all of these a numbered folder is no checkpoint (a copy or a deletion that broke off).
_REQUIRED = ("_CHECKPOINT_METADATA", "params/_METADATA", "meta/metadata", "tokenizer/metadata")

# What a broken file raises out of Orbax and TensorStore.
_READ_ERRORS = (ValueError, OSError, KeyError, TypeError)


class Checkpoints:
    """The checkpoints in `folder`; saving keeps the last `keep_last` of them and the best one.

    `best` names a metric of `save`'s `metrics` and whether 'max' or 'min' is best; a checkpoint
    saved without that metric is never the best, and of equal ones the later is. None keeps the last
    ones only. Nothing is created before the first `save`, so reading beside a running training is
    safe. `save` returns while the files are still being written: call `close`, or use the object as
    a context manager.

    In a job of several processes all of them make the same calls, on a shared file system.
    """

    def __init__(self, folder: str | Path, keep_last: int = 1, best: tuple[str, str] | None = None):
        if keep_last < 1:
            raise ConfigError(f"keep_last={keep_last} must be at least 1")
        if best is not None and best[1] not in ("max", "min"):
            raise ConfigError(f"best={best!r}: the mode {best[1]!r} is neither 'max' nor 'min'")
        self.folder = Path(folder).absolute()
        self._keep = _KeepLastAndBest(keep_last, best)
        self._manager: ocp.CheckpointManager | None = None
        absl_logger = logging.getLogger("absl")
        absl_logger.setLevel(max(absl_logger.level, logging.WARNING))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def all_steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, ascending, without one being written."""
        return sorted(int(path.name) for path in self._numbered() if _is_complete(path))

    def latest_step(self) -> int | None:
        """Return the last complete step, or None when there is none."""
        return max(self.all_steps(), default=None)

    def best_step(self) -> int | None:
        """Return the step with the best value of the metric, or None when no checkpoint has it."""
        return self._keep.best_of({step: self.meta(step)["metrics"] for step in self.all_steps()})

    def save(
        self,
        step: int,
        state: TrainState,
        next_index: int,
        config: Mapping[str, Any],
        tokenizer_json: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> None:
        """Start writing the checkpoint of `step`; `state` may be donated as soon as this returns.

        Args:
          step: updates made so far, equal to `state.step`.
          state: arrays laid out over the mesh; `opt_state` None leaves that part out.
          next_index: global index of the next example that the run reads.
          config: the run's whole config, JSON values.
          tokenizer_json: the content of tokenizer.json, JSON values.
          metrics: evaluation metrics at this step, {} without an evaluation; NaN becomes null.

        The latest step saved a second time with the same `next_index` is left as it is (a finished
        run started again). Raises ConfigError for an earlier step or another `next_index`, and the
        error of the previous save if writing it failed in the background.
        """
        manager = self._writer()
        latest = manager.latest_step()
        if latest is not None and latest >= step:
            manager.wait_until_finished()
            if latest == step and self.meta(step)["next_index"] == next_index:
                return
            raise ConfigError(
                f"cannot save step {step} in {self.folder}: it already holds step {latest}; resume "
                "from there, or start in another run folder"
            )
        meta = {
            "step": step,
            "next_index": int(next_index),
            "config": config,
            "metrics": dict(metrics),
        }
        meta = json_ready(meta)
        items: dict[str, Any] = {
            "params": ocp.args.StandardSave(state.params),
            "meta": ocp.args.JsonSave(meta),
            "tokenizer": ocp.args.JsonSave(dict(tokenizer_json)),
        }
        if state.opt_state is not None:
            items["opt_state"] = ocp.args.StandardSave(state.opt_state)
        self._keep.metrics[step] = meta["metrics"]
        if not manager.save(step, args=ocp.args.Composite(**items)):
            raise RuntimeError(f"Orbax did not save step {step} in {self.folder}")

    def restore(
        self, step: int | None, abstract_state: TrainState
    ) -> tuple[TrainState, dict[str, Any]]:
        """Return the state of `step` (None: the latest) and its `meta`.

        `abstract_state` holds a `jax.ShapeDtypeStruct` for each array; the arrays come back in its
        shardings, whatever mesh they were saved from. Without a sharding they come on one device.

        Raises ConfigError when there is no such checkpoint, DataError when it does not hold exactly
        these arrays or cannot be read.
        """
        path = self._path(step)
        if not (path / "opt_state").is_dir():
            raise ConfigError(
                f"checkpoint {path} has no optimizer state (an imported model): it cannot be "
                "resumed, only started from with --init_from"
            )
        targets = {"params": abstract_state.params, "opt_state": abstract_state.opt_state}
        arrays = _read_arrays(path, targets)
        meta = self.meta(int(path.name))
        step_target = _placed(abstract_state.step)
        number = np.asarray(meta["step"], step_target.dtype)
        step_array = jax.make_array_from_callback((), step_target.sharding, lambda _: number)
        return TrainState(step_array, arrays["params"], arrays["opt_state"]), meta

    def restore_params(self, step: int | None, abstract_params: Any) -> Any:
        """Return the parameters of `step` (None: the latest) alone; see `restore`."""
        return _read_arrays(self._path(step), {"params": abstract_params})["params"]

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """Return step, next_index, config and metrics of a checkpoint (None: the latest)."""
        return _read_json(self._path(step) / "meta" / "metadata")

    def tokenizer_json(self, step: int | None = None) -> dict[str, Any]:
        """Return the content of tokenizer.json saved with a checkpoint (None: the latest)."""
        return _read_json(self._path(step) / "tokenizer" / "metadata")

    def wait(self) -> None:
        """Wait until the checkpoint being written is complete; raises the error if it failed."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for the checkpoint being written and release Orbax's threads."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _numbered(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if path.name.isdecimal() and path.is_dir()]

    def _path(self, step: int | None) -> Path:
        """Return the folder of a complete checkpoint, or raise ConfigError when there is none."""
        steps = self.all_steps()
        if not steps:
            raise ConfigError(f"there is no checkpoint in {self.folder}; train the run first")
        if step is not None and step not in steps:
            raise ConfigError(
                f"there is no checkpoint of step {step} in {self.folder}; there are: "
                f"{', '.join(map(str, steps))}"
            )
        return self.folder / str(steps[-1] if step is None else step)

    def _writer(self) -> ocp.CheckpointManager:
        """Return Orbax's manager; the first call clears what killed runs have left behind."""
        if self._manager is None:
            if jax.process_index() == 0:
                # Orbax would take any numbered folder, even an empty one, for the latest step.
                for path in self._numbered():
                    if not _is_complete(path):
                        path.rename(f"{path}.incomplete-{time.time_ns()}")
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("ptft incomplete checkpoints set aside")
            self._keep.metrics = {step: self.meta(step)["metrics"] for step in self.all_steps()}
            options = ocp.CheckpointManagerOptions(
                preservation_policy=self._keep, cleanup_tmp_directories=True
            )
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        return self._manager


class _KeepLastAndBest(checkpoint_managers.PreservationPolicy):
    """Orbax's question which checkpoints stay, answered from the metrics that `meta` holds."""

    def __init__(self, last: int, best: tuple[str, str] | None):
        self.last = last
        self.best = best
        self.metrics: dict[int, Mapping[str, float | None]] = {}

    def best_of(self, metrics: Mapping[int, Mapping[str, float | None]]) -> int | None:
        """Return the step of the best finite value, the later of equal ones; None without any."""
        if self.best is None:
            return None
        name, mode = self.best
        sign = 1.0 if mode == "max" else -1.0
        values = ((step, held.get(name)) for step, held in metrics.items())
        ranked = [(sign * v, step) for step, v in values if v is not None and math.isfinite(v)]
        return max(ranked)[1] if ranked else None

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-self.last :]}
        kept.add(self.best_of({step: self.metrics.get(step, {}) for step in steps}))
        return [step in kept for step in steps]


def _is_complete(path: Path) -> bool:
    return all((path / name).is_file() for name in _REQUIRED)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"checkpoint file {path} cannot be read: {error}") from error


def _read_arrays(path: Path, targets: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the items of `targets` from the checkpoint at `path`, or raise DataError."""
    placed = {item: jax.tree.map(_placed, target) for item, target in targets.items()}
    try:
        problems = [
            problem
            for item, target in placed.items()
            for problem in _differences(epath.Path(path / item), target)
        ]
        if not problems:
            args = {item: ocp.args.StandardRestore(target) for item, target in placed.items()}
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
                return reader.restore(path, args=ocp.args.Composite(**args))
    except _READ_ERRORS as error:
        # TensorStore adds its source locations and the array's whole spec.
        reason = re.split(r"\s*\[(?:source locations|tensorstore_spec)=", str(error))[0]
        raise DataError(
            f"checkpoint {path} cannot be read ({type(error).__name__}: {reason}); delete it to "
            "use an earlier one"
        ) from error
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise DataError(
        f"checkpoint {path} does not hold what this config needs: {'; '.join(problems[:5])}{more}. "
        "Use the config that it was saved with, or start in another run folder"
    )


def _differences(folder: epath.Path, target: Any) -> list[str]:
    """Say in which arrays a saved tree and the wanted one differ, in names, shapes or dtypes.

    Orbax by itself casts a wrong dtype silently and names one wrong shape at most.
    """
    metadata = ocp.StandardCheckpointHandler().metadata(folder)
    saved = {name: _written(leaf) for name, leaf in _flat(metadata).items()}
    wanted = {name: _written(leaf) for name, leaf in _flat(target).items()}
    problems = []
    for name in sorted(saved.keys() | wanted.keys()):
        there, here = saved.get(name, "absent"), wanted.get(name, "absent")
        if there != here:
            problems.append(f"{folder.name}/{name} is {there} there and {here} here")
    return problems


def _flat(tree: Any) -> dict[str, Any]:
    return {str(name): leaf for name, leaf in ocp.tree.to_flat_dict(tree, sep="/").items()}


def _written(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    """Return `leaf` with a sharding: its own, or the first device of this process."""
    sharding = leaf.sharding or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
