"""Folders of adapters: what `peft.PeftModel.from_pretrained` loads, and what it has saved.

adapter_config.json         which adapter, and of which model
adapter_model.safetensors   its parameters, the head's, and the pooler's where it was trained

Beside them lie `config.json` (labels), the tokenizer and a model card, which PEFT does without.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ptft_jax.convert import bert
from ptft_jax.convert.adapters.form import module_of
from ptft_jax.convert.adapters.names import FORMS
from ptft_jax.convert.weights import read_safetensors
from ptft_jax.data.foreign_files import read_json_object, refuse_ways_out
from ptft_jax.data.hub import ADAPTER_CONFIG, locate
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.models.adapters.prompt import encoded
from ptft_jax.models.build import Params
from ptft_jax.models.config import ADAPTERS, TARGETS, AdapterConfig, EncoderConfig
from ptft_jax.models.parts import sha256_of

WEIGHTS = "adapter_model.safetensors"
_SHA256 = "base_sha256"
# PEFT's names of what a class is for; those of other classes are found by the class.
TASK_TYPES = {
    "BertForSequenceClassification": "SEQ_CLS",
    "BertForTokenClassification": "TOKEN_CLS",
    "BertForQuestionAnswering": "QUESTION_ANS",
}


@dataclasses.dataclass(frozen=True)
class Base:
    """The model that an adapter stands beside.

    Attributes:
        name: its folder, or its name on the Hub.
        sha256: of the parameters that were frozen (`models.parts.sha256_of`); None: not known.
        keeps_pooler: whether the pooler is one of them.
    """

    name: str
    sha256: str | None
    keeps_pooler: bool


@dataclasses.dataclass(frozen=True)
class ReadAdapter:
    """The content of a folder of PEFT's.

    Attributes:
        config: the adapter.
        base: its model; `keeps_pooler` says whether the folder has none.
        folder: where that lies.
        tensors: those of the folder, as PyTorch names them in the model.
        content: what its own `config.json` says; {} without one.
        model_class: the class of transformers that it was trained in; None: not known.
    """

    config: AdapterConfig
    base: Base
    folder: Path
    tensors: Mapping[str, np.ndarray]
    content: Mapping[str, Any]
    model_class: str | None


def adapter_files(
    params: Params, config: EncoderConfig, model_class: str, base: Base
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, str]]:
    """Returns the content of `adapter_config.json`, the tensors, and what the latter's file notes.

    Args:
        params: of the whole model.
        config: of the model, with an adapter.
        model_class: that `config.heads` call for.
        base: the model without it.
    """
    adapter = config.adapter
    assert adapter is not None
    form, layers = FORMS[adapter.name], config.num_hidden_layers
    params, config = encoded(params, config)
    tensors = bert.to_hf(params, config)
    own = {name for row in form.rows(adapter) for name in row.names(layers)}
    left = {"encoder", *(["pooler"] if base.keeps_pooler else [])}
    of_adapter = {name for name in tensors if bert.canonical(name) in own}
    beside = {name for name in tensors if bert.head_of(name, model_class) not in left} - of_adapter
    kept = {form.before + name: tensors[name] for name in sorted(of_adapter | beside)}
    modules = {name.rsplit(".", 1)[0].split(".")[-1] for name in beside}
    saved = sorted({"pooler" if name == "dense" else name for name in modules})
    targets = "|".join(re.escape(module_of(target)) for target in adapter.targets)
    content = {
        "peft_type": form.peft_type,
        "task_type": TASK_TYPES.get(model_class),
        "auto_mapping": {
            "base_model_class": model_class,
            "parent_library": "transformers.models.bert.modeling_bert",
        },
        "base_model_name_or_path": base.name,
        "modules_to_save": saved or None,
        "inference_mode": True,
        **form.settings(config, rf".*\.layer\.\d+\.({targets})"),
    }
    if content["task_type"]:
        del content["auto_mapping"]
    notes = {"format": "pt"} | ({_SHA256: base.sha256} if base.sha256 else {})
    return content, form.written(kept, layers), notes


def read_adapter(path: Path) -> ReadAdapter:
    """Reads a folder that PEFT, or `adapter_files`, has written.

    Raises:
        ConfigError: an adapter of another kind, or its model is not to be had.
        DataError: its content is damaged, or not all layers have the same.
    """
    file = path / ADAPTER_CONFIG
    refuse_ways_out(path)
    content = read_json_object(file, "fetch or export it again")
    kinds = {form.peft_type: form for form in FORMS.values()}
    form = kinds.get(content.get("peft_type", ""))
    if form is None:
        raise ConfigError(
            f"{file}: peft_type={content.get('peft_type')!r}: expected one of {', '.join(kinds)}. "
            "In PyTorch, merge_and_unload() of the model and save_pretrained() make a plain folder "
            "of others that can be folded."
        )
    for key, allowed in form.only.items():
        if key in content and content[key] not in allowed:
            raise ConfigError(
                f"{file}: {key}={content[key]!r}: expected {allowed[0]!r}, as nothing else is read."
            )
    name = content.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise DataError(f"{file}: base_model_name_or_path={name!r}: expected the model's name.")
    folder = locate(name, f"{file}: base_model_name_or_path={name}").path
    if not folder.is_dir():
        raise ConfigError(
            f"{file}: base_model_name_or_path={name}: there is no such folder; expected the model "
            "that the adapter was trained on. Bring it there, or write into the file where it is."
        )
    found, notes = read_safetensors(path / WEIGHTS)
    found = form.read(found, content, path / WEIGHTS)
    strange = [key for key in found if not key.startswith(form.before)]
    if strange or not found:
        raise DataError(
            f"{path / WEIGHTS}: expected tensors called {form.before}…, not {strange[:1]}."
        )
    tensors = {key.removeprefix(form.before): tensor for key, tensor in found.items()}
    targets = tuple(
        target
        for target in TARGETS
        if any(f".{module_of(target)}." in _place(key) for key in tensors)
    )
    settings = form.read_settings(content)
    if not targets and ADAPTERS[settings["name"]]:
        raise DataError(f"{path / WEIGHTS}: no adapter of a linear map of the encoder's layers.")
    try:
        adapter = AdapterConfig(**settings, targets=targets)
    except ConfigError as error:
        raise DataError(f"{file}: {error}") from error
    own = read_json_object(path / "config.json", "…") if (path / "config.json").is_file() else {}
    mapping = content.get("auto_mapping") or {}
    by_task = {task: name for name, task in TASK_TYPES.items()}
    return ReadAdapter(
        config=adapter,
        base=Base(name, notes.get(_SHA256), not any("pooler." in key for key in tensors)),
        folder=folder,
        tensors=tensors,
        content=own or _widths(tensors),
        model_class=mapping.get("base_model_class") or by_task.get(str(content.get("task_type"))),
    )


def check_base(path: Path, params: Params, base: Base) -> None:
    """Raises DataError where an adapter's model is not the one that it was trained on.

    `params` are those of the model with the adapter.
    """
    if base.sha256 is None:
        return
    encoder = {
        name: _bare(value)
        for name, value in params["encoder"].items()
        if name != "pooler" or base.keeps_pooler
    }
    found = sha256_of({"encoder": encoder})
    if found != base.sha256:
        raise DataError(
            f"{path}: {base.name} holds other parameters (SHA-256 {found[:12]}) than those that "
            f"the adapter was trained beside ({base.sha256[:12]}): bring those back."
        )


def _bare(tree: Params) -> Params:
    """Returns the parameters without those of adapters."""
    return {
        name: _bare(value) if isinstance(value, dict) else value
        for name, value in tree.items()
        if name != "adapter"
    }


def _place(name: str) -> str:
    """Returns "." and what follows the number of the layer in a tensor's name."""
    found = re.search(r"encoder\.layer\.\d+(\..*)", name)
    return found[1] if found else ""


def _widths(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns how wide a head is, where nothing else says so."""
    bias = tensors.get("classifier.bias")
    return {} if bias is None else {"num_labels": len(bias), "id2label": None}
