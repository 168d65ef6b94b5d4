# ruff: noqa: RUF001 (stops of all scripts are the matter here)
"""Signs that a text is not the prose it is read as: markup left in it, lines that were wrapped."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ptft_jax.data.text.documents import UNSPACED

# Names that prose has no use for between < and >, unlike x, T or name.
_TAGS = (
    "a|abbr|b|big|blockquote|br|center|cite|code|div|em|font|h[1-6]|hr|i|img|li|ol|p|pre|ref|s|"
    "script|small|span|strike|strong|style|sub|sup|table|tbody|td|th|thead|tr|tt|u|ul"
)
_ENTITIES = "amp|lt|gt|quot|apos|nbsp|[mn]dash|hellip|[lr][sd]quo|#[0-9]{1,7}|#x[0-9a-f]{1,6}"
_MARKUP = re.compile(
    rf"</?(?:{_TAGS})(?:\s[^<>]{{0,500}})?/?>|&(?:{_ENTITIES});", re.IGNORECASE | re.ASCII
)
_AROUND = 20
# What a line may end with that ends a sentence, or a part of one that stands for itself.
_STOPS = frozenset(".!?…:;。！？：；\"'”’»」』)]）")
# Lines that were wrapped are at least so long, in letters and in Chinese ones; verse is shorter.
_LEAST_WIDTH, _LEAST_UNSPACED_WIDTH = 40, 20


@dataclass
class Signs:
    """What was seen in some documents.

    `marked` of the `documents` have markup of HTML, of which `example` is the first. `run_on` of
    the `line_ends` within documents are in the middle of a sentence; before `full` of these the
    line had no room for the next word, as where a program wraps a paragraph.
    """

    documents: int = 0
    marked: int = 0
    example: str = ""
    line_ends: int = 0
    run_on: int = 0
    full: int = 0

    @classmethod
    def of(cls, documents: Iterable[Sequence[str]]) -> "Signs":
        """What is seen in documents, given as their lines."""
        signs = cls()
        for lines in documents:
            signs.documents += 1
            example = next(filter(None, map(_markup, lines)), "")
            signs.marked += bool(example)
            signs.example = signs.example or example
            signs._look_at_line_ends(lines)
        return signs

    def _look_at_line_ends(self, lines: Sequence[str]) -> None:
        self.line_ends += len(lines) - 1
        width = max(map(len, lines))
        for line, following in pairwise(lines):
            first = following[0]
            if not first.isalpha() or first.isupper() or line[-1] in _STOPS:
                continue
            self.run_on += 1
            # Where no space ends a word, one more letter has to fit.
            unspaced = UNSPACED.match(first)
            word = 1 if unspaced else len(following.split(" ", 1)[0])
            least = _LEAST_UNSPACED_WIDTH if unspaced else _LEAST_WIDTH
            self.full += width >= least and len(line) + 1 + word > width

    def add(self, others: "Signs") -> None:
        """Take up what was seen in the documents after these."""
        self.documents += others.documents
        self.marked += others.marked
        self.example = self.example or others.example
        self.line_ends += others.line_ends
        self.run_on += others.run_on
        self.full += others.full


def _markup(line: str) -> str:
    """The first markup in a line with what is around it, "" where there is none."""
    if "<" not in line and "&" not in line:
        return ""
    found = _MARKUP.search(line)
    return line[max(0, found.start() - _AROUND) : found.end() + _AROUND] if found else ""
