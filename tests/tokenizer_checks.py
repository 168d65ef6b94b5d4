# ruff: noqa: RUF001 (the odd characters are what is tested)
"""What the tests of tokenizers share: hard texts, and the comparison with AutoTokenizer."""

import itertools
import json

from ptft_jax.data.tokenizer.models import BERT_TOKENS, BertOptions, bert_wordpiece
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer

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


def wordpiece(tokens, lowercase=True, **options):
    """BERT's own tokenizer with `tokens[i]` as token i."""
    backend = bert_wordpiece(tokens, BertOptions(lowercase, **options))
    return TextTokenizer(backend, BERT_TOKENS)


def check_auto_tokenizer(folder, ours, texts, model_max_length):
    """AutoTokenizer, given a BERT config, reads the same ids, special tokens and pairs."""
    from transformers import AutoTokenizer

    config = {"model_type": "bert", "architectures": ["BertModel"], "vocab_size": ours.vocab_size}
    (folder / "config.json").write_text(json.dumps(config))
    theirs = AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == ours.vocab_size
    cls_id, sep_id = ours.cls_token_id, ours.sep_token_id
    for first, second in itertools.pairwise(texts):
        a, b = ours.encode_batch([first, second])
        encoded = theirs(first, second)
        assert encoded["input_ids"] == [cls_id, *a, sep_id, *b, sep_id]
        assert encoded["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
        assert theirs(first)["input_ids"] == [cls_id, *a, sep_id]
        assert theirs.decode(a) == ours.decode(a)
    for role in ("pad", "unk", "cls", "sep", "mask"):
        assert getattr(theirs, f"{role}_token_id") == getattr(ours, f"{role}_token_id")
        assert getattr(theirs, f"{role}_token") == getattr(ours, f"{role}_token")
    assert theirs.model_max_length == model_max_length
