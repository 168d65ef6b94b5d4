"""The launchers' commands and scripts: dry runs, quoting, mistakes, and what the tools are given.

gcloud and kubectl are programs that record their arguments; SLURM and Open MPI are real ones in
tests/commands/launch/test_slurm.py and tests/commands/launch/test_mpi.py.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run, tree

from ptft_jax import errors
from ptft_jax.commands.launch.local import split_devices
from ptft_jax.commands.launch.supervisor import NO_RESTART_CODES, RESTART_CODES
from ptft_jax.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
PRETRAIN = ("pretrain", "--config=configs/pretrain/bert_tiny.py", "--config.data_dir=data")
# Every kind of character that a shell, YAML or Kubernetes would take for its own.
HARD = (
    "it's",
    'a "b"',
    "$HOME $(NAME) $$",
    "[MASK]",
    "tab\there",
    "back\\slash",
    "ä 😀",
    "*",
    "#; &",
)
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), *ROOT.glob("launch/*.sbatch"), ROOT / ".ci" / "run"])
LAUNCHERS = {
    "local": (),
    "slurm": (),
    "gke": ("--name=bert", "--image=image"),
    "tpu": ("--name=pod", "--zone=zone"),
    "mpi": (),
}


def dry_run(capsys, launcher: str, *arguments: str) -> str:
    """Returns what `ptft launch … --dry_run` prints for a tiny pretraining run."""
    assert run("launch", launcher, "--dry_run", *LAUNCHERS[launcher], *arguments) == 0
    return capsys.readouterr().out


def tool(folder: Path, name: str, code: int = 0) -> dict[str, str]:
    """Makes a program that records its words and input; returns the environment that finds it."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(
        f"#!{sys.executable} -S\nimport json, sys\n"
        f"read = sys.stdin.read() if '-' in sys.argv else ''\n"
        f"json.dump([sys.argv[1:], read], open({str(folder / 'record.json')!r}, 'w'))\n"
        f"sys.exit({code})\n"
    )
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def recorded(folder: Path) -> tuple[list[str], str]:
    return tuple(json.loads((folder / "record.json").read_text()))


