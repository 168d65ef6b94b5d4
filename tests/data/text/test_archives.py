"""Archives are no text and no folders, and small files that unpack to much take no memory."""

import gzip
import json
import lzma
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import pretrain_flags, run, tree
from foreign_folders import one_error, tarred, zipped

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROOT = Path(__file__).resolve().parents[3]
PREPARE = "--config=configs/data/text.py"


ARCHIVES = {
    "x.zip": (zipped(), "is a zip archive"),
    "x.tar.gz": (tarred("w:gz"), "is a tar archive inside its .gz"),
    "x.tgz": (tarred("w:gz"), "is compressed with gzip"),
    "x.txt.xz": (tarred("w:xz"), "is a tar archive inside its .xz"),
    "x.txt.zst": (zstd.compress(zipped()), "is a zip archive inside its .zst"),
    "x.jsonl": (pickle.dumps(["text"]), "is a pickle"),
    "twice.txt.gz": (gzip.compress(gzip.compress(b"text")), "is compressed with gzip inside"),
}


@pytest.mark.parametrize("command", ["prepare", "check"])
@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_no_text(tmp_path, name, command, capsys):
    """A tar of texts could be taken for text: its headers would be learned. Nothing is unpacked."""
    content, says = ARCHIVES[name]
    (tmp_path / name).write_bytes(content)
    before = tree(tmp_path)
    out_dir = [f"--out_dir={tmp_path}/new"] if command == "prepare" else []
    assert run(command, PREPARE, f"--config.inputs={tmp_path}/{name}", *out_dir) == 65
    said = capsys.readouterr()
    assert says in " ".join((said.err + said.out).split())
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_is_no_folder(tmp_path, kind, capsys):
    """An archive in the tmp_path of a folder is not unpacked, and the message says to do it."""
    archive = tmp_path / f"model.{kind}"
    archive.write_bytes(zipped() if kind == "zip" else tarred("w"))
    assert run("import", f"--hf_dir={archive}", f"--run_dir={tmp_path}/new") == 2
    assert "unpack it first, and name the folder" in one_error(capsys)
    for command in (
        ["predict", f"--run_dir={archive}", "x"],
        pretrain_flags(archive, tmp_path / "n"),
    ):
        assert run(*command) == 2
        one_error(capsys)


def _xz_with_dictionary(size: int) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": size}]
    return lzma.compress(b"a line\n" * 1000, filters=filters)


_LONG_LINE = b"a" * (100 << 20)
BOMBS = {
    "line.txt.gz": (lambda: gzip.compress(_LONG_LINE, 1), "longer than 32 MiB"),
    "line.txt.xz": (lambda: lzma.compress(_LONG_LINE, preset=0), "longer than 32 MiB"),
    "line.txt.zst": (lambda: zstd.compress(_LONG_LINE), "longer than 32 MiB"),
    "dictionary.txt.xz": (lambda: _xz_with_dictionary(1 << 30), "Memory usage limit"),
    "blank.txt.gz": (lambda: gzip.compress(b"\n" * (8 << 20), 1), "the corpus is empty"),
}
_PEAK = """
import sys
from ptft_jax.cli import main
code = main(sys.argv[1:])
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
sys.exit(code)
"""


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_a_bomb_takes_no_memory(tmp_path, name):
    """A small file that unpacks to much is read as a stream: 200 MiB are never needed.

    The longest line that is taken has 32 MiB, and is held two or three times over.
    """
    make, says = BOMBS[name]
    (tmp_path / name).write_bytes(make())
    flags = [f"--config.inputs={tmp_path}/{name}", f"--out_dir={tmp_path}/new"]
    process = subprocess.run(
        [sys.executable, "-c", _PEAK, "prepare", PREPARE, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 65, process.stderr
    assert says in process.stderr
    assert "Traceback" not in process.stderr
    assert int(process.stdout.split()[-1]) < 200 << 10


def test_xz_is_unpacked_to_its_end(tmp_path):
    """Streams behind one another, with zeros between them, are one text; a cut is an error."""
    parts = [f"Text number {i}.\n\n".encode() for i in range(40)]
    whole = b"".join(lzma.compress(part) + b"\0" * (i % 3 * 4) for i, part in enumerate(parts))
    (tmp_path / "a.txt.xz").write_bytes(whole)
    flags = ["--config.vocab_size=64", f"--out_dir={tmp_path}/new"]
    inputs = f"--config.inputs={tmp_path}/a.txt.xz"
    assert run("prepare", PREPARE, inputs, *flags, "--config.dev_fraction=0.3") == 0
    manifest = json.loads((tmp_path / "new" / "manifest.json").read_text())
    assert manifest["sources"][0]["documents_read"] == 40
    for damaged in (whole[:-9], whole + b"rubbish"):
        (tmp_path / "a.txt.xz").write_bytes(damaged)
        assert run("check", PREPARE, inputs) == 65


def test_a_long_window_of_zstd_is_read(tmp_path):
    """Dumps of Reddit have a window of 2 GiB: a sound file was called damaged."""
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 31})
    text = "".join(f"The cat {i} sat. The dog ran.\n\n" for i in range(20)).encode()
    (tmp_path / "a.txt.zst").write_bytes(packer.compress(text) + packer.flush())
    assert run("check", PREPARE, f"--config.inputs={tmp_path}/a.txt.zst") == 0
