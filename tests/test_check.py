"""`ptft check`: every planted corruption is found, with its file and its place in the file."""

import gzip
import json
import lzma
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import run, tree, write_corpus

from ptft_jax.data import block_checksums, checking_inputs, damage, documents
from ptft_jax.data.block_checksums import BLOCK_CHECKSUMS, flipped_bit, measure
from ptft_jax.data.checking import check_corpus
from ptft_jax.data.checking_inputs import check_inputs
from ptft_jax.data.corpus import Corpus, FileRecord, Manifest
from ptft_jax.data.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError

PREPARE = "--config=configs/data/text.py"
SHARD = "train/tokens-00001.bin"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A folder with a corpus of several token files, two tokenizers and sound inputs."""
    place = tmp_path_factory.mktemp("sound")
    write_corpus(place / "a.txt", 30)
    write_corpus(place / "b.txt", 12, seed=1)
    flags = ["--config.vocab_size=90", "--config.dev_fraction=0.2", "--config.shard_tokens=400"]
    inputs = f"--config.inputs={place}/a.txt,{place}/b.txt@2"
    assert run("prepare", PREPARE, inputs, *flags, f"--out_dir={place}/data") == 0
    tokenizer = TextTokenizer.load(place / "data" / "tokenizer")
    tokens = [tokenizer.token(index) for index in range(tokenizer.vocab_size)]
    tokens[7], tokens[9] = tokens[9], tokens[7]
    TextTokenizer.wordpiece(tokens, lowercase=True).save(place / "other")
    texts = (place / "a.txt").read_text().split("\n\n")
    (place / "a.txt.gz").write_bytes(gzip.compress(("\n\n".join(texts[:9]) * 3).encode()))
    (place / "a.txt.xz").write_bytes(lzma.compress("\n\n".join(texts[9:15]).encode()))
    lines = [json.dumps({"text": text, "id": number}) for number, text in enumerate(texts)]
    (place / "c.jsonl").write_text("\n".join(lines[15:20]) + "\n")
    table = pa.table({"text": texts[20:], "id": list(range(len(texts) - 20))})
    pq.write_table(table, place / "d.parquet", row_group_size=4)
    return place


@pytest.fixture
def place(sound, tmp_path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "place"))


def add_checksums(data_dir: Path) -> None:
    """Gives a corpus the check sums of its blocks anew, as if its files had been written so."""
    content = json.loads((data_dir / "manifest.json").read_text())
    content["files"].pop(BLOCK_CHECKSUMS, None)
    sums = [measure(data_dir / name)[1] for name in sorted(content["files"])]
    np.concatenate(sums).tofile(data_dir / BLOCK_CHECKSUMS)
    content["files"][BLOCK_CHECKSUMS] = vars(FileRecord.of(data_dir / BLOCK_CHECKSUMS))
    (data_dir / "manifest.json").write_text(json.dumps(content, indent=2, sort_keys=True))


def edit_manifest(data_dir: Path, change) -> None:
    path = data_dir / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=2))


def record_again(data_dir: Path, *names: str) -> None:
    """Makes the manifest agree with changed files, as if they had been written so."""
    edit_manifest(
        data_dir,
        lambda content: content["files"].update(
            {name: vars(FileRecord.of(data_dir / name)) for name in names}
        ),
    )
    add_checksums(data_dir)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def document_of(data_dir: Path, split: str, token: int) -> int:
    """The document of a token of the split, looked up the slow way."""
    corpus = Corpus.open(data_dir, split)
    for document, first in enumerate(corpus.document_offsets[1:]):
        if token < corpus.sentence_offsets[first]:
            return document
    raise AssertionError(token)


def shard_start(data_dir: Path) -> int:
    return Manifest.read(data_dir).splits["train"].shard_tokens[0]


def inputs(*paths: Path) -> list[str]:
    return [PREPARE, f"--config.inputs={','.join(map(str, paths))}"]


# Each plants one thing and returns the command line, and what has to be found: the file, and words
# that its position and its problem hold.


def bad_utf8(place):
    (place / "bad.txt").write_bytes(b"one\ntwo\n\ncaf\xe9 au lait\n\nfive\n")
    return inputs(place / "bad.txt"), place / "bad.txt", "line 4", "not UTF-8 (byte 0xe9"


def truncated_gzip(place):
    whole = (place / "a.txt.gz").read_bytes()
    (place / "a.txt.gz").write_bytes(whole[: len(whole) // 2])
    position = f"the end of {len(whole) // 2} bytes"
    return inputs(place / "a.txt.gz"), place / "a.txt.gz", position, "file is damaged"


def bit_in_a_shard(place):
    data = place / "data"
    token = shard_start(data) + 123
    document = document_of(data, "train", token)
    before = int(np.fromfile(data / SHARD, np.uint16)[123])
    flip(data / SHARD, 16 * 123 + 2)
    position = f"byte 246: token 123, document {document}"
    problem = f"a bit is flipped: id {before ^ 4} should be {before}"
    return [f"--data_dir={data}"], data / SHARD, position, problem


def missing_shard(place):
    data = place / "data"
    start, tokens = shard_start(data), Manifest.read(data).splits["train"].shard_tokens[1]
    documents = [document_of(data, "train", token) for token in (start, start + tokens - 1)]
    (data / SHARD).unlink()
    position = f"tokens 0 to {tokens - 1}, documents {documents[0]} to {documents[1]}"
    return [f"--data_dir={data}"], data / SHARD, position, "is missing"


def empty_file(place):
    (place / "empty.txt").write_text("\n \n\n")
    return inputs(place / "a.txt", place / "empty.txt"), place / "empty.txt", "", "empty"


def empty_split(place):
    data = place / "data"
    counts = {"documents": 0, "sentences": 0, "tokens": 0}

    def change(content):
        for name in [name for name in content["files"] if name.startswith("dev/tokens")]:
            del content["files"][name]
            (data / name).unlink()
        lists = {key: [] for key in ("shard_tokens", "document_lengths", "sentence_lengths")}
        content["splits"]["dev"].update(counts, unknown_tokens=0, **lists)
        for source in content["sources"]:
            source["counts"]["dev"] = counts

    for name in ("sentences", "documents"):
        np.zeros(1, "<i8").tofile(data / "dev" / f"{name}.bin")
    edit_manifest(data, change)
    record_again(data, "dev/sentences.bin", "dev/documents.bin")
    return [f"--data_dir={data}"], data / "dev", "", "no document"


def wrong_tokenizer(place):
    flags = [f"--data_dir={place / 'data'}", f"--tokenizer={place / 'other'}"]
    return flags, place / "other", "token id 7", "not the tokenizer that the corpus was encoded"


def replaced_tokenizer(place):
    folder = place / "data" / "tokenizer"
    shutil.copytree(folder, place / "right")
    shutil.rmtree(folder)
    shutil.copytree(place / "other", folder)
    flags = [f"--data_dir={place / 'data'}", f"--tokenizer={place / 'right'}"]
    return flags, folder, "token id 7", "not the tokenizer that the corpus was encoded"


def foreign_id(place):
    data = place / "data"
    token = shard_start(data) + 31
    document = document_of(data, "train", token)
    tokens = np.fromfile(data / SHARD, np.uint16)
    tokens[31] = 4000
    tokens.tofile(data / SHARD)
    record_again(data, SHARD)
    position = f"token 31, document {document}"
    return [f"--data_dir={data}"], data / SHARD, position, "id 4000, but the vocabulary has"


def wrong_key(place):
    (place / "e.jsonl").write_text('{"text": "a b"}\n{"body": "c", "id": 1}\n{"text": "d"}\n')
    return inputs(place / "e.jsonl"), place / "e.jsonl", "line 2", "no column 'text'"


def wrong_column(place):
    flags = [*inputs(place / "d.parquet"), "--config.text_column=body"]
    return flags, place / "d.parquet", "", "no column 'body'"


def copied_shard(place):
    data = place / "data"
    shutil.copy(data / "train" / "tokens-00000.bin", data / SHARD)
    return [f"--data_dir={data}"], data / SHARD, "tokens 0 to", "content of train/tokens-00000.bin"


def shard_listed_twice(place):
    """The manifest itself was made with one content under two names."""
    data = place / "data"
    shutil.copy(data / "train" / "tokens-00000.bin", data / SHARD)
    first = shard_start(data)
    record_again(data, SHARD)
    edit_manifest(
        data,
        lambda content: content["splits"]["train"]["shard_tokens"].__setitem__(1, first),
    )
    return [f"--data_dir={data}"], data / SHARD, "tokens 0 to", "content of train/tokens-00000.bin"


def foreign_version(place):
    data = place / "data"
    edit_manifest(data, lambda content: content.update(format_version=1))
    lines = (data / "manifest.json").read_text().split("\n")
    number = next(n for n, line in enumerate(lines, start=1) if "format_version" in line)
    return [f"--data_dir={data}"], data / "manifest.json", f"line {number}", "corpus format 1"


def foreign_format(place):
    data = place / "data"
    edit_manifest(data, lambda content: content.update(format="another"))
    return [f"--data_dir={data}"], data / "manifest.json", "line", "not the manifest of a corpus"


PLANTED = [
    bad_utf8,
    truncated_gzip,
    bit_in_a_shard,
    missing_shard,
    empty_file,
    empty_split,
    wrong_tokenizer,
    replaced_tokenizer,
    foreign_id,
    wrong_key,
    wrong_column,
    copied_shard,
    shard_listed_twice,
    foreign_version,
    foreign_format,
]


@pytest.fixture
def shown(monkeypatch) -> list:
    """What the command would print as its table."""
    found: list = []
    monkeypatch.setattr("ptft_jax.commands.check.show", lambda _, findings: found.extend(findings))
    return found


@pytest.mark.parametrize("plant", PLANTED)
def test_planted_corruptions_are_found(place, shown, capsys, plant):
    """File, place and problem are named, exit code 65, and nothing is written."""
    flags, file, position, problem = plant(place)
    before = tree(place)
    assert run("check", *flags) == 65
    about = [found for found in shown if found.file == str(file)]
    assert any(position in found.position and problem in found.problem for found in about), shown
    assert all(found.mend for found in shown)
    # One mistake is one finding: what follows from it is not told as well. (Of shards that are
    # listed twice, the offsets of the second are wrong too.)
    assert len(shown) == 1 or plant is shard_listed_twice
    assert "wrong with" in capsys.readouterr().err
    assert tree(place) == before


def test_columns_that_are_there_are_named(place, shown):
    """Who has another column needs its name, not only that "text" is missing."""
    assert run("check", *inputs(place / "d.parquet"), "--config.text_column=body") == 65
    assert "text, id" in shown[0].mend


def test_what_is_sound_is_said_to_be(sound, capsys):
    """No false alarm: every kind of input, a corpus and its own tokenizer."""
    names = ("a.txt.gz", "a.txt.xz", "b.txt", "c.jsonl", "d.parquet")
    before = tree(sound)
    flags = [f"--data_dir={sound / 'data'}", f"--tokenizer={sound / 'data' / 'tokenizer'}"]
    assert run("check", *inputs(*(sound / name for name in names)), *flags) == 0
    output = capsys.readouterr()
    assert "nothing wrong" in output.out
    assert not output.err
    assert tree(sound) == before


def test_the_first_problem_does_not_hide_the_others(place, capsys):
    """Everything that is wrong with a corpus and with inputs, in one run."""
    data = place / "data"
    wanted = []
    for plant in (bad_utf8, truncated_gzip, wrong_key, empty_file, bit_in_a_shard, missing_shard):
        if plant is missing_shard:
            (data / "dev" / "tokens-00000.bin").unlink()
            wanted.append((str(data / "dev" / "tokens-00000.bin"), "token", "missing"))
        else:
            _, file, position, problem = plant(place)
            wanted.append((str(file), position, problem))
    (data / "tokenizer" / "vocab.txt").unlink()
    paths = ("bad.txt", "a.txt.gz", "e.jsonl", "empty.txt")
    found = check_inputs([str(place / name) for name in paths], "text")
    found += check_corpus(data, place / "other")
    for file, position, problem in wanted:
        assert any(
            f.file == file and position in f.position and problem in f.problem for f in found
        ), (file, position, problem)
    assert len(found) == len(wanted) + 2  # and the other tokenizer, and the vocab.txt
    # The table that is printed names each of them.
    flags = [f"--data_dir={data}", f"--tokenizer={place / 'other'}"]
    assert run("check", *inputs(*(place / name for name in paths)), *flags) == 65
    output = capsys.readouterr()
    for finding in found:
        assert any(all(cell in line for cell in finding) for line in output.out.splitlines()), (
            finding
        )
    assert f"{len(found)} things are wrong" in output.err


def test_a_flipped_bit_is_found_wherever_it_is(place):
    """In any file of the folder, exactly: the place named is that of the bit."""
    data = place / "data"
    rng = np.random.default_rng(0)
    names = sorted(Manifest.read(data).files)
    for name in names:
        path = data / name
        bit = int(rng.integers(8 * path.stat().st_size))
        content = path.read_bytes()
        flip(path, bit)
        found = [finding for finding in check_corpus(data) if finding.file == str(path)]
        path.write_bytes(content)
        assert found, name
        # The sums themselves have no sums: that they have changed is all that can be said.
        if name != BLOCK_CHECKSUMS:
            assert any(f.position.startswith(f"byte {bit // 8}:") for f in found), (name, found)
    assert not check_corpus(data)


def test_a_flipped_bit_of_offsets_is_told_as_a_number(place):
    """Who mends by hand needs both numbers."""
    path = place / "data" / "train" / "sentences.bin"
    right = int(np.fromfile(path, np.int64)[5])
    flip(path, 64 * 5 + 33)
    (found,) = check_corpus(place / "data")
    assert found.position.startswith("byte 44: entry 5")
    assert f"offset {right + (1 << 33)} should be {right}" in found.problem


@pytest.mark.parametrize("seed", range(4))
def test_changed_stretches_are_enclosed(place, monkeypatch, seed):
    """Where more than a bit has changed, the blocks named hold all of it, and no sound block."""
    for module in (block_checksums, damage):
        monkeypatch.setattr(module, "BLOCK_BYTES", 64)
    add_checksums(place / "data")
    rng = np.random.default_rng(seed)
    path = place / "data" / SHARD
    content = bytearray(path.read_bytes())
    changed = set()
    for start in rng.choice(len(content) - 40, 3, replace=False):
        # Several bits, and none of the values a bit's flip would give.
        for byte in range(int(start), int(start) + int(rng.integers(2, 40))):
            if byte not in changed:
                content[byte] ^= 0b101
                changed.add(byte)
    path.write_bytes(content)
    named = set()
    found = check_corpus(place / "data")
    assert {finding.file for finding in found} == {str(path)}
    for finding in found:
        first, last = finding.position.partition(":")[0].removeprefix("bytes ").split(" to ")
        named |= set(range(int(first), int(last) + 1))
    assert changed <= named
    assert {byte // 64 for byte in named} == {byte // 64 for byte in changed}


def test_many_changed_stretches_are_counted(place, monkeypatch):
    """A file that is all different must not fill the screen."""
    for module in (block_checksums, damage):
        monkeypatch.setattr(module, "BLOCK_BYTES", 16)
    add_checksums(place / "data")
    path = place / "data" / SHARD
    content = bytearray(path.read_bytes())
    stretches = range(0, len(content), 32)
    for byte in stretches:
        content[byte] ^= 0b101
    path.write_bytes(content)
    found = check_corpus(place / "data")
    assert len(found) == 6
    assert f"{len(stretches) - 5} more stretches" in found[-1].problem


def test_without_sums_of_blocks_the_file_is_named(place):
    """A corpus without them is checked all the same, only less exactly."""
    data = place / "data"
    (data / BLOCK_CHECKSUMS).unlink()
    edit_manifest(data, lambda content: content["files"].pop(BLOCK_CHECKSUMS))
    assert not check_corpus(data)
    flip(data / SHARD, 16 * 9 + 14)
    found = [finding for finding in check_corpus(data) if finding.file == str(data / SHARD)]
    assert "has changed" in found[0].problem
    assert found[1].position.startswith("token 9, document")
    assert "but the vocabulary has" in found[1].problem


@pytest.mark.parametrize(
    ("change", "position", "problem"),
    [
        (lambda content: content[:-7], "byte", "it ends here"),
        (lambda content: content + b"\0\0", "byte", "it should end here"),
        (lambda content: b"", "byte 0", "it is empty"),
    ],
)
@pytest.mark.parametrize("name", [SHARD, "dev/sentences.bin", "tokenizer/vocab.txt"])
def test_files_of_another_size(place, name, change, position, problem):
    """Cut off, lengthened and emptied files, as after a full disk or a broken copy."""
    path = place / "data" / name
    path.write_bytes(change(path.read_bytes()))
    found = [finding for finding in check_corpus(place / "data") if finding.file == str(path)]
    assert len(found) == 1
    assert found[0].position.startswith(position)
    assert problem in found[0].problem


@pytest.mark.parametrize(
    ("change", "position"),
    [
        (lambda content: content.update(token_dtype="<u1"), "token_dtype"),
        (lambda content: content.update(vocab_size="90"), "vocab_size"),
        (lambda content: content.update(vocab_size=91), "vocab_size"),
        (lambda content: content.update(lowercase=False), "lowercase"),
        (lambda content: content.update(tokenizer_kind="bpe"), "tokenizer_kind"),
        (lambda content: content["sources"][1].update(weight=-1), "source sound0/b.txt, weight"),
        (lambda content: content["files"][SHARD].update(bytes=None), f"files, {SHARD}, bytes"),
        (lambda content: content["files"][SHARD].update(sha256="0"), f"files, {SHARD}"),
        (
            lambda content: content["splits"]["dev"].update(documents=-2),
            "splits, dev, documents",
        ),
        (lambda content: content["splits"]["dev"]["sentence_lengths"].append(1), "split dev"),
    ],
)
def test_values_of_a_manifest_that_cannot_be(place, change, position):
    """Its own values are checked too: they decide how the files are read."""
    edit_manifest(place / "data", change)
    found = check_corpus(place / "data")
    assert found
    assert {finding.file for finding in found} == {str(place / "data" / "manifest.json")}
    assert position in [finding.position for finding in found]


def test_a_manifest_that_contradicts_itself(place):
    """Counts that were edited by hand are found though every file is as it was."""
    data = place / "data"

    def change(content):
        content["sources"][0]["counts"]["train"]["documents"] += 1
        content["splits"]["train"]["sentences"] += 2
        content["splits"]["train"]["shard_tokens"][1] -= 3
        del content["files"]["dev/tokens-00000.bin"]

    edit_manifest(data, change)
    problems = [finding.problem for finding in check_corpus(data)]
    for words in (
        "documents in its sources",
        "sentences in its sources",
        "tokens in its files",
        f"tokens in {SHARD}",
        "it does not list dev/tokens-00000.bin",
        "the manifest does not list it",
        "entries, expected",
    ):
        assert any(words in problem for problem in problems), (words, problems)


def test_offsets_that_do_not_ascend(place):
    """Recorded as they are, but impossible: a document that ends before it begins."""
    data = place / "data"
    path = data / "train" / "sentences.bin"
    offsets = np.fromfile(path, np.int64)
    offsets[4] = offsets[6]
    offsets.tofile(path)
    record_again(data, "train/sentences.bin")
    (found,) = [finding for finding in check_corpus(data) if finding.file == str(path)]
    assert found.position == "entry 4"
    assert "is followed by" in found.problem


def test_a_damaged_manifest_is_found_with_its_line(place):
    """Cut off in the middle: the line is that of the JSON error."""
    path = place / "data" / "manifest.json"
    lines = path.read_text().split("\n")
    path.write_text("\n".join(lines[:10]) + "\n?")
    (found,) = check_corpus(place / "data")
    assert (found.file, found.position) == (str(path), "line 11")
    assert "not JSON" in found.problem


def test_reading_goes_on_after_a_bad_line(place):
    """Each bad line is named, and many of one kind are counted."""
    path = place / "f.txt"
    bad = [2, 3, 7, 20, 21, 30, 31, 32]
    path.write_bytes(b"".join(b"\xff\n" if n in bad else b"x y\n" for n in range(1, 41)))
    found = check_inputs([str(path)], "text")
    assert [finding.position for finding in found[:5]] == [f"line {n}" for n in bad[:5]]
    assert found[5].problem == "3 more like these: not UTF-8"
    jsonl = place / "g.jsonl"
    jsonl.write_bytes(b'{"text": "a"}\n\n[1]\n{"text": 3}\nno\n{"text": "\xff"}\n{"b": 1}\n')
    found = check_inputs([str(jsonl)], "text")
    assert [finding.position for finding in found] == [f"line {n}" for n in range(3, 8)]


def test_zero_bytes_are_no_text(place):
    """UTF-8 allows them; they come from UTF-16, or from a disk that was full."""
    path = place / "h.txt"
    path.write_bytes(b"one\n" + "two\n".encode("utf-16-le") + b"\nthree\n")
    found = check_inputs([str(path)], "text")
    assert [finding.position for finding in found] == ["line 2", "line 3"]
    assert all("zero bytes" in finding.problem for finding in found)


def test_an_endless_line_is_one_finding(place, monkeypatch):
    """The rest of a line that is too long is not taken for further lines."""
    for module in (documents, checking_inputs):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 1 << 20)
    path = place / "long.txt"
    path.write_bytes(b"a\n" + b"x" * (5 << 20) + b"\nb\n\xff\nc\n")
    found = check_inputs([str(path)], "text")
    assert [finding.position for finding in found] == ["line 2", "line 4"]
    assert "longer than" in found[0].problem


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.xz"])
def test_damage_inside_a_compressed_file(place, name):
    """The place named is not before the damage, and not after the end of the file."""
    path = place / name
    size = path.stat().st_size
    flip(path, 8 * (size // 2))
    (found,) = check_inputs([str(path)], "text")
    assert "file is damaged" in found.problem
    assert f"of {size} bytes, near line" in found.position


def test_parquet_goes_on_after_a_damaged_row_group(place):
    """Records behind a damaged group are still read."""
    path = place / "d.parquet"
    metadata = pq.ParquetFile(path).metadata
    column = metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    content[begin : begin + 40] = bytes(40)
    path.write_bytes(content)
    (found,) = check_inputs([str(path)], "text")
    assert found.position == f"row group 2 of {metadata.num_row_groups}, records 5 to 8"
    content[-8:] = bytes(8)
    path.write_bytes(content)
    (found,) = check_inputs([str(path)], "text")
    assert "damaged" in found.problem


def test_a_parquet_record_that_is_not_utf8(place):
    """Parquet itself does not look at what is in a string."""
    values = [b"abc", b"caf\xe9", b"", b"xyz"]
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(values))]
    pq.write_table(
        pa.table({"text": pa.Array.from_buffers(pa.string(), len(values), buffers)}),
        place / "u.parquet",
    )
    (found,) = check_inputs([str(place / "u.parquet")], "text")
    assert found.position == "record 2"
    assert "not UTF-8" in found.problem


def test_one_input_twice_under_two_names(place):
    """A copy would be drawn from twice as often without anybody having said so."""
    shutil.copy(place / "a.txt", place / "copy.txt")
    items = [str(place / name) for name in ("a.txt", "b.txt", "copy.txt")]
    (found,) = check_inputs(items, "text")
    assert found.file == str(place / "copy.txt")
    assert str(place / "a.txt") in found.problem


def test_an_input_that_is_not_there_does_not_end_the_check(place):
    """Among others it is a finding; alone, a mistake on the command line."""
    (place / "x.txt").write_bytes(b"\xff\n")
    found = check_inputs([str(place / "nothing*.txt"), str(place / "x.txt")], "text")
    assert len(found) == 2
    assert "no file matches" in found[0].problem
    with pytest.raises(ConfigError, match="no file matches"):
        check_inputs([str(place / "nothing*.txt")], "text")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "nothing to check: expected --data_dir=DATA"),
        (["--tokenizer=x"], "nothing to check"),
        ([PREPARE, "--config.inputs=a.txt", "--tokenizer=x"], "compared with a corpus"),
        ([PREPARE], "--config.inputs is empty"),
        (["--config.inputs=a.txt"], "--config is missing"),
        (["--data_dir=nowhere"], "nowhere is not a prepared corpus"),
        ([PREPARE, "--config.inputs=none*.txt"], "no file matches"),
        ([PREPARE, "--config.inputs=a.txt", "--config.dev_fraction=2"], "dev_fraction=2"),
        (["--data_dir=x", "stray"], "'stray'"),
    ],
)
def test_mistakes_on_the_command_line(capsys, flags, words):
    """What is asked for wrongly is exit code 2, as with every command, and no table."""
    assert run("check", *flags) == 2
    output = capsys.readouterr()
    assert words in output.err
    assert not output.out


def test_a_tokenizer_that_is_not_there(sound, capsys):
    """A wrong path is not a wrong tokenizer."""
    assert run("check", f"--data_dir={sound / 'data'}", "--tokenizer=nowhere") == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_progress_reaches_its_total(sound):
    """A display that stops at 97 % looks like a hang."""
    said: dict[str, tuple[int, int]] = {}

    def progress(description, done, total):
        assert done >= said.get(description, (0, 0))[0]
        said[description] = (done, total)

    check_corpus(sound / "data", progress=progress)
    check_inputs([str(sound / "a.txt.xz"), str(sound / "d.parquet")], "text", progress)
    assert len(said) == 2
    assert all(done == total > 0 for done, total in said.values())


def test_commands_that_read_a_corpus_still_end_with_its_first_problem(place):
    """`check` is for looking; training on damaged data is refused as before."""
    flip(place / "data" / SHARD, 77)
    with pytest.raises(DataError, match="has changed since it was prepared"):
        Corpus.open(place / "data")


class BrokenDataset:
    """A split of a dataset whose third record cannot be used."""

    name, size, record, identity = "tfds:broken", 10, None, {}

    def read(self):
        yield documents.Document(("a",), 1, 3)
        yield documents.Document(("b",), 2, 6)
        raise DataError("tfds:broken, record 3: not UTF-8 (byte 2)")


def test_a_dataset_ends_with_its_first_problem_but_not_the_check(place, monkeypatch):
    """Other libraries cannot go on behind a record; the inputs after the dataset are still read."""
    (place / "x.txt").write_bytes(b"\xff\n")
    sources = checking_inputs.open_sources([str(place / "x.txt")], "text")
    broken = checking_inputs.Source("tfds:broken", 1.0, (BrokenDataset(),))
    monkeypatch.setattr(checking_inputs, "open_sources", lambda *_: (broken, *sources))
    found = check_inputs(["tfds:broken", "x.txt"], "text")
    assert [(finding.file, finding.position) for finding in found] == [
        ("tfds:broken", "record 3"),
        (str(place / "x.txt"), "line 1"),
    ]


def test_jax_is_not_imported(sound, tmp_path):
    """Checking and looking are done where text lies, often without JAX's seconds or accelerator."""
    settings = [
        "--config=configs/pretrain/bert_tiny.py",
        f"--config.data_dir={sound / 'data'}",
        "--config.max_seq_length=32",
    ]
    lines = [
        ["check", f"--data_dir={sound / 'data'}", *inputs(sound / "a.txt")],
        ["data", "inspect", *settings],
        ["data", "stats", *settings, f"--out_dir={tmp_path}/stats", "--rows=10"],
    ]
    code = (
        "import sys\nfrom ptft_jax.cli import main\n"
        f"assert [main(line) for line in {lines!r}] == [0] * {len(lines)}\n"
        "print({'jax', 'flax', 'torch', 'transformers'} & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"


@pytest.mark.parametrize("size", [1, 7, 64])
def test_every_single_bit_has_a_sum_of_its_own(size):
    """The bit that a sum tells is the bit that was flipped, for each bit of a block."""
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    expected = zlib.crc32(content.tobytes())
    for bit in range(8 * size):
        changed = content.copy()
        changed[bit // 8] ^= 1 << bit % 8
        assert flipped_bit(zlib.crc32(changed.tobytes()), expected, size) == bit
    assert flipped_bit(expected, expected, size) is None


def test_one_reading_measures_all(tmp_path):
    """Size, SHA-256 and the sum of each block, whatever the reading's own blocks are."""
    path = tmp_path / "file"
    for size in (0, 1, 65536, 65537, (1 << 20) + 70_000):
        content = np.random.default_rng(size).bytes(size)
        path.write_bytes(content)
        record, sums = measure(path)
        assert record == FileRecord.of(path)
        blocks = [content[start : start + 65536] for start in range(0, size, 65536)]
        assert sums.tolist() == [zlib.crc32(block) for block in blocks]
