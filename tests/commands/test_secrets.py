"""Secrets come from the environment alone, and nothing that a run writes or says has one in it."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import finetune_flags, pretrain_flags, run, tree, write_corpus

from ptft_jax.commands.parsing import refuse_secrets
from ptft_jax.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PREPARE = "--config=configs/data/text.py"
SECRET = "hunter2canary"

REFUSED = (
    f"https://me:{SECRET}@host.example/a.txt",
    f"https://{SECRET}@host.example/a.txt",
    f"s3://key:{SECRET}@bucket/*.txt",
    f"gs://bucket/a.txt,https://me:{SECRET}@host.example/b.txt",
    f"https://me:{SECRET},comma@host.example/a.txt",
    f"a.txt@2,HTTPS://me:{SECRET}@host.example/b.txt@0.5",
    f"https://host.example/a.txt?token={SECRET}",
    f"https://host.example/a.txt?x=1&access_token={SECRET}",
    f"https://host.example/a.txt?X-Amz-Signature={SECRET}&X-Amz-Date=1",
    f"https://host.example/a.txt?sv=1&sig={SECRET}",
    f"https://host.example/a.txt?api%5Fkey={SECRET}",
    f"https://host.example/a.txt#access_token={SECRET}",
)
TAKEN = (
    "https://host.example/a.txt@2",
    "https://host.example/a.txt?page=2&tokens=128",
    "gs://bucket@2/a.txt",
    "ssh://me@host/a.txt",
    "hf:organisation/name@1",
    "memory://a.txt,memory://b.txt@0.5",
    "a/b@c.txt",
    "https://host.example/?token=",
)


@pytest.mark.parametrize("value", REFUSED)
def test_a_credential_in_a_url_is_refused_and_not_repeated(tmp_path, value, capsys):
    """config.json would keep it for everyone who gets the run, and so would a screen's record."""
    write_corpus(tmp_path / "text.txt", 4)
    before = tree(tmp_path)
    out_dir = f"--out_dir={tmp_path}/new"
    lines = (
        ["prepare", PREPARE, f"--config.inputs={value}", out_dir],
        ["prepare", PREPARE, "--config.inputs", value, out_dir],
        [*pretrain_flags(tmp_path / "data", tmp_path / "run"), "--init_from", value],
        ["export", f"--run_dir={value}", out_dir],
        ["predict", f"--run_dir={tmp_path}/run", value],
    )
    for line in lines:
        assert run(*line) == 2
        said = capsys.readouterr()
        assert "through the environment" in " ".join(said.err.split())
        assert SECRET not in said.out + said.err
    assert tree(tmp_path) == before


def test_a_credential_in_a_config_file_is_refused(tmp_path, capsys):
    """A config file is read by others as well, and its values go into config.json."""
    (tmp_path / "config.py").write_text(
        "from ptft_jax.runs.defaults import prepare\n"
        "def get_config():\n    config = prepare()\n"
        f"    config.inputs = 'https://me:{SECRET}@host/a.txt'\n    return config\n"
    )
    assert run("prepare", f"--config={tmp_path}/config.py", f"--out_dir={tmp_path}/new") == 2
    said = capsys.readouterr().err
    assert "--config.inputs: a URL of https:// has a user and password" in said
    assert SECRET not in said


@pytest.mark.parametrize("value", TAKEN)
def test_other_urls_are_taken(value):
    """Accounts, weights and queries without a secret are no credentials."""
    refuse_secrets([f"--config.inputs={value}", "--run_dir", value], [("inputs", value)])


def test_the_environment_gives_https_its_headers(monkeypatch):
    """The message names FSSPEC_HTTPS: fsspec does take its options from there."""
    import fsspec.config

    options = {"client_kwargs": {"headers": {"Authorization": "Bearer x"}}}
    monkeypatch.setenv("FSSPEC_HTTPS", json.dumps(options))
    found: dict = {}
    fsspec.config.set_conf_env(found, dict(os.environ))
    assert found["https"] == options
    with pytest.raises(ConfigError, match="FSSPEC_HTTPS"):
        refuse_secrets([f"--x={REFUSED[0]}"])


