"""The manifest of a checkpoint: nothing that differs from what was written is taken for whole."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoint_damage import flipped
from jax.errors import JaxRuntimeError

from ptft_jax.errors import ConfigError, DataError
from ptft_jax.training.checkpoints import retention
from ptft_jax.training.checkpoints.manifest import (
    DamagedCheckpointError,
    FileRecord,
    make_manifest,
    read_manifest,
    verify,
    write_manifest,
)
from ptft_jax.training.resources.storage import refusal

FILES = {"params/d/1": b"weights", "params/_METADATA": b"{}", "meta/metadata": b'{"step": 7}'}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A complete checkpoint of three small files."""
    folder = tmp_path / "checkpoints" / "7"
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    metrics = {"dev_loss": 0.1, "dev_accuracy": None}
    write_manifest(folder, make_manifest(folder, 7, metrics, evaluation_due=False))
    return folder


def test_a_manifest_is_read_as_it_was_written(checkpoint):
    """Metrics, the step and every file come back; nothing else is left in the folder beside it."""
    manifest = verify(checkpoint)
    assert manifest.step == 7
    assert manifest.metrics == {"dev_loss": 0.1, "dev_accuracy": None}
    assert not manifest.evaluation_due
    assert {name: record.bytes for name, record in manifest.files.items()} == {
        name: len(content) for name, content in FILES.items()
    }
    assert manifest.holds("params")
    assert not manifest.holds("param")
    assert os.listdir(checkpoint.parent) == ["7"]
    later = dataclasses.replace(manifest, metrics={"dev_loss": 0.05}, evaluation_due=True)
    write_manifest(checkpoint, later)
    assert verify(checkpoint) == later


def flips_of(path: Path) -> Iterator[None]:
    """Flips each bit of a file once, alone."""
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        path.write_bytes(flipped(content, bit))
        yield
    path.write_bytes(content)


def test_every_single_bit_counts(checkpoint):
    """Each bit of each file but the manifest is flipped once: all of them are found."""
    for name in FILES:
        for _ in flips_of(checkpoint / name):
            with pytest.raises(DamagedCheckpointError, match=f"{name} has changed"):
                verify(checkpoint)
    verify(checkpoint)


def test_no_bit_of_the_manifest_makes_other_files_whole(checkpoint):
    """It is refused, or says the same of the files; whatever it says, it is no traceback."""
    manifest, refused = verify(checkpoint), 0
    for _ in flips_of(checkpoint / "manifest.json"):
        try:
            assert verify(checkpoint).files == manifest.files
        except (DamagedCheckpointError, ConfigError):
            refused += 1
    assert verify(checkpoint) == manifest
    assert refused > 3000


def test_files_that_were_added(checkpoint):
    """Orbax and TensorStore may take for theirs what was never written; it is named instead."""
    (checkpoint / "params" / "added").write_text("x")
    with pytest.raises(DamagedCheckpointError, match=r"params/added is not in manifest\.json"):
        verify(checkpoint)
    verify(checkpoint, ("meta",))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a//b", ""])
def test_paths_that_lead_outside(checkpoint, name):
    """A manifest made by somebody else cannot point elsewhere."""
    manifest = read_manifest(checkpoint)
    files = {**manifest.files, name: FileRecord("0" * 64, 1)}
    write_manifest(checkpoint, dataclasses.replace(manifest, files=files))
    with pytest.raises(DamagedCheckpointError, match="is no file of its folder"):
        read_manifest(checkpoint)


@pytest.mark.parametrize("content", ["", "[]", "{}", "{", "[" * 100_000, '{"format_version": 2}'])
def test_manifests_that_are_none(checkpoint, content):
    """Empty, cut off, of another kind or nested without end: damage that names the file."""
    (checkpoint / "manifest.json").write_text(content)
    with pytest.raises(DamagedCheckpointError, match=r"7 is damaged: .*manifest\.json"):
        verify(checkpoint)


@pytest.mark.parametrize("version", [1, 3])
def test_another_version_is_no_damage(checkpoint, version):
    """Whoever has it is told to use the version that wrote it; it is never set aside."""
    path = checkpoint / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": version}))
    with pytest.raises(ConfigError, match=f"format {version}, expected 2: use the version of ptft"):
        verify(checkpoint)


def test_errors_that_are_no_damage(checkpoint, monkeypatch):
    """A checkpoint must not be set aside because a file server was away for a moment."""

    def fails(number: int):
        def fail(*_, **__):
            raise OSError(number, os.strerror(number), "a file")

        monkeypatch.setattr("ptft_jax.training.checkpoints.manifest._hashed", fail)

    fails(errno.EIO)
    with pytest.raises(DamagedCheckpointError, match="params/d/1 cannot be read: Input/output"):
        verify(checkpoint)
    for number in (errno.EACCES, errno.ETIMEDOUT):
        fails(number)
        with pytest.raises(DataError, match="cannot be read") as caught:
            verify(checkpoint)
        assert not isinstance(caught.value, DamagedCheckpointError)


def test_names_of_folders(tmp_path):
    """Only plain numbers name steps; leftovers and what was set aside are told apart."""
    for name in ("3", "007", "12", "5.saving", "5.saving.orbax-checkpoint-tmp", "4.deleting"):
        (tmp_path / name).mkdir()
    (tmp_path / "9.damaged-2").mkdir()
    (tmp_path / "notes").mkdir()
    assert retention.numbered(tmp_path) == [3, 12]
    assert [path.name for path in retention.leftovers(tmp_path)] == [
        "4.deleting",
        "5.saving",
        "5.saving.orbax-checkpoint-tmp",
    ]
    assert retention.aside(tmp_path) == [tmp_path / "9.damaged-2"]
    assert retention.set_aside(tmp_path / "12", "damaged").name == "12.damaged-1"
    (tmp_path / "12").mkdir()
    assert retention.set_aside(tmp_path / "12", "damaged").name == "12.damaged-2"
    (tmp_path / "3" / "manifest.json").write_text("broken")
    retention.clear(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "007",
        "3.damaged-1",
        "9.damaged-2",
        "12.damaged-1",
        "12.damaged-2",
        "notes",
    }


def test_killed_at_any_moment_of_finishing_and_retention(tmp_path):
    """SIGKILL before every request to the file system loses neither best nor last, ever."""
    script = Path(__file__).parents[2] / "killed_retention.py"
    command = [sys.executable, str(script), str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    found = json.loads(said.stdout)
    assert found["lost"] == []
    assert found["moments"] > 30


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EDQUOT, "x"), "Disk quota exceeded"),
        (ValueError("UNKNOWN: [OS error 27: EFBIG File too large] [x]"), "File too large"),
        (ValueError("RESOURCE_EXHAUSTED: bucket is full"), "out of space or quota"),
        (
            JaxRuntimeError("RESOURCE_EXHAUSTED: x; No space left on device"),
            "No space left on device",
        ),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"), None),
        (PermissionError(errno.EACCES, "Permission denied"), None),
        (ValueError("shapes differ in /data/EIOS/run"), None),
        (KeyError("params"), None),
    ],
)
def test_what_a_full_disk_says(error, reason):
    """The reason is found however deep Orbax has wrapped it; other errors are left alone."""
    assert refusal(error) == reason
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = ExceptionGroup("several", [KeyError("a"), error])
    assert refusal(wrapped) == reason
