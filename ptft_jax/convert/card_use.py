"""What a model card says of a model's use: what for, in which lines of Python, and its limits."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.convert.folder import architecture
from ptft_jax.models.config import EncoderConfig


@dataclasses.dataclass(frozen=True)
class About:
    """What a card can tell beside the model itself; what is None or empty is left out.

    Attributes:
        data: what the model was trained on, nested or flat; its `licence` is taken for the model's
            where that is None.
        scores: those of the exported checkpoint, split → metric → value.
        dataset: name of the data of `scores`, and its id and part on the hub where it is there.
        labels: names of the classes in the order of their ids.
        pairs: whether texts are pairs.
        training: settings of the run; `max_seq_length` of it is also what the code cuts to.
        history: with which changes the run went on, and from which step, in lines.
        source: name of what the weights started from.
        base_model: the same on the Hugging Face hub, ORGANISATION/NAME.
        languages: of the texts, as the hub has them: en, de, …
        licence: of the model, as "CC BY-SA 4.0" or "apache-2.0".
        vectors: for what it was trained to make vectors of texts, "cosine" or "distance", as the
            folder says to sentence-transformers; None: for nothing.
    """

    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    dataset: tuple[str, str | None, str | None] = ("held-out data", None, None)
    labels: Sequence[str] | None = None
    pairs: bool = False
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    history: Sequence[str] = ()
    source: str | None = None
    base_model: str | None = None
    languages: Sequence[str] = ()
    licence: str | None = None
    vectors: str | None = None


_VECTORS = {
    "cosine": "It turns texts into vectors of length 1, whose products say how alike the texts "
    "are: for search, clustering and comparison of texts like those it was trained on.",
    "distance": "It turns texts into vectors whose squared distances say how alike the texts are. "
    "Texts of a class are near to the mean of a few others of it, which may be one that the model "
    "was not trained on.",
}


def intended_use(config: EncoderConfig, about: About) -> str:
    """Returns what the model is for, in sentences."""
    texts = "pairs of texts" if about.pairs else "texts"
    if "classification" in config.heads and config.num_labels == 1:
        return f"It gives {texts} like those it was trained on a score."
    if "classification" in config.heads:
        return f"It sorts {texts} like those it was trained on into these classes:\n\n" + _listed(
            config, about
        )
    if "tagging" in config.heads:
        return (
            "It gives each word of texts like those it was trained on one of these tags, read at "
            f"the word's first token:\n\n{_listed(config, about)}"
        )
    if "span" in config.heads:
        return "It finds the answer to a question in a text that is given with it."
    if "choice" in config.heads:
        return (
            "It says which of several choices fits a context best, of questions like those it was "
            "trained on."
        )
    if "mlm" in config.heads:
        return (
            "It fills in masked words. It is a starting point for fine-tuning (classification, "
            "tagging, retrieval) on texts like those it was trained on; as it is, it has no task."
        )
    if "nsp" in config.heads:
        return (
            "It says whether the second of two texts goes on from the first (class 0) or not (1)."
        )
    if about.vectors:
        return _VECTORS[about.vectors]
    return (
        "It turns texts into vectors, one for each token. It is a starting point for fine-tuning "
        "on texts like those it was trained on; as it is, it has no task."
    )


def _listed(config: EncoderConfig, about: About) -> str:
    names = about.labels or [str(number) for number in range(config.num_labels)]
    return "\n".join(f"* {number}: `{inline(label)}`" for number, label in enumerate(names))


def limits(config: EncoderConfig, about: About) -> str:
    """Returns what the model cannot do, as a list."""
    trained = about.training.get("max_seq_length")
    longest = config.max_position_embeddings
    length = f"It reads {longest:,} tokens at most"
    if trained and trained < longest:
        length += (
            f", and was trained on {trained:,}: longer texts are cut to that in the code above"
        )
    lines = [
        f"{length}.",
        "Texts of other languages, times or kinds than those of its data may be read wrongly, and "
        "what is one-sided or unfair in the data is in its answers. Try it on texts of your own "
        "before anything depends on it.",
    ]
    if "classification" in config.heads and config.num_labels > 1:
        lines.append(
            "It gives every text one of its classes, also one that fits none of them; its "
            "probabilities are not calibrated."
        )
    if not about.scores:
        lines.append("No scores of this checkpoint are known.")
    return "\n".join(f"* {line}" for line in lines)


def usage(config: EncoderConfig, about: About) -> str:
    """Returns lines of Python that ask the model, to be run in its folder."""
    if about.vectors:
        return """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")  # the folder of this file
