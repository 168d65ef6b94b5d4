"""Writes the model card: the `README.md` of an exported folder."""

import json
import math
from collections.abc import Mapping
from typing import Any

from ptft_jax.convert.folder import architecture
from ptft_jax.models.config import EncoderConfig

_AUTO_CLASSES = {
    "BertModel": "AutoModel",
    "BertForMaskedLM": "AutoModelForMaskedLM",
    "BertForNextSentencePrediction": "AutoModelForNextSentencePrediction",
    "BertForPreTraining": "AutoModelForPreTraining",
    "BertForSequenceClassification": "AutoModelForSequenceClassification",
}
_PIPELINES = {
    "BertModel": "feature-extraction",
    "BertForMaskedLM": "fill-mask",
    "BertForPreTraining": "fill-mask",
    "BertForSequenceClassification": "text-classification",
}
_SHAPE_KEYS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "vocab_size",
    "type_vocab_size",
)


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

    What is not known is left out: a card never says more than its arguments do.

    Args:
        config: the model's config.
        name: title of the card.
        data: what the model was trained on: name of a figure or source → value; a list becomes a
            list of sources.
        scores: split → metric → value, as `results.json` holds them.
        training: settings of the run (steps, batch size, learning rate, …), nested or flat.
        base_model: the folder or hub name that the weights started from.
    """
    model_class = architecture(config)
    sections = [
        _front_matter(model_class, name, data, scores, base_model),
        f"# {_inline(name)}\n\n{_summary(config, model_class, base_model)}",
        f"## Use in PyTorch\n\n{_usage(config, model_class)}",
    ]
    if scores:
        rows = [
            (split, metric, _number(value))
            for split, metrics in scores.items()
            for metric, value in metrics.items()
        ]
        sections.append("## Scores\n\n" + _table(("split", "metric", "value"), rows))
    if data:
        sections.append("## Data\n\n" + _table(("", ""), _flat(data)))
    if training:
        sections.append("## Training\n\n" + _table(("setting", "value"), _flat(training)))
    shape = [(key, str(getattr(config, key))) for key in _SHAPE_KEYS]
    sections.append("## Configuration\n\n" + _table(("key", "value"), shape))
    return "\n\n".join(sections) + "\n"


def corpus_summary(manifest: Mapping[str, Any], most: int = 30) -> dict[str, Any]:
    """Returns what a card says about a prepared corpus, for `card(data=)`.

    Args:
        manifest: content of the corpus folder's `manifest.json`.
        most: how many sources to name; the others are counted.
    """
    counted = ("documents", "sentences", "tokens")
    sources = [
        name if weight == 1 else f"{name} (weight {weight:g})"
        for name, weight in ((source["name"], source["weight"]) for source in manifest["sources"])
    ]
    more = [f"and {len(sources) - most:,} more"] if len(sources) > most else []
    return {
        **{
            split: {name: counts[name] for name in counted}
            for split, counts in manifest["splits"].items()
        },
        "sources": [*sources[:most], *more],
        **({"licence": manifest["licence"]} if manifest["licence"] else {}),
        "vocab_size": manifest["vocab_size"],
        "lowercase": manifest["lowercase"],
        "tokenizer_sha256": manifest["tokenizer_sha256"],
    }


def _front_matter(
    model_class: str,
    name: str,
    data: Mapping[str, Any] | None,
    scores: Mapping[str, Mapping[str, float]] | None,
    base_model: str | None,
) -> str:
    """Returns the YAML block; every scalar is written as JSON, which YAML reads unchanged."""
    lines = ["---", 'library_name: "transformers"', "tags:", '- "bert"', '- "ptft_jax"']
    if model_class in _PIPELINES:
        lines.append(f"pipeline_tag: {_scalar(_PIPELINES[model_class])}")
    if base_model:
        lines.append(f"base_model: {_scalar(base_model)}")
    if scores:
        dataset = _scalar(str((data or {}).get("task", "held-out data")))
        task = _scalar(_PIPELINES.get(model_class, "other"))
        lines += ["model-index:", f"- name: {_scalar(name)}", "  results:"]
        for split, metrics in scores.items():
            lines += [
                f"  - task: {{type: {task}}}",
                f"    dataset: {{name: {dataset}, type: {dataset}, split: {_scalar(split)}}}",
                "    metrics:",
            ]
            for metric, value in metrics.items():
                # YAML spells infinity and NaN otherwise, and a leaderboard has no use for them.
                if not math.isfinite(value):
                    continue
                lines.append(f"    - type: {_scalar(metric)}")
                lines.append(f"      value: {_scalar(float(value))}")
    return "\n".join([*lines, "---"])


def _summary(config: EncoderConfig, model_class: str, base_model: str | None) -> str:
    text = (
        f"A BERT encoder with {config.num_hidden_layers} layers of {config.hidden_size} features, "
        f"trained in JAX with ptft_jax and exported as `{model_class}`."
    )
    if base_model:
        text += f" Its weights started from `{base_model}`."
    return text


def _usage(config: EncoderConfig, model_class: str) -> str:
    auto_class = _AUTO_CLASSES[model_class]
    code = f"""```python
import torch
from transformers import AutoTokenizer, {auto_class}

folder = "."  # the folder of this file
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {auto_class}.from_pretrained(folder).eval()
"""
    if "mlm" in config.heads:
        logits = "prediction_logits" if model_class == "BertForPreTraining" else "logits"
        code += f"""
inputs = tokenizer(f"The answer is {{tokenizer.mask_token}}.", return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).{logits}
position = (inputs.input_ids[0] == tokenizer.mask_token_id).nonzero()[0, 0]
print(tokenizer.convert_ids_to_tokens(logits[0, position].topk(5).indices.tolist()))
"""
    elif model_class == "BertModel":
        code += """
inputs = tokenizer("A sentence.", return_tensors="pt")
with torch.no_grad():
    print(model(**inputs).last_hidden_state.shape)
"""
    else:
        pair = '"A sentence.", "The next one."' if "nsp" in config.heads else '"A sentence."'
        shown = (
            "logits.item()"
            if "classification" in config.heads and config.num_labels == 1
            else "logits.softmax(-1)"
        )
        code += f"""
inputs = tokenizer({pair}, return_tensors="pt")
with torch.no_grad():
    print(model(**inputs).{shown})
"""
    return code + "```"


def _scalar(value: str | float) -> str:
    """Returns JSON, unescaped beyond ASCII: YAML would not join JSON's surrogate pairs."""
    return json.dumps(value, ensure_ascii=False)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Returns rows of dotted name and value; None and empty values are left out."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            rows += [(f"{prefix}{key}", ", ".join(map(_number, value)))] if value else []
        elif value is not None and value != "":
            rows.append((f"{prefix}{key}", _number(value)))
    return rows


def _number(value: Any) -> str:
    """Returns a value as a reader wants it: thousands separated, floats to 6 digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *(map(_inline, row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _inline(text: str) -> str:
    """Returns text that stays within its line and its table cell."""
    return " ".join(text.split()).replace("|", "\\|")
