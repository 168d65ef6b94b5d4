# ruff: noqa: RUF001 (the odd characters are what is tested)
"""BPE and Unigram tokenizers, trained here and of real models: ids, words, files, plain text."""

import itertools
import json
import lzma
import random
import re
import shutil
import unicodedata

import numpy as np
import pytest
from tokenizer_checks import HARD_TEXTS, check_auto_tokenizer

from ptft_jax.data.text.sentences import split_sentences
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.data.tokenizer.training import train_tokenizer
from ptft_jax.errors import DataError

KINDS = ("wordpiece", "bpe", "unigram")
TEXTS = [
    "The cats sat on the mat, weren't they?",
    "A cat! The dog sat; dogs and cats are animals.",
    "Naïve cafés in Łódź serve coffee for 1,850 guests.",
]
# Characters and strings that tokenizers treat in ways of their own, to be thrown together.
ODD = [
    *"abcXYZ .,'  \t\n\r\u00a0\u2003\u200b\u0301\u0085\x1c\x0c\x00",
    *"éÀß中文▁Ġ[]<>|_-#¼´Ⅷ😀़한ㅎ\ufeff0123",
    *("[MASK]", "<mask>", "[SEP]", "</s>", "'s", "'ll", "|||IP_ADDRESS|||", "   ", "  "),
    *("[unused0]", "<|endoftext|>", "hello", "World", "ing", "the", " "),
]


@pytest.fixture(scope="module", params=KINDS)
def trained(request):
    """A tokenizer of each kind, learned from a few sentences."""
    return train_tokenizer(request.param, TEXTS * 20, 400)


@pytest.fixture(scope="module")
def real_sentences(shared_data):
    """Some thousand sentences of books."""
    path = shared_data / "text" / "openstax_ccby.txt.xz"
    if not path.exists():
        pytest.skip(f"needs {path}")
    with lzma.open(path, "rt", encoding="utf-8") as file:
        lines = list(itertools.islice(file, 1500))
    return [sentence for line in lines for sentence in split_sentences(line.strip())]


@pytest.fixture(scope="module")
def roberta_folder(shared_data, tmp_path_factory):
    """roberta-base's two files with what AutoTokenizer needs beside them."""
    source = shared_data / "tokenizers" / "roberta-base"
    if not source.exists():
        pytest.skip(f"needs {source}")
    folder = tmp_path_factory.mktemp("roberta")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(source / name, folder)
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    return folder


def odd_texts(count, seed=0):
    rng = random.Random(seed)
    return [
        "".join(rng.choice(ODD) if rng.random() < 0.8 else " " for _ in range(rng.randrange(25)))
        for _ in range(count)
    ]


def split_flat(ids, lengths):
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


def check_plain(tokenizer, texts):
    """The three promises of plain encoding: one answer, no forged token, sentences that join."""
    expected = tokenizer.encode_batch(texts, plain=True)
    for _ in range(2):  # first with an empty cache of words, then with a full one
        ids, lengths = tokenizer.encode_flat(texts)
        assert (ids.dtype, lengths.dtype) == (np.uint32, np.int64)
        assert split_flat(ids, lengths) == expected
    forged = set(tokenizer.special_ids) - {tokenizer.unk_token_id}
    assert not forged & {index for found in expected for index in found}


def words_of(tokenizer, text, clean=lambda word: word):
    """The words of a plain text, put together from its tokens by `continues_word`."""
    ids = tokenizer.encode_batch([text], plain=True)[0]
    words = []
    for position, index in enumerate(ids):
        piece = tokenizer.text_of(index).removeprefix("##")
        if position and tokenizer.continues_word[index]:
            words[-1] += piece
        else:
            words.append(piece.removeprefix(" "))
    return [clean(word) for word in words]


