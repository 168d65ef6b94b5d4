# ruff: noqa: RUF001 (quotation marks of all kinds are the matter here)
"""Reading documents and splitting sentences: what every later number rests on."""

import gzip
import lzma
from pathlib import Path

import pytest

from ptft_jax.data.documents import expand_inputs, read_documents
from ptft_jax.data.sentences import split_sentences
from ptft_jax.errors import ConfigError, DataError

TEXT = "One.\nTwo.\n\n\n  Three. \n \t\nFour"


def lines_of(*paths: Path) -> list[tuple[str, ...]]:
    return [document.lines for document in read_documents(paths)]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.xz", ".text"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_reads_plain_and_compressed_files_alike(tmp_path, suffix, line_end, mark):
    """Line ends, byte-order mark and compression are not part of the text."""
    path = tmp_path / f"a{suffix}"
    compress = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.write_bytes(compress(mark + TEXT.replace("\n", line_end).encode()))
    documents = list(read_documents([path]))
    assert [d.lines for d in documents] == [("One.", "Two."), ("Three.",), ("Four",)]
    assert [d.line_number for d in documents] == [1, 5, 7]
    assert documents[-1].input_bytes == path.stat().st_size


def test_each_file_begins_a_document(tmp_path):
    """Two files that do not end in a blank line must not run together."""
    paths = [tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "empty.txt"]
    for path, text in zip(paths, ("one", "two", "\n\n"), strict=True):
        path.write_text(text)
    assert lines_of(*paths) == [("one",), ("two",)]


def test_an_endless_document_is_cut(tmp_path, monkeypatch):
    """A file without blank lines must not have to fit in memory."""
    monkeypatch.setattr("ptft_jax.data.documents.MAX_DOCUMENT_BYTES", 10)
    path = tmp_path / "a.txt"
    path.write_text("aaaaaa\nbbbbbb\ncccccc\n")
    assert lines_of(path) == [("aaaaaa", "bbbbbb"), ("cccccc",)]


def test_not_utf8_names_file_and_line(tmp_path):
    """The line number must be the one an editor shows."""
    path = tmp_path / "latin.txt"
    path.write_bytes(b"fine\n\nalso fine\ncaf\xe9 au lait\n")
    with pytest.raises(DataError, match=r"latin\.txt, line 4: not UTF-8 \(byte 0xe9 at position 4"):
        list(read_documents([path]))


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("xz", lzma.compress)])
def test_a_damaged_compressed_file_is_a_data_error(tmp_path, suffix, compress):
    """Truncated, and not compressed at all."""
    for name, content in (("cut", compress(TEXT.encode() * 99)[:-9]), ("plain", TEXT.encode())):
        path = tmp_path / f"{name}.{suffix}"
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}\.{suffix}, near line .* damaged"):
            list(read_documents([path]))


def test_an_endless_line_is_a_data_error(tmp_path, monkeypatch):
    """A binary file or a JSON dump must not fill the memory."""
    monkeypatch.setattr("ptft_jax.data.documents.MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "a.txt"
    path.write_text("short\n" + "x" * (1 << 21))
    with pytest.raises(DataError, match=r"a\.txt, line 2: longer than 1 MiB"):
        list(read_documents([path]))


def test_expand_inputs(tmp_path):
    """Patterns expand in order, each file once; a useless pattern says so."""
    for name in ("b.txt", "a.txt", "deep/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = expand_inputs([f"{tmp_path}/b.txt", f"{tmp_path}/**/*.txt"])
    assert [path.name for path in found] == ["b.txt", "a.txt", "c.txt"]
    with pytest.raises(ConfigError, match=r"no file matches '.*absent\*'"):
        expand_inputs([f"{tmp_path}/absent*"])
    with pytest.raises(ConfigError, match="deep is a folder"):
        expand_inputs([f"{tmp_path}/deep"])
    with pytest.raises(ConfigError, match="inputs is empty"):
        expand_inputs([])


@pytest.mark.parametrize(
    "sentences",
    [
        ["One sentence."],
        ["No stop at all"],
        ["This is one.", "This is two.", "And three!"],
        ["Mr. and Mrs. J. R. Smith met Dr. No.", "He left."],
        ["It is large, e.g. Paris, i.e. the city.", "See Fig. 3 and No. 5 of vol. 2."],
        ["The U.S. Army came at 5 p.m. Tuesday.", "They left the U.S.", "It rained."],
        ["It costs $3.50 or 1,000.25 in all.", "Version 1.2.3 is out."],
        ["“Stop.”", "“Why?”", "(He left.)", "She said: “Go.”", "[Note.]", "End."],
        ['"Stop!" he cried.', '"Never!"'],
        [["Wait...", "Really?!"][0], "Really?!", "Yes…", "No."],
        ["He trailed off . . .", "Then he spoke."],
        ["He was taller than I.", "She was not."],
        ["1. Introduction to the matter.", "2. The rest."],
        ["Lower case follows. so nothing is cut here"],
        ["Is it?", "— No.", "«Oui.»", "Fin."],
        ["深度学习很好。", "我们走吧！”", "他说。"],
        ["Apples, pears etc. are fruit.", "I like apples, pears etc.", "They are fruit."],
        ["The answer is 42.", "7 is not."],
    ],
)
def test_splits_sentences(sentences):
    """Abbreviations, initials, decimals, quotations and ellipses, each as a reader would."""
    assert split_sentences(" ".join(sentences)) == sentences


def test_splitting_loses_nothing_but_space(shared_data):
    """On real prose the sentences, joined, are the paragraph."""
    path = shared_data / "text" / "standardebooks_cc0.txt.xz"
    if not path.exists():
        pytest.skip(f"needs {path}")
    counts = []
    for document, _ in zip(read_documents([path]), range(60), strict=False):
        for line in document.lines:
            sentences = split_sentences(line)
            assert "".join("".join(sentences).split()) == "".join(line.split())
            assert all(sentence == sentence.strip() != "" for sentence in sentences)
            counts.append(len(sentences))
    assert 1.5 < sum(counts) / len(counts) < 10


def test_splitting_is_linear():
    """A paragraph of a million stops must not take quadratic time (the timeout would tell)."""
    assert len(split_sentences("A b. " * 200_000)) == 200_000
    assert len(split_sentences("x" * 1_000_000 + ". " + "." * 100_000)) == 1
    assert len(split_sentences(". " * 200_000 + "x")) <= 2
    assert len(split_sentences("e.g. Xa " * 200_000)) == 1
    assert len(split_sentences('."' * 200_000 + "x")) == 1
    assert split_sentences("") == []
