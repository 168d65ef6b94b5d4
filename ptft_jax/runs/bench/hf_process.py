"""Hugging Face's side in a process of its own: no memory, allocator or threads shared with JAX."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import safetensors.numpy

from ptft_jax.data.batches import Batch
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.config import EncoderConfig

_ROOT = Path(__file__).resolve().parents[3]


def torch_device(devices: Iterable[Any], flag: str) -> str:
    """Returns PyTorch's name for JAX's devices; `flag` is what asks for PyTorch.

    Raises:
        ConfigError: torch or transformers is absent, there is no PyTorch for these devices here, or
            there are more GPUs than the one it would use.
    """
    absent = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if absent:
        raise ConfigError(
            f"{flag}: {' and '.join(absent)} not installed; expected both, to compare with: "
            f"pip install {' '.join(absent)}."
        )
    devices = list(devices)
    platform = devices[0].platform
    if platform not in ("cpu", "gpu"):
        raise ConfigError(f"{flag}: JAX runs on {platform} here; expected a CPU or a GPU.")
    if platform == "gpu" and len(devices) > 1:
        raise ConfigError(
            f"{flag}: JAX has {len(devices)} GPUs here, and PyTorch would use one; expected one "
            "for both: CUDA_VISIBLE_DEVICES=0."
        )
    return "cuda" if platform == "gpu" else "cpu"


class HuggingFace:
    """A process of `runs/bench/hf.py`: warm when it is made, idle unless it is asked for a round.

    Use it as a context manager, which ends the process.

    Attributes:
        warm: what it said when it was warm: `first_seconds` (of the first update, with its
            compilation) and `note`, how it computes.
    """

    def __init__(
        self,
        model: EncoderConfig,
        device: str,
        spec: Mapping[str, Any],
        *,
        batches: Iterable[Batch] = (),
        tokenizer: TextTokenizer | None = None,
    ) -> None:
        """Starts it and waits until it has compiled; raises ConfigError if PyTorch could not.

        Args:
            model: the model, whose weights are HF's own fresh ones.
            device: PyTorch's name for it.
            spec: `what` to do, and what that needs.
            batches: of a training, as `one_a_row` returns them; the first is not timed.
            tokenizer: of a prediction.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="ptft-bench-")
        folder = Path(self._folder.name)
        config = model.to_hf() | {"num_labels": model.num_labels}
        common = {"config": config, "heads": model.heads, "dtype": model.dtype, "device": device}
        for number, batch in enumerate(batches):
            safetensors.numpy.save_file(dict(batch), folder / f"batch-{number:05}.safetensors")
        if tokenizer is not None:
            tokenizer.save(folder / "tokenizer", model_max_length=model.max_position_embeddings)
            written = json.dumps(model.to_hf())
            (folder / "tokenizer" / "config.json").write_text(written, encoding="utf-8")
        (folder / "spec.json").write_text(json.dumps({**common, **spec}), encoding="utf-8")
        self._errors = (folder / "stderr").open("w+", encoding="utf-8")
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ptft_jax.runs.bench.hf", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        )
        try:
            self.warm = self._answer()
        except BaseException:
            self.close()
            raise

    def make_round(self, **request: Any) -> dict[str, Any]:
        """Lets it make a round, and returns what it measured."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {}
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines() or ["no message"]
            answer["error"] = f"{lines[-1]} (exit code {code})"
        if "error" in answer:
            raise ConfigError(
                f"PyTorch's side of the comparison failed: {answer['error']}. Expected it to run "
                "what ours does: where memory is short lower --config.batch_size or raise "
                "--config.accumulate; or leave --against out."
            )
        return answer

    def close(self) -> None:
        """Ends the process and removes its files."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
