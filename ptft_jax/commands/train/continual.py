"""`ptft finetune` on several tasks, one after another: a run for each, and the matrix of scores."""

import dataclasses
import shlex
from collections.abc import Sequence
from functools import partial

import numpy as np

from ptft_jax.commands.help import key_flags
from ptft_jax.commands.parsing import config_of, parse
from ptft_jax.commands.screen import exporting, made, make_console
from ptft_jax.commands.train import finetune
from ptft_jax.commands.train.pool import Run
from ptft_jax.commands.train.series import (
    Series,
    check_start,
    names_several,
    series_of,
    words_for_all,
)
from ptft_jax.data.tasks.catalogue import load_task
from ptft_jax.errors import ConfigError
from ptft_jax.runs.config import Config, load_config
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.kinds.several import KEEPING, check_options, settings_of
from ptft_jax.runs.many.task_matrix import TaskMatrix, as_csv, markdown, picture
from ptft_jax.training.resources.storage import write_atomically

_LAYERS = ("--config.init_layers", "--config.reinit_layers")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a sequence of tasks.

    Attributes:
        arguments: the words that ask for them.
        config: what all have in common.
        init_from: what the first one starts from.
        seeds: those of the runs.
        tasks: names of the tasks.
        stages: for each seed the run of each task.
        alone: for each seed the run on each task but the first alone; those of `stages` where they
            are that.
        series: makes them.
    """

    arguments: list[str]
    config: Config
    init_from: str | None
    seeds: list[int]
    tasks: tuple[str, ...]
    stages: list[list[Run]]
    alone: list[list[Run]]
    series: Series

    @property
    def runs(self) -> list[Run]:
        """All runs, each once."""
        both = zip(self.stages, self.alone, strict=True)
        return list(dict.fromkeys(run for stages, alone in both for run in [*stages, *alone]))


def is_asked(arguments: Sequence[str]) -> bool:
    """Says whether a command line asks for tasks one after another."""
    file = config_of(arguments)
    if "--explain" in arguments or file is None or names_several(arguments):
        return False
    if load_config(file).get("task") != "several":
        return False
    config = parse(finetune.define_flags, list(arguments), "finetune").config
    return config.continual.way == "sequence" and not config.continual.stage


def show(plan: Plan) -> None:
    """Prints the config of each run."""
    for one in plan.runs:
        print(f"# {one.name}", *key_flags(one.config), sep="\n")


def run(plan: Plan) -> None:
    """Makes all runs, then the matrix of their scores.

    Raises:
        ConfigError: the tasks cannot be, or there is nothing to start from; nothing was started.
        PtftError: some runs failed.
        StopError: a signal came; all runs have saved.
    """
    check_start(plan.init_from, "finetune")
    first = dataclasses.replace(settings_of(plan.config), stage=1)
    metrics = [task.metrics[0] for task in load_task("several", plan.config.data_dir, first).tasks]
    plan.series.make(plan.runs)
    plan.series.check(len(plan.runs))
    _write_matrix(plan, metrics)


def planned(arguments: list[str]) -> Plan:
    """Returns what a command line asks for.

    Raises:
        ConfigError: the flags do not fit together.
    """
    rest, _ = words_for_all(arguments)
    values = parse(finetune.define_flags, arguments, "finetune")
    series, seeds = series_of(values)
    config = values.config
    tasks = tuple(task.partition("@")[0] for task in config.tasks)
    if len(tasks) < 2:
        raise ConfigError(
            f"--config.tasks={config.tasks}: expected two tasks or more, like \"('cola', 'rte')\"."
        )
    check_options(config)
    adapters = bool(config.adapter.name)
    lwf = config.continual.lwf
    if adapters and any(config.continual[key] for key in KEEPING):
        raise ConfigError(
            f"--config.adapter.name={config.adapter.name} with {', '.join(KEEPING)}: each "
            "task has an adapter of its own over an encoder that stays, so that nothing is "
            "forgotten; leave the others out."
        )
    if config.teacher:
        raise ConfigError(
            "--config.teacher: each task's run has the one before it as its teacher, with "
            "continual.lwf; leave it out."
        )

    # Of a teacher, whom some of the runs have.
    common = [word for word in rest if not word.startswith("--config.distillation.")]
    taught = [word for word in rest if word not in common]

    def made_of(name: str, *more: str, after: Run | None = None) -> Run:
        # What starts from a run on a task has its layers as they are.
        kept = [word for word in common if after is None or not word.startswith(_LAYERS)]
        words = [f"--config={config_of(arguments)}", *kept, *more]
        found = parse(finetune.define_flags, words, "finetune").config
        folder, source = RunFolder(series.place / name), values.init_from
        if after is None:
            return Run(name, "finetune", tuple(words), found, folder, source)
        start = partial(_path, series, after)
        return Run(name, "finetune", tuple(words), found, folder, start, (after,))

    stages, alone = [], []
    for seed in seeds:
        above = f"seed-{seed}/" if len(seeds) > 1 else ""
        chain: list[Run] = []
        apart: list[Run] = []
        for stage, task in enumerate(tasks, start=1):
            name = f"{stage}-{task}"
            words = [f"--config.continual.stage={stage}", f"--config.seed={seed}"]
            # What keeps earlier tasks has nothing to keep there.
            none = [f"--config.continual.{key}=0" for key in KEEPING]
            lonely = [*words, "--config.continual.way=alone", *none]
            before = None if adapters or not chain else chain[-1]
            if before is not None and lwf:
                words += [
                    *taught,
                    f"--config.teacher={before.folder.path}",
                    f"--config.distillation.soft_weight={lwf}",
                    "--config.distillation.task_weight=1.0",
                ]
            chain.append(made_of(above + name, *(lonely if adapters else words), after=before))
            # The first task has none before it.
            same = adapters or stage == 1
            apart.append(chain[-1] if same else made_of(f"{above}alone/{name}", *lonely))
        stages.append(chain)
        alone.append(apart)
    return Plan(arguments, config, values.init_from, seeds, tasks, stages, alone, series)


def _path(series: Series, run: Run) -> str | None:
    """Returns the folder of a finished run."""
    return str(run.folder.path) if series.entry(run) else None


def _write_matrix(plan: Plan, metrics: Sequence[str]) -> None:
    """Writes and prints the matrix."""
    count, series = len(plan.tasks), plan.series

    def score(run: Run, task: str, metric: str) -> float:
        entry = series.entry(run)
        assert entry is not None
        results = entry["results"]
        # Of several dev sets the first.
        name = next(n for n in results if n == task or n.startswith(f"{task}_"))
        found = results[name][metric]
        return np.nan if found is None else 100 * found

    scores = np.full((len(plan.seeds), count, count), np.nan)
    alone = np.full((len(plan.seeds), count), np.nan)
    named = list(zip(plan.tasks, metrics, strict=True))
    for seed in range(len(plan.seeds)):
        for task, (name, metric) in enumerate(named):
            alone[seed, task] = score(plan.alone[seed][task], name, metric)
            for after in range(task, count):
                # An adapter of one's own stays as it is.
                run = plan.stages[seed][task if plan.config.adapter.name else after]
                scores[seed, after, task] = score(run, name, metric)
    matrix, place = TaskMatrix(tuple(named), scores, alone), series.place
    head = [
        f"`ptft finetune {shlex.join(plan.arguments)}`",
        "scores on dev in percent"
        + (f", mean ± standard deviation of {len(plan.seeds)} seeds" if plan.seeds[1:] else ""),
        "alone: a run from the same start on that task only, against which forward transfer is",
    ]
    text = markdown(matrix, head)
    write_atomically(place / "matrix.md", text)
    write_atomically(place / "matrix.csv", as_csv(matrix, plan.seeds))
    write_atomically(place / "matrix.svg", picture(matrix))
    console = make_console()
    console.print(text, markup=False, soft_wrap=True)
    last = plan.stages[0][-1].folder
    record = last.record()
    made(
        console,
        "learned one after another",
        {"matrix": f"{place}/matrix.md", "scores": f"{place}/matrix.csv"}
        | {"picture": f"{place}/matrix.svg", "last run": str(last.path)},
        [exporting(record, last.path, plan.tasks[-1])],
    )
