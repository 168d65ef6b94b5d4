"""Rows of like length share a batch, in predictions and evaluations; nobody sees it but by time."""

import jax
import numpy as np
import pytest
from tokenizer_checks import wordpiece

import ptft_jax
from ptft_jax.convert.folder import write_hf_folder
from ptft_jax.data.batches import by_length, evaluation_batches
from ptft_jax.data.tasks.choice import ChoiceExamples, ChoiceSplit
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.span.examples import SpanExamples
from ptft_jax.data.tasks.span.splits import SpanSplit
from ptft_jax.data.tasks.table import Split
from ptft_jax.data.tasks.tagging.examples import TaggingExamples
from ptft_jax.data.tasks.tagging.splits import TaggingSplit
from ptft_jax.data.tokenizer.models import BERT_TOKENS
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.runs.kinds.classification import Classification
from ptft_jax.runs.trained.asking import texts as asking
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.mesh import MeshConfig, make_mesh

WORDS = ("the", "old", "man", "and", "sea", "boat", "fish", "was", "very", "large")
RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(WORDS, n)) for n in RNG.permutation(np.arange(1, 81))]
TOKENIZER = wordpiece([*BERT_TOKENS, *WORDS])
# A split of each kind with such texts.
EXAMPLES = {
    "classification": lambda: ClassificationExamples(
        Split(TEXTS, None, np.arange(80, dtype=np.int32) % 2, "test"), TOKENIZER, 96
    ),
    "tagging": lambda: TaggingExamples(
        TaggingSplit([text.split() for text in TEXTS], None, "test"), TOKENIZER, 96
    ),
    "span": lambda: SpanExamples(
        SpanSplit(TEXTS, list(range(80)), ["the sea"] * 80, list(map(str, range(80))), None, "t"),
        TOKENIZER,
        96,
        doc_stride=8,
        max_query_length=8,
    ),
    "choice": lambda: ChoiceExamples(
        ChoiceSplit([""] * 80, [[text, "the sea"] for text in TEXTS], None, "test"), TOKENIZER, 96
    ),
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_little_is_padding(kind):
    """Each kind says how long its rows are, so that most of a batch is text."""
    examples = EXAMPLES[kind]()
    whole = examples.batch(np.arange(len(examples)))["attention_mask"].sum(axis=1)
    assert whole.tolist() == examples.lengths.tolist()
    share = {}
    for name, order in (("by length", by_length(examples)), ("as they come", None)):
        masks = [batch["attention_mask"] for batch in evaluation_batches(examples, 8, order=order)]
        share[name] = sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks)
    assert share["by length"] > 1.3 * share["as they come"]


class Plain:
    """Examples that do not say how long they are."""

    def __init__(self, examples):
        self.batch, self.size = examples.batch, len(examples)

    def __len__(self):
        return self.size


def test_an_evaluation_finds_the_same(tmp_path):
    """Loss and metrics are those of the rows as they come, and outputs stand where they belong."""
    for split in ("train", "dev"):
        rows = [f"{text}\t{number % 2}" for number, text in enumerate(TEXTS)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    config = ptft_jax.get_config("finetune/text")
    config.data_dir, config.eval_batch_size, config.max_seq_length = str(tmp_path), 8, 96
    kind = Classification(config)
    model = build_model(
        EncoderConfig(
            vocab_size=TOKENIZER.vocab_size,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=96,
            num_labels=2,
            heads=("pooler", "classification"),
        )
    )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    examples = kind.scored(kind.phases[0], TOKENIZER)["dev"]
    params = model.init(jax.random.key(1))
    found = []
    with jax.set_mesh(mesh):
        for rows in (examples, Plain(examples)):
            score = kind.evaluate(model, kind.phases[0], {"dev": rows}, mesh, Job())
            found.append(score(params)["dev"])
    assert found[0]["accuracy"] == found[1]["accuracy"]
    assert 0.2 < found[0]["accuracy"] < 0.8
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.filterwarnings("ignore:all .* texts got the label")
@pytest.mark.parametrize("head", ["classification", "tagging", "span", "choice", "mlm"])
def test_predictions_stand_in_the_order_of_their_texts(head, tmp_path, monkeypatch):
    """As asked one by one, whatever the blocks in which a long file is read."""
    config = EncoderConfig(
        vocab_size=TOKENIZER.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=96,
        num_labels=3,
        heads=("pooler", head) if head in ("classification", "choice") else (head,),
    )
    params = build_model(config).init(jax.random.key(0))
    write_hf_folder(tmp_path / "hf", params, config, TOKENIZER, "card")
    run = ptft_jax.load_run(tmp_path / "hf")
    asked = {
        "span": [("the sea", text) for text in TEXTS],
        "choice": [("", text, "the sea") for text in TEXTS],
        "mlm": [f"[MASK] {text}" for text in TEXTS],
    }.get(head, TEXTS)
    told = []
    found = run.predict(asked, progress=lambda done, total: told.append((done, total)))
    assert [one["text"] for one in found] == asked
    assert told == sorted(told)
    assert told[-1] == (80, 80)
    monkeypatch.setattr(asking, "BLOCK", 33)
    ways = [run.predict(asked), [run.predict([one])[0] for one in asked[:5]]]
    if head in ("classification", "tagging"):
        # So many that padding goes in smaller steps.
        monkeypatch.undo()
        ways.append(run.predict(asked * 7))
    for again in ways:
        for one, other in zip(found, again, strict=False):
            assert same(one, other)


def same(one, other):
    """Whether two predictions are equal but for the rounding of their numbers."""
    if isinstance(one, float):
        return one == pytest.approx(other, rel=1e-3, abs=1e-5)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
