"""Reads the tensors of a Hugging Face folder: safetensors, in one file or in shards; no pickles."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from ptft_jax.data.foreign_files import kind_of, read_json_object
from ptft_jax.errors import ConfigError, DataError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Returns every tensor of the folder, by the name it has there."""
    if (path / WEIGHTS).is_file():
        return read_safetensors(path / WEIGHTS)[0]
    if (path / INDEX).is_file():
        return _read_shards(path)
    pickles = [*path.glob("pytorch_model*.bin"), *path.glob("*.pt"), *path.glob("*.ckpt")]
    if pickles:
        raise ConfigError(
            f"{pickles[0]} is a pickle, which can run code when it is read: expected {WEIGHTS}. In "
            "PyTorch, from_pretrained(folder) followed by save_pretrained(new_folder) writes it."
        )
    raise ConfigError(f"{path} has no weights: expected {WEIGHTS} or {INDEX}.")


def read_safetensors(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns a file's tensors, and the notes in its head."""
    try:
        with safe_open(file, framework="np") as reader:
            tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
            return tensors, reader.metadata() or {}
    except (SafetensorError, TypeError, ValueError, AttributeError, MemoryError) as error:
        with file.open("rb") as start:
            kind = kind_of(start.read(512))
        disguise = f"it is {kind}; " if kind else ""
        raise DataError(
            f"{file} cannot be read as safetensors ({disguise}{error}): fetch or export it again."
        ) from error


def _read_shards(path: Path) -> dict[str, np.ndarray]:
    index = read_json_object(path / INDEX, "fetch or export it again")
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise DataError(f"{path / INDEX}: expected a weight_map from tensor names to file names.")
    tensors: dict[str, np.ndarray] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:
            raise DataError(
                f"{path / INDEX}: shard {shard!r} leaves the folder: expected a file in it."
            )
        if not (path / shard).is_file():
            raise DataError(f"{path / INDEX}: shard {shard!r} is missing. Fetch the folder again.")
        read, _ = read_safetensors(path / shard)
        repeated = sorted(tensors.keys() & read.keys())
        if repeated:
            raise DataError(f"{path}: tensors {listed(repeated)} are in two shards.")
        tensors |= read
    if tensors.keys() != places.keys():
        odd = sorted(tensors.keys() ^ places.keys())
        raise DataError(f"{path / INDEX} and the shards disagree about tensors {listed(odd)}.")
    return tensors


def listed(names: list[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
