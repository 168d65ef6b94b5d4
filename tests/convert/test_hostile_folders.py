"""Hostile folders are refused with one error, and nothing in them leads out of them."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import pretrain_flags, run, tree
from foreign_folders import make_folders, one_error, reading, safetensors, tensor, zipped

from ptft_jax.convert.folder import read_hf_folder
from ptft_jax.data.corpus.store import Corpus
from ptft_jax.errors import DataError, PtftError


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """What `make_folders` makes."""
    return make_folders(tmp_path_factory.mktemp("made"))


@pytest.fixture
def place(made, tmp_path) -> Path:
    """A copy of it to do harm to."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


WEIGHTS = {
    "pickle": (pickle.dumps({"a": [1]}), "a pickle"),
    "zip of a pickle": (zipped(), "a zip archive"),
    "header beyond the file": (safetensors({}, length=99_000_000), "cannot be read as safetensors"),
    "header that is no JSON": (safetensors(b"[" * 100_000), "cannot be read as safetensors"),
    "overlapping": (
        safetensors({"a": tensor(0, 64, [16]), "b": tensor(32, 64, [8])}),
        "cannot be read as safetensors",
    ),
    "outside": (safetensors({"a": tensor(0, 2**40, [2**38])}), "cannot be read as safetensors"),
    "other size": (safetensors({"a": tensor(0, 64, [15])}), "cannot be read as safetensors"),
    "objects": (safetensors({"a": tensor(0, 64, [8], "O")}), "cannot be read as safetensors"),
    "overflowing shape": (
        safetensors({"a": tensor(0, 64, [2**40, 2**40])}),
        "cannot be read as safetensors",
    ),
    "names that are paths": (
        safetensors({"../../etc/passwd": tensor(0, 64, [16])}),
        "belong to no known head",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_lying_weights_are_refused(place, name, capsys):
    """Whatever is in model.safetensors, it is read as that or refused, in one message."""
    content, says = WEIGHTS[name]
    (place / "hf" / "model.safetensors").write_bytes(content)
    before = tree(place)
    assert run("import", f"--hf_dir={place}/hf", f"--run_dir={place}/new") == 65
    assert says in one_error(capsys)
    assert tree(place) == before


JSON = {
    "nested arrays": ("[" * 300_000 + "]" * 300_000, "nested too deeply"),
    "endless number": ('{"vocab_size": ' + "1" * 5000 + "}", "is not JSON"),
    "half a surrogate pair": (r'{"model_type": "bert", "id2label": {"0": "\ud800"}}', "surrogates"),
    "a list": ("[]", "expected a JSON object"),
    "zero bytes": ("\0" * 100, "is not JSON"),
}


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("name", JSON)
def test_json_that_would_stop_a_program(place, file, name, capsys):
    """Deep nesting, endless numbers and the like end in one message that names the file."""
    text, says = JSON[name]
    (place / "hf" / file).write_text(text)
    assert run("import", f"--hf_dir={place}/hf", f"--run_dir={place}/new") == 65
    said = one_error(capsys)
    assert says in said
    assert file in said


def test_a_large_json_file_is_not_read(place, monkeypatch, capsys):
    """A file's size is looked at before it is taken into memory."""
    monkeypatch.setattr("ptft_jax.data.foreign_files.MAX_JSON_BYTES", 1000)
    assert run("import", f"--hf_dir={place}/hf", f"--run_dir={place}/new") == 65
    assert "expected at most 1000 in a JSON file" in one_error(capsys)


STRANGE = (None, True, -1, 1.5, 2**70, float("nan"), "", "x", [], [1], {}, {"a": 1})


def test_strange_values_in_a_config_are_refused_or_mean_nothing(place):
    """Every key with every kind of value: it is used, or a ConfigError or DataError says why not.

    One of these, num_hidden_layers=2**70, once filled the memory with names of layers.
    """
    file = place / "hf" / "config.json"
    content = json.loads(file.read_text())
    refused = 0
    for key in [*content, "position_embedding_type", "is_decoder", "num_labels", "auto_map"]:
        for value in STRANGE:
            file.write_text(json.dumps({**content, key: value}))
            try:
                read_hf_folder(place / "hf")
            except PtftError:
                refused += 1
    assert refused > 100


def test_strange_values_in_a_manifest_are_refused_or_mean_nothing(place):
    """A corpus's manifest decides how its files are mapped into memory; `O` would be pointers."""
    file = place / "data" / "manifest.json"
    content = json.loads(file.read_text())
    Corpus.open(place / "data")
    for keys in _paths(content):
        for value in (*STRANGE, "O", "|V0", "<f8"):
            changed = json.loads(json.dumps(content))
            inner = changed
            for key in keys[:-1]:
                inner = inner[key]
            inner[keys[-1]] = value
            file.write_text(json.dumps(changed))
            try:
                Corpus.open(place / "data")
            except PtftError:
                continue
            assert keys[0] not in ("token_dtype", "vocab_size")
    content["token_dtype"] = "O"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"manifest.json is damaged .*token_dtype 'O'"):
        Corpus.open(place / "data")


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys to every value in JSON, of lists to the first value."""
    inner = value.items() if isinstance(value, dict) else ()
    inner = list(enumerate(value[:1])) if isinstance(value, list) else inner
    return [found for key, v in inner for found in ((*path, key), *_paths(v, (*path, key)))]


@pytest.mark.parametrize("part", ["model", "pre_tokenizer", "added_tokens"])
def test_a_tokenizer_of_an_unknown_type_is_refused(place, part, capsys):
    """A tokenizer.json has no part that could run code; a made-up one is an error, not ignored."""
    file = place / "hf" / "tokenizer.json"
    content = json.loads(file.read_text())
    content[part] = {"type": "PythonFunction", "module": "os", "function": "system"}
    file.write_text(json.dumps(content))
    assert run("import", f"--hf_dir={place}/hf", f"--run_dir={place}/new") == 65
    assert "tokenizer.json: not a tokenizer" in one_error(capsys)


# --- Ways out of a folder ----------------------------------------------------------------------

LINKED = {
    "config of a model": ("hf/config.json", "import"),
    "weights": ("hf/model.safetensors", "import"),
    "a file that nobody asked for": ("hf/notes.txt", "import"),
    "tokenizer of a run": ("run/tokenizer/tokenizer.json", "export"),
    "folder of a checkpoint": ("run/checkpoints/0", "export"),
    "run to start from": ("run/checkpoints/0/params", "finetune"),
    "manifest": ("data/manifest.json", "pretrain"),
    "tokens": ("data/train/tokens-00000.bin", "pretrain"),
    "tokenizer of a corpus": ("data/tokenizer/tokenizer_config.json", "check"),
}


@pytest.mark.parametrize("name", LINKED)
def test_links_that_lead_out_are_refused(place, tmp_path, name, capsys):
    """A link in a folder from elsewhere would have any file of ours read and passed on."""
    linked, command = LINKED[name]
    path, outside = place / linked, tmp_path / "outside"
    if path.exists():
        path.rename(outside)
    else:
        outside.write_text("mine")
    path.symlink_to(outside)
    assert run(*reading(command, place)) == 65
    said = capsys.readouterr()
    assert "is a symbolic link that leads out of its folder" in said.err + said.out
    assert "Traceback" not in said.err
    assert not (place / "new").exists()


def test_links_inside_a_folder_and_to_a_folder_are_fine(place, tmp_path):
    """What stays inside can do no harm, and the folder itself may lie elsewhere."""
    hf = place / "hf"
    (hf / "model.safetensors").rename(hf / "weights")
    (hf / "model.safetensors").symlink_to("weights")
    (tmp_path / "link").symlink_to(hf)
    read_hf_folder(tmp_path / "link")


def test_a_hub_cache_is_read_and_no_further(place, tmp_path):
    """The hub's cache links every file from `snapshots/REVISION` to `blobs`, and only to there."""
    snapshot = tmp_path / "models--x" / "snapshots" / "0123"
    blobs = tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted((place / "hf").iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    read_hf_folder(snapshot)
    (tmp_path / "secret").write_text("mine")
    (snapshot / "notes.txt").symlink_to("../../../secret")
    with pytest.raises(DataError, match=r"notes\.txt' is a symbolic link that leads out"):
        read_hf_folder(snapshot)
    (snapshot / "notes.txt").unlink()
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leads out"):
        read_hf_folder(snapshot)


def test_a_pipe_in_a_folder_is_refused(place, capsys):
    """Opening a pipe that nobody writes to would wait for ever."""
    (place / "hf" / "tokenizer.json").unlink()
    os.mkfifo(place / "hf" / "tokenizer.json")
    assert run("import", f"--hf_dir={place}/hf", f"--run_dir={place}/new") == 65
    assert "is a pipe, socket or device" in one_error(capsys)


@pytest.mark.parametrize("name", ["manifest.json", "params/_METADATA", "params/added"])
def test_pipes_and_links_in_a_checkpoint(place, tmp_path, name, capsys):
    """Every command that opens a run refuses them before it opens a file of a checkpoint."""
    path = place / "run" / "checkpoints" / "0" / name
    path.unlink(missing_ok=True)
    here = f"--run_dir={place}/run"
    commands = [reading(command, place) for command in ("predict", "export", "evaluate")]
    commands += [reading("finetune", place), pretrain_flags(place / "data", place / "run")]
    commands += [["ckpt", command, here] for command in ("ls", "verify")]
    commands += [["ckpt", "rewind", here, "--step=0"], ["status", here]]
    os.mkfifo(path)
    for words in commands:
        assert run(*words) == 65, words
        assert "is a pipe, socket or device" in one_error(capsys)
    path.unlink()
    (tmp_path / "outside").write_text("mine")
    path.symlink_to(tmp_path / "outside")
    for words in commands:
        assert run(*words) == 65, words
        assert "is a symbolic link that leads out of its folder" in one_error(capsys)


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/hostname", "a\nb", "a\\b", "x//y"])
@pytest.mark.parametrize("command", ["check", "pretrain"])
def test_a_manifest_names_files_of_its_folder_only(place, name, command, capsys):
    """Checking and training open the files that a manifest lists."""
    file = place / "data" / "manifest.json"
    content = json.loads(file.read_text())
    content["files"][name] = {"bytes": 4, "sha256": "0" * 64}
    file.write_text(json.dumps(content))
    assert run(*reading(command, place)) == 65
    said = capsys.readouterr()
    assert "is no file of its folder" in (said.err + said.out).replace("\n", " ")
    assert "Traceback" not in said.err
