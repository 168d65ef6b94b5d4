"""Nothing that is read can run code: no module could do it, and a watched process does not."""

import ast
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import finetune_flags
from foreign_folders import make_folders
from processes import printed
from test_layers import FILES, PACKAGE, imports_of, name_of, parse

SCRIPTS = sorted((PACKAGE.parent / "launch").glob("*.py"))

# Modules that make code or objects of data, or unpack archives to where the archive says.
BANNED_MODULES = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "jsonpickle", "marshal"),
    *("shelve", "dbm", "yaml", "ruamel", "code", "codeop", "runpy", "imp", "zipimport"),
    *("tarfile", "zipfile"),
}
BANNED_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execl", "os.execv"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "shutil.unpack_archive"),
    *("torch.load", "np.load", "numpy.load", "pandas.read_pickle", "joblib.load"),
}
# Who may import by name or path: the package's and the commands' own modules, `--config` files,
# torch where it is, a tracking service's client that --track names.
IMPORTERS = {
    "ptft_jax/__init__.py": {"importlib.import_module"},
    "ptft_jax/cli.py": {"importlib.import_module"},
    "ptft_jax/runs/config.py": {"importlib.util.spec_from_file_location", "exec_module"},
    "ptft_jax/convert/verify.py": {"importlib.import_module"},
    # Writes one; of one that is there it reads the lines that it would write.
    "ptft_jax/commands/use/submit.py": {"zipfile"},
    "ptft_jax/training/tracking/trackers.py": {"importlib.import_module"},
}


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _dangers(module: ast.Module) -> list[tuple[int, str]]:
    """What in a module can make code of data: (line, what)."""
    found = [
        (line, name)
        for line, name in imports_of(module, "")
        if name.split(".")[0] in BANNED_MODULES
    ]
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        name = _dotted(node.func)
        if name in BANNED_CALLS or name.endswith((".load_module", ".exec_module")):
            found.append((node.lineno, name))
        if name.startswith("importlib.") and name.endswith(("_module", "_location")):
            found.append((node.lineno, name))
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            if (keyword.arg, value) in (("shell", True), ("weights_only", False)) or (
                keyword.arg in ("trust_remote_code", "allow_pickle") and value is not False
            ):
                found.append((node.lineno, f"{keyword.arg}={value}"))
    return found


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=name_of)
def test_no_code_comes_from_data(path):
    """No pickle or other way from bytes to objects or code, no shell, no unpacking of archives."""
    allowed = IMPORTERS.get(name_of(path), set())
    for line, what in _dangers(parse(path)):
        assert what in allowed or what.rsplit(".", 1)[-1] in allowed, (
            f"{name_of(path)}:{line}: {what}"
        )


def test_dangers_are_noticed():
    """The walk sees each of these, in any of the usual spellings."""
    lines = [
        "import pickle",
        "from marshal import loads",
        "import yaml.loader",
        "from zipfile import ZipFile",
        "eval('1')",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "np.load('x')",
        "read('x', allow_pickle=flag)",
        "torch.load('x')",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "importlib.import_module(name)",
        "spec.loader.exec_module(module)",
        "shutil.unpack_archive('x')",
    ]
    for line in lines:
        assert _dangers(ast.parse(line)), line


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """What `make_folders` makes."""
    return make_folders(tmp_path_factory.mktemp("made"))


@pytest.fixture
def place(made, tmp_path) -> Path:
    """A copy of it to do harm to."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


# Runs commands and prints which of Python's audit events for making code or objects of data came.
_WATCHED = """
import os, sys, json
seen = []
def watch(event, arguments):
    if event in ("pickle.find_class", "marshal.loads", "os.system", "subprocess.Popen", "os.exec"):
        seen.append([event, str(arguments)[:200]])
    if event == "exec":
        name = getattr(arguments[0], "co_filename", "")
        if name.startswith(sys.argv[1]):
            seen.append([event, name])
import jax, transformers, torch
from ptft_jax.cli import main
from ptft_jax.commands.train import evaluate
from ptft_jax.commands.use import export
from ptft_jax.commands.train import finetune
from ptft_jax.commands.use import import_hf
from ptft_jax.commands.use import predict
sys.addaudithook(watch)
codes = [main(line) for line in json.load(open(sys.argv[2]))]
print(json.dumps([codes, [s for s in seen if s[0] != "marshal.loads"]]))
"""


def test_reading_foreign_folders_runs_nothing(place):
    """Python's own audit of a process sees no pickle, no program and no code of the folder's.

    The folder brings what would run elsewhere: `auto_map` with a module beside it, a pickle under
    the usual name, a `sitecustomize`. (Compiled modules of installed packages are read by
    `marshal`; that is not reading data.)
    """
    hostile, witness = place / "hf", place / "witness"
    code = f"open({str(witness)!r}, 'w').write('ran')\n"
    for name in ("modeling.py", "sitecustomize.py", "conftest.py", "tokenization.py"):
        (hostile / name).write_text(code)
    config = json.loads((hostile / "config.json").read_text())
    config |= {
        "auto_map": {"AutoModel": "modeling.Model", "AutoConfig": "modeling.Config"},
        "custom_pipelines": {"text-classification": {"impl": "modeling.Pipeline"}},
        "trust_remote_code": True,
    }
    (hostile / "config.json").write_text(json.dumps(config))
    content = json.loads((hostile / "tokenizer_config.json").read_text())
    content |= {"auto_map": {"AutoTokenizer": ["tokenization.Slow", "tokenization.Fast"]}}
    (hostile / "tokenizer_config.json").write_text(json.dumps(content))
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (hostile / name).write_bytes(_pickle(witness))
    lines = [
        ["import", f"--hf_dir={hostile}", f"--run_dir={place}/imported"],
        ["export", f"--run_dir={place}/imported", f"--out_dir={place}/exported"],
        ["predict", f"--run_dir={place}/imported", "the river is bright"],
        ["predict", f"--run_dir={hostile}", "the river is bright"],
        finetune_flags("text.py", place / "table", hostile, place / "tuned", batch_size=2),
    ]
    (place / "lines.json").write_text(json.dumps(lines))
    (codes, seen), errors = printed(_WATCHED, place, place / "lines.json")
    assert codes == [0] * len(lines), errors
    assert not seen
    assert not witness.exists()


class _Payload:
    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.witness),)


def _pickle(witness: Path) -> bytes:
    """A pickle that leaves a trace when it is read."""
    return pickle.dumps({"bert.pooler.dense.weight": _Payload(witness)})


def test_the_payload_is_live(tmp_path):
    """The pickle of these tests does run code when it is read as one."""
    pickle.loads(_pickle(tmp_path / "witness"))
    assert (tmp_path / "witness").exists()