def test_plain_texts_of_all_kinds(trained):
    """Also of texts made to break the cache: odd spaces, marks, spelled-out special tokens."""
    check_plain(trained, HARD_TEXTS + TEXTS + odd_texts(3000))


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_can_forge_a_special_token(kind):
    """Cased, so that the spelling stays; Unigram would find the piece "[MASK]" by itself."""
    tokenizer = train_tokenizer(kind, [*TEXTS, "The [MASK] [SEP]"] * 20, 400, lowercase=False)
    texts = ["The [MASK] sat", "[SEP]", "the[CLS]mat", "[PAD] [PAD]"]
    check_plain(tokenizer, texts)
    for ids in tokenizer.encode_batch(texts):
        assert set(ids) & set(tokenizer.special_ids)


def test_plain_texts_of_real_tokenizers(shared_data, roberta_folder, real_sentences):
    """RoBERTa (no space before the first word), ModernBERT (added tokens), amino acids."""
    texts = HARD_TEXTS + odd_texts(2000, seed=1) + real_sentences[:500]
    check_plain(TextTokenizer.load(roberta_folder), texts)
    for name in ("tokenizers/modernbert_reconstructed", "weights/sapiens_vh_roberta_mlm"):
        if (shared_data / name).exists():
            check_plain(TextTokenizer.load(shared_data / name), texts)


def test_sentences_join(real_sentences):
    """Sentences encoded apart are, put together, the text encoded at once."""
    chosen = [s for s in real_sentences if s == " ".join(s.split())][:200]
    for kind in KINDS:
        tokenizer = train_tokenizer(kind, real_sentences[:2000], 1000, lowercase=False)
        apart = tokenizer.encode_flat(chosen)[0]
        together = tokenizer.encode_batch([" ".join(chosen)], plain=True)[0]
        assert apart.tolist() == together


def test_words_of_real_text(real_sentences, roberta_folder):
    """Whole words, as masking sees them, are the words of the text.

    For WordPiece those of the original tokenization.py (its Python code is in transformers), for
    byte-level BPE and Unigram what stands between white space.
    """
    from transformers.models.bert_japanese.tokenization_bert_japanese import BasicTokenizer

    sentences = [" ".join(sentence.split()) for sentence in real_sentences[:1000]]
    wordpiece = train_tokenizer("wordpiece", real_sentences, 3000)
    basic = BasicTokenizer(do_lower_case=True)
    unknown = 0
    for sentence in sentences:
        found, expected = words_of(wordpiece, sentence), basic.tokenize(sentence)
        assert len(found) == len(expected)
        assert all(a in (b, "[UNK]") for a, b in zip(found, expected, strict=True))
        unknown += found.count("[UNK]")
    assert unknown < 20
    roberta = TextTokenizer.load(roberta_folder)
    encoded = roberta.encode_batch(sentences, plain=True)
    for sentence, ids in zip(sentences, encoded, strict=True):
        starts = np.flatnonzero(~roberta.continues_word[ids])
        words = [roberta.decode(part) for part in np.split(ids, starts[1:])]
        assert [word.removeprefix(" ") for word in words] == sentence.split()
    unigram = train_tokenizer("unigram", real_sentences, 2000, lowercase=False)
    for sentence in sentences:
        expected = unicodedata.normalize("NFKC", sentence).split()
        found = words_of(unigram, sentence)
        assert len(found) == len(expected)
        assert all("[UNK]" in a or a == b for a, b in zip(found, expected, strict=True))
        unknown += sum("[UNK]" in word for word in found)
    assert unknown < 40


def test_a_first_word_is_a_word_and_a_full_stop_after_a_mask_is_none():
    """The space before a text is put there once, not again after every special token."""
    for kind in ("bpe", "unigram"):
        tokenizer = train_tokenizer(kind, TEXTS * 20, 400)
        ids = tokenizer.encode_batch(["The cats sat on the [MASK]. The mat"])[0]
        tokens = [tokenizer.text_of(index) for index in ids]
        place = ids.index(tokenizer.mask_token_id)
        assert tokens[0].startswith(" ")
        assert tokens[place - 1 : place + 2] == [" the", "[MASK]", "."]
        assert not tokenizer.continues_word[ids[0]]
        assert not tokenizer.continues_word[tokenizer.mask_token_id]
        assert tokenizer.continues_word[ids[place + 1]]
        assert tokenizer.encode_batch(["the cats"], plain=True) == tokenizer.encode_batch(
            ["the cats"]
        )


