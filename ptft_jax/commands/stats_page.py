"""The page of `ptft data stats`: one HTML file without scripts, fonts or pictures of others."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ptft_jax.commands.charts import Series, bars, columns, escaped, line, percent
from ptft_jax.commands.data_inspect import LABELS
from ptft_jax.commands.screen import count
from ptft_jax.data.corpus import Manifest
from ptft_jax.data.pretraining import PretrainingSettings
from ptft_jax.data.row_statistics import PackingStatistics, RowStatistics
from ptft_jax.data.statistics import SourceStatistics, TokenStatistics
from ptft_jax.data.tokenizer import TextTokenizer


class Measured(NamedTuple):
    """Everything that the page shows; `run_lengths` are those that the strategy's formula gives."""

    manifest: Manifest
    split: str
    settings: PretrainingSettings
    tokenizer: TextTokenizer
    sources: dict[str, list[SourceStatistics]]
    tokens: TokenStatistics
    rows: RowStatistics
    run_lengths: list[float]
    packing: PackingStatistics


def page(measured: Measured) -> str:
    """Returns the HTML."""
    settings = measured.settings
    sections = [
        ("Sources", _sources(measured)),
        ("Lengths of the text", _text_lengths(measured)),
        ("Rows", _rows(measured)),
        ("Packing", _packing(measured)),
        ("Predicted tokens", _masking(measured)),
        ("Tokens", _tokens(measured)),
    ]
    body = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections)
    about = (
        f"split {measured.split}, format {settings.input_format}, {settings.max_seq_length} "
        f"tokens, masking {settings.masking.masking}, {count(measured.rows.rows)} rows measured"
    )
    licence = measured.manifest.licence
    note = f"<p class='note'>Licence: {escaped(licence)}</p>" if licence else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\"><title>Corpus statistics"
        f"</title><style>{_STYLE}</style></head><body><main><h1>Corpus statistics</h1>"
        f"<p class='note'>{escaped(about)}</p>{note}{_tiles(measured)}{body}</main></body></html>\n"
    )


