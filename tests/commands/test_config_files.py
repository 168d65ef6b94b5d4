"""Config files are run as they are, and their folders are left alone."""

import os
import sys

from ptft_jax.runs.config import load_config

FILE = """from ml_collections import ConfigDict
def get_config():
    return ConfigDict({"rate": %d})
"""


def test_a_config_file_edited_within_a_second(tmp_path, monkeypatch):
    """Python takes a compiled copy of the same second and size for the file itself."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "config.py"
    for rate in (1, 2):
        path.write_text(FILE % rate)
        os.utime(path, (1e9, 1e9))
        assert load_config(str(path)).rate == rate
    assert os.listdir(tmp_path) == ["config.py"]
