"""ptft evaluate --run_dir=RUN [--checkpoint=last|best|STEP] [--split=test] [--data_dir=OTHER]

Computes a run's own metrics again from one of its checkpoints, and shows them beside results.json;
or those of another split, or of other data of the same form, a folder like config.data_dir. With
--report=FILE.html a page on what was scored: errors, calibration, slices (docs/finetuning.md).
"""

from pathlib import Path

from absl import flags
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ptft_jax.commands.parsing import required
from ptft_jax.commands.screen import (
    exporting,
    flag,
    made,
    make_console,
    say,
    short,
    warnings_as_lines,
)
from ptft_jax.commands.train.flags import define_job_flags, job_of
from ptft_jax.runs.folder import TrainedRun, open_run
from ptft_jax.runs.train import Results
from ptft_jax.runs.trained.evaluate import evaluate
from ptft_jax.training.cluster.agreement import agree, software
from ptft_jax.training.tracking.metric_sinks import write_results

_FLAGS = ("run_dir", "checkpoint", "data_dir", "split", "report")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_reading_flags(values)
    text = "Other data to score, in the form of the run's own."
    flags.DEFINE_string("data_dir", None, text, flag_values=values)
    text = "Split to score, like test; else those that are scored in training."
    flags.DEFINE_string("split", None, text, flag_values=values)
    text = "File for a page on the scores of a fine-tuned run, such as report.html."
    flags.DEFINE_string("report", None, text, flag_values=values)
    define_job_flags(values)


def define_reading_flags(values: flags.FlagValues, folder: str = "Folder of the run.") -> None:
    """Defines the flags of every command that reads a run; `folder` says which ones."""
    flags.DEFINE_string("run_dir", None, folder, flag_values=values)
    text = "Which checkpoint: last, best or a step; else the last, the best of a run with patience."
    flags.DEFINE_string("checkpoint", None, text, flag_values=values)


# For commands that read both.
RUN_OR_HF = "Folder of a run, or a Hugging Face folder."
TASK = "Of a run on several tasks the one that is meant."


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    required(values, "run_dir")
    with job_of(values) as job:
        arguments = {name: values[name].value for name in _FLAGS}
        agree(job, "command line and software", {**arguments, **software()})
        opened = open_run(values.run_dir, values.checkpoint)
        with warnings_as_lines():
            results = evaluate(opened, values.data_dir, job, values.split, values.report)
        own = values.data_dir is None and values.split is None
        show(opened, results, beside=own)
        usual = opened.record.checkpoint
        which = values.checkpoint or usual
        lacks = which == usual and not opened.folder.results()
        if own and lacks and job.is_first:
            write_results(opened.folder.path, {**results, "step": opened.step})
            say(make_console(), f"wrote {opened.folder.results_file}")
    asked = [] if which == usual else [flag("checkpoint", which)]
    name = Path(values.run_dir).resolve().name
    made(
        make_console(),
        "evaluated",
        {"run": values.run_dir, "checkpoint": which}
        | ({} if values.data_dir is None else {"data": values.data_dir})
        | ({"report": values.report} if values.report and Path(values.report).is_file() else {}),
        [exporting(opened.record, values.run_dir, name, *asked)],
    )


def show(run: TrainedRun, results: Results, *, beside: bool = True) -> None:
    """Prints metrics, `beside` those of results.json where they are of the same step."""
    stored = run.folder.results()
    same_step = beside and stored.get("step") == run.step
    table = Table("split", "metric", f"step {run.step}", box=SIMPLE_HEAD)
    if same_step:
        table.add_column("results.json")
    for split, metrics in results.items():
        for name, value in metrics.items():
            before = [short(stored.get(split, {}).get(name))] if same_step else []
            table.add_row(split, name, short(value), *before)
    make_console().print(table)
