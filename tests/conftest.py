"""Eight fake CPU devices and shape-checked seams, set up before JAX is first imported."""

import os
import shutil
import tempfile

# `JAX_PLATFORMS=cuda python -m pytest tests/gpu` is for a GPU; all other tests are for CPUs.
if os.environ.get("JAX_PLATFORMS") != "cuda":
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_NUM_CPU_DEVICES"] = "8"
    # Tests compile much and compute little: without LLVM's optimisations a tiny train step compiles
    # in a third of the time. What XLA partitions and which collectives it inserts stay the same.
    flags = os.environ.get("XLA_FLAGS", "")
    if "--xla_backend_optimization_level" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Commands keep compiled programs in the user's cache folder; tests have one of their own, so that
# none depends on what was compiled before. All tests and the processes that they start share it.
# So do the workers of pytest-xdist, which the process that hands out tests starts.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="ptft-test-cache-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{os.environ['XDG_CACHE_HOME']}/xla"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

from pathlib import Path

import jaxtyping
import pytest

from ptft_jax.training.resources.memory import keep_freed_memory

keep_freed_memory()  # before JAX starts its threads, as the command line does

# The shapes in the signatures of the seams are checked under pytest only.
jaxtyping.install_import_hook(["ptft_jax.models.build", "ptft_jax.objectives"], "beartype.beartype")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("PTFT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the real data folder, absent here: {folder}")
    return folder


def pytest_configure(config: pytest.Config) -> None:
    """Tells of the mark of `slow.txt`."""
    config.addinivalue_line("markers", "slow: takes ten seconds of a processor; see slow.txt")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what `slow.txt` names; of all tests there has to be one for each of its lines."""
    lines = (ROOT / "tests" / "slow.txt").read_text(encoding="utf-8").splitlines()
    slow = tuple(f"tests/{line}" for line in lines if line and not line.startswith("#"))
    for item in items:
        if item.nodeid.startswith(slow):
            item.add_marker("slow")
    names = [item.nodeid for item in items]
    gone = [line for line in slow if not any(name.startswith(line) for name in names)]
    if gone and config.args == config.getini("testpaths"):
        raise pytest.UsageError(f"tests/slow.txt names tests that there are not: {gone}")


def pytest_unconfigure() -> None:
    """Removes the cache of compiled programs."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
