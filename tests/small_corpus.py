"""A corpus and a tokenizer in memory, for tests that need texts of many shapes."""

from types import SimpleNamespace

import numpy as np

PAD, UNK, CLS, SEP, MASK = range(5)
FIRST = 5  # the first token that is not special


class SmallCorpus:
    """What pretraining reads of a Corpus, from the lengths of its sentences.

    Unless `ids` are given, token i of the corpus has the id FIRST + i: an id tells where in the
    text a token stood. `sources` are numbers of documents, None for a single source.
    """

    def __init__(self, documents, *, ids=None, sources=None, weights=None, split="train"):
        lengths = [length for document in documents for length in document]
        self.split = split
        self.sentence_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        sentences = [len(document) for document in documents]
        self.document_offsets = np.concatenate([[0], np.cumsum(sentences)]).astype(np.int64)
        self.num_documents, self.num_sentences = len(documents), len(lengths)
        self.num_tokens = int(self.sentence_offsets[-1])
        self.ids = FIRST + np.arange(self.num_tokens) if ids is None else np.asarray(ids)
        self.vocab_size = FIRST + self.num_tokens if ids is None else int(self.ids.max()) + 1
        sources = [len(documents)] if sources is None else sources
        self.source_documents = np.concatenate([[0], np.cumsum(sources)]).astype(np.int64)
        self.source_weights = np.ones(len(sources)) if weights is None else np.array(weights)
        self.tokenizer_dir = "tokenizer"
        self.manifest = SimpleNamespace(tokenizer_sha256="small")

    def gather(self, starts, lengths):
        parts = [
            self.ids[start : start + length] for start, length in zip(starts, lengths, strict=True)
        ]
        return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int32)

    def document_of(self, token):
        """The document that holds a token of the corpus (its number, not its id)."""
        sentence = np.searchsorted(self.sentence_offsets, token, side="right") - 1
        return np.searchsorted(self.document_offsets, sentence, side="right") - 1

    def source_of(self, token):
        return np.searchsorted(self.source_documents, self.document_of(token), side="right") - 1

    def tokenizer(self, continues_word=None):
        """A tokenizer for it; by default every token is a word."""
        if continues_word is None:
            continues_word = np.zeros(self.vocab_size, bool)
        return SimpleNamespace(
            sha256="small",
            vocab_size=self.vocab_size,
            special_ids=(PAD, UNK, CLS, SEP, MASK),
            pad_token_id=PAD,
            unk_token_id=UNK,
            cls_token_id=CLS,
            sep_token_id=SEP,
            mask_token_id=MASK,
            continues_word=continues_word,
        )


def unmasked_ids(batch):
    """The input ids [B, T] before masking: the labels put back."""
    ids = batch["input_ids"].copy()
    rows, places = np.nonzero(batch["masked_lm_weights"])
    ids[rows, batch["masked_lm_positions"][rows, places]] = batch["masked_lm_ids"][rows, places]
    return ids


def random_documents(rng, count, longest=40, most_sentences=12):
    """Sentence lengths of documents: many of one token, many documents of one sentence."""
    documents = []
    for _ in range(count):
        sentences = int(rng.choice([1, 1, 2, 3, most_sentences]))
        lengths = rng.integers(1, longest + 1, sentences)
        lengths[rng.random(sentences) < 0.3] = 1
        documents.append(lengths.tolist())
    return documents