def _tiles(measured: Measured) -> str:
    split = measured.manifest.splits[measured.split]
    unknown = (
        "-"
        if measured.tokenizer.unk_token_id is None
        else percent(split.unknown_tokens / max(split.tokens, 1))
    )
    tiles = {
        "tokens": count(split.tokens),
        "documents": count(split.documents),
        "vocabulary": count(measured.tokens.vocab_size),
        "unknown": unknown,
        "places filled": percent(measured.rows.fill),
        "predicted": percent(measured.rows.rate),
    }
    return (
        "<div class='tiles'>"
        + "".join(
            f"<div><b>{escaped(value)}</b><span>{name}</span></div>"
            for name, value in tiles.items()
        )
        + "</div>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], texts: int = 1) -> str:
    """A table whose first `texts` columns hold texts and the others numbers."""
    kinds = ["text"] * texts + ["number"] * (len(head) - texts)
    titles = "".join(
        f"<th class='{kind}'>{escaped(name)}</th>" for kind, name in zip(kinds, head, strict=True)
    )
    lines = "".join(
        "<tr>"
        + "".join(
            f"<td class='{kind}'>{escaped(cell)}</td>"
            for kind, cell in zip(kinds, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<div class='wide'><table><tr>{titles}</tr>{lines}</table></div>"


def _sources(measured: Measured) -> str:
    rows = []
    for split, sources in measured.sources.items():
        for source in sources:
            unknown = "-" if source.unknown_rate is None else percent(source.unknown_rate)
            rows.append(
                (
                    split,
                    source.name,
                    f"{source.weight:g}",
                    count(source.documents),
                    count(source.sentences),
                    count(source.tokens),
                    unknown,
                    percent(source.weighted_share),
                )
            )
    head = (
        "split",
        "source",
        "weight",
        "documents",
        "sentences",
        "tokens",
        "unknown",
        "of an epoch",
    )
    shares = [(s.name, s.weighted_share) for s in measured.sources[measured.split]]
    duplicates = [
        (
            record.name,
            count(record.documents_read),
            count(record.exact_duplicates),
            count(record.near_duplicates),
        )
        for record in measured.manifest.sources
        if record.exact_duplicates or record.near_duplicates
    ]
    left_out = (
        _table(("source", "documents read", "exact duplicates", "near duplicates"), duplicates)
        if duplicates
        else ""
    )
    return (
        _table(head, rows, texts=2)
        + left_out
        + bars(f"Share of an epoch's tokens by source ({measured.split})", shares)
    )


def _text_lengths(measured: Measured) -> str:
    train, dev = (measured.manifest.splits[name] for name in ("train", "dev"))
    found = []
    for title, ours, theirs in (
        ("Tokens per document", train.document_lengths, dev.document_lengths),
        ("Tokens per sentence", train.sentence_lengths, dev.sentence_lengths),
    ):
        classes = max(len(ours), len(theirs))
        first = min([k for k, many in enumerate(ours) if many] + [classes - 1])
        labels = [_power(k) for k in range(first, classes)]
        found.append(
            columns(
                title,
                labels,
                Series("train", _shares(ours, classes)[first:]),
                Series("dev", _shares(theirs, classes)[first:]),
            )
        )
    return f"<div class='pair'>{''.join(found)}</div>"


def _shares(histogram: Sequence[int], length: int) -> list[float]:
    total = max(sum(histogram), 1)
    return [many / total for many in histogram] + [0.0] * (length - len(histogram))


def _power(exponent: int) -> str:
    """The class of lengths from 2**exponent on, by its first: 1, 2, 4, …, 1k, 2k, …, 1M."""
    for step, unit in ((20, "M"), (10, "k")):
        if exponent >= step:
            return f"{1 << exponent - step}{unit}"
    return str(1 << exponent)


def _rows(measured: Measured) -> str:
    rows = measured.rows
    width = -(-rows.row_length // 16)
    found = []
    for title, lengths in (
        ("Tokens per example", rows.example_lengths),
        ("Tokens per row", rows.row_tokens),
    ):
        counts = np.bincount((np.maximum(lengths, 1) - 1) // width, minlength=16).tolist()
        labels = [str(min((k + 1) * width, rows.row_length)) for k in range(len(counts))]
        found.append(columns(f"{title}, up to …", labels, Series("", _shares(counts, len(counts)))))
    examples = _shares(rows.examples_per_row, len(rows.examples_per_row))
    if measured.settings.packing:
        labels = [str(number) for number in range(len(examples))]
        found.append(columns("Examples per row", labels, Series("", examples)))
    if rows.labels:
        names = LABELS[measured.settings.input_format]
        total = max(sum(rows.labels), 1)
        found.append(
            bars("Labels", [(n, many / total) for n, many in zip(names, rows.labels, strict=True)])
        )
    return f"<div class='pair'>{''.join(found)}</div>"


def _packing(measured: Measured) -> str:
    packing = measured.packing
    rows = [
        ("one example per row", count(packing.unpacked_rows), "1", percent(1 - packing.padding)),
        (
            "packed",
            count(packing.packed_rows),
            f"{packing.mean_examples:.2f}",
            percent(packing.fill),
        ),
    ]
    used = "packs" if measured.settings.packing else "does not pack"
    return (
        _table(("", "rows per epoch", "examples per row", "places filled"), rows)
        + f"<p>This config {used}. Packing makes {packing.unpacked_rows / packing.packed_rows:.2f} "
        f"times fewer rows; planning {count(packing.planned_examples)} examples took "
        f"{packing.seconds_per_million:.1f} s per million examples.</p>"
    )


def _masking(measured: Measured) -> str:
    rows, masking = measured.rows, measured.settings.masking
    predicted = max(rows.predicted, 1)
    tokens = max(int(rows.row_tokens.sum()), 1)
    stays = 1 - masking.mask_replace_prob - masking.random_replace_prob
    mask = measured.tokenizer.mask_token
    table = _table(
        ("", "wanted", "found"),
        [
            (
                f"predicted, of all tokens ({percent(rows.wanted / tokens)} after rounding and "
                f"at most {masking.max_predictions_per_seq} per example)",
                percent(masking.masked_lm_prob),
                percent(rows.rate),
            ),
            (
                f"of these, {mask} in their place",
                percent(masking.mask_replace_prob),
                percent(rows.masked / predicted),
            ),
            (
                "a random token",
                percent(masking.random_replace_prob),
                percent(rows.random / predicted),
            ),
            ("the token itself", percent(stays), percent(rows.kept / predicted)),
            (
                "words predicted in part only",
                "0%" if masking.masking in ("whole_word", "ngram") else "-",
                percent(rows.partly_predicted_words / max(rows.predicted_words, 1)),
            ),
        ],
    )
    runs = rows.run_lengths[1:]
    labels = [str(number + 1) for number in range(max(len(runs), len(measured.run_lengths)))]
    labels = labels[:16]
    return (
        table
        + columns(
            f"Predicted words in a row: {masking.masking}",
            labels,
            Series("found", _shares(runs, len(labels))),
            Series("formula", measured.run_lengths),
        )
        + "<p class='note'>The formula is that of one choice. Runs that touch count as one here, "
        "and the end of a segment, or of the predictions of an example, cuts some short.</p>"
    )


def _tokens(measured: Measured) -> str:
    tokens, tokenizer = measured.tokens, measured.tokenizer
    names = [
        (tokenizer.text_of(index).replace(" ", "␣"), share) for index, share in tokens.frequent
    ]
    half = -(-len(names) // 2)
    curve = line(
        "Share of the text that the most frequent tokens make up",
        list(zip(map(float, tokens.ranks), tokens.covered, strict=True)),
        "most frequent tokens",
    )
    return (
        f"<p>{count(tokens.seen)} of {count(tokens.ordinary)} tokens of the vocabulary "
        f"({percent(tokens.seen / max(tokens.ordinary, 1))}) occur in the text looked at.</p>"
        f"<div class='pair'>{bars('The most frequent tokens', names[:half])}"
        f"{bars('… and the next', names[half:])}{curve}</div>"
    )


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #647084; --page: #f5f6f8; --card: #fff;
  --grid: #e4e7ec; --bar: #3f6fd8; --mark: #e0752d }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --page: #14171c;
  --card: #1d2128; --grid: #313742; --bar: #7ea2f0; --mark: #f0a061 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px }
h1 { font-size: 26px; margin: 0 0 4px }
h2 { font-size: 18px; margin: 0 0 14px }
.note { color: var(--soft); margin: 4px 0 }
section, .tiles div { background: var(--card); border: 1px solid var(--grid); border-radius: 10px }
section { padding: 20px 22px; margin-top: 20px }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px;
  margin-top: 20px }
.tiles div { padding: 12px 16px }
.tiles b { display: block; font-size: 21px; font-variant-numeric: tabular-nums }
.tiles span { color: var(--soft); font-size: 13px }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; margin: 0 0 14px;
  font-variant-numeric: tabular-nums }
th { color: var(--soft); font-weight: 500; font-size: 13px }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--grid) }
.text { text-align: left }
.number { text-align: right }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 8px 28px }
figure { margin: 8px 0; max-width: 560px }
figcaption { font-size: 14px; font-weight: 600; margin-bottom: 6px }
.key { font-weight: 400; color: var(--soft); margin-left: 14px }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 5px }
i.bar { background: var(--bar) }
i.mark { background: var(--mark); height: 3px; vertical-align: middle }
svg { display: block; width: 100%; height: auto }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink) }
svg .tick, svg .value { fill: var(--soft) }
svg .grid { stroke: var(--grid); stroke-width: 1 }
svg .bar { fill: var(--bar) }
svg .mark { stroke: var(--mark); stroke-width: 3 }
svg .curve { fill: none; stroke: var(--bar); stroke-width: 2.2 }
svg .dot { fill: transparent }
svg g:hover .bar { opacity: .75 }
"""
