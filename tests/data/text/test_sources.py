"""What `inputs` may name: patterns, URLs, datasets and weights, and how blocks of them are read."""

import builtins
import json
import lzma
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from ptft_jax.commands.data.prepare import split_inputs
from ptft_jax.data.corpus.check import check_inputs
from ptft_jax.data.corpus.prepare import prepare_corpus
from ptft_jax.data.corpus.settings import PrepareSettings
from ptft_jax.data.corpus.store import DatasetRecord, Manifest
from ptft_jax.data.text import sources as inputs
from ptft_jax.data.text.files import find_files
from ptft_jax.data.text.sources import Position, Source, open_sources, read_blocks
from ptft_jax.errors import ConfigError, DataError


def documents_of(sources: tuple[Source, ...]) -> list[tuple[str, ...]]:
    return [lines for block in read_blocks(sources, Position()) for lines in block.documents]


def write_texts(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)


def test_patterns_expand_in_order_and_each_file_once(tmp_path):
    """Two patterns may overlap; the file counts for the first source that names it."""
    (tmp_path / "deep").mkdir()
    write_texts(tmp_path, b="b", a="a")
    write_texts(tmp_path / "deep", c="c")
    sources = open_sources([f"{tmp_path}/b.txt@2", f" {tmp_path}/**/*.txt "], "text")
    assert [[part.name for part in source.parts] for source in sources] == [
        ["b.txt"],
        ["a.txt", "c.txt"],
    ]
    assert [source.weight for source in sources] == [2, 1]
    # Folders above the last one are of no interest to the reader of a manifest.
    assert [source.name for source in sources] == [f"{tmp_path.name}/b.txt", "**/*.txt"]
    assert documents_of(sources) == [("b",), ("a",), ("c",)]
    with pytest.raises(ConfigError, match=r"a\.txt' names nothing that items before it have not"):
        open_sources([f"{tmp_path}/*.txt", f"{tmp_path}/a.txt"], "text")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("absent*", r"no file matches '.*absent\*'"),
        ("deep", "deep is a folder; name the files in it"),
        ("a.txt@0", "the weight after @ must be above 0"),
        ("a.txt@nan", "the weight after @ must be above 0"),
        ("a.txt@twice", r"no file matches '.*a\.txt@twice'"),
    ],
)
def test_a_useless_item_is_refused(tmp_path, item, message):
    """The message names the item."""
    (tmp_path / "deep").mkdir()
    write_texts(tmp_path, a="a")
    with pytest.raises(ConfigError, match=message):
        open_sources([f"{tmp_path}/{item}"], "text")


def test_a_name_that_ends_like_a_weight_can_be_written(tmp_path):
    """Any file can be named: one more @ says that the first belongs to the name."""
    path = tmp_path / "mail@2"
    path.write_text("x")
    with pytest.raises(ConfigError, match="no file matches"):
        open_sources([str(path)], "text")
    (source,) = open_sources([f"{path}@1"], "text")
    assert source.parts[0].name == "mail@2"
    assert source.weight == 1


def test_a_name_is_tried_before_the_pattern_in_it(tmp_path):
    """Brackets and commas of a file that is there could not be named."""
    for name in ("news [2020].txt", "news 2.txt", "a,b.txt", "a"):
        (tmp_path / name).write_text(name)
    texts = f"{tmp_path}/news [2020].txt@2, {tmp_path}/a,b.txt,{tmp_path}/a"
    assert split_inputs(texts) == tuple(
        f"{tmp_path}/{name}" for name in ("news [2020].txt@2", "a,b.txt", "a")
    )
    found = documents_of(open_sources(split_inputs(texts), "text"))
    assert found == [("news [2020].txt",), ("a,b.txt",), ("a",)]
    (pattern,) = open_sources([f"{tmp_path}/news [2].txt"], "text")
    assert documents_of((pattern,)) == [("news 2.txt",)]


