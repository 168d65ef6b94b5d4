"""What a report shows of a run on questions and answers."""

import re
from collections.abc import Sequence

import numpy as np

from ptft_jax.data.tasks.span.examples import SpanExamples
from ptft_jax.data.tasks.span.splits import Answer, SpanSplit
from ptft_jax.objectives.scores.squad import Scores
from ptft_jax.runs.report.html import Html, element, percent, section, side_by_side, table, text
from ptft_jax.runs.report.measures import mean_interval
from ptft_jax.runs.report.parts import WORST, Analysis, Wrong, lengths, reliability, worst_errors
from ptft_jax.runs.report.slices import LEAST, Slice, by_size, text_slices, worst_slices

_QUESTION_WORD = re.compile(
    r"\b(what|who|whom|whose|when|where|which|why|how (?:many|much|long|old|far|often)|how)\b",
    re.IGNORECASE,
)
_SAME = {"whom": "who", "whose": "who"}
# Characters of the context around an answer that are shown.
_AROUND = 110


def analysis(
    split: SpanSplit,
    examples: SpanExamples,
    found: Sequence[str],
    sure: np.ndarray,
    scores: Scores,
    *,
    by_character: bool,
) -> Analysis:
    """Returns the parts of a split.

    found: the text given to each of N questions, "" for none. sure: the probability, float [N], of
    the best one that is not empty. by_character: answers are in Chinese.
    """
    assert split.answers is not None
    contexts = [split.contexts[number] for number in split.context_of]
    sizes = np.array([len(context) for context in contexts])
    words = [] if by_character else _by_word(split.questions)
    answer_lengths = _by_length(split.answers, by_character)
    has = scores.has_answer
    kinds = [Slice("with an answer", has), Slice("without an answer", ~has)]
    kinds = [] if has.all() else kinds
    windows = examples.num_windowed
    slices = [
        *(Slice(f"question word: {name}", rows) for name, rows in words),
        *(Slice(f"answer of {name}", rows) for name, rows in answer_lengths),
        *(*kinds, *by_size(sizes, "characters of context")),
        *text_slices(split.questions),
    ]
    answered = np.array([bool(one) for one in found])
    cut = f"{windows:,} of {len(split):,} questions have several windows." if windows else ""
    cut += f" {examples.num_truncated:,} questions were cut." if examples.num_truncated else ""
    intervals = {"f1": mean_interval(scores.f1), "exact_match": mean_interval(scores.exact_match)}
    for name, rows in (("HasAns", has), ("NoAns", ~has)):
        if rows.any():
            intervals[f"{name}_f1"] = mean_interval(scores.f1[rows])
            intervals[f"{name}_exact"] = mean_interval(scores.exact_match[rows])
    return Analysis(
        f"{len(split):,} questions about {len(split.contexts):,} contexts",
        intervals,
        [
            side_by_side(
                _scores_of("By question word", words, scores),
                _scores_of("By length of the answer", answer_lengths, scores),
                _scores_of("With and without an answer", kinds, scores),
            ),
            reliability(sure[answered], scores.exact_match[answered] > 0, "answers")
            if answered.any()
            else None,
            worst_slices(slices, scores.f1, "F1"),
            _worst(split, contexts, found, sure, scores),
            lengths(examples.lengths, None, examples.buckets[-1], "windows", cut),
        ],
    )


def _by_word(questions: Sequence[str]) -> list[Slice]:
    """The questions by the first question word in them, the most frequent first."""
    words = []
    for question in questions:
        match = _QUESTION_WORD.search(question)
        word = match.group(1).lower() if match else "other"
        words.append(_SAME.get(word, word))
    found = np.array(words)
    names, counts = np.unique(found, return_counts=True)
    return [Slice(str(names[i]), found == names[i]) for i in np.argsort(-counts, kind="stable")]


def _by_length(answers: Sequence[tuple[Answer, ...]], by_character: bool) -> list[Slice]:
    """The questions that have an answer by the length of their first one."""
    sizes = np.array(
        [
            len(some[0].text if by_character else some[0].text.split()) if some else 0
            for some in answers
        ]
    )
    unit = "character" if by_character else "word"
    bounds = [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, None)]
    found = []
    for low, high in bounds:
        rows = sizes >= low if high is None else (sizes >= low) & (sizes <= high)
        name = f"{low} or more" if high is None else f"{low}" if low == high else f"{low} to {high}"
        if rows.any():
            found.append(Slice(f"{name} {unit}{'' if high == 1 else 's'}", rows))
    return found


def _scores_of(title: str, slices: Sequence[Slice], scores: Scores) -> Html | None:
    rows = []
    for name, inside in slices:
        f1, exact = scores.f1[inside], scores.exact_match[inside]
        if len(f1) >= LEAST:
            low, high = mean_interval(f1)
            count, reach = f"{len(f1):,}", f"{low:.3f} to {high:.3f}"
            rows.append((name, count, f"{f1.mean():.3f}", reach, f"{exact.mean():.3f}"))
    if len(rows) < 2:
        return None
    return section(title, table(["questions", "count", "F1", "95 %", "exact match"], rows))


def _worst(
    split: SpanSplit,
    contexts: Sequence[str],
    found: Sequence[str],
    sure: np.ndarray,
    scores: Scores,
) -> Html | None:
    assert split.answers is not None
    wrong = np.flatnonzero(scores.f1 == 0)
    # No answer where there is one comes last: how sure that is, is no probability.
    given = np.array([bool(found[row]) for row in map(int, wrong)], bool)
    worst = wrong[np.argsort(-np.where(given, sure[wrong], -1.0), kind="stable")][:WORST]
    errors = []
    for row in map(int, worst):
        answers = split.answers[row]
        texts = list(dict.fromkeys(answer.text for answer in answers))
        errors.append(
            Wrong(
                text(" / ".join(texts), 120) if texts else "(no answer)",
                text(found[row], 120) if found[row] else "(no answer)",
                [
                    ("", element("strong", text(split.questions[row]))),
                    ("", _context(contexts[row], answers, found[row])),
                ],
                percent(float(sure[row])) if found[row] else "",
            )
        )
    order = ", those of the highest probability first"
    if not given.all():
        order += ", those given no answer last"
    if not any(found):
        order = f". All {len(found):,} questions were given no answer"
    return worst_errors(
        f"Answers that share nothing with a right one, {len(errors)} of {len(wrong):,}{order}. "
        "Answer → given; in the context the right one is marked.",
        errors,
    )


def _context(context: str, answers: Sequence[Answer], found: str) -> Html:
    """The context around the first answer that has a place, or around what was found."""
    answer = next((one for one in answers if one.start is not None), None)
    if answer is not None and answer.start is not None:
        start, stop = answer.start, answer.start + len(answer.text)
    else:
        start = max(context.find(found), 0)
        stop = start
    first, last = max(start - _AROUND, 0), min(stop + _AROUND, len(context))
    marked = element("mark", text(context[start:stop])) if stop > start else None
    return element(
        "span",
        "…" if first else None,
        text(context[first:start]),
        marked,
        text(context[stop:last]),
        "…" if last < len(context) else None,
        class_="context",
    )