def test_a_byte_level_bpe_loses_nothing():
    """Cased, it gives every text back to the byte; [UNK] never occurs."""
    tokenizer = train_tokenizer("bpe", TEXTS * 20, 400, lowercase=False)
    for text in HARD_TEXTS + odd_texts(500, seed=2):
        ids = tokenizer.encode_batch([text], plain=True)[0]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == (text if text[:1] == " " or not text else f" {text}")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize(
    ("lowercase", "strip", "expected"),
    [
        (True, None, "ecole a istanbul"),
        (True, False, "école à i̇stanbul"),
        (False, None, "École À İstanbul"),
        (False, True, "Ecole A Istanbul"),
    ],
)
def test_case_and_accents(kind, lowercase, strip, expected):
    """Lower-casing and stripping mean for every kind what they mean for BERT."""
    tokenizer = train_tokenizer(
        kind, ["École À İstanbul ÉCOLE à"] * 9, 400, lowercase=lowercase, strip_accents=strip
    )
    assert tokenizer.lowercase is lowercase
    ids = tokenizer.encode_batch(["École À İstanbul"])[0]
    assert tokenizer.decode(ids).strip() == unicodedata.normalize("NFC", expected)


def check_saving(tokenizer, folder, texts):
    tokenizer.save(folder, model_max_length=100_000)
    check_auto_tokenizer(folder, tokenizer, texts, 100_000)
    for path in (folder, folder / "tokenizer.json"):
        again = TextTokenizer.load(path)
        assert (again.sha256, again.json) == (tokenizer.sha256, tokenizer.json)
        assert again.special_ids == tokenizer.special_ids
        assert (again.continues_word == tokenizer.continues_word).all()


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_trained_tokenizers_survive_saving(tmp_path, kind, lowercase):
    """AutoTokenizer and our own reader read back what was written, from each kind of file."""
    texts = [*TEXTS, "Ünïcode Café 漢字 The MASK."]
    tokenizer = train_tokenizer(kind, texts * 20, 400, lowercase=lowercase)
    assert (tokenizer.kind, tokenizer.pad_token_id, tokenizer.mask_token_id) == (kind, 0, 4)
    check_saving(tokenizer, tmp_path, HARD_TEXTS + texts)
    if kind == "wordpiece":
        assert TextTokenizer.load(tmp_path / "vocab.txt").sha256 == tokenizer.sha256
        (tmp_path / "tokenizer.json").unlink()
        assert TextTokenizer.load(tmp_path).lowercase is lowercase


def test_roberta(roberta_folder, real_sentences, tmp_path):
    """vocab.json and merges.txt give RoBERTa's ids and special tokens; saved they stay the same."""
    from transformers import AutoTokenizer

    ours = TextTokenizer.load(roberta_folder)
    theirs = AutoTokenizer.from_pretrained(roberta_folder)
    texts = HARD_TEXTS + real_sentences[:500]
    assert ours.encode_batch(texts) == theirs(texts, add_special_tokens=False)["input_ids"]
    ids = (ours.cls_token_id, ours.pad_token_id, ours.sep_token_id, ours.unk_token_id)
    assert (ids, ours.mask_token_id) == ((0, 1, 2, 3), 50264)
    assert (ours.kind, ours.mask_token, ours.lowercase) == ("bpe", "<mask>", False)
    # The mask takes the space before it, as in the tokenizer.json of the model.
    assert ours.decode(ours.encode_batch(["a <mask> b"])[0]) == "a<mask> b"
    check_saving(ours, tmp_path, texts[:100])


