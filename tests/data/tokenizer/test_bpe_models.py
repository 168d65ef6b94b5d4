"""A model whose tokenizer is a byte-level BPE with RoBERTa's special tokens: export and predict."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import transformers
from hf_reference import our_side, reference
from ml_collections import ConfigDict

from ptft_jax.commands.use.predict import predictions_table
from ptft_jax.convert.folder import read_hf_folder, write_hf_folder
from ptft_jax.convert.verify import verify_against_torch
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.data.tokenizer.training import train_tokenizer
from ptft_jax.runs.folder import RunFolder, TrainedRun
from ptft_jax.runs.record import RunRecord
from ptft_jax.runs.trained.asking.predictions import TextError, predict

TEXTS = ["The river is bright.", "A bird and a stone, by the water."]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """`<s>`, `<pad>`, `</s>`, `<unk>`, `<mask>` as ids 0 to 4, from vocab.json and merges.txt."""
    model = json.loads(train_tokenizer("bpe", TEXTS * 10, 320).json)["model"]
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = [*names, *sorted(model["vocab"], key=model["vocab"].get)[5:]]
    folder = tmp_path_factory.mktemp("bpe")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = "".join(f"{a} {b}\n" for a, b in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    return TextTokenizer.load(folder)


def test_export(tmp_path, tokenizer):
    """The folder loads in transformers with the same ids, the right padding and equal outputs."""
    twin = reference(("mlm",), vocab_size=tokenizer.vocab_size)
    config, params = our_side(twin, ("mlm",))
    folder = write_hf_folder(tmp_path / "hf", params, config, tokenizer, "# card\n")
    auto = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [*TEXTS, "The <mask> is bright."]
    ids = tokenizer.encode_batch(texts)
    assert auto(texts, add_special_tokens=False)["input_ids"] == ids
    assert auto(*TEXTS)["input_ids"] == [0, *ids[0], 2, *ids[1], 2]
    assert (auto.mask_token_id, auto.pad_token_id) == (tokenizer.mask_token_id, 1)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    # The row that PyTorch does not train is that of the padding, and not that of <s>.
    assert model.config.pad_token_id == model.get_input_embeddings().padding_idx == 1
    verification = verify_against_torch(folder, params, config, tokenizer)
    assert verification is not None
    assert verification.largest_difference < 1e-4 * verification.largest_value
    _, config, read_tokenizer, _ = read_hf_folder(folder)
    assert read_tokenizer.sha256 == tokenizer.sha256
    assert config.pad_token_id == 1


@pytest.fixture(scope="module")
def twin(tokenizer):
    """A PyTorch model of random weights, with more rows than there are tokens."""
    return reference(("pooler", "mlm", "nsp"), vocab_size=tokenizer.vocab_size + 40)


@pytest.fixture(scope="module")
def run(twin, tokenizer, tmp_path_factory):
    """The same model as a pretraining run."""
    config, params = our_side(twin, ("pooler", "mlm", "nsp"))
    return TrainedRun(
        folder=RunFolder(tmp_path_factory.mktemp("run")),
        record=RunRecord("pretrain", {}, dataclasses.asdict(config), pairs=True),
        config=ConfigDict({"max_seq_length": 32}),
        model_config=config,
        tokenizer=tokenizer,
        step=0,
        params=params,
    )


def test_masks_are_filled_in(run, twin, tokenizer):
    """[MASK] is the mask of every model; candidates read as in a text, and are PyTorch's."""
    texts = ["The [MASK] is bright.", "The <mask> is bright."]
    found = predict(run, texts, top=1000)
    assert [item["text"] for item in found] == texts
    assert found[0]["masks"] == found[1]["masks"]
    ids = [0, *tokenizer.encode_batch(texts[1:])[0], 2]
    with torch.no_grad():
        logits = twin(torch.tensor([ids])).prediction_logits[0, ids.index(tokenizer.mask_token_id)]
    # Rows beyond the tokens have no name, so they are no candidates.
    expected = logits[: tokenizer.vocab_size].softmax(dim=0).sort(descending=True)
    (candidates,) = found[0]["masks"]
    scores = [candidate["score"] for candidate in candidates]
    np.testing.assert_allclose(scores, expected.values.numpy(), rtol=1e-3)
    tokens = [candidate["token"] for candidate in candidates]
    assert tokens[0] == tokenizer.text_of(int(expected.indices[0]))
    assert {" river", "e", "<mask>"} <= set(tokens)
    assert not any(token.startswith("Ġ") for token in tokens)
    assert predictions_table(found).row_count == 2


def test_a_text_without_a_mask_is_refused(run):
    """In the words that a person knows, whatever the tokenizer calls its mask."""
    with pytest.raises(TextError, match=r"has no \[MASK\] to fill in"):
        predict(run, ["The river is bright."])
