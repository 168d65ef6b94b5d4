"""Folders whose parts do not fit each other: read as transformers reads them, or refused."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
import transformers
from command_line import finetune_flags, run
from foreign_folders import make_folders

import ptft_jax
from ptft_jax.convert.folder import read_hf_folder
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A corpus, a Hugging Face folder, a run of it and a table."""
    return make_folders(tmp_path_factory.mktemp("folders"))


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy of the Hugging Face folder as old ones are: vocab.txt, no tokenizer.json."""
    folder = shutil.copytree(made / "hf", tmp_path / "hf")
    (folder / "tokenizer.json").unlink()
    return folder


def change(file: Path, **values) -> None:
    content = json.loads(file.read_text()) if file.is_file() else {}
    content |= values
    kept = {name: value for name, value in content.items() if value is not None}
    file.write_text(json.dumps(kept))


@pytest.mark.parametrize("form", ["added_tokens.json", "added_tokens_decoder"])
def test_tokens_added_to_a_vocabulary_are_read(folder, form):
    """They were left out without a word: [E1] became pieces, and ids of the model stood unused."""
    first = len((folder / "vocab.txt").read_text().splitlines())
    if form == "added_tokens.json":
        change(folder / form, **{"[E1]": first, "newword": first + 1})
        change(folder / "special_tokens_map.json", additional_special_tokens=["[E1]"])
    else:
        special = {"lstrip": False, "rstrip": False, "single_word": False}
        decoder = {
            first: {"content": "[E1]", "normalized": False, "special": True, **special},
            first + 1: {"content": "newword", "normalized": True, "special": False, **special},
        }
        change(folder / "tokenizer_config.json", added_tokens_decoder=decoder)
    ours, theirs = TextTokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert ours.vocab_size == len(theirs) == first + 2
    text = "the [E1] river newword Newword renewwords"
    found = ours.encode_batch([text])[0]
    assert found == theirs(text, add_special_tokens=False)["input_ids"]
    assert {first, first + 1} <= set(found)
    ours.save(folder / "again")
    assert TextTokenizer.load(folder / "again").encode_batch([text])[0] == found
    with pytest.raises(DataError, match="more tokens than embeddings"):
        read_hf_folder(folder)


def test_an_added_token_of_the_vocabulary_is_one_token(folder):
    """Markers in the place of [unused1], as fine-tuning for relations has them, became pieces."""
    words = (folder / "vocab.txt").read_text().splitlines()
    words[20] = "[unused1]"
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    token = {"content": "[unused1]", "special": True, "normalized": False}
    change(folder / "tokenizer_config.json", added_tokens_decoder={20: token})
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = "[unused1] river"
    found = TextTokenizer.load(folder).encode_batch([text])[0]
    assert found == theirs(text, add_special_tokens=False)["input_ids"]
    assert found[0] == 20


def test_added_tokens_of_another_model_are_refused(folder):
    """An id that is not the next one would be another word's row."""
    change(folder / "added_tokens.json", newword=3)
    with pytest.raises(DataError, match="'newword' has the id 3"):
        TextTokenizer.load(folder)


def test_blank_lines_behind_a_vocabulary_are_no_tokens(folder):
    """One made the tokenizer larger than the model."""
    before = TextTokenizer.load(folder).sha256
    with (folder / "vocab.txt").open("a") as file:
        file.write("\n\n")
    assert TextTokenizer.load(folder).sha256 == before


def test_a_vocabulary_larger_than_the_model_is_refused(folder):
    """Ids from the number of embeddings on were all read as the last one."""
    with (folder / "vocab.txt").open("a") as file:
        file.write("".join(f"newword{number}\n" for number in range(40)))
    with pytest.raises(DataError, match=r"model.resize_token_embeddings\(len\(tokenizer\)\)"):
        ptft_jax.load_run(folder)


def test_a_tokenizer_of_another_kind_is_refused(folder):
    """MeCab splits Japanese before WordPiece does: read as plain BERT, a text had other tokens."""
    change(folder / "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer")
    with pytest.raises(ConfigError, match="tokenizer_class='BertJapaneseTokenizer' does more"):
        ptft_jax.load_run(folder)
    change(folder / "tokenizer_config.json", tokenizer_class="ElectraTokenizerFast")
    assert TextTokenizer.load(folder).vocab_size > 5


