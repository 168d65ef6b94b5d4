"""The formats of pretraining examples by name.

* `nsp`: A, and B: what follows A, or text of another document (Devlin et al. 2019, section 3.1)
* `sop`: two neighbouring segments in their order, or swapped (Lan et al. 2019, section 3.1)
* `full_sentences`: whole sentences, on across documents with [SEP] between (Liu et al. 2019, 4.2)
* `doc_sentences`: whole sentences of one document (Liu et al. 2019, section 4.2)
* `single_segment`: a document cut every so many tokens, wherever a sentence ends

Every choice is a function of (seed, visit, chunk), so that it depends on neither batches nor
processes. A visit is one use of a chunk: its epoch, unless a source's weight asks for it more
often.
"""

from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.pairs import NextSentence, SentenceOrder
from ptft_jax.data.pretraining.segments import DocSentences, Format, FullSentences, SingleSegment

FORMATS: dict[str, type] = {
    "nsp": NextSentence,
    "sop": SentenceOrder,
    "full_sentences": FullSentences,
    "doc_sentences": DocSentences,
    "single_segment": SingleSegment,
}
# The formats whose examples have two segments and a label.
PAIR_FORMATS = ("nsp", "sop")


def make_format(
    name: str, corpus: Corpus, *, seed: int, max_seq_length: int, short_seq_prob: float
) -> Format:
    """Cut a corpus into the chunks of a format; `name` is one of FORMATS."""
    return FORMATS[name](corpus, seed, max_seq_length, short_seq_prob)
