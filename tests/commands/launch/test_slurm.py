"""launch/slurm.sbatch under a real SLURM of two nodes: tasks, requeueing, signals, real training.

Most jobs start a small program in place of ptft that records what it was given and ends as told.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import losses
from slurm_cluster import NODES, SlurmCluster, why_not

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "launch" / "slurm.sbatch"
REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

# Stands for ptft: records, then does what BEHAVIOUR names.
RECORDER = """#!{python} -S
import json, os, signal, sys, time
variables = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURMD_NODENAME")
task, start = int(os.environ["SLURM_PROCID"]), int(os.environ.get("SLURM_RESTART_COUNT", 0))
run_dir = sys.argv[-1].removeprefix("--run_dir=")
def record(**what):
    line = json.dumps(dict(task=task, start=start, **what)) + "\\n"
    with open(os.environ["RECORD"], "a") as file:
        file.write(line)
def stop(*_):
    record(got="SIGTERM")
    os._exit(75)
signal.signal(signal.SIGTERM, stop)
# The end of one task sends SIGTERM to the others. An interpreter that is on its way out no longer
# has a handler and would die of it, with 143 in place of its own code.
leave = os._exit
record(args=sys.argv[1:], **{{name: os.environ[name] for name in variables}})
print("task", task, "of start", start, flush=True)
# Like the processes of a real job, none ends before all have come: the first to fail ends the rest.
def came():
    entries = map(json.loads, open(os.environ["RECORD"]).read().splitlines())
    return sum(entry["start"] == start and "args" in entry for entry in entries)
while came() < int(os.environ["SLURM_NTASKS"]):
    time.sleep(0.02)
behaviour = os.environ["BEHAVIOUR"]
if behaviour == "stop once":
    leave(0 if start else 75)
if behaviour == "save each time":
    if task == 0:
        os.makedirs(run_dir + "/checkpoints/" + str(start + 1))
    leave(75 if start < 4 else 0)
if behaviour == "die once":
    if start:
        leave(0)
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
if behaviour.isdigit():
    leave(int(behaviour))
