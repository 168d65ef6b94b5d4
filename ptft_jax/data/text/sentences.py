# ruff: noqa: RUF001 (quotation marks and dashes of all kinds are the matter here)
"""Splitting a paragraph into sentences by rules, for English and for scripts with their own stops.

NSP needs units that begin and end like sentences; it does not need every ambiguous stop resolved.
So the rules prefer to leave two sentences together over cutting one in half.
"""

import re
from collections.abc import Iterator


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Titles and the like: a full stop after one of these never ends a sentence.
_NEVER_LAST = _words(
    """mr mrs ms messrs mme mlle dr prof st rev hon gen col maj capt lt cmdr sgt cpl pvt adm gov sen
    rep pres supt fr sr mt ft e.g i.e viz vs cf al fig figs eq eqs sec secs ch chap vol vols eds
    trans p pp approx ca esp incl resp"""
)
# Abbreviations before a number, words elsewhere: "No. 5", "She said no. He left."
_NOT_LAST_BEFORE_NUMBER = _words("no nos art ed")
# These end a sentence when a common first word follows.
_MAYBE_LAST = _words(
    """etc inc ltd co corp bros jr esq dept univ assn est ave blvd rd a.m p.m b.c a.d ph.d m.d jan
    feb apr aug sept oct nov dec tues thurs fri"""
)
_FIRST_WORDS = _words(
    """a after all although an and another any as at because before both but by during each even
    every few finally first for from he her here his how however i if in instead is it its let many
    meanwhile more moreover most my nevertheless next no nor not note now of on once one or other
    our over perhaps see several she since so some still such that the their then there therefore
    these they this those though through thus to today two under until we what when where whether
    which while who why will with yes yet you your"""
)

_OPENERS = "\"'“‘«‹([{¿¡*_—–-"
_CLOSERS = "\"'”’»›)\\]}*_"
# A run of stops ("?!", "...", ". . ."), closing quotes and brackets, then white space; or a CJK
# stop, which needs no space. A run is tried from its beginning only and never shortened (that is
# what lookbehinds and possessive quantifiers are for), or a long one would take quadratic time. One
# class of characters comes first, because `re` then searches for it at many times the speed.
_CANDIDATE = re.compile(
    rf"[.!?…。！？](?:(?<=[.!?…])(?<![.!?…].)(?<![.!?…]\s.)"
    rf"(?P<more>[.!?…]*+(?:\s[.…]++)*+)[{_CLOSERS}]*+(?=\s)"
    r"|(?<=[。！？])[。！？]*+[”’」』）》]*+)",
    re.DOTALL,
)
_NEXT = re.compile(rf"\s*[{re.escape(_OPENERS)}\s]*(\w*)")
_WORD_BEFORE = re.compile(r"[^\s\"'“‘«‹(\[{—–]*\Z")
_ACRONYM = re.compile(r"(?:\w\.)+\w\Z")


def split_sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph, in order and stripped; an empty one has none.

    Nothing but white space between sentences is lost. A text in which no sentence end is recognised
    comes back as one sentence.
    """
    sentences = []
    start = 0
    for end in _ends(paragraph):
        sentence = paragraph[start:end].strip()
        if sentence:
            sentences.append(sentence)
        start = end
    rest = paragraph[start:].strip()
    if rest:
        sentences.append(rest)
    return sentences


def _ends(text: str) -> Iterator[int]:
    """The positions after the last character of each recognised sentence."""
    start = 0
    for match in _CANDIDATE.finditer(text):
        more, end = match["more"], match.end()
        if more is None:  # a CJK stop
            yield end
            start = end
            continue
        # Most often a space and a letter follow, which needs no regular expression.
        first = text[end + 1 : end + 2]
        if not first.isalpha():
            first = _next_word(text, end)[:1]
        # "Stop!" he cried. The sentence goes on in lower case.
        if first.islower():
            continue
        if not more and text[match.start()] == ".":
            # No abbreviation or number of a list is longer than the part looked at.
            before = text[max(start, match.start() - 40) : match.start()]
            if not _full_stop_ends(before, text, end):
                continue
        yield end
        start = end


def _next_word(text: str, end: int) -> str:
    match = _NEXT.match(text, end)
    return match[1] if match else ""


def _full_stop_ends(before: str, text: str, end: int) -> bool:
    """Whether a full stop ends the sentence that ends in `before`; at `end` the text goes on."""
    word = before.rpartition(" ")[2]
    if not word.isalpha():
        match = _WORD_BEFORE.search(before)
        word = match[0] if match else ""
    lowered = word.lower()
    if lowered in _NEVER_LAST:
        return False
    if lowered in _NOT_LAST_BEFORE_NUMBER:
        return not _next_word(text, end)[:1].isdigit()
    if lowered in _MAYBE_LAST or _ACRONYM.match(word):
        return _next_word(text, end).lower() in _FIRST_WORDS
    if len(word) == 1 and word.isalpha() and word.isupper():
        # An initial. "I" is a word as well: "taller than I. She".
        return word == "I" and _next_word(text, end).lower() in _FIRST_WORDS
    # "1. Introduction" at the beginning numbers an item.
    return not (word.isdigit() and before.strip() == word)
