"""Writes the model card: the `README.md` of an exported folder."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ptft_jax.convert.card_use import About, inline, intended_use, limits, usage
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


def card(config: EncoderConfig, name: str, about: About) -> str:
    """Returns the text of a model card, with the front matter that the Hugging Face hub reads."""
    model_class = architecture(config)
    pipeline = "sentence-similarity" if about.vectors else _PIPELINES.get(model_class)
    library = "sentence-transformers" if about.vectors else "transformers"
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
    started = f" Its weights started from `{inline(source)}`." if source else ""
    what = "A" if config.adapter is None else f"An adapter ({config.adapter.name}) and head for a"
    sections = [
        f"---\n{front_matter.to_yaml()}\n---",
        f"# {inline(name)}",
        f"{what} BERT encoder with {layers} of {config.hidden_size} features, "
        f"trained in JAX with ptft_jax and exported as `{model_class}`.{started}",
        f"## Intended use\n\n{intended_use(config, about)}",
        f"## Use in PyTorch\n\n{usage(config, about)}",
        _table("Scores", about.scores),
        f"## Limits\n\n{limits(config, about)}",
        _table("Data", about.data),
        _table("Training", about.training),
    ]
    if about.history:
        sections[-1] += "\n\nSettings that changed during the run:\n\n" + "\n".join(
            f"* {inline(line)}" for line in about.history
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
            rows.append(f"| {inline(prefix + key)} | {inline(shown)} |")
    return rows


def _number(value: Any) -> str:
    """Returns a value as a reader wants it: thousands separated, floats to 6 digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
