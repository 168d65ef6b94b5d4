"""Reading documents from files of every kind: what every later number rests on."""

import gzip
import hashlib
import json
import lzma
import sys
import textwrap
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from ptft_jax.data.corpus.store import FileRecord
from ptft_jax.data.text.documents import Document
from ptft_jax.data.text.files import FilePart, find_files
from ptft_jax.errors import ConfigError, DataError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = "One.\nTwo.\n\n\n  Three. \n \t\nFour"
COMPRESSIONS = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    # With a checksum, as the command `zstd` writes.
    ".zst": lambda data: zstd.compress(
        data, options={zstd.CompressionParameter.checksum_flag: True}
    ),
}


def part(path: Path, column: str = "text") -> FilePart:
    return find_files(str(path), column)[0]


def read(path: Path, column: str = "text") -> list[Document]:
    return list(part(path, column).read())


def lines_of(path: Path) -> list[tuple[str, ...]]:
    return [document.lines for document in read(path)]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.xz", ".txt.zst", ".text"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_reads_plain_and_compressed_files_alike(tmp_path, suffix, line_end, mark):
    """Line ends, byte-order mark and compression are not part of the text."""
    path = tmp_path / f"a{suffix}"
    compress = COMPRESSIONS.get(path.suffix, bytes)
    path.write_bytes(compress(mark + TEXT.replace("\n", line_end).encode()))
    documents = read(path)
    assert [d.lines for d in documents] == [("One.", "Two."), ("Three.",), ("Four",)]
    assert documents[-1].position == path.stat().st_size


WRAPPED = """\
\ufeffCHAPTER I

  The first sentence stands on
  three lines, as the well-
  known files of e-books have it.

A second paragraph--
one with a dash -
ends here.


CHAPTER II
"""
JOINED = [
    (
        "CHAPTER I",
        "The first sentence stands on three lines, as the well-known files of e-books have it.",
        "A second paragraph--one with a dash - ends here.",
    ),
    ("CHAPTER II",),
]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_wrapped_lines_are_joined_where_asked(tmp_path, line_end):
    """A blank line ends a paragraph, two a document; a hyphen at a line's end is kept."""
    path = tmp_path / "a.txt"
    path.write_bytes(WRAPPED.replace("\n", line_end).encode())
    (file,) = find_files(str(path), "text", join_lines=True)
    assert [document.lines for document in file.read()] == JOINED
    assert len(lines_of(path)) == 4


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_wrapped_lines_of_records_are_joined(tmp_path, name):
    """A record stays one document, whatever blank lines it has."""
    path = tmp_path / name
    text = WRAPPED.lstrip("\ufeff")
    if name.endswith("parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"text": [text]}), path)
    else:
        path.write_text(json.dumps({"text": text}))
    (file,) = find_files(str(path), "text", join_lines=True)
    assert [document.lines for document in file.read()] == [tuple(sum(JOINED, ()))]


@pytest.mark.parametrize(
    ("lines", "joined"),
    [
        ("今天天气\n很好。", "今天天气很好。"),
        ("東京は\nきれい", "東京はきれい"),
        ("在 NLP\n领域", "在 NLP 领域"),
        ("오늘은\n날씨가", "오늘은 날씨가"),
        ("an exam\u00ad\nple", "an exam\u00adple"),
        ("it was\u2014\nwell", "it was\u2014well"),
        ("pages 3 -\n5", "pages 3 - 5"),
    ],
)
def test_what_stands_between_joined_lines(tmp_path, lines, joined):
    """Scripts without spaces get none, nor does what is behind a hyphen or a long dash."""
    path = tmp_path / "a.txt"
    path.write_text(lines, encoding="utf-8")
    (file,) = find_files(str(path), "text", join_lines=True)
    assert [document.lines for document in file.read()] == [(joined,)]


@pytest.mark.parametrize("on_hyphens", [False, True])
def test_joining_undoes_wrapping(tmp_path, shared_data, on_hyphens):
    """Real paragraphs, wrapped at 72 columns and joined again, are what they were."""
    with lzma.open(shared_data / "text" / "standardebooks_cc0.txt.xz") as stream:
        text = stream.read(1_000_000).decode("utf-8", "ignore")
    documents = [
        [" ".join(line.split()) for line in document.split("\n")]
        for document in text.split("\n\n")[:-1]
    ]
    path = tmp_path / "a.txt"
    wrapped = [
        "\n\n".join(textwrap.fill(line, 72, break_on_hyphens=on_hyphens) for line in document)
        for document in documents
    ]
    path.write_text("\n\n\n".join(wrapped), encoding="utf-8")
    (file,) = find_files(str(path), "text", join_lines=True)
    found = [line for document in file.read() for line in document.lines]
    expected = [line for document in documents for line in document if line]
    assert len(expected) > 1000
    assert found == expected


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_files_of_several_members_are_read_to_the_end(tmp_path, suffix):
    """`cat a.gz b.gz > c.gz` is a valid file; stopping after the first member would lose text."""
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESSIONS[suffix](b"one\n\n") + COMPRESSIONS[suffix](b"two\n"))
    assert lines_of(path) == [("one",), ("two",)]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl.zst", "a.parquet"])
