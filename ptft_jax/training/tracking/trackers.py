"""A run told to a tracking service too: Weights & Biases, MLflow or Trackio.

Where its server is, the project, the mode (offline) and every secret come from the service's own
environment variables. What is tracked twice, because a killed run makes some steps again, is there
twice in the service, with the same values.
"""

import importlib
import itertools
import json
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ptft_jax.data.foreign_files import read_json_object
from ptft_jax.errors import ConfigError
from ptft_jax.training.resources.storage import write_atomically
from ptft_jax.training.tracking.metric_sinks import Metrics, Sink

_PROJECT = "ptft_jax"
# The ids of the run in the services that it was told to, by service.
_FILE = "tracking.json"
# How long a run that goes on, and the end of a run, wait for a service that does not answer.
RESUMING_SECONDS = 60.0
CLOSING_SECONDS = 20.0
# Calls that wait for a service: hours of logged steps.
_WAITING_CALLS = 10_000


class _Tracked(Protocol):
    """A run in a service; all calls come from one thread, and may raise anything."""

    id: str

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hands on values after `step` updates."""

    def result(self, step: int, values: Mapping[str, float]) -> None:
        """Hands on the results of a run that has made all its updates."""

    def end(self, *, whole: bool) -> None:
        """Hands on what is left; `whole`: the run has made all its updates."""


class _WandB:
    def __init__(self, wandb: Any, folder: Path, known: str | None, about: Mapping[str, Any]):
        given = os.environ.get
        # Not in the run's folder: a killed W&B leaves links there that lead out of it.
        self._run = wandb.init(
            id=known,
            resume="allow",
            project=given("WANDB_PROJECT", _PROJECT),
            name=given("WANDB_NAME", folder.name),
            config=dict(about),
            settings=wandb.Settings(
                # It would copy each state of the live line.
                console=given("WANDB_CONSOLE", "off"),
                # Else it prints all metrics once more.
                quiet=given("WANDB_QUIET", "true") == "true",
                finish_timeout=CLOSING_SECONDS,
            ),
        )
        self.id = self._run.id
        # W&B's own step never goes back, so it would drop the steps that are made again.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def result(self, step: int, values: Mapping[str, float]) -> None:
        # Not as metrics: each would become a chart with one point.
        self._run.summary.update(dict(values))

    def end(self, *, whole: bool) -> None:
        self._run.finish(exit_code=0 if whole else 1)


class _MLflow:
    def __init__(self, mlflow: Any, folder: Path, known: str | None, about: Mapping[str, Any]):
        self._metric = mlflow.entities.Metric
        self._client = mlflow.MlflowClient()
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            self.id = known
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self.id = self._client.create_run(number, run_name=folder.name).info.run_id
        params = [mlflow.entities.Param(name, text) for name, text in _texts(about)]
        for some in itertools.batched(params, 100):  # its limit
            self._client.log_batch(self.id, params=some)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    result = log

    def end(self, *, whole: bool) -> None:
        self._client.set_terminated(self.id, "FINISHED" if whole else "KILLED")


def _texts(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Returns the leaves of nested settings as MLflow takes them: dotted name and short text."""
    found = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found += _texts(value, f"{prefix}{name}.")
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            found.append((prefix + name, text[:6000]))
    return found


