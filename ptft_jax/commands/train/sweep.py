"""ptft sweep --config=CONFIG --grid KEY=A,B,C --init_from=RUN_OR_HF_DIR --run_dir=SWEEP

Trains with every combination of some settings, or with draws from them, and says which did best.

Each --grid names a key of the config and its values; --random=20 takes 20 draws instead, where a
--grid may also be a range, KEY=1e-5..1e-4 or KEY=1e-5..1e-4:log. --seeds=0,1,2 makes a run of each
seed, and their median decides. --halving=3 stops trials early: all are trained for a ninth or a
third of their updates, one in three goes on from there, and so on.

Each run is a process of its own in SWEEP/SETTINGS/seed-N. The same command started again makes what
is missing, and a larger grid keeps what is there. The config may be one of `ptft pretrain`, too.
"""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from fractions import Fraction
from statistics import median
from typing import Any

from absl import flags
from rich.console import Console

from ptft_jax.commands.help import key_flags
from ptft_jax.commands.parsing import config_of, key_type, parse
from ptft_jax.commands.screen import flag, made, make_console, say
from ptft_jax.commands.train import finetune, pretrain
from ptft_jax.commands.train.flags import (
    command_for,
    define_series_flags,
    define_training_flags,
)
from ptft_jax.commands.train.pool import Run
from ptft_jax.commands.train.series import (
    Series,
    Trial,
    best_of,
    check_start,
    folder_name,
    metric_of,
    series_of,
    settings_words,
    short_names,
    words_for_all,
)
from ptft_jax.errors import ConfigError
from ptft_jax.runs.config import Config, check_numbers, flatten
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.kinds.kind import kind_of
from ptft_jax.runs.many.search_space import Axis, axis_of, combinations, draws, stops
from ptft_jax.runs.many.sweep_table import Line, as_csv, markdown, picture
from ptft_jax.training.resources.storage import write_atomically
from ptft_jax.training.updates.optimizer import OptimizerConfig, ScheduleConfig