def test_a_folder_without_model_type_says_what_to_add(folder):
    """SciBERT's and FinBERT's folders are older than the key."""
    change(folder / "config.json", model_type=None)
    with pytest.raises(ConfigError, match='add "model_type": "bert" to it'):
        ptft_jax.load_run(folder)


def test_pairs_need_two_token_types(made, folder, tmp_path, capsys):
    """Type 1 was read as type 0; PyTorch ends with an index out of range."""
    from safetensors.numpy import load_file, save_file

    change(folder / "config.json", type_vocab_size=1)
    tensors = load_file(folder / "model.safetensors")
    name = "bert.embeddings.token_type_embeddings.weight"
    save_file(tensors | {name: tensors[name][:1].copy()}, folder / "model.safetensors")
    table = tmp_path / "table"
    table.mkdir()
    for split in ("train", "dev"):
        (table / f"{split}.tsv").write_text("text\tpair\tlabel\na\tb\tgood\nc\td\tbad\n")
    flags = finetune_flags("text.py", table, folder, tmp_path / "run")
    assert run(*flags, "--config.table.text_pair_column=pair") == 2
    assert "type_vocab_size=1: pairs of texts need two token types" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="this model has one token type"):
        ptft_jax.load_run(folder).predict([("a", "b")])
    assert len(ptft_jax.load_run(folder).predict(["a river"])) == 1


TEMPLATES = {
    "RoBERTa's": "[CLS]:0 $A:0 [SEP]:0 [SEP]:0 $B:0 [SEP]:0",
    "a separator missing": "[CLS]:0 $A:0 $B:1 [SEP]:1",
    "one token type": "[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
    "no special tokens": None,
}


@pytest.mark.parametrize("pair", TEMPLATES.values(), ids=TEMPLATES)
def test_a_tokenizer_that_writes_pairs_otherwise_is_refused(made, tmp_path, pair, capsys):
    """Our own template was used without a word: PyTorch's ids of a pair were others."""
    folder = shutil.copytree(made / "hf", tmp_path / "hf")
    change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    bert = theirs("the river", "a stone")["input_ids"]
    assert bert == ids_of_pair(TextTokenizer.load(folder), "the river", "a stone")
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    if pair:
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair=pair, special_tokens=special
        )
    content = json.loads(backend.to_str()) | ({} if pair else {"post_processor": None})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    written = theirs("the river", "a stone", return_token_type_ids=True)
    assert (written["input_ids"], written["token_type_ids"][-1]) != (bert, 1)
    assert run("import", f"--hf_dir={folder}", f"--run_dir={tmp_path}/run") == 2
    said = capsys.readouterr().err
    assert f"a pair of texts as {(pair or '$A:0 $B:0').replace('$', '')} (A and B" in said
    assert "expected [CLS]:0 A:0 [SEP]:0 B:1 [SEP]:1" in said
    if pair is None:
        # BERT's own class has its template by itself.
        change(folder / "tokenizer_config.json", tokenizer_class="BertTokenizer")
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        assert theirs("the river", "a stone")["input_ids"] == bert
        assert ptft_jax.load_run(folder).embed(["the river"]).shape == (1, 32)


def ids_of_pair(tokenizer: TextTokenizer, a: str, b: str) -> list[int]:
    first, second = tokenizer.encode_batch([a, b])
    sep = tokenizer.sep_token_id
    return [tokenizer.cls_token_id, *first, sep, *second, sep]


def test_pairs_of_real_tokenizers_are_those_of_transformers(shared_data, tmp_path):
    """Where they are not, the tokenizer says how it would write them."""
    source, found = shared_data / "tokenizers", {}
    for name, kind in (
        ("bert-base-uncased", "bert"),
        ("bert-base-chinese", "bert"),
        ("roberta-base", "roberta"),
        ("modernbert_reconstructed", "modernbert"),
    ):
        if not (source / name).is_dir():
            pytest.skip(f"needs {source / name}")
        folder = shutil.copytree(source / name, tmp_path / name)
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
        ours = TextTokenizer.load(folder)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        written = theirs("the river", "a stone", return_token_type_ids=True)
        is_ours = written["input_ids"] == ids_of_pair(ours, "the river", "a stone")
        assert (ours.foreign_template is None) == (is_ours and written["token_type_ids"][-1] == 1)
        found[name] = ours.foreign_template
    assert found["bert-base-uncased"] is found["bert-base-chinese"] is None
    assert found["roberta-base"] == "<s>:0 A:0 </s>:0 </s>:0 B:0 </s>:0"