# What people keep in their environments.
NAMES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"),
    *("AWS_SESSION_TOKEN", "GITHUB_TOKEN", "DATABASE_URL", "SLURM_JWT", "KUBE_TOKEN", "NETRC"),
    *("PTFT_SECRET", "FSSPEC_HTTPS_PASSWORD", "SSH_AUTH_SOCK", "MY_PASSWORD"),
)

_ALL = """
import json, sys
from ptft_jax.cli import main
for line in json.load(open(sys.argv[1])):
    code = main(line)
    if code:
        sys.exit(code)
"""


def _traces(content: bytes, canary: str) -> bool:
    """Whether a canary is in a file, as it is or in one of the usual encodings."""
    forms = (canary.encode(), canary.encode("utf-16-le"), canary.encode().hex().encode())
    shifted = (base64.b64encode(b" " * n + canary.encode())[4:-4] for n in range(3))
    return any(form in content for form in (*forms, *shifted))


def test_no_secret_of_the_environment_is_in_any_file_or_on_the_screen(tmp_path):
    """A canary in many variables is in nothing that preparing, training, exporting and so on leave.

    Searched: every file that appeared (corpus, work folder, runs, checkpoints, TensorBoard, model
    card, compiled programs, status files) and all output, with the words of `ptft launch` as well.
    """
    canaries = {name: f"canary{number:02d}x7Qz9" for number, name in enumerate(NAMES)}
    write_corpus(tmp_path / "text.txt", 20)
    (tmp_path / "table").mkdir()
    for split in ("train", "dev"):
        rows = ["text\tlabel", *["the river is fine\tgood", "the stone is not\tbad"] * 4]
        (tmp_path / "table" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    tiny = {"steps": 2, "eval_every": 2, "checkpoint_every": 2, "mesh.fsdp": 1, "batch_size": 4}
    pretrain = pretrain_flags(tmp_path / "data", tmp_path / "run", **tiny)
    flags = ["--config.vocab_size=200", "--config.dev_fraction=0.2", f"--out_dir={tmp_path}/data"]
    lines = [
        ["prepare", PREPARE, f"--config.inputs={tmp_path}/text.txt", *flags],
        pretrain,
        finetune_flags("text.py", tmp_path / "table", tmp_path / "run", tmp_path / "tuned"),
        ["evaluate", f"--run_dir={tmp_path}/tuned"],
        ["export", f"--run_dir={tmp_path}/tuned", f"--out_dir={tmp_path}/hf"],
        ["status", f"--run_dir={tmp_path}/run"],
        ["ckpt", "verify", f"--run_dir={tmp_path}/run"],
        ["launch", "local", "--processes=2", "--dry_run", "--", *pretrain],
        ["launch", "slurm", "--nodes=2", "--dry_run", "--", *pretrain],
    ]
    (tmp_path / "lines.json").write_text(json.dumps(lines))
    environment = {**os.environ, **canaries, "JAX_NUM_CPU_DEVICES": "1"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path / "home")}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    process = subprocess.run(
        [sys.executable, "-c", _ALL, str(tmp_path / "lines.json")],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    said = process.stdout + process.stderr
    assert process.returncode == 0, said.decode()[-3000:]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 60
    assert any("cache" in path.parts for path in files)
    for name, canary in canaries.items():
        assert not _traces(said, canary), f"{name} is on the screen"
        assert not [path for path in files if _traces(path.read_bytes(), canary)], name


def test_the_search_finds_a_planted_canary():
    """It would see a secret as text, in UTF-16, in hexadecimal digits and inside Base64."""
    canary = "canary00x7Qz9"
    for text in (f"token={canary}", canary.encode().hex(), f"a{canary}bc"):
        assert _traces(text.encode(), canary)
        assert not _traces(b"nothing here", canary)
    assert _traces(canary.encode("utf-16-le"), canary)
    for before in ("", "a", "ab", "abc"):
        assert _traces(base64.b64encode(f"{before}{canary}, and more".encode()), canary)
