"""Checkpoints of a run: state, position in the data, config and tokenizer, with a manifest.

One folder per step, named by its number:
    params/        the parameters, readable by themselves (`restore_params`); averaged ones in a run
                   with an average of them
    raw_params/    there, those that training goes on from
    opt_state/     the optimizer's state; absent in an imported run, which can only be started from
    meta/          JSON: step, next_index (position in the data), skipped, skipped_in_row, config
    tokenizer/     JSON: the content of tokenizer.json
    manifest.json  size and SHA-256 of all these files; metrics (see `manifest`)
How one becomes complete, and which are kept: see `async_writer` and `retention`.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ptft_jax.errors import ConfigError, DataError
from ptft_jax.training.checkpoints import retention
from ptft_jax.training.checkpoints.arrays import does_not_fit, placed_leaf, quiet_orbax, read_arrays
from ptft_jax.training.checkpoints.async_writer import CheckpointWriter, numbered_tags
from ptft_jax.training.checkpoints.manifest import (
    DamagedCheckpointError,
    Manifest,
    read_manifest,
    verify,
    write_manifest,
)
from ptft_jax.training.cluster.agreement import Gather, alone
from ptft_jax.training.resources.storage import json_ready
from ptft_jax.training.step import TrainState

_SCALARS = ("skipped", "skipped_in_row")


class Checkpoints:
    """The checkpoints in `folder`; saving keeps the last `keep_last` of them and the best one.

    Each that is saved holds `config`, the run's whole config, and the content of tokenizer.json.
    `best` names a metric of `save`'s `metrics` and whether 'max' or 'min' is best (`retention`).
    Nothing is created before the first `save`, so reading beside a running training is safe. `save`
    returns while the files are still being written: call `close`, or use it as a context manager.

    In a job of several processes all of them make the same calls, on a shared file system, and
    give `gather`; only the methods that read small files (`all_steps`, `meta`, …) and `check` may
    be called by one of them alone.
    """

    def __init__(
        self,
        folder: str | Path,
        keep_last: int = 1,
        best: tuple[str, str] | None = None,
        gather: Gather = alone,
        config: Mapping[str, Any] | None = None,
        tokenizer_json: Mapping[str, Any] | None = None,
    ):
        if keep_last < 1:
            raise ConfigError(f"keep_last={keep_last} must be at least 1")
        self.folder = Path(folder).absolute()
        self._best = best
        self._config, self._tokenizer_json = dict(config or {}), dict(tokenizer_json or {})
        self._is_alone = gather is alone
        name, self._gather = numbered_tags(gather)
        self._writer = CheckpointWriter(self.folder, keep_last, best, name, self._gather)
        quiet_orbax()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._writer.leave(kind)

    def all_steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, ascending."""
        return list(retention.complete(self.folder))

    def latest_step(self) -> int | None:
        """Return the last complete step, or None when there is none."""
        return max(self.all_steps(), default=None)

    def metrics(self) -> dict[int, dict[str, float | None]]:
        """Return the metrics of all complete checkpoints, {} of one that was not evaluated."""
        return {s: dict(held.metrics) for s, held in retention.complete(self.folder).items()}

    def best_step(self) -> int | None:
        """Return the step with the best value of the metric, or None when no checkpoint has it."""
        return retention.best_of(self.metrics(), self._best)

    def choose(self, which: str) -> int:
        """Return the step that "last", "best" or a number in digits stands for.

        Raises ConfigError when there is none, DataError when the last one is damaged.
        """
        steps = self.all_steps()
        numbers = retention.numbered(self.folder)
        if which == "last" and numbers:
            # Whoever asks for the last one must not be given an earlier one silently.
            try:
                read_manifest(self.folder / str(numbers[-1]))
            except DamagedCheckpointError as error:
                others = f"; --checkpoint={steps[-1]} names one before it" if steps else ""
                raise DamagedCheckpointError(f"{error}{others}") from error
            return numbers[-1]
        if not steps:
            raise ConfigError(f"{self.folder} holds no checkpoint yet: let the run save one")
        if which == "best":
            best = self.best_step()
            if best is None:
                raise ConfigError("--checkpoint=best: no checkpoint was evaluated; use 'last'")
            return best
        if which.isdecimal() and int(which) in steps:
            return int(which)
        raise ConfigError(
            f"--checkpoint={which}: expected 'last', 'best' or one of {', '.join(map(str, steps))}"
        )

    def save(
        self,
        step: int,
        state: TrainState,
        next_index: int,
        metrics: Mapping[str, float],
        evaluation_due: bool = False,
    ) -> None:
        """Start writing the checkpoint of `step`; `state` may be donated as soon as this returns.

        Args:
          step: updates made so far, equal to `state.step`.
          state: arrays laid out over the mesh; `opt_state` None leaves that part out.
          next_index: global index of the next example that the run reads.
          metrics: evaluation metrics at this step, {} without an evaluation; NaN becomes null.
          evaluation_due: whether an evaluation of this step was broken off and has to be made when
            the run goes on; `record_metrics` then adds what it gave.

        The latest step saved again with the same `next_index` is left as it is, but for metrics
        that it lacks. Raises ConfigError for an earlier step or another `next_index`, StorageError
        when the disk does not take it, and the error of the previous save if that failed.
        """
        self.wait()
        self._writer.begin()
        standing = self._agreed("standing", self._standing(step, next_index))
        if standing == "not evaluated" and metrics:
            self.record_metrics(step, metrics)
        if standing in ("not evaluated", "there"):
            return
        if standing != "new":
            raise ConfigError(standing)
        scalars = {name: int(getattr(state, name)) for name in _SCALARS}
        place = {"step": step, "next_index": int(next_index)}
        meta = {**place, **scalars, "config": self._config}
        items: dict[str, Any] = {
            "params": ocp.args.StandardSave(state.outcome),
            "meta": ocp.args.JsonSave(json_ready(meta)),
            "tokenizer": ocp.args.JsonSave(self._tokenizer_json),
        }
        if state.opt_state is not None:
            items["opt_state"] = ocp.args.StandardSave(state.opt_state)
        if state.ema is not None:
            items["raw_params"] = ocp.args.StandardSave(state.params)
        arrays = jax.tree.leaves((state.params, state.opt_state, state.ema))
        size = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in arrays)
        self._writer.start(step, items, size, json_ready(metrics), evaluation_due)

    def record_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Replace the metrics of a checkpoint; its evaluation is no longer due then.

        Raises ConfigError when there is no such checkpoint, StorageError when the disk refuses.
        """
        self.wait()
        if jax.process_index() == 0:
            path = self._path(step)
            held = dataclasses.replace(
                read_manifest(path), metrics=json_ready(metrics), evaluation_due=False
            )
            try:
                write_manifest(path, held)
            except OSError as error:
                raise self._writer.failure(step, len(held.to_bytes()), error) from error
        self._agreed("recorded", None)

    def restore_latest(
        self, abstract_state: TrainState, say: Callable[[str], None]
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Return state and `meta` of the last checkpoint that is whole, None without checkpoints.

        `abstract_state` holds a `jax.ShapeDtypeStruct` for each array; the arrays come back in its
        shardings, whatever mesh they were saved from, without one on one device. Before anything is
        read every file is compared with the manifest; a later checkpoint whose files are not those
        that were written is told of through `say` and set aside under another name.

        Raises DataError when there are checkpoints and none is whole (they stay as they are), or
        when the last whole one does not hold exactly these arrays.
        """
        problems: dict[int, str] = {}
        for step in self._agreed("steps", retention.numbered(self.folder)[::-1]):
            path = self.folder / str(step)
            try:
                self._check_whole(path, None)
            except DamagedCheckpointError as error:
                problems[step] = str(error)
                continue
            restored = self._read_state(path, abstract_state)
            self._set_aside(problems, say, step)
            return restored
        if problems:
            found = "; ".join(problems.values())
            raise DamagedCheckpointError(
                f"{self.folder} has no checkpoint that is whole: {found}. Bring one back from a "
                "copy, or move this folder away to begin again at step 0"
            )
        return None

    def restore_params(self, step: int | None, abstract_params: Any) -> Any:
        """Return the parameters of `step` (None: the latest) alone; see `restore_latest`.

        Only their files are compared with the manifest, so another item may be damaged.
        """
        path = self._path(step)
        self._check_whole(path, ("params",))
        return read_arrays(path, {"params": abstract_params})["params"]

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """Return what is known of a checkpoint (None: the latest).

        That is step, next_index, skipped, skipped_in_row, config, metrics and evaluation_due.
        """
        meta, held = _read_json(self._path(step), "meta")
        return meta | {"metrics": dict(held.metrics), "evaluation_due": held.evaluation_due}

    def tokenizer_json(self, step: int | None = None) -> dict[str, Any]:
        """Return the content of tokenizer.json saved with a checkpoint (None: the latest)."""
        return _read_json(self._path(step), "tokenizer")[0]

    def check(self) -> None:
        """Raise the error of a write that has failed in the background; costs nothing."""
        self._writer.check()

    def wait(self) -> None:
        """Wait until the checkpoint being written is complete for all; raise what it failed by."""
        self._writer.wait()

    def close(self) -> None:
        """Wait for the checkpoint being written and release Orbax's threads."""
        self._writer.close()

    def _standing(self, step: int, next_index: int) -> str:
        """Say whether a step is "new", "there" or "not evaluated", else why it cannot be saved."""
        latest = self.latest_step()
        if latest is None or latest < step:
            return "new"
        meta = self.meta(latest)
        if latest == step and meta["next_index"] == next_index:
            return "there" if meta["metrics"] else "not evaluated"
        return (
            f"cannot save step {step} in {self.folder}: it already holds step {latest}; resume "
            "from there, or start in another run folder"
        )

    def _check_whole(self, path: Path, items: Collection[str] | None) -> None:
        """Raise DamagedCheckpointError on all processes for what the first one finds."""
        problem = None
        # A process that reads for itself, with `alone`, may have a copy of its own.
        if self._is_alone or jax.process_index() == 0:
            try:
                verify(path, items)
            except DamagedCheckpointError as error:
                problem = str(error)
        problem = self._agreed("damage", problem)
        if problem is not None:
            raise DamagedCheckpointError(problem)

    def _read_state(
        self, path: Path, abstract_state: TrainState
    ) -> tuple[TrainState, dict[str, Any]]:
        """Read a checkpoint whose files have been verified."""
        manifest = read_manifest(path)
        if manifest.holds("params") and not manifest.holds("opt_state"):
            raise ConfigError(
                f"checkpoint {path} has no optimizer state (an imported model): it cannot be "
                "resumed, only started from with --init_from"
            )
        targets = {"params": abstract_state.outcome, "opt_state": abstract_state.opt_state}
        if abstract_state.ema is not None:
            targets["raw_params"] = abstract_state.params
        absent = [name for name in (*targets, "meta", "tokenizer") if not manifest.holds(name)]
        if absent:
            raise does_not_fit(path, [f"{name} is absent there" for name in absent])
        arrays = read_arrays(path, targets)
        params, ema = arrays["params"], None
        if abstract_state.ema is not None:
            params, ema = arrays["raw_params"], params
        meta = self.meta(int(path.name))

        def scalar(name: str) -> jax.Array:
            target = placed_leaf(getattr(abstract_state, name))
            value = np.asarray(meta[name], target.dtype)
            return jax.make_array_from_callback((), target.sharding, lambda _: value)

        scalars = {name: scalar(name) for name in ("step", *_SCALARS)}
        opt_state = arrays["opt_state"]
        return TrainState(params=params, opt_state=opt_state, ema=ema, **scalars), meta

    def _set_aside(
        self, problems: Mapping[int, str], say: Callable[[str], None], used: int
    ) -> None:
        for step, problem in problems.items():
            name = ""
            if jax.process_index() == 0:
                path = self.folder / str(step)
                name = retention.set_aside(path, retention.why_aside(path)).name
            name = self._agreed("aside", name)
            say(f"{problem}. It is set aside as {name}; step {used} is used instead")

    def _path(self, step: int | None) -> Path:
        """Return the folder of a complete checkpoint, or raise ConfigError when there is none."""
        steps = self.all_steps()
        if not steps:
            # A checkpoint that lost its manifest is no reason to train again.
            for number in retention.numbered(self.folder)[::-1]:
                read_manifest(self.folder / str(number))
            raise ConfigError(f"there is no checkpoint in {self.folder}; train the run first")
        if step is not None and step not in steps:
            raise ConfigError(
                f"there is no checkpoint of step {step} in {self.folder}; there are: "
                f"{', '.join(map(str, steps))}"
            )
        return self.folder / str(steps[-1] if step is None else step)

    def _agreed(self, what: str, value: Any) -> Any:
        """Return the value that process 0 gives; a barrier for all."""
        return self._gather(what, value)[0]


def _read_json(path: Path, item: str) -> tuple[dict[str, Any], Manifest]:
    """Return the content of a JSON item, compared with the manifest first, and the manifest."""
    manifest = verify(path, (item,))
    if not manifest.holds(item):
        raise does_not_fit(path, [f"{item} is absent there"])
    try:
        content = json.loads((path / item / "metadata").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"checkpoint file {path / item} cannot be read: {error}") from error
    return content, manifest
