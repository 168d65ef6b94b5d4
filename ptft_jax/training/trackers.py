"""A run told to a tracking service too: Weights & Biases, MLflow or Trackio.

Where its server is, the project, the mode (offline) and every secret come from the service's own
environment variables. What is tracked twice, because a killed run makes some steps again, is there
twice in the service, with the same values.
"""

import contextvars
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
from ptft_jax.training.metric_sinks import Metrics, Sink
from ptft_jax.training.storage import write_atomically

_PROJECT = "ptft_jax"
# The ids of the run in the services that it was told to, by service.
_FILE = "tracking.json"
# How long the end of a run waits for a service that does not answer.
CLOSING_SECONDS = 20.0
# Calls that wait for a service: hours of logged steps.
_WAITING_CALLS = 10_000


class _Tracked(Protocol):
    """A run in a service; all calls but the first come from one thread, and may raise anything."""

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
        # In a context of its own: a run that is the current one is ended again as Python exits.
        self._run = contextvars.copy_context().run(
            trackio.init,
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
            f"--track={name} needs the package `{name}`, which is not there ({error}): run pip "
            f"install 'ptft_jax[{name}]', or leave --track out."
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
        What tells the service; nothing, where a run that it knows cannot be found or reached now.

    Raises:
        ConfigError: the package is missing, or a run cannot be made in the service.
    """
    file = run_dir / _FILE
    ids = read_json_object(file, "remove it") if file.is_file() else {}
    known = ids.get(name)
    package = import_tracker(name)
    try:
        tracked = _SERVICES[name](package, run_dir.resolve(), known, about)
    # Whatever the package raises: it is not ours.
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        if known is None:
            raise ConfigError(
                f"--track={name}: no run could be made there ({what}). Expected its environment "
                "variables (server, login, or offline mode) to be set; see docs/pretraining.md."
            ) from error
        # A service that is down must not keep a job from going on.
        say(f"not tracked from here on: {name} does not give its run {known} ({what})")
        return Sink()
    write_atomically(file, json.dumps({**ids, name: tracked.id}) + "\n")
    say(f"tracked by {name}, run {tracked.id}")
    return _Tracking(name, tracked, say)


class _Tracking(Sink):
    """Tells a service from a thread of its own, which it may keep waiting or fail as it likes."""

    def __init__(self, name: str, tracked: _Tracked, say: Callable[[str], None]):
        self._name, self._tracked, self._say = name, tracked, say
        self._whole = False
        self._failure: Exception | None = None
        self._told = False
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(_WAITING_CALLS)
        self._thread = threading.Thread(target=self._work, name=f"ptft-{name}", daemon=True)
        self._thread.start()

    def training(self, step: int, metrics: Metrics) -> None:
        self._put(partial(self._tracked.log, step, _named("", {"train": metrics})))

    def evaluation(self, step: int, split: str, metrics: Metrics) -> None:
        self._put(partial(self._tracked.log, step, _named("", {split: metrics})))

    def ends(self, step: int, results: Mapping[str, Metrics]) -> None:
        self._whole = True
        self._put(partial(self._tracked.result, step, _named("results/", results)))

    def close(self) -> None:
        self._put(partial(self._tracked.end, whole=self._whole))
        self._put(None)
        self._thread.join(CLOSING_SECONDS)
        if self._thread.is_alive():
            self._failure = TimeoutError(f"no answer in {CLOSING_SECONDS:.0f} s at the end")
        self._tell()

    def _put(self, call: Callable[[], None] | None) -> None:
        self._tell()
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._failure = TimeoutError(f"{_WAITING_CALLS} calls wait")

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            # Whatever the package raises; the next call may find the network again.
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
