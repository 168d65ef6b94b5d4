"""What examples are made of: each format keeps its paper's promise for every token of a corpus."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from small_corpus import CLS, FIRST, SEP, SmallCorpus, random_documents, unmasked_ids

from ptft_jax.data.pretraining import segments as segments_module
from ptft_jax.data.pretraining.examples import (
    FORMATS,
    PAIR_FORMATS,
    PretrainingExamples,
    PretrainingSettings,
)
from ptft_jax.data.pretraining.masking import MaskingSettings
from ptft_jax.data.randomness import as_below, as_uniform, random_uint64

LENGTH = 16  # of a row: room for 14 tokens of one segment, 13 of two


def corpora(**changes):
    """Corpora of many shapes: random ones, and those at the edges."""
    rng = np.random.default_rng(5)
    shapes = [random_documents(rng, int(count), longest=20) for count in rng.integers(2, 60, 12)]
    shapes += [
        [[1], [1]],
        [[1] * 40],
        [[1]] * 50,  # documents of one token
        [[14]] * 5,  # a sentence fills a row
        [[15, 14, 13, 1, 13, 1, 1]],
        [[60], [1, 60, 1]],  # sentences much longer than a row
        [[7, 7, 7, 7], [6], [7, 6]],
    ]
    return [SmallCorpus(shape, **changes) for shape in shapes]


def several_sources(seed=7, **changes):
    rng = np.random.default_rng(seed)
    sources = [3, 0, 1, 30, 2, 0]  # a source may have nothing in a split
    return SmallCorpus(random_documents(rng, sum(sources)), sources=sources, **changes)


def cut(name, corpus, **changes):
    settings = {"seed": 3, "max_seq_length": LENGTH, "short_seq_prob": 0.1} | changes
    return FORMATS[name](corpus, **settings)


def stretches(corpus, made, epoch=0):
    """For each chunk, the stretches of its example as (start, end) tokens, and the raw Segments."""
    count = len(made)
    found = made.segments(np.full(count, epoch), np.arange(count))
    examples = [[] for _ in range(count)]
    for start, length, example in zip(found.starts, found.lengths, found.example, strict=True):
        examples[example].append((int(start), int(start + length)))
    assert (np.diff(found.example) >= 0).all()
    assert (found.lengths > 0).all()
    return examples, found


def greedy(corpus, room, across_documents):
    """Liu et al. 2019, section 4.2, in plain Python: the stretches of each example."""
    examples, current, used, last = [], [], 0, None
    for start, end in pairwise(corpus.sentence_offsets.tolist()):
        document = int(corpus.document_of(start))
        source = int(corpus.source_of(start))
        crosses = last is not None and document != last[0]
        between = 1 if crosses else 0  # the extra [SEP]
        starts_anew = last is None or used + between + end - start > room
        if crosses and (not across_documents or source != last[1]):
            starts_anew = True
        if starts_anew:
            if current:
                examples.append(current)
            current, used = [(start, min(end, start + room))], end - start
        elif crosses:
            current.append((start, end))
            used += 1 + end - start
        else:
            current[-1] = (current[-1][0], end)
            used += end - start
        last = (document, source)
    examples.append(current)
    return examples


@pytest.mark.parametrize("block", [1, 3, 17, 1 << 18])
@pytest.mark.parametrize("name", ["full_sentences", "doc_sentences"])
def test_whole_sentences_are_packed_greedily(monkeypatch, name, block):
    """Each example is what a loop over the sentences gives, wherever the blocks of work end."""
    monkeypatch.setattr(segments_module, "_BLOCK", block)
    for corpus in [*corpora(), several_sources()]:
        made = cut(name, corpus)
        examples, found = stretches(corpus, made)
        assert examples == greedy(corpus, LENGTH - 2, name == "full_sentences")
        assert found.example_lengths().max() <= LENGTH
        assert not found.token_types.any()
        assert not found.weights.any()


def test_single_segments_have_every_token_once():
    """Documents are cut every LENGTH - 2 tokens: all pieces but a document's last are full."""
    for corpus in [*corpora(), several_sources()]:
        examples, found = stretches(corpus, cut("single_segment", corpus))
        expected = []
        for first, last in pairwise(corpus.document_offsets):
            start, end = corpus.sentence_offsets[[first, last]].tolist()
            expected += [[(at, min(at + LENGTH - 2, end))] for at in range(start, end, LENGTH - 2)]
        assert examples == expected
        assert not found.weights.any()


