"""`ptft check`, and opening a corpus: what is wrong is found, with its file and its place."""

import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import run, tree, write_corpus

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from ptft_jax.data.corpus.store import Corpus, FileRecord
from ptft_jax.data.text import documents
from ptft_jax.errors import ConfigError, DataError

PREPARE = "--config=configs/data/text.py"
SHARD, SENTENCES = "train/tokens-00001.bin", "train/sentences.bin"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A folder with a corpus of several token files and sound inputs."""
    place = tmp_path_factory.mktemp("sound")
    write_corpus(place / "a.txt", 30)
    flags = ["--config.vocab_size=90", "--config.dev_fraction=0.2", "--config.shard_tokens=400"]
    flags += [f"--config.inputs={place}/a.txt", f"--out_dir={place}/data"]
    assert run("prepare", PREPARE, *flags) == 0
    texts = (place / "a.txt").read_text().split("\n\n")
    (place / "a.txt.gz").write_bytes(gzip.compress("\n\n".join(texts).encode()))
    (place / "c.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    pq.write_table(pa.table({"text": texts, "id": list(range(len(texts)))}), place / "d.parquet")
    return place


@pytest.fixture
def place(sound, tmp_path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "place"))


def edit(data_dir: Path, change) -> None:
    path = data_dir / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=2))


def rewrite(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


def flipped(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


def put(data: Path, name: str, dtype: str, place: int, number: int) -> None:
    """Changes a number of a file, as if it had been written so."""
    numbers = np.fromfile(data / name, dtype)
    numbers[place] = number
    numbers.tofile(data / name)
    edit(data, lambda m: m["files"].update({name: vars(FileRecord.of(data / name))}))


_CHECKSUM = zstd.CompressionParameter.checksum_flag
CHANGED = "has changed since it was prepared"
FLIPPED = (SHARD, "dev/sentences.bin", "tokenizer/vocab.txt")
# What is done to a corpus, and the messages: the file and what is wrong with it, for each problem.
CORPORA = {
    "flipped bits": (
        lambda data: [rewrite(data / name, flipped) for name in FLIPPED],
        [f"{name} {CHANGED}" for name in FLIPPED],
    ),
    "other sizes": (
        lambda data: [
            (data / SHARD).unlink(),
            rewrite(data / SENTENCES, lambda content: content[:-7]),
            rewrite(data / "train/documents.bin", lambda content: b""),
        ],
        [
            f"{SHARD} is missing",
            rf"{SENTENCES} has \d+ bytes, expected \d+",
            r"documents.bin has 0 bytes, expected \d+",
        ],
    ),
    "several at once": (
        lambda data: [
            (data / "tokenizer/tokenizer.json").unlink(),
            put(data, SENTENCES, "<i8", 4, 0),
            put(data, "train/documents.bin", "<i8", 0, 1),
            put(data, SHARD, "<u2", 31, 4000),
        ],
        [
            "tokenizer/tokenizer.json is missing",
            rf"{SENTENCES}: its offsets do not ascend from 0 to \d+",
            r"train/documents.bin: its offsets do not ascend from 0 to \d+",
            rf"{SHARD}: id 4000, but the vocabulary has \d+ entries",
        ],
    ),
    "a count that is not the file's": (
        lambda data: edit(data, lambda m: m["splits"]["train"].update(sentences=3)),
        ["manifest.json is damaged .*counts of train/ that contradict"],
    ),
    "a file that is not listed": (
        lambda data: edit(data, lambda m: m["files"].pop(SHARD)),
        ["manifest.json is damaged .*counts of train/ that contradict"],
    ),
    "a source with other documents": (
        lambda data: edit(data, lambda m: m["sources"][0]["counts"]["train"].update(documents=3)),
        ["manifest.json is damaged .*counts of train/ that contradict"],
    ),
    "a source without a split": (
        lambda data: edit(data, lambda m: m["sources"][0]["counts"].pop("dev")),
        ["manifest.json is damaged .*'dev'"],
    ),
    "a weight of nothing": (
        lambda data: edit(data, lambda m: m["sources"][0].update(weight=0)),
        ["manifest.json is damaged .*a weight that is not above 0"],
    ),
    "a value of another type": (
        lambda data: edit(data, lambda m: m.update(vocab_size="90")),
        ["manifest.json is damaged .*'90' where a value of type int belongs"],
    ),
    "an unknown type of ids": (
        lambda data: edit(data, lambda m: m.update(token_dtype="<u1")),
        ["manifest.json is damaged .*token_dtype '<u1'"],
    ),
    "a negative count": (
        lambda data: edit(data, lambda m: m["splits"]["train"]["shard_tokens"].append(-1)),
        ["manifest.json is damaged .*-1 where a value of type int belongs"],
    ),
    "no splits": (
        lambda data: edit(data, lambda m: m.pop("splits")),
        ["manifest.json is damaged .*'splits'"],
    ),
    "a manifest that is cut off": (
        lambda data: rewrite(data / "manifest.json", lambda content: content[:99]),
        [r"manifest.json is not JSON .*line \d"],
    ),
}


@pytest.mark.parametrize("name", CORPORA)
def test_damage_of_a_corpus_is_named(place, name, capsys):
    """`check` names all of it and changes nothing; training refuses it with the first problem."""
    damage, messages = CORPORA[name]
    damage(place / "data")
    before = tree(place)
    assert run("check", f"--data_dir={place}/data") == 65
    output = capsys.readouterr()
    told = [line for line in (output.out + output.err).splitlines() if "prepare the" in line]
    assert len(told) == len(messages)
    for message in messages:
        assert any(re.search(message, line) for line in told), told
    with pytest.raises(DataError, match=r"prepare the corpus again") as error:
        Corpus.open(place / "data")
    assert any(str(error.value) in line for line in told)
    assert tree(place) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="other"), "not the manifest of a corpus"),
        (lambda m: m.update(format_version=2), "corpus format 2, expected 3; prepare it again"),
        (lambda m: m["splits"].clear() or m["sources"].clear(), "has no split 'train'"),
    ],
)
def test_a_corpus_of_another_format_is_a_wrong_path(place, change, message):
    """Nothing is damaged: there is another version, or another program, to read it."""
    edit(place / "data", change)
    with pytest.raises(ConfigError, match=message):
        Corpus.open(place / "data")


def test_another_tokenizer_is_named(sound, tmp_path, capsys):
    """The ids of one vocabulary are other words in another."""
    own, other = sound / "data" / "tokenizer", tmp_path / "vocab.txt"
    tokens = (own / "vocab.txt").read_text().split("\n")
    other.write_text("\n".join([*tokens[:7], tokens[8], tokens[7], *tokens[9:]]))
    assert run("check", f"--data_dir={sound}/data", f"--tokenizer={own}") == 0
    assert run("check", f"--data_dir={sound}/data", f"--tokenizer={other}") == 65
    assert f"{other}: not the tokenizer that the corpus was encoded with" in capsys.readouterr().out


def parquet(values: list[bytes]) -> bytes:
    """A Parquet file of strings, in which Parquet itself does not look at the encoding."""
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(values))]
    strings = pa.Array.from_buffers(pa.string(), len(values), buffers)
    pq.write_table(pa.table({"text": strings}), sink := pa.BufferOutputStream())
    return sink.getvalue().to_pybytes()


JSON_LINES = b'{"text": "a"}\n\n[1]\n{"text": 3}\nno\n{"text": "\xff"}\n{"b": 1}\n'
# The content of an input, and what is said of it: the place, and what is wrong.
INPUTS = {
    "a.txt": (b"one\n\ncaf\xe9\n\nfive\n\xff\n", ["line 3: not UTF-8", "line 6: not UTF-8"]),
    "c.jsonl": (
        JSON_LINES,
        [
            "line 3: a JSON list, expected an object",
            "line 4: the text is of type int",
            "line 5: not JSON",
            "line 6: not UTF-8",
            "line 7: no column 'text'; it has: b",
        ],
    ),
    "d.jsonl": (
        b'{"text": "a\\ud800"}\n' + b"[" * 100_000,
        ["line 1: the text has half of a surrogate pair (character 2)", "line 2: nested too deep"],
    ),
    "many.txt": (b"\xff\n" * 9, [f"line {n}: not UTF-8" for n in range(1, 6)] + [": 4 more like"]),
    "blank.txt": (b"\n \n\n", ["no document; take it out"]),
    "cut.txt.gz": (gzip.compress(b"a line\n" * 99)[:-9], ["near line 100: the compressed file"]),
    "plain.txt.xz": (b"no xz", ["near line 1: the compressed file is damaged"]),
    "flipped.txt.zst": (
        flipped(zstd.compress(bytes(range(256)), options={_CHECKSUM: True})),
        ["near line 1: the compressed file is damaged"],
    ),
    "cut.parquet": (parquet([b"a"] * 999)[:-9], ["the Parquet file is damaged"]),
    "record.parquet": (
        parquet([b"a", b"caf\xe9", b"b", b"\xff"]),
        ["record 2: not", "record 4: not"],
    ),
    "long.txt": (
        b"a\n" + b"x" * 5000 + b"\nb\n\xff\n",
        ["line 2: longer than", "line 4: not UTF-8"],
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_prepare_would_refuse(tmp_path, name, capsys, monkeypatch):
    """All of it, before hours of preparing; a bad line or record does not hide those behind it."""
    if name == "long.txt":
        monkeypatch.setattr(documents, "MAX_LINE_BYTES", 1000)
    content, messages = INPUTS[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "z.txt").write_bytes(b"\xff\n")
    inputs = f"--config.inputs={tmp_path}/{name},{tmp_path}/z.txt"
    assert run("check", PREPARE, inputs) == 65
    output = capsys.readouterr()
    told = [line for line in output.out.splitlines() if line.startswith(f"{tmp_path}/{name}")]
    assert len(told) == len(messages)
    for message, line in zip(messages, told, strict=True):
        assert message in line
    assert "z.txt, line 1: not UTF-8" in output.out
    assert f"{len(messages) + 1} things are wrong" in output.err


def test_what_is_sound_is_said_to_be(sound, capsys):
    """No false alarm, for any kind of input and a corpus, and nothing is written."""
    names = ("a.txt", "a.txt.gz", "c.jsonl", "d.parquet")
    before = tree(sound)
    inputs = f"--config.inputs={','.join(f'{sound}/{name}' for name in names)}"
    assert run("check", PREPARE, inputs, f"--data_dir={sound}/data") == 0
    output = capsys.readouterr()
    assert "nothing wrong" in output.out
    assert not output.err
    assert tree(sound) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "nothing to check: expected --data_dir=DATA"),
        ([PREPARE, "--config.inputs=a.txt", "--tokenizer=x"], "compared with a corpus"),
        (["--data_dir=nowhere"], "nowhere is not a prepared corpus"),
        ([PREPARE, "--config.inputs=a.txt", "--config.vocab=./nowhere"], "nowhere does not exist"),
    ],
)
def test_mistakes_on_the_command_line(capsys, flags, words):
    """What is asked for wrongly is exit code 2, as with every command."""
    assert run("check", *flags) == 2
    output = capsys.readouterr()
    assert words in output.err
    assert not output.out


def test_jax_is_not_imported(sound, tmp_path):
    """Checking and looking are done where text lies, often without JAX's seconds or accelerator."""
    settings = [
        "--config=configs/pretrain/bert_tiny.py",
        f"--config.data_dir={sound / 'data'}",
        "--config.max_seq_length=32",
    ]
    lines = [
        ["check", f"--data_dir={sound / 'data'}", PREPARE, f"--config.inputs={sound}/a.txt"],
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
