"""The whole train step as it is lowered for a GPU, on a machine without one, beside a golden file.

What is counted decides the step's speed and shows in no number that it computes: a product in
float32 is eight times slower, a kernel that is not called writes its arrays to memory, a loop over
layers copies what it saves. A change that is meant is written down, to be seen in its diff, by

    PYTHONPATH=.:tests python tests/models/test_lowered_for_gpu.py > tests/models/lowered_step.json
"""

import functools
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding
from kernel_checks import TRITON_WARNING

from ptft_jax.models import partition
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.training.mesh import AXES
from ptft_jax.training.step import TrainState, make_train_step
from ptft_jax.training.updates.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer

pytestmark = pytest.mark.filterwarnings(TRITON_WARNING)

GOLDEN = Path(__file__).with_name("lowered_step.json")
# BERT-mini of two layers. No dimension of a parameter is ROWS, so that an array of [ROWS, …] or
# [batch, tokens, …] is an activation.
CONFIG = EncoderConfig(
    hidden_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=1024,
    dtype="bfloat16",
)
ROWS, MASKED = 1280, 6
CASES = {
    "padded rows of 128": (128, False),
    "packed rows of 128": (128, True),
    "packed rows of 256": (256, True),
}


@functools.cache
def lowered(case: str, **keys: Any) -> str:
    """The step's StableHLO for one H200, with dropout, AdamW and clipping."""
    tokens, packed = CASES[case]
    batch_size, pooled = ROWS // tokens, 2 if packed else 1
    device = AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="cuda")
    mesh = AbstractMesh(
        (1, 1, 1), AXES, axis_types=(AxisType.Explicit,) * 3, abstract_device=device
    )

    def rows(size: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, partition.batch_spec(2))
        return jax.ShapeDtypeStruct((batch_size, size), dtype, sharding=sharding)

    names = ["input_ids", "attention_mask", "token_type_ids"]
    names += ["segment_ids", "position_ids"] if packed else []
    batch = {
        **dict.fromkeys(names, rows(tokens)),
        **dict.fromkeys(("masked_lm_positions", "masked_lm_ids"), rows(MASKED)),
        "masked_lm_weights": rows(MASKED, jnp.float32),
        **dict.fromkeys(("pooled_positions", "next_sentence_labels"), rows(pooled)),
        "next_sentence_weights": rows(pooled, jnp.float32),
    }
    with jax.sharding.use_abstract_mesh(mesh):
        model = build_model(CONFIG.replace(**keys))
        optimizer, schedule = make_optimizer(OptimizerConfig(), ScheduleConfig(), 100, model.axes())
        params = jax.tree.map(
            lambda leaf, axes: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, partition.stored_spec(axes))
            ),
            model.abstract(),
            model.axes(),
        )
        number: Any = jax.ShapeDtypeStruct((), jnp.int32)
        state = TrainState(number, params, jax.eval_shape(optimizer.init, params), number, number)
        step: Any = make_train_step(model, PretrainingObjective(), optimizer, schedule, seed=0)
        return step.trace(state, batch).lower(lowering_platforms=("cuda",)).as_text()


def products(text: str) -> Counter[tuple[str, str, str]]:
    """The matrix products by the types of both factors and of the result, like `8x2xf32`."""
    return Counter(
        re.findall(
            r"stablehlo\.dot_general .*\(tensor<(\w+)>, tensor<(\w+)>\) -> tensor<(\w+)>", text
        )
    )


def passes(text: str, batch_size: int, tokens: int) -> Counter[str]:
    """Operations whose result is an activation of a layer, by name."""
    activation = re.compile(rf"-> tensor<({ROWS}|{batch_size}x{tokens})x[\dx]+x(bf16|f32)>$")
    found: Counter[str] = Counter()
    for line in text.splitlines():
        line = line.split(" loc(")[0]
        named = re.search(r"= stablehlo\.(transpose|convert)\b", line)
        if named and activation.search(line):
            found[named[1]] += 1
    return found


def counts(case: str) -> dict[str, Any]:
    """What the golden file holds of a case."""
    text, (tokens, _) = lowered(case), CASES[case]
    by_dtype: Counter[str] = Counter()
    float32: Counter[str] = Counter()
    for (left, right, result), times in products(text).items():
        dtypes = [one.rsplit("x", 1)[-1] for one in (left, right, result)]
        by_dtype["{} x {} -> {}".format(*dtypes)] += times
        if "f32" in dtypes[:2]:
            float32[f"{left} x {right} -> {result}"] += times
    kernels = Counter(
        re.search(r'\bname = "(\w+)"', line)[1]  # type: ignore[index]
        for line in text.splitlines()
        if "custom_call @__gpu$xla.gpu.triton" in line
    )
    return {
        "products": dict(sorted(by_dtype.items())),
        "products of float32": dict(sorted(float32.items())),
        "kernels": dict(sorted(kernels.items())),
        "passes over activations": dict(sorted(passes(text, ROWS // tokens, tokens).items())),
        "loops": text.count("stablehlo.while"),
    }


@pytest.mark.parametrize("case", CASES)
def test_the_step_is_the_one_that_was_measured(case):
    assert counts(case) == json.loads(GOLDEN.read_text())[case]


@pytest.mark.parametrize("case", CASES)
def test_only_the_smallest_head_multiplies_in_float32(case):
    """The golden file itself is held to this: two classes are no product worth a tensor core."""
    for written in json.loads(GOLDEN.read_text())[case]["products of float32"]:
        assert "x2xf32" in written, written


def test_layers_loop_only_where_that_is_asked_for():
    """One forward and one backward; a loop copies every activation that it saves."""
    case = "packed rows of 128"
    assert "stablehlo.while" not in lowered(case)
    assert lowered(case, unroll=1).count("stablehlo.while") == 2


if __name__ == "__main__":
    json.dump({case: counts(case) for case in CASES}, sys.stdout, indent=2)
    print()