def test_a_source_can_name_its_own_column(tmp_path):
    """Corpora of several hands have their text under several names; the others keep the general."""
    (tmp_path / "a.jsonl").write_text('{"body": "one"}')
    (tmp_path / "b.jsonl").write_text('{"text": "two", "body": "no"}')
    (tmp_path / "c#d.jsonl").write_text('{"text": "three"}')
    pyarrow.parquet.write_table(pyarrow.table({"die Zeile": ["four"]}), tmp_path / "e.parquet")
    items = ["a.jsonl#body@2", "b.jsonl", "c#d.jsonl", "*.parquet#die Zeile"]
    sources = open_sources([f"{tmp_path}/{item}" for item in items], "text")
    assert documents_of(sources) == [("one",), ("two",), ("three",), ("four",)]
    assert [source.weight for source in sources] == [2, 1, 1, 1]
    assert [source.text_column for source in sources] == ["body", "text", "text", "die Zeile"]
    assert [source.name.rpartition("/")[2] for source in sources] == [
        "a.jsonl",
        "b.jsonl",
        "c#d.jsonl",
        "*.parquet",
    ]
    # Nothing but the column is another: it is the same file.
    with pytest.raises(ConfigError, match="names nothing that items before it have not"):
        open_sources([f"{tmp_path}/b.jsonl#body", f"{tmp_path}/b.jsonl"], "text")


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    """Text has no columns at all."""
    write_texts(tmp_path, a="a")
    with pytest.raises(ConfigError, match=r"a\.txt is text and has no column.*Leave out #body"):
        open_sources([f"{tmp_path}/a.txt#body"], "text")
    (tmp_path / "b.jsonl").write_text('{"title": "one", "content": "two"}')
    with pytest.raises(DataError, match=r"no column 'body'; it has: title, content\..*FILE#COLUMN"):
        documents_of(open_sources([f"{tmp_path}/b.jsonl#body"], "text"))


