"""The pins agree with each other and with pyproject.toml, and the wheel is whole; all offline."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(
    r"^(?P<requirement>[A-Za-z0-9][^;\\#]*==[^;\\#\s]+)\s*(?:;\s*(?P<marker>[^\\#]+))?"
)


def pins(name: str) -> dict[str, list[tuple[str, Marker | None, int]]]:
    """Name → (version, marker, number of hashes) of each pin; a universal lock may have several."""
    found: dict[str, list[tuple[str, Marker | None, int]]] = {}
    # One entry per requirement: the hashes and comments that follow it are indented.
    for entry in re.split(r"\n(?=\S)", (ROOT / name).read_text("utf-8").strip()):
        match = PIN.match(entry)
        assert match, f"{name}: not a pin: {entry.splitlines()[0]}"
        requirement = Requirement(match["requirement"].strip())
        (specifier,) = requirement.specifier
        marker = Marker(match["marker"].strip()) if match["marker"] else None
        hashes = len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry))
        found.setdefault(canonicalize_name(requirement.name), []).append(
            (specifier.version, marker, hashes)
        )
    return found


LOCK = pins("requirements.lock")
RUN_TIME = pins("requirements.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_run_time_pins_are_those_of_the_lock():
    """requirements.txt is exported from the lock: who installs from it gets what was tested."""
    for name, entries in RUN_TIME.items():
        assert name in LOCK, f"{name} is not in requirements.lock; run: bash launch/lock.sh"
        versions = {version for version, _, _ in LOCK[name]}
        for version, _, _ in entries:
            assert version in versions, f"{name}=={version}; the lock has {sorted(versions)}"


def test_direct_dependencies_are_pinned_within_their_ranges():
    """A pin outside pyproject's range would make the lock and the package refuse each other."""
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in RUN_TIME, f"{name} is missing in requirements.txt; run: bash launch/lock.sh"
        for version, _, _ in RUN_TIME[name]:
            assert version in requirement.specifier, f"{name}=={version} is outside {text}"


def test_extras_are_pinned_within_their_ranges():
    """The lock holds the extras, so that tests and accelerator installs are reproducible too.

    Not those of tracking services, whose bounds would hold other packages back.
    """
    extras = PROJECT["optional-dependencies"]
    for name in extras.keys() - {"wandb", "mlflow", "trackio"}:
        for text in extras[name]:
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            assert name in LOCK, f"{name} is missing in requirements.lock; run: bash launch/lock.sh"
            for version, _, _ in LOCK[name]:
                assert version in requirement.specifier, f"{name}=={version} is outside {text}"


def test_the_lock_pins_one_version_per_platform():
    """Several pins of one package are right only where markers tell them apart."""
    for name, entries in LOCK.items():
        if len(entries) > 1:
            assert all(marker for _, marker, _ in entries), f"{name} is pinned more than once"


def test_every_lock_entry_has_hashes():
    """A hash per file is what makes a mirror trustworthy."""
    without = [name for name, entries in LOCK.items() if not all(count for *_, count in entries)]
    assert not without


def test_heavy_frameworks_are_no_run_time_dependencies():
    """PyTorch is for tests only, TensorFlow for nothing; CUDA comes with an extra."""
    unwanted = {"torch", "tensorflow", "tensorflow-cpu", "tf-nightly", "keras", "pytest"}
    assert not unwanted & set(RUN_TIME)
    assert not [name for name in RUN_TIME if name.startswith(("nvidia-", "jax-cuda"))]
    assert "torch" in LOCK


def test_no_index_is_written_into_the_repository():
    """The files must work behind any mirror, so they name no index and no host."""
    for name in ("requirements.lock", "requirements.txt", "pyproject.toml"):
        text = (ROOT / name).read_text("utf-8")
        assert not re.search(r"--(extra-)?index-url|--find-links|https?://|file:", text), name


def test_the_supported_python_and_jax_are_as_promised():
    """With Python 3.11 pip would silently take an older jax that nothing here was tested on."""
    assert PROJECT["requires-python"] == ">=3.12"
    assert "jax>=0.11,<0.13" in PROJECT["dependencies"]
    assert PROJECT["scripts"] == {"ptft": "ptft_jax.cli:main"}


def test_the_wheel_carries_the_configs(tmp_path):
    """An installed package finds `pretrain/bert_base` without a checkout beside it."""
    source, installed = tmp_path / "source", tmp_path / "installed"
    for name in ("ptft_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    _python(source, "-c", code, str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(installed)
    files = {str(path.relative_to(installed)) for path in installed.rglob("*.py")}
    ours = [*ROOT.glob("ptft_jax/**/*.py"), *ROOT.glob("configs/**/*.py")]
    names = (str(path.relative_to(ROOT)) for path in ours)
    assert files == {name if name[0] == "p" else f"ptft_jax/{name}" for name in names}
    code = (
        "import ptft_jax; print(ptft_jax.__file__); "
        "print(ptft_jax.get_config('pretrain/bert_base').batch_size, "
        "ptft_jax.get_config('configs/finetune/glue.py:mrpc').task)"
    )
    place, values = _python(installed, "-c", code).splitlines()
    assert Path(place).is_relative_to(installed)
    assert values == "256 mrpc"


def _python(folder: Path, *arguments: str) -> str:
    """Runs Python in a folder whose own modules come first, and returns what it printed."""
    command = [sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    process = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout
