"""Writes the model card: the `README.md` of an exported folder."""

import dataclasses
import math
import re
from collections.abc import Mapping
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


def card(
    config: EncoderConfig,
    *,
    name: str,
    data: Mapping[str, Any] | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    training: Mapping[str, Any] | None = None,
    base_model: str | None = None,
) -> str:
    """Returns the text of a model card, with the front matter that the Hugging Face hub reads.

    What is not known is left out. `data` is what the model was trained on, nested or flat; `task`,
    `language` and `licence` of it go into the front matter too. `scores` are those of
    `results.json`, split → metric → value. `training` are settings of the run, and `base_model` is
    the folder or hub name that the weights started from.
    """
    model_class, data = architecture(config), data or {}
    task, pipeline = data.get("task", "held-out data"), _PIPELINES.get(model_class)
    results = [
        EvalResult(pipeline or "other", task, task, metric, float(value), dataset_split=split)
        for split, metrics in (scores or {}).items()
        for metric, value in metrics.items()
        if math.isfinite(value)  # a leaderboard has no use for others
    ]
    licence = re.sub(r"[^a-z0-9.]+", "-", data.get("licence", "").lower()).strip("-")
    front_matter = ModelCardData(
        library_name="transformers",
        tags=["bert", "ptft_jax"],
        pipeline_tag=pipeline,
        language=data.get("language"),
        # The hub takes a licence that is not in its list by this name.
        license="other" if licence else None,
        license_name=licence or None,
        base_model=base_model,
        model_name=name if results else None,
        eval_results=results or None,
    )
    started = f" Its weights started from `{base_model}`." if base_model else ""
    sections = [
        f"---\n{front_matter.to_yaml()}\n---",
        f"# {_inline(name)}",
        f"A BERT encoder with {config.num_hidden_layers} layers of {config.hidden_size} features, "
        f"trained in JAX with ptft_jax and exported as `{model_class}`.{started}",
        f"## Use in PyTorch\n\n{_usage(config, model_class)}",
    ]
    shape = dataclasses.asdict(config)
    tables = {"Scores": scores, "Data": data, "Training": training, "Configuration": shape}
    for title, values in tables.items():
        if rows := _flat(values or {}):
            sections.append(f"## {title}\n\n| | |\n| --- | --- |\n" + "\n".join(rows))
    return "\n\n".join(sections) + "\n"


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


def _usage(config: EncoderConfig, model_class: str) -> str:
    text, shown = '"A sentence."', "logits.softmax(-1)"
    if "nsp" in config.heads:
        text = '"A sentence.", "The next one."'
    if "classification" in config.heads and config.num_labels == 1:
        shown = "logits.item()"
    elif model_class == "BertModel":
        shown = "last_hidden_state.shape"
    code = f"print(output.{shown})"
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
    return f"""```python
import torch
from transformers import AutoTokenizer, {auto_class}

folder = "."  # the folder of this file
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {auto_class}.from_pretrained(folder).eval()

inputs = tokenizer({text}, return_tensors="pt")
with torch.no_grad():
    output = model(**inputs)
{code}
```"""


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
