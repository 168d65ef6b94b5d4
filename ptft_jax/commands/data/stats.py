"""ptft data stats --config=configs/pretrain/bert_tiny.py --config.data_dir=DATA --out_dir=STATS

Measures a corpus and the rows that a config makes of it.

Text is counted by source and split; lengths, masks, labels and packing are measured on the first
--rows rows of an epoch, whose order is random. STATS gets README.md with tables, stats.png with
charts, and stats.json with all numbers.
"""

import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from rich.box import MARKDOWN, SIMPLE_HEAD, Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptft_jax.commands.data.inspect import (
    LABELS,
    OpenedExamples,
    define_example_flags,
    open_examples,
    printable,
)
from ptft_jax.commands.parsing import required
from ptft_jax.commands.screen import count, facts, made, make_console
from ptft_jax.data.corpus import statistics
from ptft_jax.data.corpus.store import SPLITS, Corpus
from ptft_jax.data.pretraining import measure
from ptft_jax.errors import ConfigError
from ptft_jax.runs.config import check_place


class Measured(NamedTuple):
    """Everything that is shown."""

    opened: OpenedExamples
    sources: dict[str, list[statistics.SourceStatistics]]
    tokens: statistics.TokenStatistics
    rows: dict[str, Any]
    packing: dict[str, Any]


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_example_flags(values)
    flags.DEFINE_string("out_dir", None, "Folder to make for the report.", flag_values=values)
    flags.DEFINE_integer("rows", 2000, "Rows to measure.", 1, 100_000, flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    required(values, "out_dir")
    out_dir = Path(values.out_dir)
    check_place("out_dir", out_dir)
    if out_dir.is_dir() and any(out_dir.iterdir()):
        raise ConfigError(
            f"--out_dir={out_dir} is not empty: expected a new or empty folder. Remove its content "
            "or choose another path."
        )
    opened = open_examples(values.config, values.split, values.phase)
    console = make_console()
    facts(console, opened.describe())
    measured = _measure(opened, values.rows)
    numbers = json.dumps(_as_json(measured), indent=2, ensure_ascii=False) + "\n"
    report, charts = _report(measured), _charts(measured)
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "README.md").write_text(report, encoding="utf-8")
    (out_dir / "stats.json").write_text(numbers, encoding="utf-8")
    (out_dir / "stats.png").write_bytes(charts)
    console.print(_sources(measured, SIMPLE_HEAD))
    facts(console, _summary(measured))
    places = {"report": "README.md", "charts": "stats.png", "numbers": "stats.json"}
    made(console, "statistics", {what: f"{out_dir}/{name}" for what, name in places.items()}, [])


def _measure(opened: OpenedExamples, rows: int) -> Measured:
    """Measures all splits of the corpus that is open, and rows of its open split."""
    corpus, tokenizer, examples = opened
    sources = {}
    for split in SPLITS:
        # Its files were looked through when it was opened; those of the other splits are here.
        is_open = split == corpus.split
        here = corpus if is_open else Corpus.open(corpus.tokenizer_dir.parent, split)
        sources[split] = statistics.source_statistics(here, tokenizer)
    return Measured(
        opened,
        sources,
        statistics.token_statistics(sources[corpus.split], tokenizer),
        measure.row_statistics(examples, tokenizer, rows),
        measure.packing_statistics(examples, corpus, tokenizer, rows),
    )


