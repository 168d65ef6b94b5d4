"""A run → a Hugging Face folder, compared with PyTorch where torch is installed."""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptft_jax.convert.adapters.folder import TASK_TYPES, Base
from ptft_jax.convert.adapters.names import FORMS
from ptft_jax.convert.bert import ARCHITECTURES
from ptft_jax.convert.card_use import About
from ptft_jax.convert.folder import architecture, check_out_dir, write_hf_folder
from ptft_jax.convert.model_card import card, corpus_summary
from ptft_jax.convert.sentence_folder import files_of, recipe_files
from ptft_jax.convert.verify import Verification, verify_against_torch
from ptft_jax.data.corpus.store import MANIFEST, Manifest
from ptft_jax.data.hub import hub_name
from ptft_jax.data.tasks.catalogue import TASKS, tasks_of
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.models.build import Params
from ptft_jax.models.config import EncoderConfig
from ptft_jax.runs.config import check_place
from ptft_jax.runs.folder import TrainedRun, host_params
from ptft_jax.runs.kinds.setfit import CLASSIFIER, Classifier
from ptft_jax.runs.record import RunRecord, is_run, read_record
from ptft_jax.runs.start.partly_trained import base_of
from ptft_jax.runs.trained.asking.embeddings import is_trained, recipe_of
from ptft_jax.runs.trained.one_task import check_task
from ptft_jax.training.tracking.metric_sinks import read_metrics

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


def export(
    opened: TrainedRun,
    out_dir: str | Path,
    wanted: str | None = None,
    *,
    form: str = "hf",
    merge: bool = False,
    base_model: str | None = None,
    languages: Sequence[str] = (),
    licence: str | None = None,
) -> Exported:
    """Writes a Hugging Face folder; see `Run.export`."""
    check_task(opened)
    check_place("out_dir", out_dir)
    check_out_dir(out_dir)
    base = _base(opened, form, merge, base_model)
    _check_names(None if base and os.path.isdir(base.name) else base_model, languages)
    config, params = _with_heads(opened, wanted, folds=base is None)
    has_labels = {"classification", "tagging"} & set(config.heads)
    labels = opened.record.labels if has_labels else None
    source, on_hub = _origin(opened.record.init_from)
    data = trained_on(opened.record)
    language = data.pop("language", None)
    about = About(
        data=data,
        scores=_scores(opened),
        dataset=_dataset(opened),
        labels=labels,
        pairs=bool(opened.record.pairs) and "classification" in config.heads,
        training=_training(opened),
        history=_history(opened),
        source=source,
        base_model=on_hub if base and os.path.isdir(base.name) else base_model or on_hub,
        languages=languages or ([language] if language else []),
        licence=licence,
        vectors=_vectors(opened) if base is None else None,
    )
    text = card(config, Path(out_dir).resolve().name, about)
    if is_trained(opened):
        files = files_of(recipe_of(opened), config.hidden_size)
        if Classifier.step_in(opened.folder.path) == opened.step:
            files[CLASSIFIER] = (opened.folder.path / CLASSIFIER).read_bytes()
    else:
        files = recipe_files(opened.folder.path)
    problem, tokenizer = opened.record.problem_type, opened.tokenizer
    write_hf_folder(out_dir, params, config, tokenizer, text, labels, problem, files, base)
    verification = verify_against_torch(
        out_dir, params, config, tokenizer, base=None if base is None else base.name
    )
    return Exported(architecture(config), opened.step, verification)


def _vectors(opened: TrainedRun) -> str | None:
    if not is_trained(opened):
        return None
    return "cosine" if recipe_of(opened).normalize else "distance"


def _base(opened: TrainedRun, form: str, merge: bool, base_model: str | None) -> Base | None:
    """Returns what an adapter stands beside where it alone is to be written; None: all is.

    Raises ConfigError where that is not what the run has.
    """
    adapter, record = opened.model_config.adapter, opened.record
    if form not in ("hf", "peft"):
        raise ConfigError(f"format={form!r}: expected hf or peft.")
    if adapter is None:
        if form == "peft" or merge:
            asked = "format=peft" if form == "peft" else "merge"
            raise ConfigError(
                f"{asked} is for a run that has trained an adapter (config.adapter.name); this one "
                "has none: leave it out."
            )
        return None
    if adapter.name not in FORMS:
        raise ConfigError(
            f"adapters of the kind {adapter.name} have no form in PEFT and cannot be folded into "
            "the weights: predict, evaluate and embed with the run itself."
        )
    if (form == "peft") == merge:
        raise ConfigError(
            f"this run has trained an adapter ({adapter.name}): expected either --format=peft, for "
            "the adapter alone, or --merge, which folds it into a plain folder."
        )
    if merge:
        return None
    if (trains := record.config["trainable"]) not in ("all", "head"):
        raise ConfigError(
            f"a folder of PEFT's holds an adapter and a head, and this run has trained more of the "
            f"encoder (trainable={trains!r}): expected --merge."
        )
    model_class = architecture(opened.model_config)
    if adapter.first_position and model_class not in TASK_TYPES:
        raise ConfigError(
            f"PEFT puts no virtual tokens in front of the texts of a {model_class}, and would "
            "leave them out: predict, evaluate and embed with the run itself."
        )
    if layers := record.config["init_layers"]:
        raise ConfigError(
            f"the adapter stands beside the layers {layers} of {record.init_from}, and PEFT would "
            "put it beside its first ones: expected --merge, or a run from a folder with these "
            "layers alone, which an export of a run with init_layers is."
        )
    source = base_of(record, str(opened.folder.path))
    name = base_model or source.source
    assert name is not None
    if base_model is None and os.path.isdir(name) and is_run(Path(name), name):
        raise ConfigError(
            f"the adapter stands beside the run {name}, which PyTorch does not load: expected "
            "--base_model=DIR, with DIR made by `ptft export` of that run, or a name on the Hub."
        )
    if os.path.isdir(name):
        name = os.path.abspath(name)
    keeps_pooler = "pooler" in source.params["encoder"]
    return Base(hub_name(name) or name, record.frozen, keeps_pooler)