vectors = model.encode(["A text.", "Another one.", "Something else."])
print(model.similarity(vectors, vectors))
```"""
    model_class = architecture(config)
    asked, shown = _asked_and_shown(config, model_class, about)
    auto_class = model_class.replace("Bert", "Auto" if model_class == "BertModel" else "AutoModel")
    length = about.training.get("max_seq_length", config.max_position_embeddings)
    needed, loading = auto_class, f"model = {auto_class}.from_pretrained(folder).eval()"
    if config.adapter is not None:
        needed = f"{auto_class}, AutoConfig\nfrom peft import PeftConfig, PeftModel"
        loading = f"""base = PeftConfig.from_pretrained(folder).base_model_name_or_path
model = {auto_class}.from_pretrained(base, config=AutoConfig.from_pretrained(folder))
model = PeftModel.from_pretrained(model, folder).eval()"""
    inputs = "{name: one[None] for name, one in inputs.items()}"
    return f"""```python
import torch
from transformers import AutoTokenizer, {needed}

folder = "."  # the folder of this file
tokenizer = AutoTokenizer.from_pretrained(folder)
{loading}

inputs = tokenizer({asked}, truncation=True, max_length={length}, return_tensors="pt")
with torch.no_grad():
    output = model(**{inputs if "choice" in config.heads else "inputs"})
{shown}
```"""


def _asked_and_shown(config: EncoderConfig, model_class: str, about: About) -> tuple[str, str]:
    """Returns what is given to the tokenizer, and the lines that print what comes out."""
    text = '"One text.", "And another."' if about.pairs else '"A text."'
    if "span" in config.heads:
        return (
            '"Where does she live?", "She lives in Paris."',
            """start = output.start_logits[0].argmax()
end = start + output.end_logits[0, start:].argmax()
print(tokenizer.decode(inputs.input_ids[0, start : end + 1]))""",
        )
    if "tagging" in config.heads:
        return (
            '["She", "lives", "in", "Paris", "."], is_split_into_words=True',
            """words, tags = inputs.word_ids(), output.logits[0].argmax(-1).tolist()
for place, word in enumerate(words):
    if word is not None and word != words[place - 1]:
        print(word, model.config.id2label[tags[place]])""",
        )
    if "choice" in config.heads:
        return (
            '["It rains."] * 2, ["The street is wet.", "The sun shines."], padding=True',
            "print(output.logits.softmax(-1))  # of each choice",
        )
    if "mlm" in config.heads:
        logits = "prediction_logits" if model_class == "BertForPreTraining" else "logits"
        return (
            'f"The answer is {tokenizer.mask_token}."',
            f"""position = (inputs.input_ids[0] == tokenizer.mask_token_id).nonzero()[0, 0]
best = output.{logits}[0, position].topk(5).indices
print(tokenizer.convert_ids_to_tokens(best.tolist()))""",
        )
    if "nsp" in config.heads:
        return '"A sentence.", "The next one."', "print(output.logits.softmax(-1))"
    if "classification" in config.heads and config.num_labels == 1:
        return text, "print(output.logits.item())"
    if "classification" in config.heads:
        return (
            text,
            """for number, probability in enumerate(output.logits.softmax(-1)[0].tolist()):
    print(model.config.id2label[number], probability)""",
        )
    return text, "print(output.last_hidden_state.shape)  # texts, tokens, features"


def inline(text: str) -> str:
    """Returns text that stays within its line and its table cell."""
    return " ".join(text.split()).replace("|", "\\|")
