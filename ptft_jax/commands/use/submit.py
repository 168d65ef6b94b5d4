"""Official files of predictions, of one run or of all tasks of a benchmark: a folder or a zip."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from ptft_jax.commands.screen import (
    flag,
    made,
    make_console,
    progress_bars,
    say,
    warnings_as_lines,
)
from ptft_jax.data.tasks.catalogue import find_task, tasks_of
from ptft_jax.data.tasks.submissions import COMPLETE, check_file
from ptft_jax.errors import ConfigError
from ptft_jax.runs.folder import RunFolder, TrainedRun, open_run
from ptft_jax.runs.trained.asking.predictions import predict
from ptft_jax.runs.trained.asking.splits import (
    answers_of,
    ids_of,
    split_of,
    submission_of,
    texts_of,
    words_of,
)
from ptft_jax.training.resources.storage import write_atomically


def is_submission(output: str | None) -> bool:
    """Says whether an output is official files: a .zip, or a folder of them."""
    return output is not None and Path(output).suffix in ("", ".zip")


def submit(values: flags.FlagValues) -> None:
    """Predicts the test splits of one run, or of the best run of each task in a folder of runs.

    The files of a .zip stand in a folder of its name, where those that are there already are
    checked and kept.

    Raises:
        ConfigError: a task or split is lacking, or a task has no official form.
        DataError: a file that is there already holds other examples' predictions.
    """
    if values.split != "test":
        raise ConfigError(
            f"--split={values.split} --output={values.output}: official files hold predictions of "
            "test splits; expected --split=test, or an output .jsonl, .csv or .tsv."
        )
    output = Path(values.output)
    if output.is_file() and output.suffix == "":
        raise ConfigError(f"--output={output} is a file; expected a folder, or a .zip to make.")
    folder = output.with_suffix("")
    console = make_console()
    names: list[str] = []
    asked = _splits(_runs(Path(values.run_dir)), values.checkpoint, values.data_dir)
    for place, splits in asked.items():
        names += _write(open_run(place, values.checkpoint), splits, folder, console)
    what: dict[str, Any] = {"files": ", ".join(names)}
    if output.suffix == ".zip":
        _zip(output, [folder / name for name in names])
        what = {"zip": str(output)} | what
    what["folder"] = str(folder)
    made(console, "predicted", what, [f"ptft evaluate {flag('run_dir', values.run_dir)}"])


def _runs(place: Path) -> list[Path]:
    """Returns a run's folder, or of a folder of runs the best one of each task of a benchmark."""
    if RunFolder(place).exists():
        return [place]
    found: dict[str, list[tuple[float, Path]]] = {}
    for file in sorted([*place.glob("*/config.json"), *place.glob("*/*/config.json")]):
        folder = RunFolder(file.parent)
        record = folder.record()
        task, results = record.config.get("task", ""), folder.results()
        if record.best is None or not results or not getattr(_row(task), "submission", None):
            continue
        found.setdefault(task, []).append((_score(record.best[0], results), file.parent))
    suites = {_row(task).suite for task in found}
    if len(suites) != 1:
        raise ConfigError(
            f"--run_dir={place}: expected a run, or a folder with finished runs on the tasks of "
            f"one of GLUE, SuperGLUE and CLUE; there are tasks of {', '.join(suites) or 'none'}."
        )
    suite = suites.pop()
    lacking = [name for name in tasks_of(suite) if name not in found]
    if lacking and suite in COMPLETE:
        raise ConfigError(
            f"--run_dir={place} has no finished run on {', '.join(lacking)}: the server wants the "
            f"files of all tasks. `ptft finetune --config=configs/finetune/{suite}.py:all` makes "
            "what is missing."
        )
    # The highest score, the first seed of equal ones.
    return [max(runs, key=lambda one: one[0])[1] for runs in found.values()]


def _row(task: str) -> Any:
    return find_task(task) if task else None


def _score(best: str, results: dict[str, Any]) -> float:
    for split, metrics in results.items():
        if best.startswith(f"{split}_") and isinstance(metrics, dict):
            return metrics[best.removeprefix(f"{split}_")]
    return 0.0


def _splits(
    places: Sequence[Path], checkpoint: str | None, data: str | None
) -> dict[Path, dict[str, Any]]:
    """Returns the splits that each run predicts, by name; one error names all that are not there.

    So that it is known before the first prediction, of which all together take hours.
    """
    found: dict[Path, dict[str, Any]] = {}
    lacking = []
    for place in places:
        run = open_run(place, checkpoint)
        submission = submission_of(run)
        if not (data or run.config.data_dir):
            raise ConfigError(
                f"{place} was trained on TFDS, which has another order: name the folder of the "
                "benchmark's own files by --data_dir."
            )
        for name in submission.files:
            try:
                found.setdefault(place, {})[name] = split_of(run, name, data)
            except ConfigError as error:
                lacking.append(f"{place}, {name}: {error}")
    if lacking:
        raise ConfigError("nothing was predicted: " + "; and ".join(lacking))
    return found


def _write(run: TrainedRun, splits: Mapping[str, Any], folder: Path, console: Console) -> list[str]:
    """Writes the files of one task that are not there yet; returns their names."""
    submission = submission_of(run)
    words = words_of(run, submission)
    for name, file in submission.files.items():
        split, path = splits[name], folder / file
        ids = ids_of(split)
        if path.is_file():
            check_file(path, submission.layout, ids, words)
            say(console, f"{path} is there already, with all {len(ids):,} predictions")
            continue
        with warnings_as_lines(), progress_bars(Console(stderr=True)) as bars:
            found = predict(
                run,
                texts_of(split),
                1,
                lambda done, total, file=file: bars(f"Predicting {file}", done, total),
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        answers = answers_of(run, submission, split, found)
        write_atomically(path, submission.layout.write(ids, answers))
    return list(submission.files.values())


def _zip(output: Path, files: Sequence[Path]) -> None:
    """Packs files without folders, in one move."""
    kept = output.with_name(f".{output.name}.part")
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    kept.replace(output)
