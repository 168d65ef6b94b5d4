"""RUN/report.html: one file with nothing from elsewhere in it, and no script."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptft_jax.runs.config import flatten
from ptft_jax.runs.defaults import for_task
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.record import RunRecord
from ptft_jax.runs.report.chart import Series, chart
from ptft_jax.runs.report.html import Html, element, joined, section, side_by_side, table
from ptft_jax.runs.report.parts import Analysis
from ptft_jax.runs.report.style import STYLE
from ptft_jax.training.resources.storage import write_atomically
from ptft_jax.training.tracking.metric_sinks import read_metrics

# Whatever got into the page all the same: a browser runs and loads nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

Results = Mapping[str, Mapping[str, Any]]


def write_report(
    path: Path,
    folder: RunFolder,
    step: int,
    results: Results,
    analyses: Mapping[str, Analysis],
    num_train: int,
) -> None:
    """Writes the page of a fine-tuned run.

    Args:
        path: of the file.
        folder: of the run.
        step: the checkpoint that was scored.
        results: the metrics by split, as in results.json.
        analyses: what there is to say of each split.
        num_train: the training examples of the data that is scored, which need not be the run's.
    """
    record = folder.record()
    task = record.config["task"]
    title = f"{folder.path.resolve().name}: {task}"
    body = [
        element("header", element("h1", title), _facts(record, step, analyses, num_train)),
        _scores(results, analyses),
        _curves(read_metrics(folder.path / "metrics.jsonl"), record),
    ]
    for split, found in analyses.items():
        heading = element("h2", split, " ", element("small", found.counted))
        body.append(element("div", heading, found.sections, id=f"split-{split}"))
    body.append(_settings(record, folder))
    head = element(
        "head",
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("title", title),
        element("style", Html(STYLE)),
    )
    page = element("html", head, element("body", element("main", body)), lang="en")
    write_atomically(path, f"<!doctype html>\n{page}\n")


def _facts(record: RunRecord, step: int, analyses: Mapping[str, Analysis], num_train: int) -> Html:
    model, config = record.encoder_config, record.config
    facts = {
        "task": config["task"],
        "trained for": f"{step:,} updates of {config['batch_size']} examples",
        "scored": "; ".join(f"{name}: {one.counted}" for name, one in analyses.items())
        + f"; of data with {num_train:,} training examples",
        "model": f"{model.num_hidden_layers} layers of width {model.hidden_size}, "
        f"vocabulary of {model.vocab_size:,}",
        "from": record.init_from,
    }
    pairs = [(element("dt", name), element("dd", value)) for name, value in facts.items()]
    return element("dl", pairs)


def _scores(results: Results, analyses: Mapping[str, Analysis]) -> Html:
    rows = []
    for split, metrics in results.items():
        intervals = analyses[split].intervals if split in analyses else {}
        for name, value in metrics.items():
            if "/" in name:  # of a part of the split, which has a table of its own
                continue
            low, high = intervals.get(name, (None, None))
            reach = "-" if low is None else f"{low:.4f} to {high:.4f}"
            rows.append((split, name, "-" if value is None else f"{value:.4f}", reach))
    return section(
        "Scores",
        table(["split", "metric", "value", "95 % interval"], rows),
        element(
            "p",
            "Intervals are of the choice of the examples: Wilson's for shares, else percentiles of "
            "a bootstrap over examples (questions, sentences). How much another seed changes is "
            "not in them.",
            class_="aside",
        ),
    )


def _curves(entries: Sequence[Mapping[str, Any]], record: RunRecord) -> Html | None:
    train = [entry for entry in entries if "split" not in entry]
    scored = [entry for entry in entries if "split" in entry]
    if not train or not scored:
        return None

    def series(some: Sequence[Mapping[str, Any]], key: str, label: str = "") -> Series:
        pairs = [(one["step"], one[key]) for one in some if one.get(key) is not None]
        return Series([x for x, _ in pairs], [y for _, y in pairs], label)

    splits = {}
    for entry in scored:
        splits.setdefault(entry["split"], []).append(entry)
    best, _ = record.best or ("dev_loss", "min")
    metric = next(best.removeprefix(f"{name}_") for name in splits if best.startswith(f"{name}_"))
    losses = [series(train, "loss", "train"), *(series(s, "loss", n) for n, s in splits.items())]
    scores = [series(some, metric, name) for name, some in splits.items()]
    rate = series(train, "learning_rate")
    return section(
        "Curves",
        side_by_side(
            chart("Loss", losses, x="update", y="loss"),
            chart(metric, scores, x="update", y=metric),
            chart("Learning rate", [rate], x="update", y="learning rate") if rate.xs else None,
        ),
    )


def _settings(record: RunRecord, folder: RunFolder) -> Html:
    config = flatten(record.config)
    usual = flatten(for_task(record.config["task"]).to_dict())
    rows = [
        (key, _code(value), _code(usual.get(key)))
        for key, value in config.items()
        if _plain(value) != _plain(usual.get(key))
    ]
    again = ["ptft", "finetune", f"--config={folder.path}", "--run_dir=NEW_DIR"]
    again.insert(3, f"--init_from={record.init_from}")
    return joined(
        [
            section(
                "Settings that are not the defaults",
                table(["key", "here", "default of the kind"], rows),
                element(
                    "p",
                    "The defaults are those of all tasks of this kind; a config file starts from "
                    "them and may set others itself.",
                    class_="aside",
                ),
            ),
            section("To make it again", element("pre", " ".join(map(shlex.quote, again)))),
        ]
    )


def _code(value: Any) -> Html:
    """A value as Python writes it, lists as the tuples that configs have."""
    return element("code", str(tuple(value) if isinstance(value, list) else value))


def _plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    return list(value) if isinstance(value, tuple) else value