time.sleep(100)
"""


class Jobs:
    """Submits jobs of the recorder and reads what they have left."""

    def __init__(self, cluster: SlurmCluster, place: Path):
        self.cluster = cluster
        self.place = place
        self.ptft = place / "ptft"
        self.ptft.write_text(RECORDER.format(python=sys.executable))
        self.ptft.chmod(0o755)

    def submit(
        self, behaviour: str, *options: str, nodes: int = 2, words: tuple[str, ...] = ()
    ) -> str:
        """Submits a job and returns its number."""
        name = behaviour.replace(" ", "-")
        environment = {
            "PTFT": str(self.ptft),
            "RECORD": str(self.place / f"{name}.jsonl"),
            "BEHAVIOUR": behaviour,
        }
        submitted = subprocess.run(
            [
                *("sbatch", "--parsable", f"--nodes={nodes}", f"--job-name={name}"),
                *(*options, str(SCRIPT), "pretrain", *words, f"--run_dir={self.place}/{name}"),
            ],
            env={**self.cluster.environment, **environment},
            cwd=self.place,
            capture_output=True,
            text=True,
            check=True,
        )
        return submitted.stdout.strip()

    def records(self, behaviour: str, key: str) -> list[dict]:
        """The records that have a key, in order of start and task."""
        path = self.place / f"{behaviour.replace(' ', '-')}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [entry for line in lines if key in (entry := json.loads(line))]
        return sorted(found, key=lambda entry: (entry["start"], entry["task"]))

    def log(self, behaviour: str, job: str) -> str:
        return (self.place / f"{behaviour.replace(' ', '-')}-{job}.out").read_text()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> Iterator[Jobs]:
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield Jobs(cluster, tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="module")
def limited(jobs) -> str:
    """A job that reaches its time limit while the other tests run: SLURM looks every 30 s."""
    return jobs.submit("wait for limit", "--time=2", "--ntasks-per-node=1")


def test_a_stopped_job_goes_on_by_itself(limited, jobs):
    """All tasks are started, with the words as they were given, and again after exit code 75."""
    words = ("a b", "it's", "$HOME", "[MASK]", '"')
    job = jobs.submit("stop once", "--ntasks-per-node=2", words=words)
    state = jobs.cluster.wait_for_end(job)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1")
    records = jobs.records("stop once", "args")
    assert [(entry["start"], entry["task"]) for entry in records] == [
        (start, task) for start in range(2) for task in range(4)
    ]
    for entry in records:
        assert entry["args"][:-1] == ["pretrain", *words]
        assert entry["SLURM_NTASKS"] == "4"
        assert int(entry["SLURM_LOCALID"]) == entry["task"] % 2
        assert entry["SLURMD_NODENAME"] == NODES[entry["task"] // 2]
    # The log of the second start comes after that of the first one.
    log = jobs.log("stop once", job)
    assert log.index("task 0 of start 0") < log.index("exit code 75") < log.index("of start 1")


def test_starts_without_a_checkpoint_come_to_an_end(jobs):
    """A job that hangs or is lost each time must not occupy the cluster for ever."""
    job = jobs.submit("76")
    state = jobs.cluster.wait_for_end(job, hurry=True)
    assert (state["JobState"], state["Restarts"], state["ExitCode"]) == ("FAILED", "2", "76:0")
    log = jobs.log("76", job)
    assert "3 starts in a row brought no new checkpoint: not queued again" in log
    assert len(jobs.records("76", "args")) == 3 * 2


def test_starts_with_a_checkpoint_go_on(jobs):
    """A run that is longer than the time limit needs any number of starts."""
    job = jobs.submit("save each time", nodes=1)
    state = jobs.cluster.wait_for_end(job, hurry=True)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "4")
    assert "exit code 75 at checkpoint 3: queued again" in jobs.log("save each time", job)


def test_one_dead_task_ends_the_step_and_the_job_is_queued_again(jobs):
    """Without --kill-on-bad-exit the others would wait for the dead one until the time limit."""
    job = jobs.submit("die once", "--ntasks-per-node=1")
    state = jobs.cluster.wait_for_end(job, hurry=True)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1")
    assert "exit code 137" in jobs.log("die once", job)
    assert [(entry["start"], entry["task"]) for entry in jobs.records("die once", "got")] == [
        (0, 0)
    ]


def test_what_a_person_has_to_mend_is_not_queued_again(jobs):
    """The same failure each time would only use up the allocation."""
    codes = ("1", "2", "65", "74", "130")
    submitted = {code: jobs.submit(code, nodes=1) for code in codes}
    for code, job in submitted.items():
        state = jobs.cluster.wait_for_end(job)
        assert (state["JobState"], state["Restarts"]) == ("FAILED", "0")
        assert state["ExitCode"] == f"{code}:0"


def test_a_signal_reaches_all_tasks_and_a_cancelled_job_stays_cancelled(jobs):
    """`scancel --signal=TERM` saves and goes on; `scancel` alone ends the job for good."""
    job = jobs.submit("wait", "--ntasks-per-node=1")
    jobs.cluster.wait(lambda: len(jobs.records("wait", "args")) == 2, 20)
    jobs.cluster.run("scancel", "--signal=TERM", job)
    jobs.cluster.wait(lambda: len(jobs.records("wait", "args")) == 4, 30)
    assert [(e["start"], e["task"]) for e in jobs.records("wait", "got")] == [(0, 0), (0, 1)]
    jobs.cluster.run("scancel", job)
    state = jobs.cluster.wait_for_end(job)
    assert (state["JobState"], state["Restarts"]) == ("CANCELLED", "1")
    jobs.cluster.wait(lambda: len(jobs.records("wait", "got")) == 4, 10)
    assert len(jobs.records("wait", "args")) == 4


def test_tasks_are_told_before_the_time_limit(limited, jobs):
    """The two minutes of --signal=TERM@120: the tasks get it, and the script queues again."""
    jobs.cluster.wait(lambda: len(jobs.records("wait for limit", "args")) >= 4, 60)
    got = jobs.records("wait for limit", "got")[:2]
    assert [(entry["start"], entry["task"]) for entry in got] == [(0, 0), (0, 1)]
    log = jobs.log("wait for limit", limited)
    assert "exit code 75 at checkpoint 0: queued again" in log
    jobs.cluster.run("scancel", limited)


def test_real_training_under_slurm(jobs, tmp_path, one_process):
    """Two tasks on two nodes find each other and train as one process does."""
    two = one_process.flags(tmp_path / "two", steps=3)
    launch = ["-m", "ptft_jax", "launch", "slurm", "--nodes=2", "--dry_run", "--", *two]
    shown = subprocess.run(
        [sys.executable, *launch], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # What a dry run shows can be pasted into a shell.
    submitted = subprocess.run(
        shown.stdout.replace("sbatch ", f"sbatch --parsable --output={tmp_path}/%j.out ", 1),
        shell=True,
        env={**jobs.cluster.environment, "JAX_NUM_CPU_DEVICES": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    state = jobs.cluster.wait_for_end(submitted.stdout.strip(), 300)
    assert state["JobState"] == "COMPLETED"
    assert shlex.split(shown.stdout)[1] == "sbatch"
    expected = {step: one_process.losses[step] for step in (1, 2, 3)}
    assert losses(tmp_path / "two") == pytest.approx(expected, rel=1e-5)
