"""Several runs in a folder, made by one command: what is known of them, and which did best."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

from absl import flags
from rich.console import Console

from ptft_jax.commands.parsing import config_of, required
from ptft_jax.commands.screen import make_console, say
from ptft_jax.commands.train.pool import Run, finished, gpus, log_of
from ptft_jax.data.hub import locate
from ptft_jax.errors import ConfigError, PtftError
from ptft_jax.runs.record import is_run
from ptft_jax.training.accounting.heartbeat import read_heartbeats
from ptft_jax.training.resources.storage import write_atomically
from ptft_jax.training.tracking.metric_sinks import read_metrics

# What decides where nothing is said.
_LOSS = ("dev_loss", "min")
# Longer than this, a folder's name is cut: file systems take 255 bytes.
_LONGEST_NAME = 150


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """Runs with the same settings, one for each seed.

    `settings` are config keys and values, those in which the trials of a series differ.
    """

    settings: Mapping[str, Any]
    runs: tuple[Run, ...]


class Series:
    """The runs in a folder, and runs.json beside them: results, seconds and where they started.

    Started again it makes what is missing: what was killed goes on, what failed is tried again.
    """

    def __init__(self, place: Path, at_once: int, console: Console):
        self.place, self._at_once, self._console = place, at_once, console
        self._kept = place / "runs.json"
        text = self._kept.read_text() if self._kept.is_file() else "{}"
        self._known: dict[str, Any] = json.loads(text)
        self._failed: dict[str, int | None] = {}
        # What has been looked up; it stays, as nobody else works in these folders meanwhile.
        self._found: dict[tuple[str, Fraction | None], dict[str, Any]] = {}

    def entry(self, run: Run, stop_at: Fraction | None = None) -> dict[str, Any] | None:
        """Returns `results` (metrics by split) and `step` of a run, at the end or where it stopped.

        None where it is not made, was made from something else, or is gone since. At the end it has
        `seconds` too.
        """
        asked = run.name, stop_at
        if asked not in self._found:
            entry = self._entry(run, stop_at)
            if entry is None:
                return None
            self._found[asked] = entry
        return self._found[asked]

    def _entry(self, run: Run, stop_at: Fraction | None) -> dict[str, Any] | None:
        if callable(run.init_from) and run.source is None:
            return None
        known = self._known.get(run.name)
        if known is None or not run.folder.exists() or known.get("init_from") != run.source:
            return None
        if run.folder.record().config != json.loads(run.config.to_json_best_effort()):
            return None
        if stop_at is not None:
            return known["stops"].get(str(stop_at))
        there = run.folder.results().get("step") == known.get("step", -1)
        return known if there else None

    def make(self, runs: Sequence[Run], stop_at: Fraction | None = None) -> None:
        """Makes what is missing of some runs, up to a share of their updates or to the end."""
        waiting = [run for run in runs if self.entry(run, stop_at) is None]
        done, share = len(runs) - len(waiting), f" to {stop_at} of their updates" if stop_at else ""
        what = f"{len(runs)} run{'s' if len(runs) != 1 else ''}{share}"
        say(self._console, f"{what}, {done} of them done already; {self._at_once} at once")
        self.place.mkdir(parents=True, exist_ok=True)
        more = [f"--stop_at={stop_at}"] if stop_at else []
        started = time.monotonic()
        made = finished(waiting, self.place / "logs", self._at_once, *more)
        for count, (run, code, seconds, warned) in enumerate(made, 1):
            if code == 0:
                shown = self._learn(run, stop_at, seconds, warned)
                shown += f", with a warning in {log_of(run, self.place / 'logs')}" if warned else ""
                self._failed.pop(run.name, None)
            else:
                self._failed[run.name] = code
                shown = "not started" if code is None else f"failed with exit code {code}"
            left = (time.monotonic() - started) / count * (len(waiting) - count) / 60
            say(self._console, f"{count}/{len(waiting)}  {run.name}: {shown}; ETA {left:.0f} min")

    def _learn(
        self, run: Run, stop_at: Fraction | None, seconds: float, warned: Sequence[str]
    ) -> str:
        """Notes what a run has come to, and returns its score in words."""
        before = self._known.get(run.name)
        if before is None or before.get("init_from") != run.source:
            before = {"init_from": run.source, "seconds": 0.0, "stops": {}}
        before["seconds"] += seconds
        before["warnings"] = list(warned)
        if stop_at is None:
            results = run.folder.results()
            before |= {"step": results.pop("step"), "results": results}
        else:
            lines = read_metrics(run.folder.path / "metrics.jsonl")
            scored = [line for line in lines if "split" in line]
            step = scored[-1]["step"]
            results = {
                line["split"]: {n: v for n, v in line.items() if n not in ("step", "split")}
                for line in scored
                if line["step"] == step
            }
            before["stops"][str(stop_at)] = {"step": step, "results": results}
        self._known[run.name] = before
        self._found = {asked: one for asked, one in self._found.items() if asked[0] != run.name}
        write_atomically(self._kept, json.dumps(self._known, indent=1) + "\n")
        split, metric = metric_of(run, results)
        score = results[split][metric]
        return f"{split} {metric} {'-' if score is None else f'{score:.4f}'}"

    def remarks(self, runs: Sequence[Run]) -> list[str]:
        """Returns what a table of some runs has to say of them: warnings, and who ended early."""
        lines = []
        warned = [run for run in runs if self._known.get(run.name, {}).get("warnings")]
        if warned:
            names = ", ".join(run.name for run in warned)
            lines.append(f"with warnings, which are in logs/: {names}")
        patience = next((run.config.get("patience") for run in runs), 0)
        if patience:
            early = ", ".join(filter(None, map(_early_end, runs)))
            lines.append(f"ended early, for no better evaluation in {patience}: {early or 'none'}")
        return lines

    def seconds(self, run: Run) -> float:
        """Returns how long a run has taken so far."""
        return self._known.get(run.name, {}).get("seconds", 0.0)

    def scores(self, trial: Trial, stop_at: Fraction | None = None) -> list[float]:
        """Returns the deciding metric of those runs of a trial that have one."""
        found = []
        for run in trial.runs:
            entry = self.entry(run, stop_at)
            if entry is not None:
                split, metric = metric_of(run, entry["results"])
                found.append(entry["results"][split][metric])
        return [score for score in found if score is not None]

    def ranked(self, trials: Sequence[Trial], stop_at: Fraction | None = None) -> list[Trial]:
        """Returns the trials of which each run has a score, by the median of those, best first.

        Of equal ones, as where all predict one class, that with the lower loss comes first.
        """
        places = {}
        for number, trial in enumerate(trials):
            scores = self.scores(trial, stop_at)
            if len(scores) == len(trial.runs):
                sign = 1 if best_of(trial.runs[0]) == "min" else -1
                places[number] = sign * median(scores), self._loss(trial, stop_at)
        return [trials[number] for number in sorted(places, key=lambda number: places[number])]

    def _loss(self, trial: Trial, stop_at: Fraction | None) -> float:
        """Returns the median loss of a trial whose runs all have a score."""
        losses = []
        for run in trial.runs:
            entry = self.entry(run, stop_at)
            assert entry is not None
            split, _ = metric_of(run, entry["results"])
            losses.append(entry["results"][split].get("loss") or 0.0)
        return median(losses)

    def check(self, count: int) -> None:
        """Raises PtftError where some of `count` runs have failed."""
        if not self._failed:
            return
        named = [
            f"{name} ({'what it starts from failed' if code is None else f'exit code {code}'})"
            for name, code in [*self._failed.items()][:5]
        ]
        named += ["…"] if len(self._failed) > 5 else []
        raise PtftError(
            f"{len(self._failed)} of {count} runs failed: {', '.join(named)}. What they said is in "
            f"{self.place / 'logs'}; the same command tries them again."
        )


def _early_end(run: Run) -> str:
    """Returns the name and length of a run that ended before its last update, else nothing."""
    for beat, _ in read_heartbeats(run.folder.path):
        if beat.code == 0 and beat.step is not None and beat.step < beat.until:
            return f"{run.name} (update {beat.step:,} of {beat.until:,})"
    return ""


def names_several(arguments: Sequence[str]) -> bool:
    """Says whether a command line's config names several tasks, `:all` or `:mrpc,rte`."""
    task = (config_of(arguments) or "").partition(":")[2]
    return task == "all" or "," in task


