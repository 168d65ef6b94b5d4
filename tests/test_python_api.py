"""The Python API: `import ptft_jax` is quick, configs are found by name, trained models answer."""

import json
import subprocess
import sys

import pytest

import ptft_jax
from ptft_jax.errors import ConfigError


def python(code: str) -> str:
    """Runs a fresh Python and returns what it printed."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_importing_the_package_loads_nothing_heavy():
    """A script that only asks for the version must not wait for JAX, nor claim an accelerator."""
    code = (
        "import json, sys, time; before = time.monotonic(); import ptft_jax; "
        "took = time.monotonic() - before; "
        "print(json.dumps([took, dir(ptft_jax), sorted(sys.modules)]))"
    )
    took, names, modules = json.loads(python(code))
    assert not {"jax", "transformers", "flax", "numpy", "absl"} & set(modules)
    assert took < 0.2
    assert {"get_config", "build_model", "BEGAN"} <= set(names)
    with pytest.raises(AttributeError, match="no attribute 'load'"):
        _ = ptft_jax.load


def test_configs_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    """A bare name, its file, and a file of one's own are the same door."""
    monkeypatch.chdir(tmp_path)
    config = ptft_jax.get_config("pretrain/bert_base")
    assert config.phases[0]["max_seq_length"] == 512
    assert config.to_dict() == ptft_jax.get_config("configs/pretrain/bert_base.py").to_dict()
    assert ptft_jax.get_config("finetune/glue:mrpc").epochs == 5.0
    (tmp_path / "mine.py").write_text(
        "import ptft_jax\ndef get_config():\n"
        "    config = ptft_jax.get_config('pretrain/bert_tiny')\n"
        "    config.seed = 7\n    return config\n"
    )
    assert ptft_jax.get_config("mine.py").seed == 7
    with pytest.raises(ConfigError, match="nearest is pretrain/bert_base; shipped are data/text, "):
        ptft_jax.get_config("pretrain/bert_bas")
