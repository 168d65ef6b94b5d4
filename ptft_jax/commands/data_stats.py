"""ptft data stats --config=configs/pretrain/bert_tiny.py --config.data_dir=DATA --out_dir=STATS

Measures a corpus and the rows that a config makes of it, and writes a page with charts.

Text is counted by source and split; lengths, masks, labels and packing are measured on the first
--rows rows of an epoch, whose order is random. STATS gets index.html, which needs nothing else to
be read, and stats.json with the same numbers.
"""

import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ptft_jax.commands.charts import percent
from ptft_jax.commands.data_examples import (
    OpenedExamples,
    define_example_flags,
    open_examples,
)
from ptft_jax.commands.data_inspect import LABELS, printable
from ptft_jax.commands.screen import count, facts, made, make_console, progress_bars
from ptft_jax.commands.settings import check_place
from ptft_jax.commands.stats_page import Measured, page
from ptft_jax.data.corpus import SPLITS, Corpus
from ptft_jax.data.progress import Progress
from ptft_jax.data.row_statistics import packing_statistics, row_statistics, run_length_shares
from ptft_jax.data.statistics import source_statistics, token_statistics
from ptft_jax.errors import ConfigError


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_example_flags(values)
    flags.DEFINE_string("out_dir", None, "Folder to make for the page.", flag_values=values)
    flags.DEFINE_integer("rows", 2000, "Rows to measure.", lower_bound=1, flag_values=values)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    if positional:
        raise ConfigError(f"{positional[0]!r}: expected flags only, like --rows=1000.")
    if not values.out_dir:
        raise ConfigError("--out_dir is missing: name the folder to make for the page.")
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
    with progress_bars(console) as progress:
        measured = measure(opened, values.rows, progress)
    write(out_dir, measured)
    console.print(_sources_table(measured))
    facts(console, summary(measured))
    made(
        console,
        "statistics",
        {"page": f"{out_dir}/index.html", "numbers": f"{out_dir}/stats.json"},
        [],
    )


def measure(opened: OpenedExamples, rows: int, progress: Progress) -> Measured:
    """Measures the corpus that is open, all splits of it, and rows of its open split."""
    corpus, tokenizer, examples = opened
    data_dir = corpus.tokenizer_dir.parent
    steps = len(SPLITS) + 2
    sources = {}
    for number, split in enumerate(SPLITS):
        progress("Measuring", number, steps)
        # Its files were looked through when it was opened; those of the other splits are here.
        here = corpus if split == corpus.split else Corpus.open(data_dir, split)
        sources[split] = source_statistics(here, tokenizer)
    progress("Measuring", steps - 2, steps)
    measured_rows = row_statistics(examples, tokenizer, rows)
    progress("Measuring", steps - 1, steps)
    packing = packing_statistics(examples, corpus, tokenizer, rows)
    progress("Measuring", steps, steps)
    return Measured(
        manifest=corpus.manifest,
        split=corpus.split,
        settings=examples.settings,
        tokenizer=tokenizer,
        sources=sources,
        tokens=token_statistics(sources[corpus.split], tokenizer),
        rows=measured_rows,
        run_lengths=run_length_shares(examples.settings.masking, measured_rows),
        packing=packing,
    )