def check_start(init_from: str | None, command: str) -> None:
    """Raises ConfigError where what the runs start from is not there: found once, and now.

    A model of the Hub is fetched, so that the runs need not do it all at the same time.
    """
    if init_from is not None:
        named = f"--init_from={init_from}"
        path, _ = locate(init_from, named)
        is_run(path, named)
    elif command == "finetune":
        raise ConfigError("--init_from is missing: name a run or a Hugging Face folder.")


def metric_of(run: Run, results: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the split and the metric among `results` that decide which checkpoint is best."""
    name, _ = run.folder.record().best or _LOSS
    split = max((one for one in results if name.startswith(f"{one}_")), key=len)
    return split, name.removeprefix(f"{split}_")


def best_of(run: Run) -> str:
    """Returns whether the "max" or the "min" of what decides is best."""
    return (run.folder.record().best or _LOSS)[1]


def folder_name(settings: Mapping[str, Any]) -> str:
    """Returns settings as the name of a folder, `learning_rate=3e-05,epochs=2`; "" for none."""
    named = zip(short_names(settings), settings.values(), strict=True)
    text = ",".join(f"{name}={value}".replace(" ", "") for name, value in named)
    text = quote(text, safe="=,()")
    if len(text) <= _LONGEST_NAME:
        return text
    return f"{text[:_LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def short_names(keys: Iterable[str]) -> list[str]:
    """Returns the last parts of config keys, or the whole ones where that would be the same."""
    keys = list(keys)
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def settings_words(settings: Mapping[str, Any]) -> list[str]:
    """Returns settings as words of a command line."""
    return [f"--config.{key}={value}" for key, value in settings.items()]


def words_for_all(
    arguments: Sequence[str], more: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Splits a command line, without its `--config`, into the words of each run and the others.

    The others are flags of what makes several runs; `more` are such ones of a command's own.
    """
    own = ("--seeds", "--at_once", "--run_dir", "--init_from", *more)
    rest: list[str] = []
    others: list[str] = []
    ahead = iter(arguments)
    for word in ahead:
        name = word.partition("=")[0]
        words = [word, *([next(ahead, "")] if word in (*own, "--config") else [])]
        if name != "--config":
            (others if name in own else rest).extend(words)
    return rest, others


def series_of(values: flags.FlagValues) -> tuple[Series, list[int]]:
    """Returns the series and the seeds that flags ask for.

    Raises:
        ConfigError: they do not fit together.
    """
    required(values, "run_dir")
    if (values.num_processes or 1) > 1:
        raise ConfigError("several runs are made in one process each: leave out the job.")
    alone = "stop_at" if values.stop_at is not None else "explain" if values.explain else ""
    if alone:
        raise ConfigError(f"--{alone} is for one run: leave it out where several are made.")
    seeds = values.seeds or [str(values.config.seed)]
    if not all(seed.isdecimal() for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds={','.join(seeds)}: expected different numbers, like 0,1,2.")
    at_once = values.at_once or len(gpus()) or 1
    return Series(Path(values.run_dir), at_once, make_console()), [int(seed) for seed in seeds]
