"""Two jobs in one run's folder wrote over each other's metrics and checkpoints."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from command_line import prepare_corpus, pretrain_flags, run, tree

from ptft_jax.errors import ConfigError
from ptft_jax.runs.lock import check_free, held

_HOLDS = """
import sys, time
from pathlib import Path
from ptft_jax.runs.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in tmp_path / "run", as far as the lock knows."""
    command = [sys.executable, "-c", _HOLDS, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_job_is_refused_and_changes_nothing(tmp_path, holder, capsys):
    """At once, and it says who is there."""
    data, folder = prepare_corpus(tmp_path), tmp_path / "run"
    before = tree(folder)
    who = f"process {holder.pid} on host {socket.gethostname()}, since {time.strftime('%Y-')}"
    assert run(*pretrain_flags(data, folder)) == 2
    assert f"--run_dir={folder} is in use: {who}" in capsys.readouterr().err
    assert tree(folder) == before


def test_the_lock_ends_with_its_process(tmp_path, holder):
    """Also where nothing was cleaned up: a killed job's run goes on by the same command."""
    with pytest.raises(ConfigError, match="is in use"), held(tmp_path / "run"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    check_free(tmp_path / "run")
    with held(tmp_path / "run"), pytest.raises(ConfigError, match=f"process {os.getpid()} "):
        check_free(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
