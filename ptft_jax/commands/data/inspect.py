"""ptft data inspect --config=configs/pretrain/bert_tiny.py --config.data_dir=DATA [--index=0]

Prints rows as the model gets them: the text with what is predicted in it, the segments, the label
of each pair, and in packed rows the examples apart. Row 0 of epoch 0 is the first of a run.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from absl import flags
from rich.console import Console
from rich.text import Text

from ptft_jax.commands.screen import count, facts, make_console
from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.examples import PretrainingExamples
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.runs.config import Config, require_data_dir
from ptft_jax.runs.phases import phase_of, pretraining_settings

# What a label says, by format; the others have none.
LABELS = {"nsp": ("B follows A", "B is random"), "sop": ("in order", "swapped")}
_STYLES = {
    "text": "",
    "special": "cyan",
    "unknown": "red",
    "masked": "bold magenta",
    "random": "bold yellow",
    "kept": "bold green",
}
_SEGMENT_STYLES = ("", "blue")


class OpenedExamples(NamedTuple):
    """A split of a corpus with the examples that a phase of a run makes of it."""

    corpus: Corpus
    tokenizer: TextTokenizer
    examples: PretrainingExamples

    def describe(self) -> dict[str, str]:
        """Returns in words what the examples are, a line per fact."""
        settings = self.examples.settings
        form = "packed rows" if settings.packing else "rows"
        return {
            "data": f"{self.corpus.tokenizer_dir.parent}, {self.corpus.split}: "
            f"{count(self.corpus.num_tokens)} tokens, {count(self.corpus.num_documents)} documents",
            "examples": f"{settings.input_format}, {settings.max_seq_length} tokens; an epoch has "
            f"{count(len(self.examples))} {form}",
            "masking": f"{settings.masking.masking}, {settings.masking.masked_lm_prob:.4g} of the "
            f"tokens, at most {settings.masking.max_predictions_per_seq} per example",
        }


def define_example_flags(values: flags.FlagValues) -> None:
    """Defines the flags that say which examples of a config are meant."""
    flags.DEFINE_string("split", "train", "Split of the corpus.", flag_values=values)
    flags.DEFINE_integer("phase", 1, "Phase of the run, from 1 on.", flag_values=values)


def open_examples(config: Config, split: str, phase: int) -> OpenedExamples:
    """Opens the corpus at `config.data_dir` and cuts it as phase `phase` of the run does.

    Raises:
        ConfigError: no `data_dir`, no such split or phase, or settings that cannot be.
        DataError: the corpus is damaged.
    """
    data_dir = require_data_dir(config, "a folder made by `ptft prepare`")
    settings = pretraining_settings(phase_of(config, phase))
    corpus = Corpus.open(data_dir, split)
    tokenizer = TextTokenizer.load(corpus.tokenizer_dir)
    return OpenedExamples(corpus, tokenizer, PretrainingExamples(corpus, tokenizer, settings))


class ShownToken(NamedTuple):
    """A token of a row: a key of the styles, its spelling, whether a space goes before it.

    `replaced` is what stands there instead if it is predicted, "" if nothing does.
    """

    kind: str
    text: str
    begins_word: bool
    replaced: str = ""


class ShownExample(NamedTuple):
    """An example in a row.

    `start` is the place of its first token in the row, `position` that token's position in the
    model. `segments` are A and B, or the only one. `label` is -1 where there is none.
    """

    start: int
    position: int
    segments: list[list[ShownToken]]
    label: int

    def kinds(self) -> list[str]:
        return [token.kind for segment in self.segments for token in segment]


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_example_flags(values)
    flags.DEFINE_integer("epoch", 0, "Epoch to look at.", flag_values=values)
    flags.DEFINE_integer("index", 0, "The first row to show, in the epoch.", flag_values=values)
    flags.DEFINE_integer("rows", 4, "Rows to show.", lower_bound=1, flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    opened = open_examples(values.config, values.split, values.phase)
    examples = opened.examples
    first, end = values.index, len(examples)
    if not 0 <= first < end:
        raise ConfigError(
            f"--index={first}: an epoch of the {values.split} split has {count(end)} rows here; "
            f"expected 0 to {end - 1} (--epoch=1 is the epoch after the first)."
        )
    if values.epoch < 0:
        raise ConfigError(f"--epoch={values.epoch}: expected 0 or more.")
    console = make_console()
    facts(console, opened.describe())
    console.print(_legend(), soft_wrap=True)
    settings = examples.settings
    for index in range(first, min(first + values.rows, end)):
        row = examples[values.epoch * end + index]
        console.print(Text(f"\nrow {index}", "bold"))
        show_row(console, shown_examples(row, opened.tokenizer), settings.input_format)
        padding = int(settings.max_seq_length - row["attention_mask"].sum())
        console.print(f"  padding: {padding} of {settings.max_seq_length} places")


def shown_examples(row: Mapping[str, np.ndarray], tokenizer: TextTokenizer) -> list[ShownExample]:
    """Takes a row (without the batch axis) apart into its examples, in their order."""
    real = row["masked_lm_weights"] > 0
    places, originals = row["masked_lm_positions"][real], row["masked_lm_ids"][real]
    predicted = dict(zip(places.tolist(), originals.tolist(), strict=True))
    number = row.get("segment_ids", row["attention_mask"])
    positions = row.get("position_ids", np.arange(len(number)))
    found = []
    for example in range(1, int(number.max()) + 1):
        places = np.flatnonzero(number == example)
        segments: dict[int, list[ShownToken]] = {}
        for place in places.tolist():
            token = _shown_token(int(row["input_ids"][place]), predicted.get(place), tokenizer)
            segments.setdefault(int(row["token_type_ids"][place]), []).append(token)
        label = -1
        if "next_sentence_labels" in row and row["next_sentence_weights"][example - 1]:
            label = int(row["next_sentence_labels"][example - 1])
        start = int(places[0])
        parts = [segments[number] for number in sorted(segments)]
        found.append(ShownExample(start, int(positions[start]), parts, label))
    return found


def _shown_token(token_id: int, original: int | None, tokenizer: TextTokenizer) -> ShownToken:
    if original is None:
        text = tokenizer.text_of(token_id)
        if token_id in (tokenizer.cls_token_id, tokenizer.sep_token_id):
            return ShownToken("special", text, True)
        kind = "unknown" if token_id == tokenizer.unk_token_id else "text"
        return ShownToken(kind, *_spelled(token_id, tokenizer))
    text, begins_word = _spelled(original, tokenizer)
    if token_id == original:
        return ShownToken("kept", text, begins_word)
    kind = "masked" if token_id == tokenizer.mask_token_id else "random"
    return ShownToken(kind, text, begins_word, printable(tokenizer.text_of(token_id).strip()))


def _spelled(token_id: int, tokenizer: TextTokenizer) -> tuple[str, bool]:
    """A token's own characters, and whether a space goes before them."""
    text = tokenizer.text_of(token_id)
    goes_on = bool(tokenizer.continues_word[token_id])
    # What WordPiece writes for "goes on" is said by the missing space.
    text = text.removeprefix("##") if goes_on and tokenizer.kind == "wordpiece" else text.strip()
    return printable(text), not goes_on


