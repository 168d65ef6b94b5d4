"""`ptft data inspect` and `ptft data stats` show what is there, and nothing can hide in it."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from command_line import run, tree, write_corpus
from small_corpus import SmallCorpus, random_documents, unmasked_ids

from ptft_jax.commands.data.inspect import joined, printable, shown_examples
from ptft_jax.data.corpus.statistics import source_statistics, token_statistics
from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.examples import PretrainingExamples, PretrainingSettings
from ptft_jax.data.pretraining.masking import STRATEGIES, MaskingSettings
from ptft_jax.data.pretraining.measure import row_statistics
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer

CONFIG = "--config=configs/pretrain/bert_tiny.py"
# A file name that would be markup if it were not escaped.
EVIL = "x<img src=y onerror=z>&\"'.txt"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a corpus of two sources, the second with a weight and unknown characters."""
    place = tmp_path_factory.mktemp("data_commands")
    write_corpus(place / "a.txt", 40)
    text = write_corpus(place / EVIL, 30, seed=1).read_text()
    (place / EVIL).write_text(text.replace("river", "<b>river</b> & \u4e2d\u6587"))
    # The second source's own characters are not in the vocabulary of the first.
    flags = ["--config.dev_fraction=0.2", "--config.vocab_size=120"]
    prepare = ["prepare", "--config=configs/data/text.py"]
    assert run(*prepare, f"--config.inputs={place}/a.txt", *flags, f"--out_dir={place}/one") == 0
    flags = [f"--config.vocab={place}/one/tokenizer", "--config.dev_fraction=0.2"]
    inputs = f"--config.inputs={place}/a.txt,{place / EVIL}@2.5"
    assert run(*prepare, inputs, *flags, f"--out_dir={place}/data") == 0
    return place


def flags_of(place: Path, **changes) -> list[str]:
    settings = {"data_dir": place / "data", "max_seq_length": 40, "max_predictions_per_seq": 8}
    return [CONFIG, *(f"--config.{name}={value}" for name, value in (settings | changes).items())]


def examples_of(place: Path, split: str = "train", **changes):
    masking = {name: changes.pop(name) for name in list(changes) if name == "masking"}
    settings = PretrainingSettings(
        max_seq_length=40,
        masking=MaskingSettings(max_predictions_per_seq=8, **masking),
        **changes,
    )
    corpus = Corpus.open(place / "data", split)
    tokenizer = TextTokenizer.load(corpus.tokenizer_dir)
    return corpus, tokenizer, PretrainingExamples(corpus, tokenizer, settings)


# Inspecting rows.


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("input_format", ["nsp", "sop", "full_sentences"])
def test_what_is_shown_is_what_the_model_gets(place, input_format, packing):
    """All tokens of a row are shown, in order, and its predictions are those of the arrays."""
    _, tokenizer, examples = examples_of(place, input_format=input_format, packing=packing)
    for index in range(5):
        row = examples[index]
        shown = shown_examples(row, tokenizer)
        tokens = [token for example in shown for part in example.segments for token in part]
        original = unmasked_ids({name: array[None] for name, array in row.items()})[0]
        expected = [
            printable(tokenizer.text_of(token).removeprefix("##"))
            for token in original[row["attention_mask"] == 1]
        ]
        assert [token.text for token in tokens] == expected
        predicted = [token for token in tokens if token.kind in ("masked", "random", "kept")]
        assert len(predicted) == row["masked_lm_weights"].sum()
        for token in predicted:
            plain = joined([token]).plain
            assert plain.startswith(f"⟦{token.text}{'=' if token.kind == 'kept' else '→'}")
            assert plain.endswith("→[MASK]⟧") == (token.kind == "masked")
        masks = [token for token in predicted if token.kind == "masked"]
        assert len(masks) == (row["input_ids"] == tokenizer.mask_token_id).sum()
        if packing:
            assert len(shown) == row["segment_ids"].max()
        if input_format == "full_sentences":
            assert all(example.label == -1 for example in shown)
        else:
            labels = row["next_sentence_labels"][row["next_sentence_weights"] > 0]
            assert [example.label for example in shown if example.label >= 0] == labels.tolist()


