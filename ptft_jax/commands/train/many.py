"""`ptft finetune` over all tasks of a benchmark and several seeds, by a protocol, to one table."""

import dataclasses
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ptft_jax.commands.help import key_flags
from ptft_jax.commands.parsing import config_of, parse
from ptft_jax.commands.screen import exporting, made, make_console
from ptft_jax.commands.train import finetune
from ptft_jax.commands.train.pool import Run
from ptft_jax.commands.train.series import (
    Series,
    Trial,
    check_start,
    folder_name,
    metric_of,
    names_several,
    series_of,
    settings_words,
    words_for_all,
)
from ptft_jax.data.hf_datasets import is_hf
from ptft_jax.data.tasks.catalogue import find_task, tasks_of
from ptft_jax.errors import ConfigError
from ptft_jax.runs.config import Config, flatten
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.many.protocols import PROTOCOLS, tasks_with
from ptft_jax.runs.many.score_table import as_csv, markdown, picture, rows_of
from ptft_jax.training.resources.storage import write_atomically


@dataclasses.dataclass(frozen=True)
class Plan:
    """Several runs.

    Attributes:
        arguments: the words that ask for them.
        protocol: the name of the protocol.
        init_from: what the runs start from, or those that the others start from.
        tasks: those of the table, in its order.
        lacking: tasks of the benchmark that the protocol has no settings for.
        trials: the trials of each task, in the order in which they are made.
        series: makes them.
    """

    arguments: list[str]
    protocol: str
    init_from: str | None
    tasks: list[str]
    lacking: list[str]
    trials: Mapping[str, list[Trial]]
    series: Series

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [run for trials in self.trials.values() for trial in trials for run in trial.runs]


def is_asked(arguments: Sequence[str]) -> bool:
    """Says whether a command line asks for several runs."""
    asks = ("--seeds", "--protocol")
    return names_several(arguments) or any(word.startswith(asks) for word in arguments)


def show(plan: Plan) -> None:
    """Prints the config of each run."""
    for one in plan.runs:
        print(f"# {one.name}", *key_flags(one.config), sep="\n")


def run(plan: Plan) -> None:
    """Makes all runs, then the table of their scores.

    Raises:
        ConfigError: tasks have no folder in `data_dir`, or there is nothing to start from; nothing
            was started.
        PtftError: some runs failed; the table holds the others.
        StopError: a signal came; all runs have saved.
    """
    _check_folders(plan.runs)
    check_start(plan.init_from, "finetune")
    plan.series.make(plan.runs)
    _write_table(plan, make_console())
    plan.series.check(len(plan.runs))


def planned(arguments: list[str]) -> Plan:
    """Returns what a command line asks for.

    Raises:
        ConfigError: the flags do not fit together.
    """
    file, _, task = (config_of(arguments) or "").partition(":")
    every = task == "all"
    tasks = list(tasks_of(Path(file).stem)) if every else task.split(",")
    if not tasks:
        raise ConfigError(f"--config={file}:all: expected glue, superglue or clue, which have all.")
    rest, own = words_for_all(arguments, ("--protocol",))
    line = [_config_flag(file, tasks[0]), *rest, *own]
    values = parse(finetune.define_flags, line, "finetune")
    series, seeds = series_of(values)
    protocol, given = PROTOCOLS[values.protocol], _given(rest, values.config)
    # What stands after the colon need not be the task's own name.
    after_colon = {name: name for name in tasks} if len(tasks) > 1 else {values.config.task: task}
    trials: dict[str, list[Trial]] = {}
    for name in tasks_with(values.protocol, list(after_colon), every):
        words = [_config_flag(file, after_colon.get(name, name)), *rest]
        mnli = trials["mnli"] if name in protocol.from_mnli else None
        combinations = protocol.combinations(name, given)
        tried = [key for key in combinations[0] if len({str(one[key]) for one in combinations}) > 1]
        trials[name] = []
        for settings in combinations:
            shown = {key: settings[key] for key in tried}
            place = "/".join(filter(None, (name, folder_name(shown))))
            runs = []
            for seed in seeds:
                line = [*words, *settings_words(settings), f"--config.seed={seed}"]
                one = _run(f"{place}/seed-{seed}", line, values.init_from, series.place)
                runs.append(one if mnli is None else _from_mnli(one, mnli, series))
            trials[name].append(Trial(shown, tuple(runs)))
    order = [name for name in after_colon if name in trials]
    order += [name for name in trials if name not in order]
    lacking = [name for name in after_colon if name not in trials]
    init_from = values.init_from
    return Plan(arguments, values.protocol, init_from, order, lacking, trials, series)


def _run(name: str, words: list[str], init_from: str | None, place: Path) -> Run:
    config = parse(finetune.define_flags, words, "finetune").config
    return Run(name, "finetune", tuple(words), config, RunFolder(place / name), init_from)


def _from_mnli(one: Run, mnli: Sequence[Trial], series: Series) -> Run:
    """Lets a run start from its seed's run on MNLI, with the settings that did best there."""
    seed = one.config.seed
    runs = [run for trial in mnli for run in trial.runs]
    # The best settings are known once all runs have ended.
    after = [run for run in runs if len(mnli) > 1 or run.config.seed == seed]

    def source() -> str | None:
        best = _best(mnli, series)
        runs = [run for run in best.runs if run.config.seed == seed] if best else []
        return str(runs[0].folder.path) if runs and series.entry(runs[0]) else None

    return dataclasses.replace(one, init_from=source, after=tuple(after))