def test_a_corpus_knows_the_columns_of_its_sources(tmp_path):
    """The same files with another column are another corpus."""
    for name in ("a", "b"):
        records = [{"text": f"text {name}{n}", "body": f"body {name}{n}"} for n in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    settings = PrepareSettings((f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl#body"), vocab_size=64)
    manifest = prepare_corpus(settings, tmp_path / "data")
    assert manifest.settings["text_columns"] == ["text", "body"]
    assert prepare_corpus(settings, tmp_path / "data") == manifest
    plain = replace(settings, inputs=(f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"))
    with pytest.raises(ConfigError, match=r"text_columns=\['text', 'body'\], now None"):
        prepare_corpus(plain, tmp_path / "data")
    assert "text_columns" not in prepare_corpus(plain, tmp_path / "plain").settings


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,label\n", "a table is no prose"),
        ("a.conll.gz", b"", "a table is no prose"),
        ("a.html", b"<p>", "extract its text into .txt"),
        ("a.pdf", b"%PDF-", "convert it to .txt first"),
        ("a.txt", b"-DOCSTART- -X- O O\n\n" + b"EU NNP B-NP B-ORG\n" * 9, "a word with a tag"),
        ("b.txt", "Über allen Gipfeln".encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_what_is_no_prose_is_not_read_as_prose(tmp_path, name, content, message):
    """A model would learn commas, tags or zeros; the message says what to do."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ConfigError, DataError), match=message):
        documents_of(open_sources([f"{tmp_path}/{name}"], "text"))


def test_blocks_hold_one_source_and_can_be_begun_anywhere(tmp_path, monkeypatch):
    """A run that goes on must see exactly the documents that are left, wherever it was stopped."""
    monkeypatch.setattr(inputs, "BLOCK_CHARACTERS", 4)
    write_texts(tmp_path, a="aa\n\nbb\n\ncc", b="", c="dd\n\nee", d="ff\n\ngg\n\nhhhhh")
    items = [f"{tmp_path}/[abc].txt", f"{tmp_path}/d.txt"]

    def blocks(start: Position) -> list[inputs.Block]:
        return list(read_blocks(open_sources(items, "text"), start))

    everything = blocks(Position())
    assert [(block.source, [lines[0] for lines in block.documents]) for block in everything] == [
        (0, ["aa", "bb"]),
        (0, ["cc", "dd"]),
        (0, ["ee"]),
        (1, ["ff", "gg"]),
        (1, ["hhhhh"]),
        (1, []),
    ]
    assert everything[-1].end == Position(4, 0)
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    done = [block.bytes_read for block in everything]
    assert done == sorted(done)
    assert done[-1] == total
    flat = [lines for block in everything for lines in block.documents]
    for number, block in enumerate(everything):
        left = [lines for later in everything[number + 1 :] for lines in later.documents]
        again = blocks(block.end)
        assert [lines for later in again for lines in later.documents] == left
        assert flat[len(flat) - len(left) :] == left
    with pytest.raises(DataError, match=r"a\.txt has changed while the corpus was made"):
        blocks(Position(0, 4))


# Remote storage, with the file system of fsspec that lives in memory.


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def test_remote_files_are_read_like_local_ones(memory, tmp_path):
    """A name, a pattern, compression; checksum and size are those of the stored bytes."""
    memory.pipe("/bucket/a.txt", b"one\n\ntwo")
    memory.pipe("/bucket/b.txt.xz", lzma.compress(b"three"))
    memory.pipe("/bucket/c.jsonl", b'{"text": "four"}')
    sources = open_sources(["memory://bucket/*.txt*", "memory://bucket/c.jsonl@3"], "text")
    assert documents_of(sources) == [("one",), ("two",), ("three",), ("four",)]
    assert sources[1].name == "memory://bucket/c.jsonl"
    (tmp_path / "b.txt.xz").write_bytes(lzma.compress(b"three"))
    local = find_files(str(tmp_path / "b.txt.xz"), "text")[0]
    remote = sources[0].parts[1]
    assert remote.size == local.size
    assert remote.record == local.checksum()
    # A file that is written again is another one.
    before = [part.identity for part in sources[0].parts]
    memory.pipe("/bucket/a.txt", b"One\n\nTwo")
    after = [part.identity for part in open_sources(["memory://bucket/*.txt*"], "text")[0].parts]
    assert before[0] != after[0]
    assert before[1] == after[1]


def without(monkeypatch, *packages: str) -> None:
    """Makes packages look as if they were not installed."""
    real = builtins.__import__

    def import_others(name: str, *rest: Any, **options: Any) -> Any:
        if name.partition(".")[0] in packages:
            raise ImportError(f"No module named {name!r}", name=name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", import_others)


def test_remote_mistakes_are_named(memory, monkeypatch):
    """No such file, no such protocol, no package for it: each says what to do."""
    without(monkeypatch, "gcsfs", "s3fs", "datasets")
    for item, message in (
        ("memory://bucket/a.txt", r"no file matches 'memory://bucket/"),
        ("memory://bucket/*.txt", r"no file matches 'memory://bucket/"),
        ("ftpx://host/a.txt", r"ftpx:// is not known .*expected gs://, s3:// or https"),
        ("gs://bucket/*.txt", "needs another package: .*gcsfs"),
        ("hf:wikimedia/wikipedia/20231101.en", r"needs the package `datasets`.*PTFT_EXTRAS=hf "),
    ):
        with pytest.raises(ConfigError, match=message):
            open_sources([item], "text")


def test_a_failure_of_the_network_is_not_called_damage(memory):
    """The reader would go and look for a fault in a file that has none."""
    memory.pipe("/bucket/a.txt.xz", lzma.compress(b"one\n\ntwo"))
    (source,) = open_sources(["memory://bucket/a.txt.xz"], "text")

    def fails(buffer: object) -> int:
        raise TimeoutError("no answer")

    memory.store["/bucket/a.txt.xz"].readinto = fails
    with pytest.raises(DataError, match=r"a\.txt\.xz: reading failed after 0 bytes \(TimeoutError"):
        documents_of((source,))


# TensorFlow Datasets.


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory) -> Path:
    """A tiny text set with two splits, prepared by TFDS itself in the format array_record."""
    import tensorflow_datasets as tfds

    class TinyText(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            features = {"text": tfds.features.Text(), "title": tfds.features.Text()}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(5), "validation": self._generate_examples(1)}

        def _generate_examples(self, count):
            for number in range(count):
                yield number, {"text": f"Text {number}.\n\nÄnd.", "title": f"Title {number}"}

    folder = tmp_path_factory.mktemp("tfds")
    TinyText(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_reads_a_prepared_set_of_tfds(tfds_dir, monkeypatch):
    """Default split, named split, part of a split, other column; the record says what was read."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    (source,) = open_sources(["tfds:tiny_text@0.5"], "text")
    assert source.weight == 0.5
    assert source.name == "tfds:tiny_text"
    texts = documents_of((source,))
    assert sorted(texts) == [(f"Text {number}.", "Änd.") for number in range(5)]
    assert source.parts[0].record == DatasetRecord("tfds:tiny_text", "1.2.0", "train", 5)
    for item, count in (
        ("tfds:tiny_text:validation", 1),
        ("tfds:tiny_text:1.2.0:validation", 1),
        ("tfds:tiny_text:train[:40%]", 2),
        ("tfds:tiny_text:1.2.0", 5),
    ):
        assert len(documents_of(open_sources([item], "title"))) == count


@pytest.mark.parametrize(
    ("item", "column", "message"),
    [
        ("tfds:tiny_text:test", "text", "no split 'test' .*it has train, validation"),
        ("tfds:tiny_text", "body", "no column 'body'; it has: text, title"),
        (
            "tfds:wikipedia/20230601.en",
            "text",
            r"(?s)not prepared in .*tfds build wikipedia/20230601\.",
        ),
        ("tfds:tiny_text:3.0.0", "text", "'tiny_text:3.0.0' of TFDS is not prepared"),
        ("tfds:", "text", "expected tfds:NAME"),
    ],
)
def test_tfds_mistakes_are_named(tfds_dir, monkeypatch, item, column, message):
    """Without network TFDS alone would try for minutes; here nothing asks for it."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    with pytest.raises(ConfigError, match=message):
        open_sources([item], column)


# The Hugging Face Hub, with a folder in place of a repository.


@pytest.fixture
def hub_folder(tmp_path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    for split, count in (("train", 5), ("validation", 2)):
        records = [json.dumps({"text": f"{split} {n}\n.", "title": "t"}) for n in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(records))
    return folder


def test_streams_a_dataset_of_hugging_face(hub_folder):
    """In the order of the dataset, one document per record; the record counts them."""
    pytest.importorskip("datasets")
    (source,) = open_sources([f"hf:{hub_folder}@2"], "text")
    assert documents_of((source,)) == [(f"train {n}", ".") for n in range(5)]
    record = source.parts[0].record
    assert isinstance(record, DatasetRecord)
    assert (record.name, record.split, record.records) == ("hf:tiny", "train", 5)
    assert record.version
    (other,) = open_sources([f"hf:{hub_folder}:validation"], "text")
    assert len(documents_of((other,))) == 2
    assert other.parts[0].identity != source.parts[0].identity
    (hub_folder / "train.jsonl").write_text('{"text": 1}\n{"text": 2}\n')
    found = list(check_inputs([f"hf:{hub_folder}"], "text"))
    assert ["record 2: the text is of type int" in problem for problem in found] == [False, True]


def test_hugging_face_mistakes_are_named(hub_folder):
    """No such split, no such column, no such dataset (offline), a name of too many parts."""
    pytest.importorskip("datasets")
    for item, column, message in (
        (f"hf:{hub_folder}:test", "text", "cannot be opened .*Bad split: test"),
        (f"hf:{hub_folder}", "body", "no column 'body'; it has: text, title"),
        ("hf:nobody/nothing", "text", "cannot be opened .*parquet files elsewhere"),
        ("hf:a/b/c/d", "text", r"expected hf:\[ORGANISATION/\]NAME"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_sources([item], column)


def test_a_corpus_of_datasets_says_which(tfds_dir, hub_folder, tmp_path, monkeypatch):
    """Name, version, split and number of records stand in place of files; the corpus is kept."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    settings = PrepareSettings(("tfds:tiny_text@2", f"hf:{hub_folder}"), vocab_size=64)
    manifest = prepare_corpus(settings, tmp_path / "data")
    assert manifest == Manifest.read(tmp_path / "data")
    first, second = manifest.sources
    assert first.dataset == DatasetRecord("tfds:tiny_text", "1.2.0", "train", 5)
    assert second.dataset is not None
    assert (second.dataset.name, second.dataset.records) == ("hf:tiny", 5)
    assert first.files == second.files == {}
    assert [source.weight for source in manifest.sources] == [2, 1]
    assert prepare_corpus(settings, tmp_path / "data") == manifest
    other = replace(settings, inputs=("tfds:tiny_text:validation", f"hf:{hub_folder}"))
    with pytest.raises(ConfigError, match="different: sources"):
        prepare_corpus(other, tmp_path / "data")
