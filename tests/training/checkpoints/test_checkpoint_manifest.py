"""The manifest of a checkpoint: nothing that differs from what was written is taken for whole."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_damage import files_of, flipped
from jax.errors import JaxRuntimeError

from ptft_jax.errors import ConfigError, DataError
from ptft_jax.training.checkpoints import retention
from ptft_jax.training.checkpoints.manifest import (
    DamagedCheckpointError,
    FileRecord,
    Manifest,
    content_damage,
    make_manifest,
    read_manifest,
    shares,
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


def test_every_single_bit_counts(checkpoint):
    """Each bit of each file, of the manifest above all, is flipped once: all of them are found."""
    flips, found = 0, 0
    for path in files_of(checkpoint):
        content = path.read_bytes()
        for bit in range(8 * len(content)):
            path.write_bytes(flipped(content, bit))
            flips += 1
            try:
                verify(checkpoint)
            except DamagedCheckpointError as error:
                found += path.name in str(error)
        path.write_bytes(content)
    verify(checkpoint)
    assert found == flips > 5000


def test_what_is_no_file_of_the_checkpoint(checkpoint):
    """Added files, links (to the very content, even) and pipes are refused without reading them."""

    def says(text: str) -> None:
        with pytest.raises(DamagedCheckpointError, match=text):
            verify(checkpoint)

    added = checkpoint / "params" / "added"
    added.write_text("x")
    says(r"params/added is not in manifest\.json")
    added.unlink()
    os.mkfifo(added)
    says("params/added is a named pipe")
    added.unlink()
    added.symlink_to("d")
    says("params/added is a symbolic link")
    added.unlink()
    original = checkpoint / "params" / "d" / "1"
    elsewhere = checkpoint.parent.parent / "elsewhere"
    original.rename(elsewhere)
    original.symlink_to(elsewhere)
    says("params/d/1 is a symbolic link")
    # One that comes after the folder was looked through is not followed either.
    manifest = read_manifest(checkpoint)
    assert [str(one) for one in content_damage(checkpoint, manifest, ["params/d/1"])] == [
        "params/d/1 is a symbolic link"
    ]
    original.unlink()
    elsewhere.rename(original)
    verify(checkpoint)
    checkpoint.rename(elsewhere)
    checkpoint.symlink_to(elsewhere)
    says("it is a symbolic link")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a//b", ""])
def test_paths_that_lead_outside(checkpoint, name):
    """A manifest made by somebody else, with a right SHA-256 of its own, cannot point elsewhere."""
    manifest = read_manifest(checkpoint)
    files = {**manifest.files, name: FileRecord("0" * 64, 1)}
    write_manifest(checkpoint, dataclasses.replace(manifest, files=files))
    with pytest.raises(DamagedCheckpointError, match="no path inside it"):
        read_manifest(checkpoint)


def test_other_spellings_and_versions(checkpoint, monkeypatch):
    """Content that was spelt again is refused; one of a later version is no damage, and says so."""
    path = checkpoint / "manifest.json"
    content = path.read_bytes()
    path.write_text(json.dumps(json.loads(content)))
    with pytest.raises(DamagedCheckpointError, match="SHA-256 is not that of its content"):
        verify(checkpoint)
    path.write_text("[]")
    with pytest.raises(DamagedCheckpointError, match="has changed"):
        verify(checkpoint)
    path.write_bytes(content)
    manifest = read_manifest(checkpoint)
    with monkeypatch.context() as patched:
        patched.setattr("ptft_jax.training.checkpoints.manifest.FORMAT_VERSION", 2)
        write_manifest(checkpoint, manifest)
    with pytest.raises(ConfigError, match=r"version 2; expected .* version 1"):
        verify(checkpoint)


def test_permission_and_other_errors_are_no_damage(checkpoint, monkeypatch):
    """A checkpoint must not be set aside because a file server was away for a moment."""
    manifest = read_manifest(checkpoint)

    def fails(number: int):
        def fail(*_, **__):
            raise OSError(number, os.strerror(number), "a file")

        monkeypatch.setattr("ptft_jax.training.checkpoints.manifest._hashed", fail)

    fails(errno.EIO)
    assert "cannot be read" in str(content_damage(checkpoint, manifest, ["params/d/1"])[0])
    fails(errno.EACCES)
    with pytest.raises(PermissionError):
        content_damage(checkpoint, manifest, ["params/d/1"])
    fails(errno.ETIMEDOUT)
    with pytest.raises(DataError, match="cannot be read") as caught:
        content_damage(checkpoint, manifest, ["params/d/1"])
    assert not isinstance(caught.value, DamagedCheckpointError)


def test_shares_are_even_and_complete():
    """Every file is hashed by one process, and no process has much more to do than another."""
    files = {f"{size}": FileRecord("", 1 << 20 << size) for size in range(6)}
    files |= {f"small {number}": FileRecord("", 0) for number in range(40)}
    manifest = Manifest(1, files, {}, False)
    parts = shares(manifest, list(files), 3)
    assert sorted(name for part in parts for name in part) == sorted(files)
    loads = [sum(files[name].bytes for name in part) for part in parts]
    assert max(loads) == 32 << 20  # the largest file alone
    assert shares(manifest, list(reversed(files)), 3) == parts
    assert shares(manifest, [], 2) == [[], []]


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