def test_reading_takes_the_checksum_of_the_file(tmp_path, name):
    """The manifest says of which bytes a corpus was made; they are not read once more for that."""
    path = tmp_path / name
    if name.endswith("parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"text": ["x y"] * 100}), path)
    else:
        content = b'{"text": "x"}\n' * 50_000 if "jsonl" in name else b"x\n\n" * 200_000
        path.write_bytes(COMPRESSIONS.get(path.suffix, bytes)(content))
    file = part(path)
    assert file.record is None
    assert sum(1 for _ in file.read()) >= 100
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert file.record == FileRecord(path.stat().st_size, digest) == file.checksum()


def test_an_endless_document_is_cut(tmp_path, monkeypatch):
    """A file without blank lines must not have to fit in memory, nor a record with all the text."""
    monkeypatch.setattr("ptft_jax.data.text.documents.MAX_DOCUMENT_CHARACTERS", 10)
    path = tmp_path / "a.txt"
    path.write_text("aaaaaa\nbbbbbb\ncccccc\n")
    assert lines_of(path) == [("aaaaaa", "bbbbbb"), ("cccccc",)]
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "aaaaaa\\nbbbbbb\\ncccccc"}\n')
    assert lines_of(path) == [("aaaaaa", "bbbbbb"), ("cccccc",)]


RECORDS = [
    {"text": "One.\n\n Two. ", "id": 1},
    {"id": 2, "text": 'Drei. "é"'},
    {"text": None},
    {"text": " \n"},
    {"text": "Four."},
]
RECORD_LINES = [("One.", "Two."), ('Drei. "é"',), ("Four.",)]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst", ".ndjson"])
def test_a_json_record_is_a_document(tmp_path, suffix):
    """Its lines are paragraphs; empty and null records are none; a blank line is no record."""
    path = tmp_path / f"a{suffix}"
    content = "\n\n".join(json.dumps(record) for record in RECORDS)
    path.write_bytes(COMPRESSIONS.get(path.suffix, bytes)(content.encode()))
    documents = read(path)
    assert [d.lines for d in documents] == RECORD_LINES


def test_a_parquet_record_is_a_document(tmp_path):
    """The same records as Parquet, in several row groups, strings of either type, other column."""
    for kind in (pyarrow.string(), pyarrow.large_string()):
        texts = pyarrow.array([record["text"] for record in RECORDS], kind)
        table = pyarrow.table({"body": texts, "id": list(range(5))})
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(table, path, row_group_size=2)
        documents = read(path, "body")
        assert [d.lines for d in documents] == RECORD_LINES
        assert documents[-1].position == path.stat().st_size


def test_a_bad_parquet_file_is_named(tmp_path):
    """No such column, no text in it, and a damaged page."""
    path = tmp_path / "a.parquet"
    texts = {"title": [f"text {i} of many" for i in range(5000)], "number": [1] * 5000}
    pyarrow.parquet.write_table(pyarrow.table(texts), path, compression="gzip")
    with pytest.raises(DataError, match=r"a\.parquet: no column 'text'; it has: title, number\."):
        read(path)
    with pytest.raises(DataError, match=r"a\.parquet, record 1: the text is of type int"):
        read(path, "number")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: the Parquet file is damaged"):
        read(path, "title")


def test_a_missing_file_and_one_json_value_are_config_errors(tmp_path):
    """Both are wrong names, not wrong content."""
    path = tmp_path / "a.json"
    path.write_text("[]")
    with pytest.raises(ConfigError, match=r"one object per line and call it \.jsonl"):
        part(path)
    (tmp_path / "a.txt").write_text("x")
    gone = part(tmp_path / "a.txt")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(ConfigError, match=r"a\.txt: cannot be read \(No such file"):
        list(gone.read())
    (tmp_path / "a.parquet.gz").write_bytes(b"")
    with pytest.raises(ConfigError, match="Parquet is compressed inside"):
        part(tmp_path / "a.parquet.gz")
