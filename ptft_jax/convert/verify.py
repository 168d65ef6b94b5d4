"""Checks an exported folder against the PyTorch class that will load it."""

import importlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.models.build import build_model
from ptft_jax.models.config import LINEAR_HEADS, EncoderConfig

TEXTS = (
    "The exported model has to say the same thing in both frameworks.",
    "A short one.",
    "Three sentences of different lengths make one batch, so that the shorter ones are padded and "
    "the padding is seen to change nothing.",
)


class Verification(NamedTuple):
    """What the comparison found.

    Attributes:
        largest_difference: largest absolute difference of any output, over real tokens.
        largest_value: largest absolute value of the PyTorch outputs, to judge the difference by.
        model_class: name of the transformers class that loaded the folder.
    """

    largest_difference: float
    largest_value: float
    model_class: str


def verify_against_torch(
    folder: str | os.PathLike[str],
    params: Mapping[str, Any],
    config: EncoderConfig,
    tokenizer: TextTokenizer,
    texts: Sequence[str] = TEXTS,
    base: str | None = None,
) -> Verification | None:
    """Runs the folder in PyTorch and the parameters here on the same texts, in float32.

    Compares the logits of every head at every real token, or the last hidden state and the pooler
    where the model has no head. Call it outside `jax.set_mesh`: its few rows divide no mesh.

    Args:
        folder: the exported folder.
        params: the parameters that it was made from, of JAX or NumPy arrays.
        config: their config.
        tokenizer: their tokenizer.
        texts: what to run on, cut to the model's length.
        base: the folder or name of the model whose adapter the folder holds; None: it is whole.

    Returns:
        The comparison, or None where torch, or for an adapter peft, is not installed.
    """
    needed = ("torch",) if base is None else ("torch", "peft")
    if any(importlib.util.find_spec(name) is None for name in needed):
        return None
    split = Split(list(texts), None, None, "texts")
    examples = ClassificationExamples(split, tokenizer, config.max_tokens)
    whole = examples.batch(np.arange(len(texts)))
    batch = {name: whole[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    model_class = json.loads((Path(folder) / "config.json").read_text())["architectures"][0]
    theirs = _torch_outputs(folder, model_class, batch, base)
    ours = _our_outputs(params, config, batch)
    real = batch["attention_mask"].astype(bool)
    before = 0 if config.adapter is None else config.adapter.prompt_tokens
    for name, output in theirs.items():
        if before and output.ndim > 1 and output.shape[1] == before + real.shape[1]:
            theirs[name] = output[:, before:]  # PEFT gives those of virtual tokens as well
    pairs = [
        # Outputs per token [B, T, …] are compared where there is a token.
        (ours[name][real], output[real]) if output.shape[:2] == real.shape else (ours[name], output)
        for name, output in theirs.items()
        if name in ours
    ]
    return Verification(
        largest_difference=max(float(np.abs(a - b).max()) for a, b in pairs),
        largest_value=max(float(np.abs(b).max()) for _, b in pairs),
        model_class=model_class,
    )


def _torch_outputs(
    folder: str | os.PathLike[str],
    model_class: str,
    batch: dict[str, np.ndarray],
    base: str | None,
) -> dict[str, np.ndarray]:
    """Returns the outputs of the PyTorch class under the names it gives them."""
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    # Its progress bar would run through what the command shows.
    transformers.utils.logging.disable_progress_bar()
    load, as_float32 = getattr(transformers, model_class).from_pretrained, {"dtype": torch.float32}
    if base is None:
        model = load(folder, **as_float32).eval()
    else:
        config = transformers.AutoConfig.from_pretrained(folder)
        level = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.set_verbosity_error()  # the head is new, and then loaded
        whole = load(base, config=config, **as_float32)
        transformers.utils.logging.set_verbosity(level)
        model = importlib.import_module("peft").PeftModel.from_pretrained(whole, folder).eval()
    inputs = {name: torch.tensor(array).long() for name, array in batch.items()}
    if model_class == "BertForMultipleChoice":
        inputs = {name: array[None] for name, array in inputs.items()}
    with torch.no_grad():
        outputs = model(**inputs)
    return {name: value.numpy() for name, value in outputs.items() if torch.is_tensor(value)}


def _our_outputs(
    params: Mapping[str, Any], config: EncoderConfig, batch: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns our outputs under the names that the PyTorch class gives them."""
    heads = set(config.heads)
    model = build_model(config.replace(dtype="float32"))
    shape = batch["input_ids"].shape
    everywhere = jnp.broadcast_to(jnp.arange(shape[1]), shape)

    @jax.jit
    def run(params, batch):
        encoder = model.bind(params)
        hidden = encoder.last_hidden_state(batch)
        outputs, pooled = {"last_hidden_state": hidden}, hidden
        if "pooler" in heads:
            pooled = encoder.pooled(hidden, jnp.zeros((shape[0], 1), jnp.int32))
            outputs["pooler_output"] = pooled[:, 0]
        for head in config.linear_heads:
            found = encoder.logits(head, pooled if LINEAR_HEADS[head].pooled else hidden)
            if head == "nsp":
                outputs["seq_relationship_logits" if "mlm" in heads else "logits"] = found[:, 0]
            elif head == "span":
                outputs["start_logits"], outputs["end_logits"] = jnp.unstack(found, axis=2)
            elif head == "choice":
                # The class takes all rows for the choices of one example.
                outputs["logits"] = found[:, :, 0].T
            else:
                outputs["logits"] = found[:, 0] if LINEAR_HEADS[head].pooled else found
        if "mlm" in heads:
            name = "prediction_logits" if "nsp" in heads else "logits"
            outputs[name] = encoder.mlm_logits(hidden, everywhere)[..., : config.vocab_size]
        return outputs

    # Accelerators multiply float32 in a shorter format unless told otherwise.
    with jax.default_matmul_precision("highest"):
        return jax.tree.map(np.asarray, run(jax.device_get(params), batch))