def _best(trials: Sequence[Trial], series: Series) -> Trial | None:
    """Returns the trial that did best of several, as far as all of its runs are made."""
    return trials[0] if len(trials) == 1 else next(iter(series.ranked(trials)), None)


def _given(words: Sequence[str], config: Config) -> dict[str, Any]:
    """Returns the keys that a command line sets, with their values in its config."""
    values = flatten(config.to_dict())
    keys = {word.partition("=")[0].partition("config.")[2] for word in words}
    return {key: value for key, value in values.items() if key in keys}


def _check_folders(runs: Sequence[Run]) -> None:
    """Raises ConfigError where a task's folder is not there: found now, not after hours."""
    data_dir = runs[0].config.data_dir
    folders = {one.config.task: getattr(find_task(one.config.task), "folder", "") for one in runs}
    there = {task for task, at in folders.items() if not at or (Path(data_dir) / at).is_dir()}
    lacking = sorted({folders[task] for task in folders.keys() - there})
    if data_dir and lacking and not is_hf(data_dir):
        others = f"; without them: --config=….py:{','.join(sorted(there))}" if there else ""
        raise ConfigError(
            f"--config.data_dir={data_dir} has no folder {', '.join(lacking)}: expected those of "
            f"all tasks{others}."
        )


def _config_flag(file: str, task: str) -> str:
    return f"--config={file}:{task}" if task else f"--config={file}"


def _write_table(plan: Plan, console: Console) -> None:
    """Writes and prints the table of what is made; of settings that were tried, the best ones."""
    series, place = plan.series, plan.series.place
    entries, shown, best = [], [], {}
    for task in plan.tasks:
        chosen = _best(plan.trials[task], series)
        for trial in plan.trials[task]:
            for one in trial.runs:
                entry = series.entry(one)
                if entry is None:
                    continue
                metrics = getattr(find_task(one.config.task), "metrics", None)
                metrics = metrics or (metric_of(one, entry["results"])[1],)
                about = {"task": task, "seed": one.config.seed, "metrics": metrics}
                about["settings"] = folder_name(trial.settings)
                entries.append({**about, **entry})
                if trial is chosen:
                    shown.append(entries[-1])
                    best[task] = trial
    if not entries:
        return
    rows = rows_of(shown)
    text = markdown(rows, _head(plan, best))
    write_atomically(place / "table.md", text)
    write_atomically(place / "table.csv", as_csv(entries))
    write_atomically(place / "table.svg", picture(rows))
    console.print(text, markup=False, soft_wrap=True)
    what = {"table": f"{place}/table.md", "scores": f"{place}/table.csv"}
    what["picture"] = f"{place}/table.svg"
    following = []
    for trial in [*best.values()][:1]:
        first = trial.runs[0].folder
        following.append(exporting(first.record(), first.path, first.path.name))
    made(console, "fine-tuned", what, following)


# What a table's head says of each task's config, and how.
_SHOWN: dict[str, Callable[[Config], str]] = {
    "training examples": lambda config: (
        f"{config.examples_per_class} a class"
        if config.get("examples_per_class")
        else f"{config.max_train_examples or 'all'}"
    ),
    "learning rate": lambda config: f"{config.optimizer.learning_rate:g}",
    "batch": lambda config: f"{config.batch_size}",
    "length": lambda config: (
        f"{config.steps} updates" if config.steps else f"{config.epochs:g} epochs"
    ),
    "weight decay": lambda config: f"{config.optimizer.weight_decay:g}",
    "warm-up": lambda config: (
        f"{config.schedule.warmup_steps} updates"
        if config.schedule.warmup_steps
        else f"{config.schedule.warmup_ratio:.0%}"
    ),
    "at most tokens": lambda config: f"{config.max_seq_length}",
}


def _head(plan: Plan, best: Mapping[str, Trial]) -> list[str]:
    """Returns the protocol in lines: command, source, settings, what was chosen, STILTs."""
    protocol = PROTOCOLS[plan.protocol]
    configs = {task: trial.runs[0].config for task, trial in best.items()}
    settings = []
    for name, text in _SHOWN.items():
        values = {task: text(config) for task, config in configs.items()}
        (usual, _), *others = Counter(values.values()).most_common()
        parts = [
            f"{value}: {', '.join(task for task in values if values[task] == value)}"
            for value, _ in others
        ]
        settings.append(f"{name} {usual}{f' ({"; ".join(parts)})' if parts else ''}")
    lines = [
        f"`ptft finetune {shlex.join(plan.arguments)}`",
        f"protocol {plan.protocol}: {protocol.source}",
        ", ".join(settings),
    ]
    tried = {task: len(plan.trials[task]) for task in best if len(plan.trials[task]) > 1}
    if tried:
        counts = ", ".join(f"{task} {count}" for task, count in tried.items())
        lines.append(
            f"each task's settings are the best of those tried ({counts}) by their median on the "
            "very dev set that is shown, which flatters the scores"
        )
    stilts = [task for task in best if task in protocol.from_mnli]
    lines.append(
        f"STILTs: {', '.join(stilts)} start from the same seed's run on mnli"
        if stilts
        else "no STILTs: each task starts from the same model"
    )
    left_out = [task for task in plan.tasks if task not in best]
    if left_out:
        lines.append(f"not whole, and left out: {', '.join(left_out)}")
    if plan.lacking:
        lines.append(f"the protocol has no settings for {', '.join(plan.lacking)}")
    runs = [run for trial in best.values() for run in trial.runs]
    lines += plan.series.remarks(runs)
    which = next((run.folder.record().checkpoint for run in runs), "last")
    return [*lines, f"the scores are those of the {which} checkpoint, in percent"]
