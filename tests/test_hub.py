"""A model's name on the Hugging Face Hub in the place of a folder: from its cache, or from it."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from command_line import finetune_flags, run
from foreign_folders import make_folders

import ptft_jax
from ptft_jax.data.corpus.store import Manifest
from ptft_jax.data.hub import TOKENIZER_FILES, hub_name, locate
from ptft_jax.errors import ConfigError
from ptft_jax.runs.folder import RunFolder

NAME = "org/tiny"
COMMIT, OTHER = "1" * 40, "2" * 40


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder of Hugging Face's form, a corpus and a table."""
    return make_folders(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def cache(place, tmp_path, monkeypatch) -> Path:
    """A cache of the Hub's client with one model in two commits, and no network."""
    folder = tmp_path / "cache" / f"models--{NAME.replace('/', '--')}"
    for commit, branch in ((COMMIT, "main"), (OTHER, "v2")):
        put(folder, place / "hf", commit, branch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return folder


def put(folder: Path, source: Path, commit: str, branch: str) -> None:
    """Puts a folder into a model's part of the cache."""
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir(exist_ok=True)
    for path in source.iterdir():
        blob = folder / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    move(folder, branch, commit)


def move(folder: Path, branch: str, commit: str) -> None:
    (folder / "refs" / branch).parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / branch).write_text(commit)


@pytest.mark.parametrize(
    ("source", "commit"),
    [(NAME, COMMIT), (f"{NAME}@v2", OTHER), (f"{NAME}@{OTHER}", OTHER), (f"{NAME}@main", COMMIT)],
)
def test_a_cached_model_is_found_without_a_network(cache, source, commit):
    """By branch, tag or commit; what is found says which commit it is."""
    path, origin = locate(source, "x")
    assert path == cache / "snapshots" / commit
    assert origin == f"{NAME}@{commit}"
    assert hub_name(origin) == NAME


@pytest.mark.parametrize(
    "source",
    ["org/tiny", "bert", "runs/base", "./bert", "/org/tiny", "a/b/c", "vocab.txt", "x y", "../up"],
)
def test_paths_are_never_asked_for(tmp_path, monkeypatch, source):
    """What is there, and what can only be a mistyped path, is nobody else's business."""
    monkeypatch.chdir(tmp_path)
    for folder in ("org/tiny", "bert", "runs"):
        Path(folder).mkdir(parents=True)

    def asked(*arguments, **more):
        raise AssertionError(arguments)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)
    assert locate(source, "x") == (Path(source), source)
    assert hub_name(source) is None


def test_a_model_that_is_not_to_be_had_is_an_error_that_helps(cache, capsys):
    """One error, with the command that fetches it elsewhere."""
    flags = ["import", "--run_dir=run", "--hf_dir"]
    assert run(*flags, "bert-base-uncased") == 2
    error = capsys.readouterr().err
    assert "--hf_dir=bert-base-uncased: there is no such folder here" in error
    assert "`hf download bert-base-uncased --local-dir DIR`" in error
    assert "HF_HUB_OFFLINE" in error
    assert run(*flags, f"{NAME}@v3") == 2
    assert f"`hf download {NAME} --revision v3 --local-dir DIR`" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="org/absent: there is no such folder here"):
        ptft_jax.load_run("org/absent")
    assert not Path("run").exists()


def test_a_model_of_pickles_is_refused(cache, capsys):
    """The message says where its safetensors may be; its tokenizer can be used all the same."""
    (cache / "snapshots" / OTHER / "model.safetensors").unlink()
    assert run("import", "--run_dir=run", f"--hf_dir={NAME}@v2") == 2
    error = capsys.readouterr().err
    assert f"the model {NAME} has no weights as safetensors" in error
    assert f"name {NAME}@refs/pr/NUMBER" in error
    assert locate(f"{NAME}@v2", "x", TOKENIZER_FILES).path == cache / "snapshots" / OTHER
    move(cache, "refs/pr/7", COMMIT)
    assert run("import", "--run_dir=run", f"--hf_dir={NAME}@refs/pr/7") == 0
    assert RunFolder("run").record().init_from == f"{NAME}@{COMMIT}"