def ptft(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ptft_jax", *arguments]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck_and_can_be_started(script):
    """A shell script's mistakes show late, and on somebody else's cluster."""
    assert os.access(script, os.X_OK) != (script.name == "find_uv.sh")  # that one is sourced
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck (bash launch/cluster_tools.sh)")
    check = ["shellcheck", "--external-sources", script]
    found = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


# What each launcher runs.


def test_local_starts_each_process_with_its_place(capsys):
    """The flags and variables that make one job of N processes; a shell can start what is shown."""
    words = (*PRETRAIN, "--run_dir=a b's $run")
    flags = ("--processes=3", "--devices_per_process=2", "--platform=cpu", "--port=1234")
    *lines, last = dry_run(capsys, "local", *flags, "--", *words).splitlines()
    assert last == "wait"
    for number, line in enumerate(lines):
        *command, background = shlex.split(line)
        assert background == "&"
        assert command == [
            *("JAX_PLATFORMS=cpu", "JAX_NUM_CPU_DEVICES=2"),
            *(sys.executable, "-m", "ptft_jax", *words),
            *("--coordinator_address=127.0.0.1:1234", "--num_processes=3"),
            f"--process_id={number}",
        ]
    assert len(lines) == 3
    assert dry_run(capsys, "local", *flags, *words).splitlines() == [*lines, last]  # without --


@pytest.mark.parametrize(
    ("processes", "per_process", "visible", "shares"),
    [
        (2, None, "0,1,2,3", ["0,1", "2,3"]),
        (2, 1, "0,1,2,3", ["0", "1"]),
        (2, None, "GPU-a, GPU-b", ["GPU-a", "GPU-b"]),
        (3, None, "0,1,2,3", "there are 4 visible GPUs"),
        (8, None, "0,1,2,3", "there are 4 visible GPUs"),
        (2, 3, "0,1,2,3", "there are 4 visible GPUs"),
        (1, None, "-1", "no GPU is visible here"),
    ],
)
def test_gpus_are_shared_out_or_do_not_suffice(processes, per_process, visible, shares):
    """No two processes may hold the same GPU; one without would train on the CPU, at its speed."""
    environment = {"CUDA_VISIBLE_DEVICES": visible}
    if isinstance(shares, str):
        with pytest.raises(ConfigError, match=shares):
            split_devices("gpu", processes, per_process, environment)
        return
    found = split_devices("gpu", processes, per_process, environment)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == shares
    assert {one["JAX_PLATFORMS"] for one in found} == {"cuda"}
    cpu = [{"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}] * 2
    assert split_devices("auto", 2, None, {"CUDA_VISIBLE_DEVICES": ""}) == cpu
    assert split_devices("auto", 2, None, environment | {"JAX_PLATFORMS": "cpu"}) == cpu


def test_slurm_submits_the_script(capsys):
    """All that sbatch has to know, and the words of the command as they were given."""
    flags = (
        *("--nodes=4", "--gpus_per_node=8", "--cpus_per_task=6", "--time=1-12:00:00"),
        *("--partition=gpu", "--account=lab", "--job_name=bert", "--sbatch=--qos=high -x 'a b'"),
    )
    words = (*PRETRAIN, "--run_dir=a b's $run")
    found = shlex.split(dry_run(capsys, "slurm", *flags, "--", *words))
    assert found[0] == f"PTFT={Path(sys.executable).with_name('ptft')}"
    assert found[1:] == [
        *("sbatch", "--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=6"),
        *("--time=1-12:00:00", "--partition=gpu", "--account=lab", "--job-name=bert"),
        *("--qos=high", "-x", "a b", str(ROOT / "launch" / "slurm.sbatch"), *words),
    ]


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        (("--gpus_per_node=4",), []),  # a task for each GPU: by the local rank
        (("--gpus_per_node=4", "--tasks_per_node=1"), ["--local_device_ids=0,1,2,3"]),
        (("--tasks_per_node=2",), []),
    ],
)
def test_slurm_gives_tasks_their_gpus(capsys, flags, given):
    """A single task of a node would otherwise take the first GPU only."""
    words = (*PRETRAIN, "--run_dir=run")
    assert shlex.split(dry_run(capsys, "slurm", *flags, "--", *words))[-1:] == (
        given or ["--run_dir=run"]
    )


def test_tpu_words_survive_gcloud_and_two_shells(tmp_path):
    """The words pass through gcloud, ssh and the worker's shell before ptft gets them.

    Its exit code is handed on.
    """
    env = tool(tmp_path / "bin", "gcloud", code=7)
    words = [*PRETRAIN, *(f"--config.data_dir={word}" for word in HARD), "--run_dir=a b"]
    home = tmp_path / "it's home"
    flags = ("--name=pod", "--zone=zone", "--project=p", f"--repo_dir={home}")
    done = ptft("launch", "tpu", *flags, "--", *words, env=env)
    assert done.returncode == 7, done.stderr
    (*given, command), _ = recorded(tmp_path / "bin")
    assert given == [
        *("compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=zone", "--project=p", "--worker=all")
    ]
    # The worker: another recorder in the place of its ptft.
    (home / ".venv").mkdir(parents=True)
    tool(home / ".venv" / "bin", "ptft")
    for shell in ("bash", "sh"):
        subprocess.run([shell, "-c", command.removeprefix("--command=")], check=True)
        assert recorded(home / ".venv" / "bin")[0] == words


def jobset(capsys, *flags: str, words=(*PRETRAIN, "--run_dir=/data/run")) -> dict:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(dry_run(capsys, "gke", *flags, "--", *words))


def worker(spec: dict) -> dict:
    (replicated,) = spec["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def test_gke_makes_one_job_of_the_pods(capsys):
    """N indexed pods that find the first one by its name in the job set's headless service.

    Codes of failures that a restart cannot help end it.
    """
    flags = ("--nodes=4", "--gpus_per_node=8", "--gpu_type=nvidia-h100-80gb", "--max_restarts=5")
    spec = jobset(capsys, *flags)
    assert spec["spec"]["failurePolicy"]["maxRestarts"] == 5
    job = worker(spec)
    assert (job["completions"], job["parallelism"]) == (4, 4)
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == sorted(NO_RESTART_CODES)
    pod = job["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 120
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    (container,) = pod["containers"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    assert container["args"] == [
        *(*PRETRAIN, "--run_dir=/data/run", "--coordinator_address=bert-worker-0-0.bert:8476"),
        *("--num_processes=4", "--process_id=$(JOB_COMPLETION_INDEX)"),
    ]


def test_gke_tpus_secrets_and_volumes(capsys):
    """A TPU slice gives the number of pods; secrets are named and never filled in."""
    flags = ("--tpu_type=tpu-v5p-slice", "--tpu_topology=2x2x4", "--secrets=hub,other")
    spec = jobset(capsys, *flags, "--volume=runs:/data")
    job = worker(spec)
    assert job["completions"] == 4
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "2x2x4",
    }
    (container,) = pod["containers"]
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert container["envFrom"] == [{"secretRef": {"name": name}} for name in ("hub", "other")]
    assert {"name": "volume-0", "mountPath": "/data"} in container["volumeMounts"]
    claims = [volume.get("persistentVolumeClaim") for volume in pod["volumes"]]
    assert {"claimName": "runs"} in claims


def expanded(word: str) -> str:
    """What Kubernetes makes of an argument: $$ is a dollar, $(NAME) a variable."""
    return re.sub(r"\$(\$|\((\w+)\))", lambda m: "$" if m[1] == "$" else f"<{m[2]}>", word)


def test_gke_words_survive_yaml_and_kubernetes(capsys):
    """Whatever a word holds, the pod gets it."""
    words = (*PRETRAIN, *(f"--config.data_dir={word}" for word in HARD), "--run_dir=run")
    args = worker(jobset(capsys, words=words))["template"]["spec"]["containers"][0]["args"]
    assert tuple(map(expanded, args[: len(words)])) == words
    assert expanded(args[-1]) == "--process_id=<JOB_COMPLETION_INDEX>"


def test_gke_applies_what_a_dry_run_shows(tmp_path, capsys):
    """kubectl reads the same text, without any secret; its failure is handed on."""
    env = tool(tmp_path / "bin", "kubectl", code=3)
    words = ("--", *PRETRAIN, "--run_dir=run")
    done = ptft("launch", "gke", *LAUNCHERS["gke"], "--namespace=lab", *words, env=env)
    assert done.returncode == 3
    given, text = recorded(tmp_path / "bin")
    assert given == ["apply", "--namespace=lab", "-f", "-"]
    assert text == dry_run(capsys, "gke", *words)


def test_mpi_says_where_the_first_process_is(capsys):
    """Open MPI's own environment names no address; rank 0 runs on the first host."""
    words = (*PRETRAIN, "--run_dir=a b's $run")
    flags = ("--processes=6", "--hosts=node7:4,node8:4", "--pass_env=HF_TOKEN,XLA_FLAGS")
    found = shlex.split(dry_run(capsys, "mpi", *flags, "--", *words))
    assert found == [
        *(f"PTFT={Path(sys.executable).with_name('ptft')}", "bash"),
        *(str(ROOT / "launch" / "mpi.sh"), "--coordinator_address=node7:8476", "-np", "6"),
        *("--host", "node7:4,node8:4", "-x", "HF_TOKEN", "-x", "XLA_FLAGS", "--", *words),
    ]


def test_slurm_and_the_code_agree_when_to_start_again():
    """The same table in bash; and every kind of error is in one of the two."""
    text = (ROOT / "launch" / "slurm.sbatch").read_text()
    (codes,) = re.findall(r"^ +((?:\d+ \| )+\d+)\) ;;$", text, re.MULTILINE)
    assert {int(code) for code in codes.split(" | ")} == {*RESTART_CODES}
    kinds = {kind.exit_code for kind in vars(errors).values() if is_error(kind)}
    assert kinds | {130} == {*RESTART_CODES, *NO_RESTART_CODES}


def is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, errors.PtftError)


# Mistakes: one message, before anything is started, submitted or written.

GOOD_RUN = ("--", *PRETRAIN, "--run_dir=run")
MISTAKES = [
    ("local", (), "nothing to launch: expected a command after `--`"),
    ("local", ("--", "pretrian"), "did you mean 'pretrain'"),
    ("local", ("--", "prepare"), "'prepare' cannot be launched in several processes"),
    ("slurm", ("--", *PRETRAIN), "--run_dir is missing"),
    ("slurm", (*GOOD_RUN, "--config.stepz=3"), "the nearest key is 'steps'"),
    ("slurm", (*GOOD_RUN, "--config.batch_size=0"), "--config.batch_size=0: expected at least 1"),
    ("slurm", (*GOOD_RUN, "--num_processes=2"), "--num_processes is set by `ptft launch slurm`"),
    ("slurm", (*GOOD_RUN, "--heartbeat_seconds=0"), "--heartbeat_seconds=0"),
    ("slurm", (*GOOD_RUN, "stray"), "'stray': expected flags only"),
    ("slurm", ("--nodes=0", *GOOD_RUN), "--nodes=0: 0 is not an integer in the range [1, 100000]"),
    ("slurm", ("--sbatch=--qos='high", *GOOD_RUN), "No closing quotation"),
    ("slurm", ("--gpus_per_node=8", "--tasks_per_node=2", *GOOD_RUN), "one task for each GPU"),
    ("local", ("--port=70000", *GOOD_RUN), "70000 is not an integer in the range [0, 65535]"),
    ("local", (*GOOD_RUN, "--local_device_ids=0"), "--local_device_ids is set by"),
    ("gke", ("--name=Bert_1", *GOOD_RUN), "--name=Bert_1: expected at most 40 small letters"),
    ("gke", ("--image=", *GOOD_RUN), "--image is missing"),
    ("gke", ("--tpu_type=x", *GOOD_RUN), "--tpu_type and --tpu_topology belong together"),
    ("gke", ("--tpu_type=x", "--tpu_topology=4by4", *GOOD_RUN), "expected sizes like 4x4"),
    ("gke", ("--tpu_type=x", "--tpu_topology=3x3", *GOOD_RUN), "has 9 chips"),
    ("gke", ("--tpu_type=x", "--tpu_topology=4x4", "--nodes=2", *GOOD_RUN), "has 16 chips"),
    ("gke", ("--tpu_type=x", "--tpu_topology=4x4", "--gpus_per_node=1", *GOOD_RUN), "not both"),
    ("gke", ("--gpu_type=x", *GOOD_RUN), "expected --gpus_per_node too"),
    ("gke", ("--secrets=hf_AbC", *GOOD_RUN), "expected names of Kubernetes Secrets"),
    ("gke", ("--volume=/data", *GOOD_RUN), "--volume=/data: expected CLAIM:/path"),
    ("mpi", ("--hosts=a:x", *GOOD_RUN), "--hosts=a:x: expected HOST or HOST:SLOTS"),
    ("mpi", ("--hosts=localhost,b", *GOOD_RUN), "expected its name in the network"),
    ("mpi", ("--pass_env=TOKEN=abc", *GOOD_RUN), "expected names of environment variables"),
]


@pytest.mark.parametrize(("launcher", "arguments", "message"), MISTAKES)
def test_mistakes_end_before_anything_runs(launcher, arguments, message, capsys, tmp_path):
    """A typing error that shows after hours in a queue, or on every host at once, is expensive."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        # No tool is there: it is not even looked for.
        patch.setenv("PATH", str(tmp_path))
        assert run("launch", launcher, *LAUNCHERS[launcher], *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ptft: error: ")
    assert message in line
    assert tree(tmp_path) == {}


def test_a_missing_tool_is_named_with_its_cure(capsys, tmp_path, monkeypatch):
    """What to install, instead of a traceback of the operating system's."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(ROOT)
    tools = {"slurm": "sbatch", "gke": "kubectl", "tpu": "gcloud", "mpi": "mpirun"}
    for launcher, name in tools.items():
        assert run("launch", launcher, *LAUNCHERS[launcher], *GOOD_RUN) == 2
        assert f"{name} is not on PATH: " in capsys.readouterr().err


def test_no_secret_of_the_environment_is_shown_or_passed_in_words(capsys, monkeypatch):
    """Command lines and rendered files are seen by others; the environment is not."""
    secret = "hf_CanaryCanary"
    monkeypatch.setenv("HF_TOKEN", secret)
    for launcher in LAUNCHERS:
        assert secret not in dry_run(capsys, launcher, *GOOD_RUN)
    assert secret not in dry_run(capsys, "mpi", "--pass_env=HF_TOKEN", *GOOD_RUN)