def _as_json(measured: Measured) -> dict[str, Any]:
    """Returns all numbers, as JSON has them."""
    opened, tokens = measured.opened, dataclasses.asdict(measured.tokens)
    tokens["frequent"] = [
        {"id": index, "token": opened.tokenizer.token(index), "share": share}
        for index, share in tokens["frequent"]
    ]
    manifest = opened.corpus.manifest
    return {
        "split": opened.corpus.split,
        "settings": dataclasses.asdict(opened.examples.settings),
        "splits": {name: dataclasses.asdict(found) for name, found in manifest.splits.items()},
        "sources": {
            split: [{k: v for k, v in vars(source).items() if k != "id_counts"} for source in found]
            for split, found in measured.sources.items()
        },
        "warnings": manifest.warnings,
        "duplicates": {
            source.name: {"exact": source.exact_duplicates, "near": source.near_duplicates}
            for source in manifest.sources
        },
        "tokens": tokens,
        "rows": measured.rows,
        "packing": measured.packing,
    }


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _table(box: Box, head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> Table:
    """A table whose first `texts` columns hold texts and the others numbers."""
    table = Table(*head, box=box)
    for column in table.columns[texts:]:
        column.justify, column.no_wrap = "right", True
    for row in rows:
        # Names come from outside: no colour, no column and no HTML of theirs.
        cells = [printable(cell) for cell in row]
        if box is MARKDOWN:
            cells = [cell.replace("<", "&lt;").replace("|", "\\|") for cell in cells]
        table.add_row(*map(Text, cells))
    return table


def _sources(measured: Measured, box: Box) -> Table:
    head = ["split", "source", "weight", "documents", "sentences", "tokens", "unknown", "epoch"]
    rows = [
        [
            split,
            source.name,
            f"{source.weight:g}",
            *map(count, (source.documents, source.sentences, source.tokens)),
            "-" if source.unknown_rate is None else _percent(source.unknown_rate),
            _percent(source.weighted_share),
        ]
        for split, sources in measured.sources.items()
        for source in sources
    ]
    return _table(box, head, rows, texts=2)


def _summary(measured: Measured) -> dict[str, str]:
    """Returns what was measured in words, a line per fact."""
    rows, packing, tokens = measured.rows, measured.packing, measured.tokens
    settings = measured.opened.examples.settings
    masking, predicted = settings.masking, max(rows["predicted"], 1)
    stays = 1 - masking.mask_replace_prob - masking.random_replace_prob
    real = max(rows["fill"] * rows["rows"] * rows["row_length"], 1)
    in_part = rows["partly_predicted_words"] / max(rows["predicted_words"], 1)
    lines = {
        "predicted": f"{_percent(rows['predicted'] / real)} of the tokens "
        f"({_percent(masking.masked_lm_prob)} wanted, {_percent(rows['wanted'] / real)} after "
        "rounding and the limit per example): "
        f"{_percent(rows['masked'] / predicted)} masked ({masking.mask_replace_prob:.0%}), "
        f"{_percent(rows['random'] / predicted)} random ({masking.random_replace_prob:.0%}), "
        f"{_percent(rows['kept'] / predicted)} kept ({stays:.0%}); {_percent(in_part)} of the "
        "predicted words in part only",
        "unpacked": f"{count(packing['unpacked_rows'])} rows in an epoch, "
        f"{_percent(packing['padding'])} padding",
        "packed": f"{count(packing['packed_rows'])} rows in an epoch, "
        f"{_percent(packing['fill'])} full, {packing['mean_examples']:.2f} examples in each; "
        f"planned in {packing['seconds_per_million']:.1f} s per million examples",
        "vocabulary": f"{count(tokens.seen)} of {count(tokens.ordinary)} tokens occur",
    }
    if rows["labels"]:
        total = max(sum(rows["labels"]), 1)
        named = zip(LABELS[settings.input_format], rows["labels"], strict=True)
        lines["labels"] = ", ".join(f"{name} {_percent(many / total)}" for name, many in named)
    return lines


def _report(measured: Measured) -> str:
    """Returns the tables as Markdown."""
    opened = measured.opened
    manifest = opened.corpus.manifest
    frequent = [
        (str(index), opened.tokenizer.text_of(index).replace(" ", "␣"), _percent(share))
        for index, share in measured.tokens.frequent
    ]
    licence = {"licence": manifest.licence} if manifest.licence else {}
    about = opened.describe() | licence | _summary(measured)
    text = io.StringIO()
    page = Console(file=text, markup=False, emoji=False, width=10_000, color_system=None)
    page.print("# Corpus statistics\n", _table(MARKDOWN, ("", ""), about.items(), texts=2))
    if manifest.warnings:
        rows = [(warning,) for warning in manifest.warnings]
        page.print("\n## Warnings of the preparation\n", _table(MARKDOWN, ("",), rows))
    page.print("\n![Lengths, predicted words in a row, use of the vocabulary](stats.png)\n")
    page.print("## Sources\n", _sources(measured, MARKDOWN))
    head = ("id", "token", "of the text")
    page.print("## The most frequent tokens\n", _table(MARKDOWN, head, frequent, texts=2))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _charts(measured: Measured) -> bytes:
    """Returns the charts as PNG: shares (0 to 1) of lengths, of runs, of the text covered."""
    # Takes a second to import. A Figure of its own draws with Agg and needs no screen.
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    rows, tokens = measured.rows, measured.tokens
    splits = measured.opened.corpus.manifest.splits
    figure = Figure(figsize=(15, 8), layout="constrained")
    document, sentence, length, packed, runs, covered = panels = list(figure.subplots(2, 3).flat)

    def shares(counts: Sequence[int] | np.ndarray) -> np.ndarray:
        return np.asarray(counts) / max(np.sum(counts), 1)

    for split, counts in splits.items():
        # Entry k counts the lengths from 2**k on.
        lengths = (counts.document_lengths, counts.sentence_lengths)
        for axes, found in zip((document, sentence), lengths, strict=True):
            axes.stairs(shares(found), 2.0 ** np.arange(len(found) + 1), label=split)
            axes.set_xscale("log", base=2)
    edges = np.linspace(0, rows["row_length"], min(rows["row_length"], 32) + 1)
    for name in ("example", "row"):
        many = rows[f"{name}_lengths"]
        found = np.histogram(range(len(many)), edges, weights=many)[0]
        length.stairs(shares(found), edges, label=name)
    packed.bar(range(len(rows["examples_per_row"])), shares(rows["examples_per_row"]))
    packed.xaxis.get_major_locator().set_params(integer=True)
    found, formula = rows["run_lengths"][1:], rows["run_lengths_of_formula"]
    runs.bar(range(1, len(found) + 1), shares(found), label="found")
    runs.plot(range(1, len(formula) + 1), formula, "o", color="C1", label="formula of one choice")
    covered.plot(tokens.ranks, tokens.covered)
    covered.set_xscale("log")
    titles = ("Tokens per document", "Tokens per sentence", "Tokens per example and per row")
    titles += ("Examples per row", "Predicted words in a row", "Text in the n most frequent tokens")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(0)
    for axes in (document, sentence, length, runs):
        axes.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    return png.getvalue()