def test_modernbert(shared_data, real_sentences, tmp_path):
    """A tokenizer.json that names no roles: they are found by their spelling."""
    from transformers import PreTrainedTokenizerFast

    file = shared_data / "tokenizers" / "modernbert_reconstructed" / "tokenizer.json"
    if not file.exists():
        pytest.skip(f"needs {file}")
    ours = TextTokenizer.load(file)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(file))
    texts = HARD_TEXTS + real_sentences[:300]
    assert ours.encode_batch(texts) == theirs(texts, add_special_tokens=False)["input_ids"]
    assert ours.vocab_size == 50368
    assert (ours.mask_token, ours.token(ours.pad_token_id)) == ("[MASK]", "[PAD]")
    assert ours.id_of("<|padding|>") in ours.special_ids
    check_saving(ours, tmp_path, texts[:100])


def test_gpt2_needs_the_tokens_of_an_encoder(shared_data, tmp_path):
    """Refused as it is; with the tokens named it gets them, where transformers puts them."""
    from transformers import AutoTokenizer

    source = shared_data / "tokenizers" / "gpt2"
    if not source.exists():
        pytest.skip(f"needs {source}")
    with pytest.raises(DataError, match="it has no pad, cls, sep, mask token"):
        TextTokenizer.load(source)
    names = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "cls", "sep", "mask")}
    # Files of transformers write what is special about a token beside its content.
    names["mask_token"] = {"__type": "AddedToken", "content": "[MASK]", "lstrip": True}
    shutil.copy(source / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(source / "vocab.bpe", tmp_path / "merges.txt")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    ours = TextTokenizer.load(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode_batch(HARD_TEXTS) == theirs(HARD_TEXTS, add_special_tokens=False).input_ids
    for role in ("pad", "cls", "sep", "mask"):
        assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id")
    assert ours.unk_token_id is None
    with pytest.raises(KeyError):
        ours.id_of("no such token")
    check_saving(ours, tmp_path / "saved", HARD_TEXTS)


def test_an_alphabet_needs_no_merges(shared_data):
    """The two RoBERTa models of antibodies have a vocab.json of single letters."""
    from transformers import RobertaTokenizer

    for name in ("sapiens_vh_roberta_mlm", "sapiens_vl_roberta_mlm"):
        folder = shared_data / "weights" / name
        if not folder.exists():
            pytest.skip(f"needs {folder}")
        ours = TextTokenizer.load(folder)
        theirs = RobertaTokenizer(vocab=json.loads((folder / "vocab.json").read_text()), merges=[])
        texts = ["EVQLVESGG", "QVQL<mask>QSGAE", "AXB"]
        assert ours.encode_batch(texts) == theirs(texts, add_special_tokens=False)["input_ids"]
        assert (ours.vocab_size, ours.mask_token_id, ours.pad_token_id) == (25, 24, 1)


def test_the_digest_depends_on_roles_and_nothing_on_chance(tmp_path):
    """Two tokenizers with one tokenizer.json that mask with different tokens are not the same.

    And BPE-dropout is turned off.
    """
    ours = train_tokenizer("bpe", TEXTS * 20, 400)
    content = json.loads(ours.json)
    content["model"]["dropout"] = 0.5  # would give a text other ids each time
    other = dict(content["added_tokens"][0], id=len(content["model"]["vocab"]), content="<other>")
    content["added_tokens"].append(other)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    first = TextTokenizer.load(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text('{"mask_token": "<other>"}')
    second = TextTokenizer.load(tmp_path)
    assert (first.mask_token, second.mask_token) == ("[MASK]", "<other>")
    assert first.json == second.json
    assert first.sha256 != second.sha256
    assert first.encode_batch(TEXTS * 5) == ours.encode_batch(TEXTS * 5)


def test_a_template_says_which_tokens_go_around_a_text(tmp_path):
    """Names that no one would guess are found in tokenizer.json's own template."""
    ours = train_tokenizer("bpe", TEXTS * 20, 400)
    content = ours.json.replace("[CLS]", "<begin>").replace("[SEP]", "<end>")
    (tmp_path / "tokenizer.json").write_text(content)
    read = TextTokenizer.load(tmp_path / "tokenizer.json")
    assert (read.cls_token, read.sep_token, read.mask_token) == ("<begin>", "<end>", "[MASK]")
    assert (read.cls_token_id, read.sep_token_id) == (2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_forgotten_words_are_encoded_again(kind, monkeypatch):
    """Memory for words is bounded: when it is full, and for long words, ids stay the same."""
    monkeypatch.setattr("ptft_jax.data.tokenizer.tokenizer.WORDS_REMEMBERED", 3)
    texts = [*TEXTS, "", f"{'x' * 65} cat", "  cat"]
    check_plain(train_tokenizer(kind, TEXTS * 20, 400), texts)


def check_words(ours, theirs, sentences):
    for words, (ids, numbers) in zip(sentences, ours.encode_words(sentences), strict=True):
        encoded = theirs(words, is_split_into_words=True, add_special_tokens=False)
        assert (ids, numbers) == (encoded["input_ids"], encoded.word_ids()), words


def odd_sentences(seed):
    """Sentences of odd words: parts of texts, white space, characters that vanish."""
    rng = random.Random(seed)
    words = [*odd_texts(400, seed), *ODD, *(word for text in TEXTS for word in text.split())]
    return [[w for w in rng.choices(words, k=rng.randrange(1, 9)) if w] for _ in range(150)]


def test_words_are_numbered_as_transformers_numbers_them(trained, tmp_path):
    """`is_split_into_words=True`, also for words without a token and for special tokens."""
    from transformers import AutoTokenizer

    trained.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    check_words(trained, theirs, odd_sentences(3))
    assert trained.encode_words([["\u200b"], []])[1] == ([], [])


def test_words_of_roberta_have_a_space_before_them(roberta_folder):
    from transformers import AutoTokenizer

    ours = TextTokenizer.load(roberta_folder)
    theirs = AutoTokenizer.from_pretrained(roberta_folder, add_prefix_space=True)
    # With add_prefix_space transformers puts a space after a special token inside a word too.
    sentences = [
        [word for word in words if word in ("<mask>", "</s>") or not re.search("<(mask|/s)>", word)]
        for words in odd_sentences(4)
    ]
    check_words(ours, theirs, sentences)
    ids, numbers = ours.encode_words([["Paris", "is", "here"]])[0]
    assert (ours.decode(ids), numbers) == (" Paris is here", [0, 1, 2])


def test_words_of_an_alphabet_have_none(shared_data):
    """Amino acids, one a word: the model knows no letter with a space before it."""
    folder = shared_data / "weights" / "sapiens_vh_roberta_mlm"
    if not folder.exists():
        pytest.skip(f"needs {folder}")
    ours = TextTokenizer.load(folder)
    assert ours.encode_words([list("EVQL")]) == [(ours.encode_batch(["EVQL"])[0], [0, 1, 2, 3])]


def test_words_of_a_text_and_their_places(trained, roberta_folder):
    """Tokens are those of the text as a whole; places are of the text, also where it is changed."""
    for tokenizer in (trained, TextTokenizer.load(roberta_folder)):
        texts = [*TEXTS, "  The cats,  \n sat", "", " "]
        found = tokenizer.encode_text_words(texts)
        assert [ids for ids, _, _ in found] == tokenizer.encode_batch(texts)
        for text, (ids, numbers, spans) in zip(texts, found, strict=True):
            assert len(numbers) == len(ids)
            assert sorted(set(numbers)) == list(range(len(spans)))
            words = [text[start:end] for start, end in spans]
            assert "".join(words) == "".join(text.split())
            assert all(word == word.strip() for word in words)
        words = [texts[0][start:end] for start, end in found[0][2]]
        expected = ["The", "cats", "sat", "on", "the", "mat", ",", "weren", "'", "t", "they", "?"]
        assert words[:5] == expected[:5]
        if tokenizer.kind == "wordpiece":
            assert words == expected
