"""A SLURM cluster of two nodes on this machine, with daemons, key and state in one folder."""

import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

DAEMONS = ("slurmctld", "slurmd", "munged")
# JAX takes the first node's name for its address: it has to be one that this machine knows.
NODES = (socket.gethostname(), f"{socket.gethostname()}-2")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

# Credentials live as shortly as they can, because SLURM holds a requeued job back for that long.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={control_port}
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports}] CPUs=8
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Says why there can be no cluster here, None where there can."""
    missing = [name for name in DAEMONS if shutil.which(name, path=_PATH) is None]
    if missing:
        return (
            f"needs {', '.join(missing)} (Debian: slurm-wlm, munge; bash launch/cluster_tools.sh)"
        )
    if os.getuid() != 0:
        return "slurmd starts jobs as root only"
    return None


class SlurmCluster:
    """A running cluster, as a context manager; `place` is an empty folder with a short path."""

    def __init__(self, place: Path):
        self.place = place
        self._stack = ExitStack()
        self.environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": f"{place}/slurm.conf"}

    def __enter__(self) -> "SlurmCluster":
        with ExitStack() as stack:
            stack.callback(self._stack.close)
            self._start()
            stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.run("scancel", "--user=root")
        self.wait(lambda: not self.run("squeue", "--noheader"), 20)
        self._stack.close()

    def _start(self) -> None:
        key = self.place / "munge" / "key"
        key.parent.mkdir(mode=0o700)
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        paths = [
            f"--{name}-file={key.parent}/{name.removesuffix('-file')}"
            for name in ("key", "pid", "log", "seed")
        ]
        self._daemon("munged", "--foreground", "--force", f"--socket={key.parent}/socket", *paths)
        self.wait((key.parent / "socket").exists, 10)
        ports = free_ports(3)
        config = CONFIG.format(
            place=self.place,
            host=socket.gethostname(),
            control_port=ports[0],
            nodes=",".join(NODES),
            ports=",".join(map(str, ports[1:])),
        )
        (self.place / "slurm.conf").write_text(config)
        if self._version() >= (23, 11):
            (self.place / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        (self.place / "state").mkdir()
        self._daemon("slurmctld", "-D")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        self.wait(lambda: self.run("sinfo", "--noheader", "--format=%D %t") == "2 idle", 20)

    def _version(self) -> tuple[int, ...]:
        found = re.search(r"(\d+)\.(\d+)", self.run("slurmd", "-V"))
        assert found
        return tuple(map(int, found.groups()))

    def _daemon(self, *command: str) -> None:
        # Should the tests be killed, their daemons are too.
        with_parent = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        name = "-".join(part for part in command if part[0] != "-")
        with (self.place / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*with_parent, *command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        def end() -> None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        self._stack.callback(end)

    def run(self, *command: str) -> str:
        """Runs a command of SLURM and returns its output."""
        found = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        return found.stdout.strip()

    def wait(self, condition, seconds: float) -> None:
        """Waits until a condition holds."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                logs = {path.name: path.read_text()[-2000:] for path in self.place.glob("*.log")}
                raise AssertionError(
                    f"not within {seconds} s: {self.run('scontrol', 'show', 'job')} {logs}"
                )
            time.sleep(0.1)

    def state(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says about a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", job)))

    def wait_for_end(self, job: str, seconds: float = 60, *, hurry: bool = False) -> dict[str, str]:
        """Waits until a job has ended for good and returns its state.

        `hurry` shortens SLURM's holding back of requeued jobs. Not to nothing: a node refuses what
        starts in the second in which the start before was revoked ("Job credential revoked").
        """
        held: dict[str, float] = {}

        def ended() -> bool:
            state = self.state(job)
            if hurry and state["JobState"] == "PENDING" and state["Reason"] == "BeginTime":
                now = time.monotonic()
                if now - held.setdefault(state["Restarts"], now) > 2:
                    self.run("scontrol", "update", f"JobId={job}", "StartTime=now")
            return state["JobState"] in OVER

        self.wait(ended, seconds)
        return self.state(job)


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses at this moment."""
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
