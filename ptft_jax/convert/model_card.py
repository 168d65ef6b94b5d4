"""Writes the model card: the `README.md` of an exported folder."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ptft_jax.convert.folder import architecture
from ptft_jax.models.config import EncoderConfig

_PIPELINES = {
    "BertModel": "feature-extraction",
    "BertForMaskedLM": "fill-mask",
    "BertForPreTraining": "fill-mask",
    "BertForSequenceClassification": "text-classification",
    "BertForTokenClassification": "token-classification",
    "BertForQuestionAnswering": "question-answering",
    "BertForMultipleChoice": "multiple-choice",
}
# Licences that the hub knows by these names; it takes any other one by its name, as "other".
_LICENCES = (
    *("apache-2.0", "mit", "bsd-3-clause", "gpl-3.0", "odc-by", "openrail", "unlicense"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-3.0"),
)


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
        makes_vectors: whether it was trained to make vectors of texts, and the folder says to
            sentence-transformers how.
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
    makes_vectors: bool = False


def card(config: EncoderConfig, name: str, about: About) -> str:
    """Returns the text of a model card, with the front matter that the Hugging Face hub reads."""
    model_class = architecture(config)
    pipeline = "sentence-similarity" if about.makes_vectors else _PIPELINES.get(model_class)
    library = "sentence-transformers" if about.makes_vectors else "transformers"
    dataset, hub_id, part = about.dataset
    results = [
        EvalResult(
            pipeline or "other",
            hub_id or dataset,
            dataset,
            metric,
            float(value),
            dataset_config=part,
            dataset_split=split,
        )
        for split, metrics in about.scores.items()
        for metric, value in metrics.items()
        if math.isfinite(value)  # a leaderboard has no use for others
    ]
    licence = re.sub(r"[^a-z0-9.]+", "-", (about.licence or about.data.get("licence", "")).lower())
    licence = licence.strip("-") or None
    is_known = licence is None or licence in _LICENCES
    front_matter = ModelCardData(
        library_name=library if config.adapter is None else "peft",
        tags=["bert", *(["adapter"] if config.adapter else []), "ptft_jax"],
        pipeline_tag=pipeline,
        language=list(about.languages) or None,
        license=licence if is_known else "other",
        license_name=None if is_known else licence,
        base_model=about.base_model,
        datasets=[hub_id] if hub_id else None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    source = about.base_model or about.source
    layers = f"{config.num_hidden_layers} layer{'s' * (config.num_hidden_layers > 1)}"
    started = f" Its weights started from `{_inline(source)}`." if source else ""
    what = "A" if config.adapter is None else f"An adapter ({config.adapter.name}) and head for a"
    sections = [
        f"---\n{front_matter.to_yaml()}\n---",
        f"# {_inline(name)}",
        f"{what} BERT encoder with {layers} of {config.hidden_size} features, "
        f"trained in JAX with ptft_jax and exported as `{model_class}`.{started}",
        f"## Intended use\n\n{_intended_use(config, about)}",
        f"## Use in PyTorch\n\n{_usage(config, model_class, about)}",
        _table("Scores", about.scores),
        f"## Limits\n\n{_limits(config, about)}",
        _table("Data", about.data),
        _table("Training", about.training),
    ]
    if about.history:
        sections[-1] += "\n\nSettings that changed during the run:\n\n" + "\n".join(
            f"* {_inline(line)}" for line in about.history
        )
    sections.append(_table("Configuration", dataclasses.asdict(config)))
    return "\n\n".join(section for section in sections if section) + "\n"


def corpus_summary(manifest: Mapping[str, Any], most: int = 30) -> dict[str, Any]:
    """Returns what a card says about the corpus of a manifest; `most` sources have their names."""
    sources = [
        source["name"] + (f" (weight {source['weight']:g})" if source["weight"] != 1 else "")
        for source in manifest["sources"]
    ]
    more = [f"and {len(sources) - most:,} more"] if len(sources) > most else []
    counted, told = ("documents", "sentences", "tokens"), ("vocab_size", "lowercase", "licence")
    return {
        **{split: {n: found[n] for n in counted} for split, found in manifest["splits"].items()},
        "sources": [*sources[:most], *more],
        **{name: manifest[name] for name in (*told, "tokenizer_sha256")},
    }


def _intended_use(config: EncoderConfig, about: About) -> str:
    texts = "pairs of texts" if about.pairs else "texts"
    if "classification" in config.heads and config.num_labels == 1:
        return f"It gives {texts} like those it was trained on a score."
    if "classification" in config.heads:
        names = about.labels or [str(number) for number in range(config.num_labels)]
        listed = "\n".join(f"* {number}: `{_inline(label)}`" for number, label in enumerate(names))
        return f"It sorts {texts} like those it was trained on into these classes:\n\n{listed}"
    if "mlm" in config.heads:
        return (
            "It fills in masked words. It is a starting point for fine-tuning (classification, "
            "tagging, retrieval) on texts like those it was trained on; as it is, it has no task."
        )
    if "nsp" in config.heads:
        return (
            "It says whether the second of two texts goes on from the first (class 0) or not (1)."
        )
    if about.makes_vectors:
        return (
            "It turns texts into vectors of length 1, whose products say how alike the texts are: "
            "for search, clustering and comparison of texts like those it was trained on."
        )
    return (
        "It turns texts into vectors, one for each token. It is a starting point for fine-tuning "
        "on texts like those it was trained on; as it is, it has no task."
    )


def _limits(config: EncoderConfig, about: About) -> str:
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


def _usage(config: EncoderConfig, model_class: str, about: About) -> str:
    if about.makes_vectors:
        return """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")  # the folder of this file
