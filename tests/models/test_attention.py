"""Every way to compute attention agrees with XLA's and keeps examples apart, or is refused.

Kernels are interpreted here, in float32, so that they agree to rounding. `tests/gpu` runs the same
checks on a GPU.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_checks import (
    H200,
    Attention,
    check_no_leak,
    dropout_keys,
    dropped_probabilities,
    relative_errors,
)

from ptft_jax.errors import ConfigError
from ptft_jax.models import attention
from ptft_jax.models.attention import Request, choose
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.partition import Device
from ptft_jax.training.mesh import MeshConfig, make_mesh

T4 = Device("gpu", "Tesla T4", (7, 5))
L4, AMD = Device("gpu", "NVIDIA L4", (8, 9)), Device("rocm", "AMD Instinct MI300X")
CPU, TPU = Device("cpu", "cpu"), Device("tpu", "TPU v5e")
REQUEST = Request("bfloat16", 64, 128, packed=False, dropout=0.0)

CASES = [
    Attention(24, 16, packed=True, rate=0.1),
    Attention(32, 64, packed=True),
    Attention(96, 64, rate=0.1),
    Attention(128, 16, packed=True, rate=0.1),
    Attention(160, 64, rate=0.1),
    Attention(192, 16, packed=True, rate=0.1),
    Attention(256, 16),
    # Odd lengths, down to a single token, and just past what one block holds.
    Attention(1, 16, rate=0.1),
    Attention(27, 16, packed=True, rate=0.1, heads=3),
    Attention(129, 16, packed=True, rate=0.1, heads=3),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_kernel_computes_what_xla_does(case):
    """Context and gradients of queries, keys, values and their biases."""
    found, wanted = (case.results(backend, "float32") for backend in ("kernel", "xla"))
    errors = relative_errors(found, wanted)
    # The key's bias has no gradient but rounding, so it is measured by the others'.
    assert max(errors.values()) < 3e-6


@pytest.mark.parametrize("tokens", [24, 128, 160])
def test_the_kernel_drops_the_entries_that_xla_drops(tokens):
    """Every entry, so that a run can change its machine and be compared."""
    found, wanted = (
        dropped_probabilities(backend, tokens, "float32") for backend in ("kernel", "xla")
    )
    assert found.shape == (2, 2, tokens, tokens)
    assert np.array_equal(found, wanted)
    assert abs(found.mean() - 0.1) < 0.02
    # Heads and rows drop their own.
    masks = found.reshape(4, -1)
    assert all((masks[i] != masks[j]).mean() > 0.1 for i in range(4) for j in range(i))


PLACES = [("xla", 48), ("kernel", 48), ("kernel", 160)]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("backend", "tokens"), PLACES)
def test_no_example_reaches_another(backend, tokens, packed):
    check_no_leak(backend, tokens, "float32", packed=packed)


@pytest.mark.parametrize("tokens", [64, 192])
def test_no_score_is_so_large_that_it_reaches_another_example(tokens):
    """A run that diverges has such: its loss would be of text that is not in the example."""
    own = np.arange(tokens) < 40
    qkv = np.empty((1, tokens, 1, 3, 16), np.float32)
    # Tokens of the first example turn away from their own keys, and towards the second's.
    qkv[0, :, 0, 0] = 1e6
    qkv[0, :, 0, 1] = np.where(own, -1e6, 1e6)[:, None]
    qkv[0, :, 0, 2] = np.where(own, 1.0, 7.0)[:, None]
    visible = np.where(own, 1, 2).astype(np.int32)[None]
    bias = np.zeros((1, 3, 16), np.float32)
    found = attention.attend("kernel", qkv, bias, visible, None, rate=0.0, packed=True)
    assert np.array_equal(found[0, :, 0], qkv[0, :, 0, 2])


@pytest.mark.parametrize("tokens", [128, 256])
@pytest.mark.parametrize(
    "lengths", [[65, *[1] * 40], [3] * 42, [100, *[1] * 5]], ids=["ones", "threes", "padded"]
)
def test_many_small_examples_share_a_row(tokens, lengths):
    """Short texts, packed: their numbers are far apart, and no token meets a block of its own."""
    visible = np.zeros(tokens, np.int32)
    numbers = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    visible[: len(numbers)] = numbers
    real = visible > 0
    rng = np.random.default_rng(0)
    qkv = 3 * rng.standard_normal((1, tokens, 1, 3, 16)).astype(np.float32)
    weight = rng.standard_normal((tokens, 16)).astype(np.float32) * real[:, None]

    def loss(qkv, backend):
        bias = jnp.zeros((1, 3, 16))
        context = attention.attend(
            backend, qkv, bias, jnp.asarray(visible)[None], None, rate=0.0, packed=True
        )
        return jnp.sum(context[0, :, 0] * weight), context

    (_, found), gradient = jax.value_and_grad(loss, has_aux=True)(qkv, "kernel")
    (_, wanted), exact = jax.value_and_grad(loss, has_aux=True)(qkv, "xla")
    assert np.isfinite(found).all()
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(found[0, real], wanted[0, real], atol=3e-6)
    np.testing.assert_allclose(gradient[0, real], exact[0, real], atol=3e-5)


@pytest.mark.parametrize("tokens", [96, 256])
@pytest.mark.parametrize("hidden", [slice(30, 80), slice(0, 20)], ids=["hole", "left"])
def test_padding_may_lie_anywhere_in_a_row_of_one_example(tokens, hidden):
    """`attention_mask` is no length: what it leaves out is not attended to, wherever it is."""
    visible = np.ones((1, tokens), np.int32)
    visible[:, hidden] = 0
    rng = np.random.default_rng(0)
    qkv = rng.standard_normal((1, tokens, 2, 3, 16)).astype(np.float32)
    bias = np.zeros((2, 3, 16), np.float32)
    found, wanted = (
        attention.attend(name, qkv, bias, visible, None, rate=0.0, packed=False)
        for name in ("kernel", "xla")
    )
    np.testing.assert_allclose(found[visible > 0], wanted[visible > 0], atol=3e-6)


@pytest.mark.parametrize("backend", ["xla", "kernel"])
@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_attention_is_the_same_on_every_mesh(backend, sizes):
    """Examples lie over data and fsdp, heads over tensor: each with its own dropout."""
    case = Attention(24, 16, packed=True, rate=0.1, rows=8, heads=4)
    arrays, keys = case.arrays, dropout_keys(8, 4)

    def compute(qkv, bias, visible, keys):
        return attention.attend(backend, qkv, bias, visible, keys, rate=0.1, packed=True)

    inputs = (arrays["qkv"], arrays["bias"], case.visible, keys)
    wanted = jax.device_get(jax.jit(compute)(*inputs))
    rows, heads = ("data", "fsdp"), "tensor"
    mesh = make_mesh(MeshConfig(*sizes))
    specs = ((rows, None, heads), (heads,), (rows,), (rows, heads))
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(array, jax.NamedSharding(mesh, jax.P(*spec)))
            for array, spec in zip(inputs, specs, strict=True)
        ]
        found = jax.device_get(jax.jit(compute)(*placed))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "device", "changes", "said"),
    [
        ("kernel", CPU, {}, "this is a cpu"),
        ("kernel", H200, {"dtype": "float32"}, "model.dtype is float32"),
        ("kernel", H200, {"head_size": 80}, "these have 80"),
        ("kernel", AMD, {}, "this is a rocm (AMD Instinct MI300X)"),
        ("kernel", L4, {"head_size": 128, "tokens": 512}, "more shared memory than NVIDIA L4 has"),
        ("kernel", T4, {}, "Tesla T4 has compute capability 7.5, and it needs 8.0"),
        ("cudnn", CPU, {}, "this is a cpu"),
        ("cudnn", H200, {"packed": True}, "packed row"),
        ("cudnn", H200, {"dropout": 0.1}, "attention_probs_dropout_prob=0.1"),
        ("cudnn", H200, {"head_size": 12}, "these have 12"),
    ],
)
def test_what_a_backend_cannot_do_is_refused(name, device, changes, said):
    """No silent fallback, and no leak: the error names the reason and what works instead."""
    request = REQUEST._replace(**changes)
    with pytest.raises(ConfigError) as error:
        choose(name, request, device)
    message = str(error.value)
    assert said in message
    assert message.startswith(f"model.attention={name} ")
    offered = message[message.index(" Use ") :]
    # What is offered can do it, and what can is offered.
    for other in (*attention.BACKENDS, "auto"):
        able = other == "auto" or attention.refusal(other, request, device) is None
        assert (f"model.attention={other}" in offered) == able


@pytest.mark.parametrize("key", ["attention", "fused"])
def test_a_kernel_is_refused_on_a_cpu_before_anything_is_computed(key):
    """By the model itself, while the step is traced."""
    config = EncoderConfig(
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=1,
        dtype="bfloat16",
        **{key: "kernel"},
    )
    model = build_model(config)
    rows = jax.ShapeDtypeStruct((2, 16), np.int32)
    batch = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), rows)
    with pytest.raises(ConfigError, match=f"model.{key}=kernel cannot be used .*cpu"):
        jax.eval_shape(lambda p, b: model.bind(p).last_hidden_state(b), model.abstract(), batch)


@pytest.mark.parametrize(
    ("device", "changes", "name", "said"),
    [
        (H200, {"packed": True, "dropout": 0.1}, "kernel", "NVIDIA H200"),
        (H200, {"head_size": 80}, "cudnn", "these have 80"),
        (H200, {"head_size": 80, "packed": True}, "xla", "these have 80"),
        (H200, {"dtype": "float32"}, "xla", "float32"),
        (L4, {"head_size": 128}, "kernel", "NVIDIA L4"),
        (CPU, {}, "xla", "cpu"),
        (TPU, {}, "xla", "tpu"),
        # A mesh that only describes devices knows no capability.
        (Device("gpu", "NVIDIA H200"), {}, "kernel", "NVIDIA H200"),
    ],
)
def test_auto_takes_the_fastest_that_can_and_says_why(device, changes, name, said):
    found, why = choose("auto", REQUEST._replace(**changes), device)
    assert found == name
    assert said in why


def test_a_model_without_kernels_loads_none():
    """Pallas takes 0.26 seconds to import, which a run on CPUs or with XLA does not wait for."""
    code = (
        "import sys, jax, numpy as np\n"
        "from ptft_jax.models.build import build_model\n"
        "from ptft_jax.models.config import EncoderConfig\n"
        "model = build_model(EncoderConfig(hidden_size=24, num_hidden_layers=1))\n"
        "names = ('input_ids', 'attention_mask', 'token_type_ids')\n"
        "batch = dict.fromkeys(names, jax.ShapeDtypeStruct((2, 8), np.int32))\n"
        "run = lambda p, b: model.bind(p).last_hidden_state(b)\n"
        "jax.eval_shape(run, model.abstract(), batch)\n"
        "print([name for name in sys.modules if 'kernels.' in name and 'ptft' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n", done.stderr
