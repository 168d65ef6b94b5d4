"""GLUE through TFDS: prepared by TFDS itself from a tiny download, read back without TensorFlow."""

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ptft_jax.data import tfds
from ptft_jax.data.tasks import catalogue as tasks
from ptft_jax.errors import ConfigError

RTE = {
    "train.tsv": "index\tsentence1\tsentence2\tlabel\n"
    '0\tA "quoted" premise.\tÜmlaut.\tentailment\n'
    "1\tSecond.\tNo.\tnot_entailment\n"
    "2\tThird.\tYes.\tentailment\n",
    "dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tDev.\tNo.\tnot_entailment\n",
    "test.tsv": "index\tsentence1\tsentence2\n0\tTest.\tUnknown.\n",
}


@pytest.fixture(scope="module")
def tsv_folder(tmp_path_factory) -> Path:
    """A GLUE folder with three pairs of RTE."""
    folder = tmp_path_factory.mktemp("glue")
    (folder / "RTE").mkdir()
    for name, content in RTE.items():
        (folder / "RTE" / name).write_text(content, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tsv_folder) -> Path:
    """A TFDS folder that download_and_prepare made; only the download itself is replaced."""
    import tensorflow_datasets
    from etils import epath

    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder))
        patch.setattr(tfds, "answers", lambda url: True)
        patch.setattr(
            tensorflow_datasets.download.DownloadManager,
            "download_and_extract",
            lambda self, url: epath.Path(tsv_folder),
        )
        tasks.load_task("rte")
    return folder


def test_tfds_and_tsv_give_the_same_examples(prepared, tsv_folder, monkeypatch):
    """One task has one content and one order, whichever way it came (TFDS shuffles its files)."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    monkeypatch.setattr(
        tfds, "answers", lambda url: pytest.fail("a prepared task needs no network")
    )
    from_tfds, from_tsv = tasks.load_task("rte"), tasks.load_task("rte", tsv_folder)
    assert from_tfds.label_names == from_tsv.label_names == ("entailment", "not_entailment")
    assert list(from_tfds.splits) == list(from_tsv.splits) == ["train", "dev", "test"]
    for name, split in from_tfds.splits.items():
        expected = from_tsv.splits[name]
        assert split.texts_a == expected.texts_a
        assert split.texts_b == expected.texts_b
        if name == "test":
            assert split.labels is expected.labels is None
        else:
            assert split.labels is not None
            assert split.labels.dtype == np.int32
            np.testing.assert_array_equal(split.labels, expected.labels)


def test_reading_imports_no_tensorflow_and_no_jax(prepared):
    """TensorFlow is no run-time dependency, and data processes must not start a JAX backend."""
    code = (
        "import sys\n"
        "from ptft_jax.data.tasks.catalogue import load_task\n"
        "print(len(load_task('rte').splits['train']), {'tensorflow', 'jax'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"TFDS_DATA_DIR": str(prepared), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "3 set()\n"
    assert done.stderr == ""


def test_no_network_says_at_once_what_to_do(tmp_path, monkeypatch):
    """TFDS alone retries for minutes offline; here the error comes in seconds, with both ways."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    # A port that was free a moment ago refuses connections, like a machine without network.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(tfds, "DOWNLOAD_HOST", f"http://127.0.0.1:{port}")
    start = time.monotonic()
    with pytest.raises(ConfigError) as error:
        tasks.load_task("rte")
    assert time.monotonic() - start < 20
    for part in ("--config.data_dir=GLUE_DIR", "GLUE_DIR/RTE/", "TFDS_DATA_DIR=DIR", "'glue/rte'"):
        assert part in str(error.value)
    assert not list(tmp_path.rglob("*.array_record*"))


def test_a_host_that_never_answers_is_given_up(monkeypatch):
    """A firewall that swallows packets must not hold the command for longer than the limit."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        monkeypatch.setattr(tfds, "ANSWER_SECONDS", 0.3)
        start = time.monotonic()
        assert not tfds.answers(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - start < 5


def test_a_copy_in_another_format_is_an_error(prepared, tmp_path, monkeypatch):
    """A folder prepared by TensorFlow's default (tfrecord) cannot be read without TensorFlow."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    info = next(tmp_path.glob("glue/rte/*/dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="not in the format array_record"):
        tasks.load_task("rte")