def target(short_seq_prob, is_short, short_length):
    """What a chunk aims at, from random bits: seldom a length from 2 to the maximum, else that."""
    if as_uniform(is_short) < short_seq_prob:
        return 2 + int(as_below(LENGTH - 4, short_length))
    return LENGTH - 3


@pytest.mark.parametrize("block", [1, 4, 1 << 18])
def test_chunks_of_ordered_pairs_follow_the_loop_of_the_original(monkeypatch, block):
    """Sentences are added until the target is reached or the document ends, block by block.

    create_instances_from_document of google-research/bert, without its random displacements.
    """
    monkeypatch.setattr(segments_module, "_BLOCK", block)
    for corpus in corpora():
        made = cut("sop", corpus, short_seq_prob=0.4)
        chunks, targets = [], set()
        offsets = corpus.sentence_offsets
        for first, last in pairwise(corpus.document_offsets):
            begin = int(first)
            for sentence in range(int(first), int(last)):
                aim = target(0.4, *random_uint64(3, "target", np.arange(2), begin))
                targets.add(aim)
                size = offsets[sentence + 1] - offsets[begin]
                if size >= aim or sentence + 1 == last:
                    chunks.append(begin)
                    begin = sentence + 1
        chunks.append(corpus.num_sentences)
        assert made.chunks.tolist() == chunks
        assert 2 <= min(targets) <= max(targets) == LENGTH - 3


def loop_of_the_original(corpus, visit, short_seq_prob=0.4):
    """create_instances_from_document: first sentence, end of A, end, random?, of each chunk.

    In plain Python, one document and one sentence after another, as in google-research/bert; its
    generator is replaced by the numbers that (seed, visit, first sentence) have.
    """
    found = []
    for first, last in pairwise(corpus.document_offsets.tolist()):
        current_chunk, current_length = [], 0
        i = first
        while i < last:
            current_chunk.append(i)
            current_length += int(corpus.sentence_offsets[i + 1] - corpus.sentence_offsets[i])
            start = current_chunk[0]
            bits = random_uint64(3, "chunk", np.arange(4), visit, start)
            if i == last - 1 or current_length >= target(short_seq_prob, bits[0], bits[1]):
                a_end = 1
                if len(current_chunk) >= 2:
                    a_end = 1 + int(as_below(len(current_chunk) - 1, bits[2]))
                is_random = len(current_chunk) == 1 or bool(as_uniform(bits[3]) < 0.5)
                found.append((start, start + a_end, i + 1, is_random))
                if is_random:
                    i -= len(current_chunk) - a_end
                current_chunk, current_length = [], 0
            i += 1
    return found


@pytest.mark.parametrize("block", [1, 4, 1 << 18])
def test_next_sentence_pairs_follow_the_loop_of_the_original(monkeypatch, block):
    """A, whether B is random, and where the next chunk begins: after A if B took its place."""
    monkeypatch.setattr(segments_module, "_BLOCK", block)
    displaced = 0
    for corpus in [*corpora(split="dev"), several_sources(split="dev")]:
        if corpus.num_documents < 2:
            continue
        made = cut("nsp", corpus, short_seq_prob=0.4)
        examples, found = stretches(corpus, made)
        expected = loop_of_the_original(corpus, 0)
        assert len(made) == len(expected)
        offsets = corpus.sentence_offsets
        # The A of two chunks never share text: in the order of A, chunks are in that of the loop.
        in_order = np.argsort([a[0] for a, _ in examples])
        for number, (first, end_of_a, end, is_random) in zip(in_order, expected, strict=True):
            a, b = examples[number]
            assert found.labels[number] == is_random
            whole_a = (offsets[first], offsets[end_of_a])
            assert whole_a[0] <= a[0] < a[1] <= whole_a[1]
            if a[1] - a[0] + b[1] - b[0] < LENGTH - 3:  # surely not truncated
                assert a == whole_a
                assert is_random or b == (offsets[end_of_a], offsets[end])
            displaced += is_random and end > end_of_a
    assert displaced > 50


