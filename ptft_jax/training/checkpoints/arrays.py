"""Reading arrays out of a checkpoint through Orbax, with their names, shapes and dtypes checked."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import SingleDeviceSharding

from ptft_jax.errors import DataError

# What a broken file raises out of Orbax and TensorStore.
_READ_ERRORS = (ValueError, OSError, KeyError, TypeError)


def read_arrays(path: Path, targets: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns items of the checkpoint at `path` as arrays on devices.

    Args:
        path: the checkpoint's folder.
        targets: for each item a tree of `jax.ShapeDtypeStruct`; an array comes in the sharding of
            its leaf, without one on the first device of this process.

    Raises:
        DataError: the items do not hold exactly these arrays, or cannot be read.
    """
    placed = {item: jax.tree.map(placed_leaf, target) for item, target in targets.items()}
    try:
        problems = [
            problem
            for item, target in placed.items()
            for problem in _differences(path / item, target)
        ]
        if not problems:
            args = {item: ocp.args.StandardRestore(target) for item, target in placed.items()}
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
                return reader.restore(path, args=ocp.args.Composite(**args))
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error
    raise does_not_fit(path, problems)


def does_not_fit(path: Path, problems: list[str]) -> DataError:
    """Returns the error that says in what a checkpoint differs from what is needed."""
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return DataError(
        f"checkpoint {path} does not hold what this config needs: {'; '.join(problems[:5])}{more}. "
        "Use the config that it was saved with, or start in another run folder"
    )


def placed_leaf(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns `leaf` with a sharding: its own, or the first device of this process."""
    sharding = leaf.sharding or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def quiet_orbax() -> None:
    """Keeps Orbax's log lines from the screen; what goes wrong comes as an exception as well."""
    logger = logging.getLogger("absl")
    logger.setLevel(max(logger.level, logging.WARNING))
    if _not_from_orbax not in logger.filters:
        logger.addFilter(_not_from_orbax)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname


def _unreadable(path: Path, error: Exception) -> DataError:
    # TensorStore adds its source locations and the array's whole spec.
    reason = re.split(r"\s*\[(?:source locations|tensorstore_spec)=", str(error))[0]
    return DataError(
        f"checkpoint {path} cannot be read ({type(error).__name__}: {reason}), though its files "
        "are those that were written: use the versions of jax and orbax-checkpoint that saved it"
    )


def _differences(folder: Path, target: Any) -> list[str]:
    """Says in which arrays a saved tree and the wanted one differ, in names, shapes or dtypes.

    Orbax by itself casts a wrong dtype silently and names one wrong shape at most.
    """
    saved = {name: _written(leaf) for name, leaf in _flat(_saved_tree(folder)).items()}
    wanted = {name: _written(leaf) for name, leaf in _flat(target).items()}
    problems = []
    for name in sorted(saved.keys() | wanted.keys()):
        there, here = saved.get(name, "absent"), wanted.get(name, "absent")
        if there != here:
            problems.append(f"{folder.name}/{name} is {there} there and {here} here")
    return problems


def _saved_tree(folder: Path) -> Any:
    metadata = ocp.StandardCheckpointHandler().metadata(epath.Path(folder))
    return getattr(metadata, "tree", metadata)


def _flat(tree: Any) -> dict[str, Any]:
    return {str(name): leaf for name, leaf in ocp.tree.to_flat_dict(tree, sep="/").items()}


def _written(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
