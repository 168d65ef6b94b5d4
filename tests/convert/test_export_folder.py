"""Exported folders are what transformers expects, and its folders are what we read."""

import json
import os

import jax
import numpy as np
import pytest
import torch
import transformers
import yaml
from hf_reference import SMALL, our_side, reference, tensors_of
from tokenizer_checks import wordpiece

from ptft_jax.convert.bert import ARCHITECTURES, to_hf
from ptft_jax.convert.card_use import About
from ptft_jax.convert.folder import check_out_dir, read_hf_folder, write_hf_folder
from ptft_jax.convert.model_card import card, corpus_summary
from ptft_jax.convert.verify import verify_against_torch
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.models.config import EncoderConfig

PRETRAINING = ("pooler", "mlm", "nsp")
CLASSIFIER = ("pooler", "classification")
AUTO = {
    ("pooler",): transformers.AutoModel,
    ("mlm",): transformers.AutoModelForMaskedLM,
    ("pooler", "nsp"): transformers.AutoModelForNextSentencePrediction,
    PRETRAINING: transformers.AutoModelForPreTraining,
    CLASSIFIER: transformers.AutoModelForSequenceClassification,
}
WORDS = [*"abcdefghijklmnopqrstuvwxyz", "the", "cat", "sat", "##s", "##ing", ".", ",", "é"]


@pytest.fixture(scope="module")
def tokenizer():
    """A vocabulary of 99 tokens, as many as the small model has."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokens += [f"word{i}" for i in range(99 - len(tokens))]
    return wordpiece(tokens, lowercase=True)


def export(folder, heads, tokenizer, id2label=None, **changes):
    """Exports a model with random weights; returns its PyTorch twin, config and parameters."""
    twin = reference(heads, **changes)
    config, params = our_side(twin, heads)
    write_hf_folder(folder, params, config, tokenizer, "# card\n", id2label)
    return twin, config, params


@pytest.mark.parametrize(
    ("heads", "num_labels"),
    [*((heads, 2) for heads in AUTO), (CLASSIFIER, 3), (CLASSIFIER, 1)],
)
def test_transformers_loads_the_folder_whole_and_so_do_we(tmp_path, tokenizer, heads, num_labels):
    """No key is missing, unexpected or of another shape, and every tensor is the twin's."""
    twin, config, params = export(tmp_path / "hf", heads, tokenizer, num_labels=num_labels)
    model, info = AUTO[heads].from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(info.values()), info
    assert type(model).__name__ == ARCHITECTURES[heads] == type(twin).__name__
    assert model.config.num_labels == num_labels
    assert model.dtype == torch.float32
    loaded = tensors_of(model)
    for name, tensor in tensors_of(twin).items():
        assert tensor.tobytes() == loaded[name].tobytes(), name
    for key in SMALL:
        assert getattr(model.config, key) == getattr(twin.config, key), key
    assert sorted(os.listdir(tmp_path)) == ["hf"], "something was left beside the folder"
    verification = verify_against_torch(tmp_path / "hf", params, config, tokenizer)
    assert verification is not None
    assert verification.model_class == ARCHITECTURES[heads]
    assert verification.largest_difference < 1e-4 * verification.largest_value
    read, config, read_tokenizer, info = read_hf_folder(tmp_path / "hf")
    assert set(config.heads) == set(info.found) == set(heads)
    assert info.new == info.dropped == ()
    assert info.id2label is None, "LABEL_0 is not a name"
    assert read_tokenizer.sha256 == tokenizer.sha256
    jax.tree.map(np.testing.assert_array_equal, read, jax.tree.map(np.asarray, params))
    problem = json.loads((tmp_path / "hf/config.json").read_text()).get("problem_type")
    assert (problem == "regression") == (num_labels == 1)


