"""Encoder models in JAX: pretraining, fine-tuning, scoring, and export to Hugging Face PyTorch.

run = ptft_jax.load_run("runs/mini")    # docs/python.md
"""

import importlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptft_jax.models.build import build_model
    from ptft_jax.runs.config import load_config as get_config
    from ptft_jax.runs.train import finetune, pretrain
    from ptft_jax.runs.trained.open import load_run, load_runs

# Before JAX is loaded, which takes seconds: the account of a run's time begins here.
BEGAN = time.time()

__all__ = ["build_model", "finetune", "get_config", "load_run", "load_runs", "pretrain"]
_PLACES = {
    "build_model": ("models.build", "build_model"),
    "get_config": ("runs.config", "load_config"),
    "load_run": ("runs.trained.open", "load_run"),
    "load_runs": ("runs.trained.open", "load_runs"),
    "pretrain": ("runs.train", "pretrain"),
    "finetune": ("runs.train", "finetune"),
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is asked for: JAX and transformers take seconds."""
    if name not in _PLACES:
        raise AttributeError(f"module 'ptft_jax' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(f"ptft_jax.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