def test_a_visit_has_every_chunk_or_too_few_places():
    """Each chunk of the loop comes; again, with other draws, if places are left over.

    All visits have as many places, somewhat more than visit 0 has chunks. A visit of more chunks
    does without some, other ones in each.
    """
    lengths = np.random.default_rng(2).integers(1, 60, 60)
    corpus = SmallCorpus([[1] * int(length) for length in lengths])
    made = cut("nsp", corpus, short_seq_prob=0.4)
    visit_0 = len(loop_of_the_original(corpus, 0))
    assert len(made) == visit_0 + np.ceil(np.sqrt(visit_0))
    without, left_over = [], 0
    for visit in range(60):
        examples, found = stretches(corpus, made, visit)
        seen = {
            (*a, bool(label)) for (a, _), label in zip(examples, found.labels, strict=True)
        }  # sentences of one token: nothing is ever truncated
        expected = loop_of_the_original(corpus, visit)
        missing = {
            first
            for first, end_of_a, _, is_random in expected
            if (first, end_of_a, is_random) not in seen
        }
        assert len(missing) == max(0, len(expected) - len(made))
        if missing:
            without.append(missing)
        left_over += max(0, len(made) - len(expected))
        # What comes again is no copy.
        pairs = [tuple(example) for example in examples]
        assert len(pairs) - len(set(pairs)) <= 0.3 * max(0, len(made) - len(expected))
    assert len(without) >= 2
    assert len(set.intersection(*without)) == 0
    assert left_over > 100


def test_sentence_order_pairs_are_halves_of_a_chunk():
    """A and B are the chunk in two parts, at a sentence's end where there are two, in any order.

    Label 1 is swapped, as `sentence_order_label` of Hugging Face's AlbertForPreTraining says.
    """
    for corpus in corpora():
        made = cut("sop", corpus)
        ends = set(corpus.sentence_offsets.tolist())
        for epoch in range(4):
            examples, found = stretches(corpus, made, epoch)
            for chunk, example in enumerate(examples):
                bounds = made.chunks[chunk : chunk + 2].astype(int)
                start, end = corpus.sentence_offsets[bounds].tolist()
                if end - start == 1:
                    assert example == [(start, end)]
                    assert found.weights[chunk] == found.labels[chunk] == 0
                    continue
                assert found.weights[chunk] == 1
                first, second = sorted(example)
                assert found.labels[chunk] == (example != [first, second])
                assert start <= first[0] < first[1] <= second[0] < second[1] <= end
                if end - start <= LENGTH - 3:
                    assert (first[0], first[1], second[1]) == (start, second[0], end)
                    assert np.diff(bounds) == 1 or first[1] in ends
                else:
                    assert sum(b - a for a, b in example) == LENGTH - 3
            types = [
                found.token_types[found.example == chunk].tolist() for chunk in range(len(made))
            ]
            assert all(kinds in ([0], [0, 1]) for kinds in types)


@pytest.mark.parametrize("document", [[3, 3, 3, 3], [6]], ids=["at a sentence", "at a token"])
def test_sentence_order_pairs_are_cut_and_swapped_evenly(document):
    """Half are swapped (Lan et al. 2019, section 3.1); every place to cut a chunk is as likely."""
    size, epochs = sum(document), 200
    corpus = SmallCorpus([document] * 40)
    made = cut("sop", corpus, short_seq_prob=0.0)
    swapped, cuts = 0, np.zeros(size, int)
    for epoch in range(epochs):
        examples, found = stretches(corpus, made, epoch)
        swapped += found.labels.sum()
        for chunk, example in enumerate(examples):
            cuts[max(example)[0] - size * chunk] += 1
    count = 40 * epochs
    assert abs(swapped / count - 0.5) < 5 * 0.5 / np.sqrt(count)
    places = [3, 6, 9] if len(document) > 1 else [1, 2, 3, 4, 5]
    assert set(np.flatnonzero(cuts)) == set(places)
    assert np.abs(cuts[places] - count / len(places)).max() < 5 * np.sqrt(count / len(places))


