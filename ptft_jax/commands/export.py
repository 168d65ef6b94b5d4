"""ptft export --run_dir=RUN --out_dir=HF_DIR [--architecture=BertForMaskedLM] [--checkpoint=best]

Writes a Hugging Face folder that PyTorch users load with `AutoModel*.from_pretrained`.

config.json, model.safetensors, tokenizer files and a model card (README.md). Without
--architecture the class with all heads of the run. Where torch is installed the folder is loaded
and its outputs are compared with ours.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from ptft_jax.commands.evaluate import define_reading_flags
from ptft_jax.commands.run_folder import TrainedRun, host_params, open_run
from ptft_jax.commands.screen import made, make_console
from ptft_jax.convert.folder import ARCHITECTURES, architecture, check_out_dir, write_hf_folder
from ptft_jax.convert.model_card import card
from ptft_jax.convert.verify import Verification, verify_against_torch
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Params
from ptft_jax.models.config import EncoderConfig

HAS_CONFIG = False

_TRAINING_KEYS = (
    "steps",
    "epochs",
    "batch_size",
    "accumulate",
    "max_seq_length",
    "optimizer",
    "schedule",
    "seed",
)


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_reading_flags(values)
    flags.DEFINE_string("out_dir", None, "Folder to make.", flag_values=values)
    flags.DEFINE_string(
        "architecture", None, "transformers class; None: all heads.", flag_values=values
    )


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    if positional:
        raise ConfigError(f"{positional[0]!r}: expected flags only.")
    for name in ("run_dir", "out_dir"):
        if not getattr(values, name):
            raise ConfigError(f"--{name} is missing: name the folder.")
    export(values.run_dir, values.out_dir, values.architecture, values.checkpoint)


def export(
    run_dir: str, out_dir: str, wanted: str | None = None, which: str = "last"
) -> Verification | None:
    """Exports a run; returns what the comparison with PyTorch found, None without torch."""
    console = make_console()
    check_out_dir(out_dir)
    opened = open_run(run_dir, which)
    config, params = _with_heads(opened, wanted)
    text = card(
        config,
        name=Path(out_dir).resolve().name,
        data=_data(opened),
        scores=_scores(opened),
        training=_training(opened),
        base_model=opened.record.init_from,
    )
    labels = opened.record.labels if "classification" in config.heads else None
    write_hf_folder(out_dir, params, config, opened.tokenizer, text, labels)
    verification = verify_against_torch(out_dir, params, config, opened.tokenizer)
    name = architecture(config)
    if verification is None:
        check = "not compared: torch is not installed here"
    else:
        check = (
            f"largest difference of outputs {verification.largest_difference:.2e} "
            f"(outputs up to {verification.largest_value:.3g})"
        )
    loader = "AutoModel" if name == "BertModel" else name.replace("Bert", "AutoModel", 1)
    if "classification" not in config.heads and name != "BertModel":
        loader = name.replace("BertFor", "AutoModelFor")
    made(
        console,
        "exported",
        {"folder": out_dir, "class": name, "step": str(opened.step), "PyTorch check": check},
        [
            "python -c 'from transformers import "
            f'{loader}; print({loader}.from_pretrained("{out_dir}"))\'',
            f"ptft import --hf_dir={out_dir} --run_dir=runs/imported",
        ],
    )
    return verification


def _with_heads(opened: TrainedRun, wanted: str | None) -> tuple[EncoderConfig, Params]:
    """Returns config and host parameters with the heads of the class asked for."""
    config = opened.model_config
    params = host_params(opened.params)
    if wanted is None:
        architecture(config)
        return config, params
    choices = {
        name: heads for heads, name in ARCHITECTURES.items() if set(heads) <= set(config.heads)
    }
    if wanted not in choices:
        raise ConfigError(
            f"--architecture={wanted}: this run has the heads {', '.join(config.heads) or 'none'}; "
            f"expected one of {', '.join(choices)}."
        )
    heads = choices[wanted]
    kept = {
        "encoder": {
            name: value
            for name, value in params["encoder"].items()
            if name != "pooler" or "pooler" in heads
        },
        "heads": {name: value for name, value in params.get("heads", {}).items() if name in heads},
    }
    return config.replace(heads=heads), kept


def _scores(opened: TrainedRun) -> dict[str, Any] | None:
    stored = opened.folder.results()
    if stored.get("step") != opened.step:
        return None
    splits = {name: value for name, value in stored.items() if isinstance(value, dict)}
    return splits or None


def _training(opened: TrainedRun) -> dict[str, Any] | None:
    config = opened.record.config
    known = {name: config[name] for name in _TRAINING_KEYS if name in config}
    return {**known, "steps": opened.step} if known else None


def _data(opened: TrainedRun) -> dict[str, Any] | None:
    """Returns what the model was trained on, from the corpus manifest or the task's name."""
    config = opened.record.config
    if opened.record.command == "finetune":
        return {"task": config["task"]}
    manifest = Path(config.get("data_dir") or "") / "manifest.json"
    if opened.record.command != "pretrain" or not manifest.is_file():
        return None
    content = json.loads(manifest.read_text(encoding="utf-8"))
    splits = {
        f"{name} {key}": counts[key]
        for name, counts in content["splits"].items()
        for key in ("documents", "sentences", "tokens")
    }
    return {"sources": [Path(name).name for name in content["sources"]], **splits}
