"""Faults in real processes, in their quick form; `bash benchmarks/faults.sh` has the full one.

What is tested, and the figures of the full form, are in docs/reliability.md.
"""

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from faults.jobs import Result, make_corpus
from faults.suite import SCENARIOS

QUICK = {name: quick for name, scenario in SCENARIOS.items() if (quick := scenario.quick)}
# The first test waits for all scenarios.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, Future[Result]]:
    """Runs all scenarios, two at a time: starting processes takes most of their time."""
    corpus = tmp_path_factory.mktemp("corpus")
    make_corpus(corpus)
    (corpus / "cache").mkdir()
    may = os.geteuid() == 0 and shutil.which("ip") is not None

    def run(name: str) -> Result:
        place = tmp_path_factory.mktemp(name)
        for shared in ("data", "cache"):
            (place / shared).symlink_to(corpus / shared)
        return QUICK[name](place)

    with ThreadPoolExecutor(2) as pool:
        names = [name for name in QUICK if may or not SCENARIOS[name].needs_root]
        return {name: pool.submit(run, name) for name in names}


@pytest.mark.parametrize("name", QUICK)
def test_faults(results, name):
    """What users of many hosts rely on: nothing lost, nothing changed, everything said."""
    if name not in results:
        pytest.skip("needs root and iproute2, to mount and to make network namespaces")
    result = results[name].result()
    assert not result.failures, "\n\n".join(result.failures)
    assert result.tries