_OWN = ("--grid", "--random", "--random_seed", "--halving")
_COMMANDS = {"finetune": finetune, "pretrain": pretrain}
_END = Fraction(1)


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_training_flags(values)
    define_series_flags(values)
    text = "A key with values, epochs=2,3; with --random also a range, 1e-5..1e-4 or with :log."
    flags.DEFINE_multi_string("grid", [], text, flag_values=values)
    text = "Try so many draws from what --grid names, and not all combinations."
    flags.DEFINE_integer("random", None, text, lower_bound=1, flag_values=values)
    text = "Decides the draws."
    flags.DEFINE_integer("random_seed", 0, text, lower_bound=0, flag_values=values)
    text = "Stop trials early, so that one in so many goes on: successive halving."
    flags.DEFINE_integer("halving", None, text, lower_bound=2, upper_bound=10, flag_values=values)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes:
        arguments: the words that ask for it.
        trials: what is tried, in the order in which it is made.
        series: makes the runs.
        factor, stops: where trials are compared before the end, and that one in `factor` goes on.
    """

    arguments: list[str]
    trials: list[Trial]
    series: Series
    factor: int
    stops: list[Fraction]


def planned(arguments: list[str]) -> Plan:
    """Returns what a command line asks for.

    Raises:
        ConfigError: a key or value that cannot be, nothing to try, or a trial twice.
    """
    command, file = command_for(arguments), config_of(arguments) or ""
    rest, own = words_for_all(arguments, _OWN)
    values = parse(define_flags, [f"--config={file}", *rest, *own], command)
    series, seeds = series_of(values)
    words = [f"--config={file}", *rest]
    axes = _axes(values, command, words)
    if values.random is None:
        tried = combinations(axes)
    else:
        tried = draws(axes, values.random, values.random_seed)
    trials = []
    for settings in tried:
        name, runs = folder_name(settings), []
        for seed in seeds:
            line = [*words, *settings_words(settings), f"--config.seed={seed}"]
            config = parse(_COMMANDS[command].define_flags, line, command).config
            _check(config)
            folder = RunFolder(series.place / name / f"seed-{seed}")
            run_name = f"{name}/seed-{seed}"
            runs.append(Run(run_name, command, tuple(line), config, folder, values.init_from))
        trials.append(Trial(settings, tuple(runs)))
    compared = stops(len(trials), values.halving) if values.halving else []
    return Plan(arguments, trials, series, values.halving or 1, compared)


def _axes(values: flags.FlagValues, command: str, words: list[str]) -> list[Axis]:
    """Returns what --grid names, with values of the types of their keys."""
    if not values.grid:
        raise ConfigError(
            "--grid is missing: name a key and its values, like "
            "--grid optimizer.learning_rate=1e-5,3e-5,5e-5."
        )
    given = {word.partition("=")[0].partition("config.")[2] for word in words}
    found: list[Axis] = []
    for text in values.grid:
        axis = axis_of(text)
        if axis.key in ("seed", "task"):
            instead = "--seeds=0,1,2" if axis.key == "seed" else "a sweep for each task"
            raise ConfigError(f"--grid {text!r}: {axis.key} is not searched; expected {instead}.")
        if axis.key in given or axis.key in [one.key for one in found]:
            raise ConfigError(f"--grid {text!r}: {axis.key} is named twice; expected it once.")
        if not axis.values and values.random is None:
            raise ConfigError(f"--grid {text!r}: a range needs --random, the number of draws.")
        ends = axis.values or (f"{axis.low:g}", f"{axis.high:g}")
        try:
            configs = [
                parse(define_flags, [*words, f"--config.{axis.key}={value}"], command).config
                for value in ends
            ]
        except ConfigError as error:
            raise ConfigError(f"--grid {text!r}: {error}") from error
        read = [flatten(config.to_dict())[axis.key] for config in configs]
        if axis.values:
            twice = [value for number, value in enumerate(read) if value in read[:number]]
            if twice:
                raise ConfigError(f"--grid {text!r}: {twice[0]} would be tried twice.")
            axis = dataclasses.replace(axis, values=tuple(read))
        else:
            whole = key_type(configs[0], axis.key) is int
            axis = dataclasses.replace(axis, whole=whole)
        found.append(axis)
    return found


def _check(config: Config) -> None:
    """Raises ConfigError for numbers that no run would take."""
    check_numbers(config)
    OptimizerConfig(**config.optimizer)
    ScheduleConfig(**config.schedule)


def show(plan: Plan) -> None:
    """Prints the config of each run."""
    for trial in plan.trials:
        for one in trial.runs:
            print(f"# {one.name}", *key_flags(one.config), sep="\n")


def run(plan: Plan) -> None:
    """Makes the runs, then the table of the trials.

    Raises:
        ConfigError: the data or what the runs start from is not there; nothing was started.
        DataError: the data is damaged; nothing was started.
        PtftError: some runs failed; the table says which trials.
        StopError: a signal came; all runs have saved.
    """
    series, console, first = plan.series, make_console(), plan.trials[0].runs[0]
    check_start(first.source, first.command)
    kind_of(first.command, first.config)
    # What a trial's last score is of: a share of its updates.
    reached: list[tuple[Trial, Fraction]] = []
    going = plan.trials
    for share in plan.stops:
        series.make(_runs(going), share)
        ranked = series.ranked(going, share)
        kept = ranked[: max(1, len(going) // plan.factor)]
        say(console, f"at {share} of the updates {len(kept)} of {len(going)} trials go on")
        reached = [(trial, share) for trial in going if trial not in kept] + reached
        going = kept
    series.make(_runs(going))
    reached = [(trial, _END) for trial in going] + reached
    _write_table(plan, reached, console)
    series.check(len(_runs(plan.trials)))


def _runs(trials: Sequence[Trial]) -> list[Run]:
    return [one for trial in trials for one in trial.runs]


def _write_table(plan: Plan, reached: Sequence[tuple[Trial, Fraction]], console: Console) -> None:
    """Writes and prints the table, and the command line of what did best."""
    series, place = plan.series, plan.series.place
    ordered: list[tuple[Trial, Fraction]] = []
    for share in dict.fromkeys(share for _, share in reached):
        some = [trial for trial, one in reached if one == share]
        ordered += [(trial, share) for trial in series.ranked(some, _stop(share))]
    if not ordered:
        return
    best = ordered[0][0]
    entry = series.entry(best.runs[0], _stop(ordered[0][1]))
    assert entry is not None
    split, metric = metric_of(best.runs[0], entry["results"])
    better = best_of(best.runs[0])
    lost = [pair for pair in reached if pair not in ordered]
    lines = [
        _line(series, trial, share, better, pair_is_whole)
        for pairs, pair_is_whole in ((ordered, True), (lost, False))
        for trial, share in pairs
    ]
    name, seeds = f"{split} {metric}", len(best.runs)
    which = best.runs[0].folder.record().checkpoint
    head = [
        f"`ptft sweep {shlex.join(plan.arguments)}`",
        f"{len(plan.trials)} trials of {seeds} seed{'s' if seeds > 1 else ''}, by their median "
        f"{name} of the {which} checkpoint, best first; the best of many flatters",
    ]
    if plan.stops:
        shares = ", ".join(map(str, plan.stops))
        head.append(
            f"successive halving: at {shares} of the updates one in {plan.factor} went on, the "
            "others stopped there"
        )
    first = [one for one in lines if one.whole and one.share == lines[0].share]
    equal = [one for one in first if median(one.scores) == median(lines[0].scores)]
    if len(equal) > 1:
        head.append(f"{len(equal)} trials have the best score; the lower loss came first")
    head += series.remarks([run for trial, share in ordered if share == _END for run in trial.runs])
    text = markdown(lines, name, better, head)
    write_atomically(place / "table.md", text)
    write_atomically(place / "table.csv", as_csv(lines))
    write_atomically(place / "table.svg", picture(lines, name))
    console.print(text, markup=False, soft_wrap=True)
    what = {"best": folder_name(best.settings), "table": f"{place}/table.md"}
    what |= {"scores": f"{place}/table.csv", "picture": f"{place}/table.svg"}
    # The seeds of the sweep flatter what did best with them.
    new = max(run.config.seed for run in best.runs) + 1
    fresh = [f"--seeds={new},{new + 1},{new + 2}"]
    if best.runs[0].command == "pretrain":
        fresh = [f"--config.seed={new}"]
    words = tuple(word for word in best.runs[0].words if not word.startswith("--config.seed="))
    folder = RunFolder(place.with_name(f"{place.name}_best"))
    again = dataclasses.replace(best.runs[0], words=(*words, *fresh), folder=folder)
    following = [
        shlex.join(["ptft", *again.line]),
        f"ptft evaluate {flag('run_dir', best.runs[0].folder.path)} --checkpoint=best",
    ]
    made(console, "swept", what, following)


def _stop(share: Fraction) -> Fraction | None:
    return None if share == _END else share


def _line(series: Series, trial: Trial, share: Fraction, better: str, whole: bool) -> Line:
    found = [(one, series.entry(one, _stop(share))) for one in trial.runs]
    seconds = {one.name: series.seconds(one) for one, _ in found}
    entries: list[Mapping[str, Any]] = [
        {**entry, "seed": one.config.seed, "seconds": seconds[one.name]}
        for one, entry in found
        if entry is not None
    ]
    scores = series.scores(trial, _stop(share))
    scale = 100 if better == "max" else 1
    settings = dict(zip(short_names(trial.settings), trial.settings.values(), strict=True))
    return Line(settings, share, entries, [scale * score for score in scores], whole)