def test_rows_are_printed_for_a_pipe(place, capsys):
    """Without a terminal the marks say what colours would: no escape codes, everything there."""
    assert run("data", "inspect", *flags_of(place, packing=True), "--rows=3", "--index=2") == 0
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert re.findall(r"^row (\d+)$", output, re.MULTILINE) == ["2", "3", "4"]
    _, _, examples = examples_of(place, packing=True)
    for index in (2, 3, 4):
        padding = int(40 - examples[index]["attention_mask"].sum())
        assert f"padding: {padding} of 40 places" in output
    for words in ("⟦river→[MASK]⟧ masked", "example 1 of 1", "label", "predicted:", "→[MASK]⟧"):
        assert words in output


def test_another_epoch_has_other_masks(place, capsys):
    """What `--epoch` shows is what a run sees then."""
    outputs = []
    for epoch in (0, 1, 1):
        assert run("data", "inspect", *flags_of(place), f"--epoch={epoch}", "--rows=1") == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] != outputs[1] == outputs[2]


def test_a_phase_is_shown_with_its_length(place, tmp_path, capsys):
    """Rows of phase 2 have phase 2's length."""
    config = tmp_path / "phases.py"
    config.write_text(
        "from ptft_jax.runs import defaults\n"
        "def get_config():\n"
        "    config = defaults.pretrain()\n"
        "    config.phases = ({'step_ratio': 0.9, 'max_seq_length': 64},)\n"
        "    return config\n"
    )
    flags = [f"--config={config}", f"--config.data_dir={place / 'data'}", "--rows=1"]
    for phase, length in ((1, 128), (2, 64)):
        assert run("data", "inspect", *flags, f"--phase={phase}") == 0
        assert f"of {length} places" in capsys.readouterr().out
    assert run("data", "inspect", *flags, "--phase=3") == 2
    assert "the config has phases 1 to 2" in capsys.readouterr().err


def test_a_terminal_is_not_obeyed():
    """A token may hold any character; none of them may move the cursor or hide the others."""
    assert printable("a\x1b[31m\u202e\nb é中") == "a\\x1b[31m\\u202e\\nb é中"


# Measuring.


def measured_by_hand(batch, tokenizer, masking):
    """Words and their runs token by token, as a reader would count them."""
    ids = unmasked_ids(batch)
    kinds, words, partly, runs, lengths, wanted = Counter(), [], 0, Counter(), [], 0
    numbers = batch.get("segment_ids", batch["attention_mask"])
    for row in range(len(ids)):
        weights = batch["masked_lm_weights"][row] > 0
        predicted = set(batch["masked_lm_positions"][row][weights].tolist())
        for place in predicted:
            found = batch["input_ids"][row, place]
            kind = "masked" if found == tokenizer.mask_token_id else "random"
            kinds["kept" if found == ids[row, place] else kind] += 1
        for example in range(1, numbers[row].max() + 1):
            places = np.flatnonzero(numbers[row] == example).tolist()
            text = [p for p in places if ids[row, p] not in (2, 3)]
            lengths.append(len(places))
            share = max(1, round(len(places) * masking.masked_lm_prob))
            wanted += min(share, masking.max_predictions_per_seq, len(text))
            stretch = []
            for place in [*places, None]:
                if place is not None and place in text:
                    goes_on = tokenizer.continues_word[ids[row, place]]
                    if stretch and goes_on:
                        stretch[-1].append(place in predicted)
                    else:
                        stretch.append([place in predicted])
                    continue
                words += stretch
                partly += sum(any(word) and not all(word) for word in stretch)
                for chosen, group in itertools.groupby(stretch, key=any):
                    if chosen:
                        runs[len(list(group))] += 1
                stretch = []
    return kinds, words, partly, runs, lengths, wanted


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("masking", STRATEGIES)
def test_rows_are_measured_as_counted_by_hand(masking, packing):
    """Lengths, masks, words and runs, from 150 rows."""
    rng = np.random.default_rng(3)
    shapes = random_documents(rng, 60, longest=9)
    tokens = sum(map(sum, shapes))
    corpus = SmallCorpus(shapes, ids=rng.integers(5, 60, tokens))
    tokenizer = corpus.tokenizer(np.arange(corpus.vocab_size) % 3 == 1)
    strategy = MaskingSettings(masking=masking, max_predictions_per_seq=6)
    settings = PretrainingSettings(max_seq_length=32, packing=packing, masking=strategy)
    examples = PretrainingExamples(corpus, tokenizer, settings)
    rows = min(150, len(examples))
    found = row_statistics(examples, tokenizer, 150)
    batch = examples.batch(np.arange(rows))
    kinds, words, partly, runs, lengths, wanted = measured_by_hand(batch, tokenizer, strategy)
    per_row = (batch["next_sentence_weights"] > 0).sum(axis=1)
    shares = found.pop("run_lengths_of_formula")
    labels = batch["next_sentence_labels"].sum()
    assert found == {
        "rows": rows,
        "row_length": 32,
        "fill": batch["attention_mask"].mean(),
        "examples_per_row": np.bincount(per_row).tolist(),
        "example_lengths": np.bincount(lengths).tolist(),
        "row_lengths": np.bincount(batch["attention_mask"].sum(axis=1)).tolist(),
        "predicted": sum(kinds.values()),
        "wanted": wanted,
        **{name: kinds[name] for name in ("masked", "random", "kept")},
        "words": len(words),
        "predicted_words": sum(map(any, words)),
        "partly_predicted_words": partly,
        "run_lengths": [runs[n] for n in range(max(runs) + 1)],
        "labels": [per_row.sum() - labels, labels],
    }
    assert sum(shares) == pytest.approx(1)
    if masking == "ngram":
        assert shares == pytest.approx([6 / 11, 3 / 11, 2 / 11])
    if masking == "span":
        assert shares[1] / shares[0] == pytest.approx(0.8)