def printable(text: str) -> str:
    """Writes characters that a terminal would obey, or not show, by their numbers."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def show_row(console: Console, examples: list[ShownExample], input_format: str) -> None:
    """Prints the examples of a row, a paragraph for each segment."""
    for number, example in enumerate(examples, start=1):
        kinds = example.kinds()
        end = example.start + len(kinds) - 1
        predictions = {kind: kinds.count(kind) for kind in ("masked", "random", "kept")}
        parts = [
            f"example {number} of {len(examples)}",
            f"{len(kinds)} tokens, places {example.start}-{end}, positions {example.position}-"
            f"{example.position + len(kinds) - 1}",
            f"{sum(predictions.values())} predicted: "
            + ", ".join(f"{many} {kind}" for kind, many in predictions.items() if many),
        ]
        if example.label >= 0:
            parts.append(f"label {example.label}: {LABELS[input_format][example.label]}")
        elif input_format in LABELS:
            parts.append("no label")
        console.print(Text("  " + " · ".join(parts), "dim"))
        names = ("A", "B") if input_format in LABELS else (" ", " ")
        for name, segment, style in zip(names, example.segments, _SEGMENT_STYLES, strict=False):
            console.print(Text.assemble((f"  {name} ", "bold"), joined(segment, style)))
    if not examples:
        console.print("  no example: packing left this row empty")


def joined(tokens: list[ShownToken], style: str = "") -> Text:
    """Joins tokens to words; what is predicted stands in ⟦ ⟧, as the legend says."""
    text = Text(style=style)
    for number, token in enumerate(tokens):
        written = f"{token.text}→{token.replaced}" if token.replaced else token.text
        if token.kind in ("masked", "random", "kept"):
            written = f"⟦{written}⟧" if token.replaced else f"⟦{written}=⟧"
        text.append(" " if number and token.begins_word else "")
        text.append(written, _STYLES[token.kind])
    return text


def _legend() -> Text:
    examples = {
        "masked": ShownToken("masked", "river", True, "[MASK]"),
        "a random token instead": ShownToken("random", "river", True, "stone"),
        "predicted as it is": ShownToken("kept", "river", True),
        "added": ShownToken("special", "[CLS]", True),
        "unknown word": ShownToken("unknown", "[UNK]", True),
    }
    shown = [joined([token]).append(f" {meaning}", "") for meaning, token in examples.items()]
    return Text("  ").join([Text("predicted", "bold"), *shown])
