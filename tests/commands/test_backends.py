"""Users read which backend computes their model and why, for training and for evaluation."""

import pytest
from command_line import prepare_corpus, pretrain_flags, run

from ptft_jax.errors import ConfigError
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.partition import Device
from ptft_jax.runs.describe import describe_backends

H200 = Device("gpu", "NVIDIA H200", (9, 0))
BFLOAT16 = EncoderConfig(dtype="bfloat16")


def test_a_run_says_what_computes_attention(tmp_path, capsys):
    """A user on a CPU must see that the kernels are not in use, and why."""
    flags = pretrain_flags(prepare_corpus(tmp_path), tmp_path / "run", steps=1, eval_every=0)
    assert run(*flags) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "attention xla (the kernel cannot: it runs on NVIDIA GPUs, and this is a cpu" in shown
    assert "between products xla" in shown


def test_one_line_where_all_lengths_take_the_same():
    """Three lengths, training and evaluation: one answer is said once."""
    said = describe_backends(BFLOAT16, [(64, False), (128, False), (512, True)], H200)
    assert said["attention"] == "kernel (it runs on NVIDIA H200)"
    assert said["between products"] == "kernel"


def test_training_and_evaluation_may_differ():
    """cuDNN drops no probabilities: it can take the evaluation of what XLA has to train."""
    model = BFLOAT16.replace(hidden_size=288, num_attention_heads=12)
    said = describe_backends(model, [(128, False), (128, True)], H200)["attention"]
    assert said.startswith("xla (the kernel cannot: its heads have 16, 32, 64, 128 features")
    assert "in training at 128, training at 128 packed, evaluation at 128 packed; cudnn" in said
    assert said.endswith("in evaluation at 128")


@pytest.mark.parametrize(
    ("changes", "packed", "message"),
    [
        ({}, False, "it drops no probabilities"),
        ({"attention_probs_dropout_prob": 0.0}, True, "does not keep the examples"),
        ({"attention_probs_dropout_prob": 0.0, "dtype": "float32"}, False, "computes in bfloat16"),
    ],
)
def test_what_cudnn_cannot_is_refused(changes, packed, message):
    """No silent fallback: the refusal says what is asked of it and what would work."""
    model = BFLOAT16.replace(attention="cudnn", **changes)
    with pytest.raises(ConfigError, match=message) as error:
        describe_backends(model, [(128, packed)], H200)
    assert "model.attention=auto" in str(error.value)