class _Trackio:
    def __init__(self, trackio: Any, folder: Path, known: str | None, about: Mapping[str, Any]):
        # Trackio finds a run by its name, which folders of other places may share.
        self.id = known or f"{folder.name}-{secrets.token_hex(3)}"
        self._run = trackio.init(
            os.environ.get("TRACKIO_PROJECT", _PROJECT),
            name=self.id,
            resume="allow",
            config=dict(about),
            embed=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    result = log

    def end(self, *, whole: bool) -> None:
        self._run.finish()


_SERVICES = {"wandb": _WandB, "mlflow": _MLflow, "trackio": _Trackio}


def services_of(run_dir: Path) -> dict[str, str]:
    """Returns the ids of a run by the services that it was told to."""
    file = run_dir / _FILE
    return read_json_object(file, "remove it") if file.is_file() else {}


def import_tracker(name: str) -> Any:
    """Returns the package of a service; raises ConfigError where it is not installed."""
    try:
        package = importlib.import_module(name)
        # Python takes a folder of that name for a package too: W&B makes one where it is used.
        if package.__file__ is None:
            raise ImportError(f"{next(iter(package.__path__))} is a folder of other files")
        return package
    except ImportError as error:
        raise ConfigError(
            f"--track={name} needs the package `{name}`, which is not there ({error}): run "
            f"PTFT_EXTRAS={name} bash launch/setup.sh, or leave --track out."
        ) from error


def begin_tracking(
    name: str, run_dir: Path, about: Mapping[str, Any], say: Callable[[str], None]
) -> Sink:
    """Begins to track a run, or goes on in the run that the service has of it.

    Args:
        name: wandb, mlflow or trackio.
        run_dir: the run's folder, which is there; it keeps the run's id in the service.
        about: what the run is, nested, in JSON's types.
        say: takes what the service could not be told.

    Returns:
        What tells the service. Where a run that it knows cannot be reached, this is said: nobody
        may be there to mend it, and the job has to go on.

    Raises:
        ConfigError: the package is missing, or no new run can be made in the service.
    """
    file, ids = run_dir / _FILE, services_of(run_dir)
    known = ids.get(name)
    begin = partial(_SERVICES[name], import_tracker(name), run_dir.resolve(), known, about)
    tracking = _Tracking(name, begin, say)
    if known is None:
        number = tracking.begun(None)
        write_atomically(file, json.dumps({**ids, name: number}) + "\n")
        say(f"tracked by {name}, run {number}")
        return tracking
    try:
        say(f"tracked by {name}, run {tracking.begun(RESUMING_SECONDS)} goes on")
    except ConfigError as error:
        say(str(error))
    return tracking


class _Tracking(Sink):
    """Tells a service from a thread of its own, which it may keep waiting or fail as it likes."""

    def __init__(self, name: str, begin: Callable[[], _Tracked], say: Callable[[str], None]):
        self._name, self._begin, self._say = name, begin, say
        self._whole = False
        self._id: str | None = None
        self._failure: BaseException | None = None
        self._told = False
        self._calls: queue.Queue[Callable[[_Tracked], None] | None] = queue.Queue(_WAITING_CALLS)
        self._has_begun = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"ptft-{name}", daemon=True)
        self._thread.start()

    def begun(self, seconds: float | None) -> str:
        """Waits until the service has made or found the run, and returns its id.

        Raises ConfigError where it does not; what is told to it then waits for it, or is lost.
        """
        if not self._has_begun.wait(seconds):
            raise ConfigError(f"{self._name} has not found its run in {seconds:.0f} s: told later")
        if self._id is None:
            self._told = True
            raise ConfigError(
                f"--track={self._name}: no run could be made or found there "
                f"({type(self._failure).__name__}: {self._failure}). Expected its environment "
                "variables (server, login, or offline mode) to be set; see docs/pretraining.md."
            ) from self._failure
        return self._id

    def training(self, step: int, metrics: Metrics) -> None:
        values = _named("", {"train": metrics})
        self._put(lambda tracked: tracked.log(step, values))

    def evaluation(self, step: int, split: str, metrics: Metrics) -> None:
        values = _named("", {split: metrics})
        self._put(lambda tracked: tracked.log(step, values))

    def ends(self, step: int, results: Mapping[str, Metrics]) -> None:
        self._whole = True
        values = _named("results/", results)
        self._put(lambda tracked: tracked.result(step, values))

    def close(self) -> None:
        self._put(lambda tracked: tracked.end(whole=self._whole))
        self._put(None)
        self._thread.join(CLOSING_SECONDS)
        if self._thread.is_alive():
            self._failure = TimeoutError(f"no answer in {CLOSING_SECONDS:.0f} s at the end")
        self._tell()

    def _put(self, call: Callable[[_Tracked], None] | None) -> None:
        self._tell()
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._failure = TimeoutError(f"{_WAITING_CALLS} calls wait")

    def _work(self) -> None:
        try:
            tracked = self._begin()
            self._id = tracked.id
        # Whatever the package raises, here and below: it is not ours.
        except BaseException as error:
            self._failure = error
            return
        finally:
            self._has_begun.set()
        while (call := self._calls.get()) is not None:
            try:
                call(tracked)
            # The next call may find the network again.
            except Exception as error:
                self._failure = error

    def _tell(self) -> None:
        """Says once, in the thread of the run, that something was not taken."""
        if self._failure is not None and not self._told:
            self._told = True
            what = f"{type(self._failure).__name__}: {self._failure}"
            self._say(f"{self._name} lacks some of this run, which goes on: {what}")


def _named(prefix: str, metrics: Mapping[str, Metrics]) -> dict[str, float]:
    """Returns the values that are known of some splits, under names like train/loss."""
    return {
        f"{prefix}{split}/{name}": float(value)
        for split, values in metrics.items()
        for name, value in values.items()
        if value is not None
    }
