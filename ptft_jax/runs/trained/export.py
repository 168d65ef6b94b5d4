"""A run → a Hugging Face folder, compared with PyTorch where torch is installed."""

import dataclasses
from pathlib import Path
from typing import Any

from ptft_jax.convert.bert import ARCHITECTURES
from ptft_jax.convert.folder import architecture, check_out_dir, write_hf_folder
from ptft_jax.convert.model_card import card, corpus_summary
from ptft_jax.convert.verify import Verification, verify_against_torch
from ptft_jax.data.corpus.store import MANIFEST, Manifest
from ptft_jax.data.hub import hub_name
from ptft_jax.data.tasks.catalogue import TASKS
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Params
from ptft_jax.models.config import EncoderConfig
from ptft_jax.runs.config import check_place
from ptft_jax.runs.folder import TrainedRun, host_params
from ptft_jax.runs.record import RunRecord

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


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        model_class: name of the transformers class.
        step: of the checkpoint.
        verification: the comparison with PyTorch, None where torch is not installed.
    """

    model_class: str
    step: int
    verification: Verification | None

    @property
    def loader(self) -> str:
        """Name of the class whose `from_pretrained` loads the folder with all its heads."""
        return "AutoModel" + self.model_class.removeprefix("Bert").removesuffix("Model")

    @property
    def check(self) -> str:
        """The comparison in words."""
        if self.verification is None:
            return "not compared: torch is not installed here"
        return (
            f"largest difference of outputs {self.verification.largest_difference:.2e} "
            f"(outputs up to {self.verification.largest_value:.3g})"
        )


def export(opened: TrainedRun, out_dir: str | Path, wanted: str | None = None) -> Exported:
    """Writes a Hugging Face folder; see `Run.export`."""
    check_place("out_dir", out_dir)
    check_out_dir(out_dir)
    config, params = _with_heads(opened, wanted)
    source = opened.record.init_from
    text = card(
        config,
        name=Path(out_dir).resolve().name,
        data=trained_on(opened.record),
        scores=_scores(opened),
        training=_training(opened),
        # Its name alone: the path would tell strangers about this machine.
        base_model=(hub_name(source) or Path(source).resolve().name) if source else None,
    )
    has_labels = {"classification", "tagging"} & set(config.heads)
    labels = opened.record.labels if has_labels else None
    write_hf_folder(
        out_dir, params, config, opened.tokenizer, text, labels, opened.record.problem_type
    )
    verification = verify_against_torch(out_dir, params, config, opened.tokenizer)
    return Exported(architecture(config), opened.step, verification)


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
    if set(heads) == set(config.heads):
        return config, params
    kept = {
        "encoder": {
            name: value
            for name, value in params["encoder"].items()
            if name != "pooler" or "pooler" in heads
        },
    }
    kept_heads = {name: value for name, value in params["heads"].items() if name in heads}
    if kept_heads:
        kept["heads"] = kept_heads
    return config.replace(heads=heads), kept


def _scores(opened: TrainedRun) -> dict[str, Any] | None:
    stored = opened.folder.results()
    if stored.get("step") != opened.step:
        return None
    splits = {
        # A correlation that is not defined is null in results.json.
        name: {metric: score for metric, score in value.items() if score is not None}
        for name, value in stored.items()
        if isinstance(value, dict)
    }
    return splits or None


def _training(opened: TrainedRun) -> dict[str, Any] | None:
    config = opened.record.config
    known = {name: config[name] for name in _TRAINING_KEYS if name in config}
    changed = [
        f"after step {entry['step']:,}: {change}"
        for entry in opened.folder.changes()
        for change in entry["changes"]
        if entry["step"] < opened.step
    ]
    return {**known, "steps": opened.step, "changed": changed} if known else None


def trained_on(record: RunRecord) -> dict[str, Any] | None:
    """Returns what a model is trained on, from the corpus manifest or the task's name."""
    config = record.config
    if record.command == "finetune":
        task = config["task"]
        language = getattr(TASKS[task], "language", None) if task in TASKS else None
        return {"task": task} | ({"language": language} if language else {})
    data_dir = Path(config.get("data_dir") or "")
    if record.command != "pretrain" or not (data_dir / MANIFEST).is_file():
        return None
    return corpus_summary(dataclasses.asdict(Manifest.read(data_dir)))