def test_sources_are_measured_exactly_where_they_are_small(place):
    """Tokens, unknown ones and shares of each source, against the corpus read sentence by sentence.

    With weights in train, without in dev: held-out text is read once.
    """
    for split, weights in (("train", (1, 2.5)), ("dev", (1, 1))):
        corpus, tokenizer, _ = examples_of(place, split)
        found = source_statistics(corpus, tokenizer)
        total = Counter()
        for number, source in enumerate(found):
            first, end = corpus.source_documents[number : number + 2]
            sentences = range(corpus.document_offsets[first], corpus.document_offsets[end])
            counts = Counter(int(i) for s in sentences for i in corpus.sentence(s))
            total += counts
            assert source.sampled_tokens == source.tokens == sum(counts.values())
            assert {i: n for i, n in enumerate(source.id_counts) if n} == counts
            assert source.unknown_rate == counts[tokenizer.unk_token_id] / source.tokens
        assert found[1].unknown_rate > found[0].unknown_rate == 0
        weighted = [weight * source.tokens for weight, source in zip(weights, found, strict=True)]
        assert [source.weighted_share for source in found] == pytest.approx(
            [w / sum(weighted) for w in weighted]
        )
        tokens = token_statistics(found, tokenizer, most_frequent=5)
        assert [i for i, _ in tokens.frequent[:1]] == [total.most_common(1)[0][0]]
        assert tokens.seen == len(set(total) - set(tokenizer.special_ids))
        assert tokens.covered[0] == pytest.approx(total.most_common(1)[0][1] / sum(total.values()))
        assert tokens.covered[-1] == pytest.approx(1)


def test_a_large_source_is_sampled_evenly(place):
    """A sample stays below its bound, is the same every time, and comes from all of the source."""
    corpus, tokenizer, _ = examples_of(place)
    whole = source_statistics(corpus, tokenizer)
    some = source_statistics(corpus, tokenizer, 300)
    for large, small in zip(whole, some, strict=True):
        assert 100 < small.sampled_tokens < 600 < large.tokens
        frequent = int(np.argmax(large.id_counts))
        share = small.id_counts[frequent] / small.sampled_tokens
        assert share == pytest.approx(large.id_counts[frequent] / large.tokens, abs=0.05)


# The report.


@pytest.fixture(scope="module")
def stats(place) -> Path:
    """The statistics of packed rows."""
    flags = flags_of(place, packing=True, masking="span")
    assert run("data", "stats", *flags, f"--out_dir={place}/stats", "--rows=60") == 0
    return place / "stats"