def test_next_sentence_pairs_hold_what_their_label_says():
    """Label 0: B goes on where A ended; label 1: B begins a sentence of another document.

    Before truncation, which these short sentences seldom need: both are whole sentences, and a
    random B ends with the sentence that fills the target, or with its document.
    """
    rng = np.random.default_rng(1)
    corpus = SmallCorpus([rng.integers(1, 4, rng.integers(1, 9)).tolist() for _ in range(40)])
    made = cut("nsp", corpus, max_seq_length=LENGTH + 8, short_seq_prob=0.0)
    ends = set(corpus.sentence_offsets.tolist())
    target = LENGTH + 8 - 3
    untruncated = 0
    for epoch in range(20):
        examples, found = stretches(corpus, made, epoch)
        assert found.weights.all()
        for label, (a, b) in zip(found.labels, examples, strict=True):
            if a[1] - a[0] + b[1] - b[0] == target:
                continue  # perhaps truncated
            untruncated += 1
            assert {*a, *b} <= ends
            document = corpus.document_of(b[0])
            assert (document != corpus.document_of(a[0])) == label
            if label:
                last = corpus.document_offsets[document + 1]
                assert b[1] == corpus.sentence_offsets[last]  # short of the target
            else:
                assert a[1] == b[0]
    assert untruncated > 500


def test_random_documents_and_sentences_are_drawn_evenly():
    """Another document, each as likely; in it any sentence (create_pretraining_data.py)."""
    corpus = SmallCorpus([[5] * count for count in (1, 2, 3, 4, 10)])
    made = cut("nsp", corpus, short_seq_prob=0.0)
    visit, chunk = np.divmod(np.arange(4000 * len(made)), len(made))
    found = made.segments(visit, chunk)
    first, second = found.starts.reshape(-1, 2).T
    starts = second[(corpus.document_of(first) == 2) & (found.labels == 1)]
    assert len(starts) > 4000
    # Truncation takes tokens off a B in front too: the sentence is where it ends up.
    sentence = np.searchsorted(corpus.sentence_offsets, starts, side="right") - 1
    counts = np.bincount(sentence, minlength=corpus.num_sentences)
    sizes = np.array([1, 2, 3, 4, 10])
    expected = np.concatenate([np.full(size, len(starts) / 4 / size) for size in sizes])
    expected[3:6] = 0
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected)).all()


def test_a_random_sentence_is_of_the_same_source():
    """With several languages or genres the source of B would give the label away.

    A source of one document has no other: B is then of any source.
    """
    corpus = SmallCorpus([[3, 3]] * 12, sources=[5, 0, 1, 6])
    made = cut("nsp", corpus, short_seq_prob=0.0)
    pairs = set()
    for epoch in range(400):
        found = made.segments(np.full(len(made), epoch), np.arange(len(made)))
        first, random_b = found.starts.reshape(-1, 2)[found.labels == 1].T
        own = corpus.document_of(first)
        pairs |= set(zip(own.tolist(), corpus.document_of(random_b).tolist(), strict=True))
    alone = {(5, other) for other in range(12) if other != 5}
    first = {(a, b) for a in range(5) for b in range(5) if a != b}
    last = {(a, b) for a in range(6, 12) for b in range(6, 12) if a != b}
    assert pairs == alone | first | last