def test_verification_sees_a_wrong_weight(tmp_path, tokenizer, monkeypatch):
    """The check would be worthless if it passed for a folder made of other weights."""
    _, config, params = export(tmp_path / "hf", CLASSIFIER, tokenizer)
    params["heads"]["classification"]["bias"] += 0.5
    verification = verify_against_torch(tmp_path / "hf", params, config, tokenizer)
    assert verification.largest_difference == pytest.approx(0.5, abs=1e-3)
    # Without torch the check is None, and export works.
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert verify_against_torch(tmp_path / "hf", params, config, tokenizer) is None


def test_auto_tokenizer_gives_the_same_ids(tmp_path, tokenizer):
    """Single texts, pairs, accents and unknown words come out as in training."""
    export(tmp_path / "hf", ("mlm",), tokenizer)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    texts = ["The cats sat.", "Sitting, é 漢 word3", ""]
    expected = tokenizer.encode_batch(texts)
    assert auto(texts, add_special_tokens=False)["input_ids"] == expected
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert auto(texts[0], texts[1])["input_ids"] == [cls, *expected[0], sep, *expected[1], sep]
    assert (auto.mask_token_id, auto.model_max_length) == (tokenizer.mask_token_id, 40)


def test_labels_travel(tmp_path, tokenizer):
    """The names of the classes arrive in PyTorch and come back; a wrong number is refused."""
    export(tmp_path / "hf", CLASSIFIER, tokenizer, id2label=["no", 'yes: "é"'])
    model = AUTO[CLASSIFIER].from_pretrained(tmp_path / "hf")
    assert model.config.id2label == {0: "no", 1: 'yes: "é"'}
    assert model.config.label2id == {"no": 0, 'yes: "é"': 1}
    assert read_hf_folder(tmp_path / "hf")[3].id2label == ("no", 'yes: "é"')
    with pytest.raises(ConfigError, match="expected 2 different names"):
        export(tmp_path / "other", CLASSIFIER, tokenizer, id2label=["only"])
    assert not (tmp_path / "other").exists()


def test_heads_asked_for(tmp_path, tokenizer):
    """New heads are named for the caller to initialise, and so are heads left out."""
    export(tmp_path / "hf", PRETRAINING, tokenizer)
    params, config, _, info = read_hf_folder(tmp_path / "hf", heads=CLASSIFIER)
    assert config.heads == CLASSIFIER
    assert (info.found, info.new) == (("pooler",), ("classification",))
    assert info.dropped == ("mlm", "nsp")
    assert params.keys() == {"encoder"}
    export(tmp_path / "mlm", ("mlm",), tokenizer)
    assert read_hf_folder(tmp_path / "mlm", heads=CLASSIFIER)[3].new == CLASSIFIER


def test_heads_of_other_classes(tmp_path, tokenizer):
    """A token classifier's `classifier` is not a sentence classifier's."""
    twin = transformers.BertForTokenClassification(transformers.BertConfig(**SMALL))
    twin.save_pretrained(tmp_path / "hf")
    tokenizer.save(tmp_path / "hf")
    assert read_hf_folder(tmp_path / "hf")[3].found == ("tagging",)
    _, _, _, info = read_hf_folder(tmp_path / "hf", heads=CLASSIFIER)
    assert info.new == CLASSIFIER
    assert info.dropped == ("tagging",)
    change_config(tmp_path / "hf", architectures=["BertCrf"])
    with pytest.raises(DataError, match=r"classifier\.bias, classifier\.weight belong to no known"):
        read_hf_folder(tmp_path / "hf")
    assert read_hf_folder(tmp_path / "hf", heads=CLASSIFIER)[3].dropped == ("classifier",)


def test_shards_are_read(tmp_path, tokenizer):
    """Large models come in several files with an index."""
    twin = reference(("pooler",))
    twin.save_pretrained(tmp_path / "hf", max_shard_size="40KB")
    tokenizer.save(tmp_path / "hf")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    params, config, _, _ = read_hf_folder(tmp_path / "hf")
    for name, tensor in to_hf(params, config).items():
        assert tensor.tobytes() == tensors_of(twin)[name].tobytes()