def test_a_run_starts_from_a_model_of_the_hub(cache, place):
    """Its record has the commit, at which it stays when the branch moves; the card has the name."""
    flags = finetune_flags("text.py", place / "table", Path(NAME), Path("run"))
    assert run(*flags) == 0
    record = RunFolder("run").record()
    assert record.init_from == f"{NAME}@{COMMIT}"
    move(cache, "main", OTHER)
    assert run(*flags) == 0
    assert RunFolder("run").record() == record
    other = finetune_flags("text.py", place / "table", Path(f"{NAME}@{OTHER}"), Path("run"))
    assert run(*other) == 2
    assert run("export", "--run_dir=run", "--out_dir=exported") == 0
    card = Path("exported/README.md").read_text()
    assert f"base_model: {NAME}\n" in card
    assert COMMIT not in card


def test_other_commands_take_its_name(cache, place):
    """Import, questions, and a corpus with its tokenizer."""
    assert run("import", f"--hf_dir={NAME}@v2", "--run_dir=imported") == 0
    assert RunFolder("imported").record().init_from == f"{NAME}@{OTHER}"
    found, expected = (ptft_jax.load_run(path).embed(["river"]) for path in (NAME, place / "hf"))
    np.testing.assert_array_equal(found, expected)
    flags = ["prepare", "--config=configs/data/text.py", f"--config.inputs={place}/text.txt"]
    assert run(*flags, f"--config.vocab={NAME}", "--out_dir=data") == 0
    manifests = [Manifest.read(path) for path in ("data", place / "data")]
    assert manifests[0].tokenizer_sha256 == manifests[1].tokenizer_sha256


def test_an_adapter_beside_a_model_of_the_hub(cache, place):
    """By its own name there it brings its model along."""
    lora = {"adapter.name": "lora", "optimizer.learning_rate": 1e-2}
    assert run(*finetune_flags("text.py", place / "table", Path(NAME), Path("run"), **lora)) == 0
    assert run("export", "--run_dir=run", "--format=peft", "--out_dir=peft") == 0
    put(cache.parent / "models--org--lora", Path("peft"), OTHER, "main")
    answers = [ptft_jax.load_run(path).predict(["river"]) for path in ("run", "org/lora")]
    assert answers[1][0]["scores"] == pytest.approx(answers[0][0]["scores"], abs=1e-5)


# A server that speaks as the Hub does.


@pytest.fixture
def server(place) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the files that were asked for; it has a pickle and code beside the model."""
    files = {path.name: path.read_bytes() for path in (place / "hf").iterdir()}
    files |= {
        "adapter_model.bin": b"\x80\x04",
        "pytorch_model.bin": b"\x80\x04",
        "modeling_tiny.py": b"raise",
        "onnx/model.onnx": b"x",
    }
    fetched: list[str] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path in (f"/api/models/{NAME}", f"/api/models/{NAME}/revision/main"):
                self.answer(json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode())
            elif path == f"/api/models/{NAME}/tree/{COMMIT}":
                entries = [
                    {"type": "file", "path": name, "size": len(content), "oid": self.etag(content)}
                    for name, content in files.items()
                ]
                self.answer(json.dumps(entries).encode())
            elif path.startswith(f"/{NAME}/resolve/{COMMIT}/"):
                name = path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")
                fetched.append(name)
                self.answer(files[name])
            else:
                self.answer(b"{}", 404)

        @staticmethod
        def etag(content: bytes) -> str:
            return hashlib.sha1(content).hexdigest()

        def answer(self, content: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("ETag", f'"{self.etag(content)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{hub.server_address[1]}", fetched
        hub.shutdown()


def test_what_is_read_is_fetched_and_nothing_else(server, place, tmp_path):
    """Safetensors, config and tokenizer, once; the second time from the cache, without network."""
    address, fetched = server
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_ENDPOINT": address, "JAX_NUM_CPU_DEVICES": "1"}

    def imported(run_dir: str) -> str:
        command = [sys.executable, "-m", "ptft_jax", "import", f"--hf_dir={NAME}"]
        done = subprocess.run(
            [*command, f"--run_dir={tmp_path / run_dir}"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return RunFolder(tmp_path / run_dir).record().init_from or ""

    assert imported("one") == f"{NAME}@{COMMIT}"
    expected = {path.name for path in (place / "hf").iterdir()} - {"README.md"}
    assert set(fetched) == expected
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= expected
    kept = {path.name for path in (tmp_path / "home").rglob("snapshots/*/*")}
    assert kept == expected
    fetched.clear()
    environment["HF_HUB_OFFLINE"] = "1"
    assert imported("two") == f"{NAME}@{COMMIT}"
    assert fetched == []