def write(out_dir: Path, measured: Measured) -> None:
    """Writes the page and the numbers; the folder appears when both are complete."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        numbers = json.dumps(as_json(measured), indent=2, ensure_ascii=False) + "\n"
        for name, text in (("index.html", page(measured)), ("stats.json", numbers)):
            (partial / name).write_text(text, encoding="utf-8")
        partial.chmod(0o755)  # mkdtemp makes private folders; this one is for others to read
        os.replace(partial, out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def as_json(measured: Measured) -> dict[str, Any]:
    """Returns all numbers of the page, as JSON has them."""
    rows, tokens = measured.rows, measured.tokens
    return {
        "split": measured.split,
        "settings": dataclasses.asdict(measured.settings),
        "splits": {
            name: dataclasses.asdict(counts) for name, counts in measured.manifest.splits.items()
        },
        "sources": {
            split: [
                {
                    name: value
                    for name, value in vars(source).items()
                    if not isinstance(value, np.ndarray)
                }
                for source in sources
            ]
            for split, sources in measured.sources.items()
        },
        "duplicates": {
            source.name: {"exact": source.exact_duplicates, "near": source.near_duplicates}
            for source in measured.manifest.sources
        },
        "tokens": {
            "vocab_size": tokens.vocab_size,
            "ordinary": tokens.ordinary,
            "seen": tokens.seen,
            "frequent": [
                {"id": index, "token": measured.tokenizer.token(index), "share": share}
                for index, share in tokens.frequent
            ],
            "covered": [
                {"most_frequent": rank, "share": share}
                for rank, share in zip(tokens.ranks, tokens.covered, strict=True)
            ],
        },
        "rows": {
            "measured": rows.rows,
            "length": rows.row_length,
            "fill": rows.fill,
            "examples_per_row": list(rows.examples_per_row),
            "example_lengths": np.bincount(rows.example_lengths).tolist(),
            "row_tokens": np.bincount(rows.row_tokens).tolist(),
        },
        "masking": {
            "tokens": int(rows.row_tokens.sum()),
            "predicted": rows.predicted,
            "wanted": rows.wanted,
            "masked": rows.masked,
            "random": rows.random,
            "kept": rows.kept,
            "words": rows.words,
            "predicted_words": rows.predicted_words,
            "partly_predicted_words": rows.partly_predicted_words,
            "run_lengths": list(rows.run_lengths),
            "run_lengths_of_formula": measured.run_lengths,
        },
        "labels": list(rows.labels),
        "packing": dataclasses.asdict(measured.packing),
    }


def _sources_table(measured: Measured) -> Table:
    table = Table(
        "split", "source", "weight", "documents", "sentences", "tokens", "unknown", "of an epoch",
        box=SIMPLE_HEAD,
    )  # fmt: skip
    for column in table.columns[2:]:
        column.justify = "right"
    for split, sources in measured.sources.items():
        for source in sources:
            table.add_row(
                split,
                printable(source.name),
                f"{source.weight:g}",
                count(source.documents),
                count(source.sentences),
                count(source.tokens),
                "-" if source.unknown_rate is None else percent(source.unknown_rate),
                percent(source.weighted_share),
            )
    return table


def summary(measured: Measured) -> dict[str, str]:
    """Returns what was measured in words, a line per fact."""
    rows, packing, masking = measured.rows, measured.packing, measured.settings.masking
    stays = 1 - masking.mask_replace_prob - masking.random_replace_prob
    predicted = max(rows.predicted, 1)
    lines = {
        "predicted": f"{percent(rows.rate)} of the tokens ({percent(masking.masked_lm_prob)} "
        f"wanted): {percent(rows.masked / predicted)} masked ({masking.mask_replace_prob:.0%}), "
        f"{percent(rows.random / predicted)} random ({masking.random_replace_prob:.0%}), "
        f"{percent(rows.kept / predicted)} kept ({stays:.0%})",
        "unpacked": f"{count(packing.unpacked_rows)} rows in an epoch, {percent(packing.padding)} "
        "padding",
        "packed": f"{count(packing.packed_rows)} rows in an epoch, {percent(packing.fill)} full, "
        f"{packing.mean_examples:.2f} examples in each; planned in "
        f"{packing.seconds_per_million:.1f} s per million examples",
        "vocabulary": f"{count(measured.tokens.seen)} of {count(measured.tokens.ordinary)} tokens "
        "occur",
    }
    if rows.labels:
        names = LABELS[measured.settings.input_format]
        shares = [share / max(sum(rows.labels), 1) for share in rows.labels]
        lines["labels"] = ", ".join(
            f"{name} {percent(share)}" for name, share in zip(names, shares, strict=True)
        )
    return lines