def test_an_index_stays_in_its_folder(tmp_path, tokenizer):
    """An index from elsewhere must not make us open other files, by path or by link."""
    folder, outside = tmp_path / "hf", tmp_path / "outside.safetensors"
    export(folder, ("pooler",), tokenizer)
    names = list(tensors_of(reference(("pooler",))))
    (folder / "model.safetensors").rename(outside)
    for shard, message in (
        ("model-1.safetensors", "is missing"),
        ("../outside.safetensors", "leaves the folder"),
        (str(outside), "leaves the folder"),
    ):
        content = {"weight_map": dict.fromkeys(names, shard)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            read_hf_folder(folder)


def change_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "roberta"},
        {"hidden_act": "swish"},
        {"position_embedding_type": "relative_key"},
        {"is_decoder": True},
        {"tie_word_embeddings": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_models_that_we_do_not_compute_are_refused(tmp_path, tokenizer, change):
    """Reading such a folder as a plain BERT would give other outputs without a word."""
    export(tmp_path / "hf", PRETRAINING, tokenizer)
    change_config(tmp_path / "hf", **change)
    with pytest.raises(ConfigError, match=next(iter(change))):
        read_hf_folder(tmp_path / "hf")


def test_folders_that_cannot_be_read(tmp_path, tokenizer):
    """A missing path, folder content or pickle is a ConfigError; broken content is a DataError."""
    folder = tmp_path / "hf"
    with pytest.raises(ConfigError, match="expected a Hugging Face folder"):
        read_hf_folder(folder)
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        read_hf_folder(folder)
    folder.rmdir()
    export(folder, ("pooler",), tokenizer)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        read_hf_folder(folder)
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pickle.*save_pretrained"):
        read_hf_folder(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ConfigError, match="no weights"):
        read_hf_folder(folder)
    weights.write_bytes(content)
    change_config(folder, num_hidden_layers=2)
    with pytest.raises(DataError, match=r"encoder\.layer\.2\..*num_hidden_layers"):
        read_hf_folder(folder)


def test_nothing_half_written(tmp_path, tokenizer, monkeypatch):
    """A failure in the middle leaves no folder, and an existing one is never touched."""
    folder = tmp_path / "hf"

    def fail(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(TextTokenizer, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            export(folder, ("pooler",), tokenizer)
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()
    export(folder, ("pooler",), tokenizer)
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="is not empty"):
        export(folder, ("pooler",), tokenizer, seed=1)
    assert (folder / "model.safetensors").read_bytes() == before
    with pytest.raises(ConfigError, match="expected a folder to make"):
        check_out_dir(folder / "config.json")
    config, params = our_side(reference(PRETRAINING), PRETRAINING)
    for change, message in (
        ({"heads": ("pooler", "mlm")}, r"BertForPreTraining.*fewer heads"),
        ({"vocab_size": 98}, "tokenizer has 99 tokens"),
    ):
        with pytest.raises(ConfigError, match=message):
            write_hf_folder(tmp_path / "no", params, config.replace(**change), tokenizer, "")


def front_matter(text):
    _, block, body = text.split("---\n", 2)
    return yaml.safe_load(block), body


def test_card_says_what_it_was_given():
    """The front matter is YAML with the very values, however spelt; the body has tables.

    Counts and sources of a corpus are told, with an end of their list; checksums of shards are not.
    """
    config = EncoderConfig(heads=CLASSIFIER, num_labels=2)
    manifest = {
        "vocab_size": 8192,
        "lowercase": True,
        "tokenizer_sha256": "ab",
        "splits": {"train": {"documents": 3, "sentences": 50, "tokens": 1234, "shard_tokens": [9]}},
        "files": {"train/tokens-00000.bin": {"bytes": 1, "sha256": "cd"}},
        "sources": [{"name": f"{i}.txt", "weight": [1.0, 2.5][i % 2]} for i in range(4)],
        "licence": "CC BY-SA 4.0",
    }
    about = About(
        data={"task": "mrpc", **corpus_summary(manifest, most=2)},
        scores={"dev": {"accuracy": 0.8676470588235294, "f1": 0.9}, "test": {"loss": float("nan")}},
        dataset=("GLUE mrpc", "nyu-mll/glue", "mrpc"),
        labels=("no", "yes | or\nso"),
        pairs=True,
        training={"optimizer": {"name": "adamw", "learning_rate": 5e-5}, "max_seq_length": 128},
        history=["after step 3: steps: 6 → 9"],
        source="a folder",
        base_model="google-bert/bert-base-uncased",
        languages=["en"],
    )
    text = card(config, 'run "é": 1 # two\n| three 🙂', about)
    meta, body = front_matter(text)
    assert meta["library_name"] == "transformers"
    assert meta["language"] == ["en"]
    assert meta["pipeline_tag"] == "text-classification"
    assert meta["base_model"] == "google-bert/bert-base-uncased"
    assert meta["datasets"] == ["nyu-mll/glue"]
    assert meta["license"] == "cc-by-sa-4.0"
    (index,) = meta["model-index"]
    assert index["name"] == 'run "é": 1 # two\n| three 🙂'
    dataset = {"name": "GLUE mrpc", "type": "nyu-mll/glue", "config": "mrpc", "split": "dev"}
    assert index["results"][0]["dataset"] == dataset
    assert index["results"][0]["metrics"][0] == {"type": "accuracy", "value": 0.8676470588235294}
    for line in (
        "| optimizer.learning_rate | 5e-05 |",
        "| train.tokens | 1,234 |",
        "| sources | 0.txt, 1.txt (weight 2.5), and 2 more |",
        "| dev.accuracy | 0.867647 |",
        "| num_hidden_layers | 12 |",
        "* 1: `yes \\| or so`",
        "* after step 3: steps: 6 → 9",
        "* It reads 512 tokens at most, and was trained on 128: longer texts are cut to that in "
        "the code above.",
    ):
        assert line in body.splitlines()
    assert "tokens-00000" not in body
    # The hub takes a licence that is not in its list by its name.
    meta, body = front_matter(card(config, "x", About(licence="My own 2.0", source="a folder")))
    assert (meta["license"], meta["license_name"]) == ("other", "my-own-2.0")
    assert "base_model" not in meta, "a folder of this machine is no name on the hub"
    assert "Its weights started from `a folder`." in body


@pytest.mark.parametrize(
    "heads", [*AUTO, ("tagging",), ("span",), ("pooler", "choice")], ids="+".join
)
@pytest.mark.parametrize("pairs", [False, True], ids=["texts", "pairs"])
def test_card_of_nothing_but_a_model(tmp_path, tokenizer, heads, pairs, monkeypatch, capsys):
    """What is not known is not in the card, and its code runs as it stands, in the folder."""
    if pairs and heads != CLASSIFIER:
        pytest.skip("pairs are a matter of a classifier")
    labels = ["[no]", 'yes "é"']
    about = About(pairs=pairs, labels=labels, training={"max_seq_length": 8 if pairs else 16})
    has_labels = heads in (CLASSIFIER, ("tagging",))
    _, config, _ = export(tmp_path / "hf", heads, tokenizer, labels if has_labels else None)
    meta, body = front_matter(card(config, "small", about))
    assert "model-index" not in meta
    assert "base_model" not in meta
    assert "## Scores" not in body
    assert "## Data" not in body
    assert "license" not in meta
    code = body.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "hf")
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    said = capsys.readouterr().out
    if heads == CLASSIFIER:
        first, second = said.splitlines()
        assert first.startswith("[no] 0.")
        assert second.startswith('yes "é" 0.')
        assert names["inputs"]["token_type_ids"].max() == int(pairs)
    elif heads == ("tagging",):
        assert [line.split(" ", 1)[0] for line in said.splitlines()] == ["0", "1", "2", "3", "4"]
        assert all(line.split(" ", 1)[1] in labels for line in said.splitlines())
    else:
        assert said.strip()