@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_laid_out_as_the_format_says(name):
    """[CLS] first, a [SEP] after each stretch, types 1 from B on, nothing else: token by token."""
    for corpus in [*corpora()[:6], several_sources()]:
        masking = MaskingSettings(max_predictions_per_seq=4)
        settings = PretrainingSettings(3, LENGTH, input_format=name, masking=masking)
        examples = PretrainingExamples(corpus, corpus.tokenizer(), settings)
        batch = examples.batch(np.arange(len(examples)))
        visit, chunk = examples.draw(np.zeros(len(examples), int), np.arange(len(examples)))
        found = examples.format.segments(visit, chunk)
        ids = unmasked_ids(batch)
        for row in range(len(examples)):
            wanted_ids, wanted_types = [CLS], [0]
            for stretch in np.flatnonzero(found.example == row):
                start, length = found.starts[stretch], found.lengths[stretch]
                wanted_ids += [*(FIRST + np.arange(start, start + length)).tolist(), SEP]
                wanted_types += [int(found.token_types[stretch])] * int(length + 1)
            padding = [0] * (LENGTH - len(wanted_ids))
            assert ids[row].tolist() == wanted_ids + padding
            assert batch["token_type_ids"][row].tolist() == wanted_types + padding
            assert batch["attention_mask"][row].tolist() == [1] * len(wanted_ids) + padding
        has_pairs = name in PAIR_FORMATS
        assert ("next_sentence_labels" in batch) == has_pairs
        assert ("pooled_positions" in batch) == has_pairs


@pytest.mark.parametrize("name", FORMATS)
def test_chunks_of_a_source_are_counted(name):
    """`first_chunks` tells the sampler which chunks a source has: none belongs to two."""
    corpus = several_sources()
    made = cut(name, corpus)
    first = made.first_chunks()
    assert (first[0], first[-1]) == (0, len(made))
    found = made.segments(np.zeros(len(made), int), np.arange(len(made)))
    # The first stretch of an example is of its chunk, whatever else is random.
    begins = found.starts[np.searchsorted(found.example, np.arange(len(made)))]
    if name == "sop":
        begins = np.minimum.reduceat(found.starts, np.searchsorted(found.example, range(len(made))))
    source = np.searchsorted(first, np.arange(len(made)), side="right") - 1
    np.testing.assert_array_equal(corpus.source_of(begins), source)


def test_one_very_long_sentence_costs_little():
    """Text without an end of sentence happens; the coins of its truncation must not cost a table.

    One coin is thrown for each token that is cut off. With a row of coins for every example, a
    sentence of 20,000 tokens among 90,000 examples took 2 GB.
    """
    corpus = SmallCorpus([[10, 200_000, 10], *[[20, 20]] * 200])
    for name in PAIR_FORMATS:
        made = cut(name, corpus)
        visit, chunk = np.divmod(np.arange(5 * len(made)), len(made))
        tracemalloc.start()
        found = made.segments(visit, chunk)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.example_lengths().max() == LENGTH
        assert peak < 20e6


@pytest.mark.parametrize("name", FORMATS)
def test_chunks_cost_four_bytes_each(name):
    """Memory at billions of tokens is that of the chunks: 4 bytes for each, and few while cutting.

    Of `nsp` it is so for each kept visit, at first one; its places are some more than its chunks.
    `single_segment` has no list of chunks but two numbers of 8 bytes for each document.
    """
    documents = 200_000
    corpus = SmallCorpus([[LENGTH - 2]] * documents)
    tracemalloc.start()
    made = cut(name, corpus, short_seq_prob=0.0)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    made.first_chunks()
    extra = tracemalloc.get_traced_memory()[1] - held
    if name == "nsp":  # those of two epochs, however many a run has
        for epoch in range(6):
            made.segments(np.array([epoch, epoch + 1]), np.array([0, 1]))
        assert 7.9 * documents < tracemalloc.get_traced_memory()[0] < 8.3 * documents
    tracemalloc.stop()
    assert len(made) == documents + (448 if name == "nsp" else 0)
    each = 16 if name == "single_segment" else 4
    assert held < (each + 0.1) * documents
    assert extra < 0.1 * documents