vectors = model.encode(["A text.", "Another one.", "Something else."])
print(model.similarity(vectors, vectors))
```"""
    text = '"One text.", "And another."' if about.pairs else '"A text."'
    if "nsp" in config.heads:
        text = '"A sentence.", "The next one."'
    code = "print(output.logits.softmax(-1))"
    if "classification" in config.heads and config.num_labels == 1:
        code = "print(output.logits.item())"
    elif "classification" in config.heads:
        code = """for number, probability in enumerate(output.logits.softmax(-1)[0].tolist()):
    print(model.config.id2label[number], probability)"""
    elif model_class == "BertModel":
        code = "print(output.last_hidden_state.shape)  # texts, tokens, features"
    if "mlm" in config.heads:
        text = 'f"The answer is {tokenizer.mask_token}."'
        logits = "prediction_logits" if model_class == "BertForPreTraining" else "logits"
        code = f"""position = (inputs.input_ids[0] == tokenizer.mask_token_id).nonzero()[0, 0]
best = output.{logits}[0, position].topk(5).indices
print(tokenizer.convert_ids_to_tokens(best.tolist()))"""
    if "span" in config.heads:
        text = '"Where does she live?", "She lives in Paris."'
        code = """start = output.start_logits[0].argmax()
end = start + output.end_logits[0, start:].argmax()
print(tokenizer.decode(inputs.input_ids[0, start : end + 1]))"""
    auto_class = model_class.replace("Bert", "Auto" if model_class == "BertModel" else "AutoModel")
    length = about.training.get("max_seq_length", config.max_position_embeddings)
    needed, loading = auto_class, f"model = {auto_class}.from_pretrained(folder).eval()"
    if config.adapter is not None:
        needed = f"{auto_class}, AutoConfig\nfrom peft import PeftConfig, PeftModel"
        loading = f"""base = PeftConfig.from_pretrained(folder).base_model_name_or_path
model = {auto_class}.from_pretrained(base, config=AutoConfig.from_pretrained(folder))
model = PeftModel.from_pretrained(model, folder).eval()"""
    return f"""```python
import torch
from transformers import AutoTokenizer, {needed}

folder = "."  # the folder of this file
tokenizer = AutoTokenizer.from_pretrained(folder)
{loading}

inputs = tokenizer({text}, truncation=True, max_length={length}, return_tensors="pt")
with torch.no_grad():
    output = model(**inputs)
{code}
```"""


def _table(title: str, values: Mapping[str, Any]) -> str:
    """Returns a section with a table of names and values, "" where there is nothing to tell."""
    rows = _flat(values)
    return f"## {title}\n\n| | |\n| --- | --- |\n" + "\n".join(rows) if rows else ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns table rows of dotted name and value; None and empty values are left out."""
    rows: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif value is not None and value not in ("", [], ()):
            items = value if isinstance(value, list | tuple) else [value]
            shown = ", ".join(map(_number, items))
            rows.append(f"| {_inline(prefix + key)} | {_inline(shown)} |")
    return rows


def _number(value: Any) -> str:
    """Returns a value as a reader wants it: thousands separated, floats to 6 digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _inline(text: str) -> str:
    """Returns text that stays within its line and its table cell."""
    return " ".join(text.split()).replace("|", "\\|")
