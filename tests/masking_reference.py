"""The authors' masking in plain Python, and texts and comparisons for the tests of ours."""

from itertools import chain

import numpy as np
from small_corpus import FIRST

from ptft_jax.data.pretraining.masking import Draws, FlatText, choose

VOCABULARY = 300
rng_of_tables = np.random.default_rng(11)
# WordPiece: three tokens in ten are "##…". Byte-level BPE: most common words are one token, but
# punctuation has no space before it either; some tokens go on with a word in nearly all their uses.
TABLES = {
    "wordpiece": rng_of_tables.random(VOCABULARY) < 0.3,
    "byte_level_bpe": rng_of_tables.random(VOCABULARY) < 0.55,
    "all_words": np.zeros(VOCABULARY, bool),
}
for _table in TABLES.values():
    _table[:FIRST] = False


def flat(examples):
    """FlatText of examples, each a list of stretches of ids: [CLS] first, [SEP] after each."""
    ids, example, position, begins = [], [], [], []
    for number, stretches in enumerate(examples):
        at = 1
        for stretch in stretches:
            ids += stretch
            example += [number] * len(stretch)
            position += range(at, at + len(stretch))
            begins += [True] + [False] * (len(stretch) - 1)
            at += len(stretch) + 1
    first = np.searchsorted(example, np.arange(len(examples) + 1))
    return FlatText(
        np.array(ids, np.int32), np.array(example), np.array(position), np.array(begins), first
    )


def repeated(stretches, times):
    """FlatText of one example, many times over."""
    one = flat([stretches])
    size = len(one.ids)
    return FlatText(
        np.tile(one.ids, times),
        np.repeat(np.arange(times), size),
        np.tile(one.position, times),
        np.tile(one.begins_stretch, times),
        size * np.arange(times + 1),
    )


def words_of(stretches, continues_word):
    """Positions of the words of an example, a list for each stretch."""
    at, found = 1, []
    for stretch in stretches:
        words = []
        for offset, token in enumerate(stretch):
            if offset == 0 or not continues_word[token]:
                words.append([])
            words[-1].append(at + offset)
        found.append(words)
        at += len(stretch) + 1
    return found


def random_example(rng, longest=60):
    """One to four stretches of random ids; the first token of a stretch may continue a word."""
    return [
        rng.integers(FIRST, VOCABULARY, rng.integers(1, longest)).tolist()
        for _ in range(rng.integers(1, 5))
    ]


def draw(settings, stretches, count, times, continues_word, seed=0):
    """`times` draws for an example: bool [times, tokens], what was chosen, and the Chosen."""
    text = repeated(stretches, times)
    draws = Draws(seed, np.arange(times), np.full(times, 17))
    chosen = choose(settings, text, np.full(times, count), draws, continues_word)
    is_chosen = np.zeros(len(text.ids), bool)
    is_chosen[chosen.index] = True
    return is_chosen.reshape(times, -1), chosen, text


def positions(stretches):
    """The positions of the text tokens in an example."""
    return np.array([p for words in words_of(stretches, TABLES["all_words"]) for (p,) in words])


def joined(lists):
    return list(chain.from_iterable(lists))


# Plain-Python versions of what the authors do; `rng` is a random.Random.


def bert_whole_words(words, count, rng):
    """create_masked_lm_predictions of google-research/bert with do_whole_word_mask."""
    candidates = [word for stretch in words for word in stretch]
    rng.shuffle(candidates)
    masked = []
    for word in candidates:
        if len(masked) >= count:
            break
        if len(masked) + len(word) > count:
            continue
        masked += word
    return masked


def albert_ngrams(words, count, rng, longest=3):
    """create_masked_lm_predictions of google-research/albert; n has the paper's 1 / n.

    Its candidates are the words and those that follow; here those of the same stretch.
    """
    candidates = [stretch[i : i + longest] for stretch in words for i in range(len(stretch))]
    rng.shuffle(candidates)
    masked, covered = [], set()
    for following in candidates:
        if len(masked) >= count:
            break
        n = rng.choices(range(1, longest + 1), [1 / k for k in range(1, longest + 1)])[0]
        run = joined(following[:n])
        n -= 1
        while len(masked) + len(run) > count and n > 0:
            run = joined(following[:n])
            n -= 1
        if len(masked) + len(run) > count or covered & set(run):
            continue
        covered |= set(run)
        masked += run
    return masked


def spanbert_spans(words, count, rng, p=0.2, longest=10):
    """PairWithSpanMaskingScheme of SpanBERT's authors; spans end at [SEP] and at other spans."""
    owner = [(s, w) for s, stretch in enumerate(words) for w, word in enumerate(stretch)]
    tokens = [(place, token) for place in owner for token in words[place[0]][place[1]]]
    lengths = range(1, longest + 1)
    weights = [p * (1 - p) ** (k - 1) for k in lengths]
    masked, spans = set(), []
    while len(masked) < count:
        length = rng.choices(lengths, weights)[0]
        (stretch, word), anchor = rng.choice(tokens)
        if anchor in masked:
            continue
        span = []
        for token in joined(words[stretch][word : word + length]):
            if token in masked or len(masked) >= count:
                break
            masked.add(token)
            span.append(token)
        spans.append(span)
    return spans


def assert_same_rates(found, wanted):
    """Two arrays bool [draws, K]: each column is as often true, to five standard errors."""
    total = (found.sum(axis=0) + wanted.sum(axis=0)) / (len(found) + len(wanted))
    error = np.sqrt(total * (1 - total) * (1 / len(found) + 1 / len(wanted)))
    assert (np.abs(found.mean(axis=0) - wanted.mean(axis=0)) <= 5 * error + 1e-12).all()


def one_hot(values, size):
    return np.asarray(values)[:, None] == np.arange(size)


def as_rows(samples, stretches):
    """Lists of positions as bool [samples, tokens], in the order of `draw`."""
    every = positions(stretches)
    return np.array([np.isin(every, sample) for sample in samples])


def neighbours(rows):
    return rows[:, 1:] & rows[:, :-1]