def _check_names(base_model: str | None, languages: Sequence[str]) -> None:
    """Raises ConfigError for names that the hub would refuse."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(base_model or "a")
    except HFValidationError as error:
        raise ConfigError(
            f"base_model={base_model!r}: expected a name on the Hugging Face hub, like "
            "google-bert/bert-base-uncased."
        ) from error
    wrong = [name for name in languages if not re.fullmatch("[a-z]{2,3}", name)]
    if wrong:
        raise ConfigError(f"language={wrong[0]!r}: expected codes of ISO 639, like en or de.")


def _origin(source: str | None) -> tuple[str | None, str | None]:
    """Returns the name of what weights started from, and its name on the hub where that is known.

    The name alone: the path would tell strangers about this machine. A run is followed to what it
    started from itself, as far as that is still there.
    """
    name, seen = Path(source).resolve().name if source else None, set()
    while source and source not in seen:
        seen.add(source)
        if on_hub := hub_name(source):
            return on_hub if len(seen) == 1 else name, on_hub
        # Where the hub's cache keeps a model: models--ORGANISATION--NAME/snapshots/REVISION.
        folder = Path(source).resolve().parent
        if folder.name == "snapshots" and folder.parent.name.startswith("models--"):
            return name, folder.parent.name.removeprefix("models--").replace("--", "/")
        try:
            source = read_record(Path(source)).init_from
        except (ConfigError, DataError):
            return name, None
    return name, None


def _with_heads(
    opened: TrainedRun, wanted: str | None, folds: bool
) -> tuple[EncoderConfig, Params]:
    """Returns config and host parameters with the heads of the class asked for."""
    config = opened.model_config
    params = host_params(opened.params)
    if folds:
        from ptft_jax.models.adapters.folding import folded

        params, config = folded(params, config)
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


def _scores(opened: TrainedRun) -> dict[str, dict[str, float]]:
    """Returns the metrics of the exported step, from results.json or, of an earlier step, the log.

    A metric that is not defined there (null) is left out.
    """
    stored = opened.folder.results()
    splits = {name: value for name, value in stored.items() if isinstance(value, dict)}
    if stored.get("step") != opened.step:
        splits = {}
        for entry in read_metrics(opened.folder.path / "metrics.jsonl"):
            if entry.get("step") == opened.step and "split" in entry:
                splits[entry["split"]] = {
                    name: value for name, value in entry.items() if name not in ("step", "split")
                }
    config = opened.record.config
    if "continual" in config:  # of one of its tasks the splits have its name
        task = config["task"]
        splits = {
            f"dev{split.removeprefix(task)}": metrics
            for split, metrics in splits.items()
            if split == task or split.startswith(f"{task}_")
        }
    return {
        split: {name: value for name, value in metrics.items() if value is not None}
        for split, metrics in splits.items()
    }


def _dataset(opened: TrainedRun) -> tuple[str, str | None, str | None]:
    """Returns what scores are of: a name, and id and part of the data set on the hub."""
    config = opened.record.config
    task = config.get("task")
    if task in tasks_of("glue"):
        return f"GLUE {task}", "nyu-mll/glue", task
    return Path(config.get("data_dir") or "held-out data").resolve().name, None, None


def _training(opened: TrainedRun) -> dict[str, Any]:
    config = opened.record.config
    # Where steps are named, they and not the epochs end a run.
    counted = "epochs" if config.get("steps") else "steps"
    known = {name: config[name] for name in _TRAINING_KEYS if name in config and name != counted}
    teacher = _origin(config.get("teacher") or None)[0]
    known |= {"teacher": teacher} if teacher else {}
    return {**known, "steps": opened.step} if known else {}


def _history(opened: TrainedRun) -> list[str]:
    changed = re.compile(r"(?:config\.)?(\S+): (.*) in the run, (.*) now")
    return [
        f"after step {entry['step']:,}: {changed.sub(r'\1: \2 → \3', change)}"
        for entry in opened.folder.changes()
        for change in entry["changes"]
        if entry["step"] < opened.step
    ]


def trained_on(record: RunRecord) -> dict[str, Any]:
    """Returns what a model is trained on, from the corpus manifest or the task's name."""
    config = record.config
    if record.command == "finetune":
        task = config["task"]
        language = getattr(TASKS[task], "language", None) if task in TASKS else None
        return {"task": task} | ({"language": language} if language else {})
    data_dir = Path(config.get("data_dir") or "")
    if record.command != "pretrain" or not (data_dir / MANIFEST).is_file():
        return {}
    return corpus_summary(dataclasses.asdict(Manifest.read(data_dir)))