def test_the_report_is_for_reading(stats):
    """Tables and a picture; names and tokens are text, whatever markup they spell."""
    assert {path.name for path in stats.iterdir()} == {"README.md", "stats.json", "stats.png"}
    text = (stats / "README.md").read_text(encoding="utf-8")
    assert "<" not in text
    assert f"{stats.parent.name}/{EVIL.replace('<', '&lt;')}" in text
    assert re.search(r"\| +2\.5 \|", text)
    assert "B is random" in text
    (source,) = (line for line in text.splitlines() if "train" in line and "0/a.txt" in line)
    assert source.count("|") == 9
    assert (stats / "stats.png").read_bytes().startswith(b"\x89PNG")


def test_the_numbers_are_those_of_the_corpus(place, stats):
    """stats.json against the examples themselves."""
    numbers = json.loads((stats / "stats.json").read_text(encoding="utf-8"))
    corpus, tokenizer, examples = examples_of(place, packing=True, masking="span")
    batch = examples.batch(np.arange(60))
    rows = numbers["rows"]
    assert rows["predicted"] == batch["masked_lm_weights"].sum()
    assert rows["masked"] + rows["random"] + rows["kept"] == rows["predicted"]
    assert rows["rows"] == 60
    lengths = Counter(int(many) for row in batch["segment_ids"] for many in np.bincount(row)[1:])
    shown = rows["example_lengths"]
    assert {length: many for length, many in enumerate(shown) if many} == lengths
    assert rows["fill"] == batch["attention_mask"].mean()
    assert sum(rows["labels"]) == sum(lengths.values())
    assert numbers["splits"]["train"]["tokens"] == corpus.num_tokens
    assert [source["weight"] for source in numbers["sources"]["train"]] == [1.0, 2.5]
    assert numbers["packing"]["packed_rows"] == len(examples)
    assert numbers["packing"]["unpacked_rows"] == examples.num_examples
    token = numbers["tokens"]["frequent"][0]
    assert tokenizer.token(token["id"]) == token["token"]


def test_formats_without_labels_and_packing(place, capsys):
    """What the config does not have is left out, and dev is measured with weight 1."""
    flags = [*flags_of(place, input_format="doc_sentences"), "--split=dev"]
    assert run("data", "stats", *flags, f"--out_dir={place}/dev", "--rows=20") == 0
    numbers = json.loads((place / "dev" / "stats.json").read_text(encoding="utf-8"))
    assert numbers["rows"]["labels"] == []
    assert numbers["split"] == "dev"
    assert "labels" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "flags", "words"),
    [
        ("inspect", ["--index=99999"], "--index=99999: an epoch of the train split has"),
        ("inspect", ["--epoch=-1"], "--epoch=-1: expected 0 or more"),
        ("inspect", ["--split=test"], "has no split 'test'; it has dev, train"),
        ("inspect", ["--phase=2"], "--phase=2: the config has one phase"),
        ("inspect", ["--config.data_dir=nowhere"], "nowhere is not a prepared corpus"),
        ("inspect", ["stray"], "'stray'"),
        ("stats", [], "--out_dir is missing"),
        ("stats", ["--out_dir={place}"], "is not empty"),
        ("stats", ["--out_dir={place}/new", "--rows=0"], "rows"),
        ("inspct", [], "there is no command 'data inspct'; did you mean 'data inspect'?"),
    ],
)
def test_mistakes_on_the_command_line(place, capsys, command, flags, words):
    """One message each, exit code 2, and nothing is written."""
    before = tree(place)
    flags = [flag.format(place=place) for flag in flags]
    assert run("data", command, *flags_of(place), *flags) == 2
    assert words in capsys.readouterr().err
    assert tree(place) == before


def test_help_of_a_command_with_parts(capsys):
    """`ptft data` lists its parts, and each part explains itself."""
    assert run("data", "--help") == 0
    listed = capsys.readouterr().out
    assert "data inspect" in listed
    assert "data stats" in listed
    assert "pretrain" not in listed
    for part in ("inspect", "stats"):
        assert run("data", part, "--help") == 0
        assert capsys.readouterr().out.startswith(f"ptft data {part} --config=")
