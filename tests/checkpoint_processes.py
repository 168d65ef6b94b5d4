"""One of two processes that write and read checkpoints together; see test_checkpoint_damage.py.

python checkpoint_processes.py INDEX PORT FOLDER
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
from small_state import abstract, assert_same_shards, make_state, save

from ptft_jax.training.checkpoints.store import Checkpoints
from ptft_jax.training.mesh import MeshConfig, make_mesh

index, port, place = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=index)
used: set[str] = set()


def gather(tag: str, value: Any) -> list[Any]:
    """Exchanges values through files, and sees to it that no tag is used twice."""
    assert tag not in used
    used.add(tag)
    name = tag.replace("/", "_").replace(" ", "_")
    partial = place / f"partial.{index}"
    partial.write_text(json.dumps(value))
    partial.rename(place / f"{name}.{index}")
    values = []
    for other in range(2):
        path = place / f"{name}.{other}"
        while not path.exists():
            time.sleep(0.002)
        values.append(json.loads(path.read_text()))
    return values


mesh = make_mesh(MeshConfig(2, 2, 1))
first, second = make_state(mesh, seed=1), make_state(mesh, seed=2)
folder = place / "checkpoints"
said: list[str] = []
with Checkpoints(folder, keep_last=2, best=("dev_loss", "min"), gather=gather) as checkpoints:
    save(checkpoints, 1, first, {"dev_loss": 0.5})
    save(checkpoints, 2, second)
    checkpoints.wait()
    # Complete for all, not for the process alone that names it.
    assert checkpoints.all_steps() == [1, 2]
    checkpoints.record_metrics(2, {"dev_loss": 0.25})
    assert checkpoints.best_step() == 2
    assert_same_shards(checkpoints.restore(2, abstract(second))[0], second)

    written = list((folder / "2" / "params" / f"ocdbt.process_{index}").rglob("d/*"))
    assert written, "each process writes its own part"
    gather("looked at", None)
    if index == 1:
        content = bytearray(written[0].read_bytes())
        content[len(content) // 2] ^= 1
        written[0].write_bytes(content)
    gather("damaged", None)
    restored = checkpoints.restore_latest(abstract(first), said.append)
    assert restored is not None
    assert restored[1]["step"] == 1
    assert_same_shards(restored[0], first)
    assert checkpoints.all_steps() == [1]
    save(checkpoints, 3, second)
gather("done", None)
(place / f"said.{index}").write_text(json.dumps(said))
os._exit(0)
