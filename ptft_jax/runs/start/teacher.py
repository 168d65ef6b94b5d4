"""The teacher of a run: a trained model that its own is to be like (`objectives.distilled`)."""

import dataclasses
import math
import os
from typing import Any

from jax.sharding import Mesh

from ptft_jax.data.hub import unmoved
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Params, build_model
from ptft_jax.models.config import PROMPTS, EncoderConfig
from ptft_jax.models.parts import sha256_of
from ptft_jax.objectives.added.distilled import HIDDEN_LOSSES, Distilled
from ptft_jax.objectives.totals import LogitsObjective
from ptft_jax.runs.config import Config, check_length
from ptft_jax.runs.describe import describe_model
from ptft_jax.runs.record import RunRecord
from ptft_jax.runs.start.starting_point import StartingPoint, Untaught, load_starting_point
from ptft_jax.training.mesh import check_model, put_params


def distilled(task: LogitsObjective, config: Config) -> Distilled:
    """Returns the objective of a task with the teacher that a config names.

    Raises:
        ConfigError: a weight cannot be.
    """
    given = config.distillation.to_dict()
    for name in ("soft_weight", "hidden_weight", "task_weight", "temperature"):
        value = given[name]
        if not 0 <= value < math.inf or (name == "temperature" and not value):
            least = "above 0" if name == "temperature" else "of at least 0"
            raise ConfigError(f"--config.distillation.{name}={value}: expected a number {least}.")
    if not given["soft_weight"] and not given["hidden_weight"]:
        raise ConfigError(
            "--config.teacher: neither distillation.soft_weight nor distillation.hidden_weight is "
            "above 0, so that nothing would be learned from it."
        )
    if given["hidden_loss"] not in HIDDEN_LOSSES:
        raise ConfigError(
            f"--config.distillation.hidden_loss={given['hidden_loss']!r}: expected one of "
            f"{', '.join(HIDDEN_LOSSES)}."
        )
    for pair in given["layers"]:
        if not isinstance(pair, tuple | list) or [type(layer) for layer in pair] != [int, int]:
            raise ConfigError(
                f"--config.distillation.layers={given['layers']!r}: expected pairs of a layer and "
                "one of the teacher, like ((1, 2), (2, 4)), or ((1, 2),) for a single one."
            )
    if given["layers"] and not given["hidden_weight"]:
        raise ConfigError(
            f"--config.distillation.layers={given['layers']!r} with hidden_weight=0: no layers are "
            "compared; expected distillation.hidden_weight above 0."
        )
    if config.get("adapter") and config.adapter.name in PROMPTS and given["hidden_weight"]:
        raise ConfigError(
            f"--config.adapter.name={config.adapter.name} with distillation.hidden_weight: at "
            "[CLS] there is a virtual token, which the teacher has not; expected hidden_weight=0."
        )
    given["layers"] = tuple(tuple(pair) for pair in given["layers"])
    return Distilled(task, **given)


class Teacher(Untaught):
    """A model whose parameters are not trained; see `Untaught`."""

    def __init__(self, found: StartingPoint, config: EncoderConfig, sha256: str, task: Distilled):
        """Makes a teacher of what was read.

        Args:
            found: its parameters, on the host, and where they come from.
            config: of the model that computes with them.
            sha256: of its whole parameters.
            task: the objective of the run.
        """
        self.source, self.sha256 = str(found.source), sha256
        self._model, self._params = build_model(config), found.params
        self.teach = lambda params, batch: task.taught(self._model.bind(params), batch)

    def facts(self) -> dict[str, str]:
        return {"teacher": f"{self.source}: {describe_model(self._model)}"}

    def constants(self, mesh: Mesh) -> dict[str, Params]:
        return {"teacher": put_params(self._params, self._model.axes(), mesh)}


def read_teacher(
    config: Config,
    kind: Any,
    objective: Any,
    start: StartingPoint,
    mesh: Mesh,
    record: RunRecord | None,
) -> Teacher:
    """Reads the teacher that a config names.

    Args:
        config: of the run.
        kind: a `runs.kinds.kind.Kind`.
        objective: what `kind` trains for, a `Distilled`.
        start: what the run starts from.
        mesh: where it runs.
        record: of the run that goes on.

    Raises:
        ConfigError: the teacher does not fit the run, or is not the one that it was started with.
        DataError: the teacher's folder is damaged.
    """
    asked, ours = os.path.expanduser(config.teacher), start.config
    source = unmoved(asked, record and record.config.get("teacher")) or asked
    named = f"--config.teacher={source}"
    # Of a pretraining the masked tokens are learned from it.
    heads = ("mlm",) if "mlm" in ours.heads else ours.heads
    found = load_starting_point(
        source, heads, labels=kind.labels, num_labels=ours.num_labels, key="config.teacher"
    )
    sha256 = sha256_of(found.params)
    if record is not None and record.teacher not in (None, sha256):
        raise ConfigError(
            f"{named} holds other parameters (SHA-256 {sha256[:12]}) than those that this run has "
            f"learned from ({str(record.teacher)[:12]}): bring them back, or start another run."
        )
    theirs = found.config.replace(dtype=ours.dtype, attention="auto", fused="auto", unroll=None)
    if found.tokenizer.sha256 != start.tokenizer.sha256:
        raise ConfigError(
            f"{named}: its tokenizer is another one, so that it reads other tokens; expected a "
            "teacher with the tokenizer of the run."
        )
    for phase in kind.phases:
        check_length(phase.config, theirs)
    if kind.pairs and theirs.type_vocab_size < 2:
        raise ConfigError(f"{named} has one token type, and pairs of texts need two.")
    lacking = [head for head in heads if head in found.new and head != "pooler"]
    if lacking and objective.soft_weight:
        classes = f" with the labels {', '.join(kind.labels)}" if kind.labels else ""
        raise ConfigError(
            f"{named} has no {lacking[0]} head{classes}: expected a model that was trained on this "
            "task, or distillation.soft_weight=0, which learns from hidden states alone."
        )
    if not objective.soft_weight:
        theirs = theirs.replace(heads=())
        encoder = {n: part for n, part in found.params["encoder"].items() if n != "pooler"}
        found = dataclasses.replace(found, params={"encoder": encoder})
    elif "pooler" in found.new:
        raise ConfigError(f"{named} has no pooler: expected a whole model of this task.")
    elif "mlm" in heads:
        for name in ("vocab_size", "padded_vocab_size"):
            if getattr(ours, name) != getattr(theirs, name):
                raise ConfigError(
                    f"{named} has {name}={getattr(theirs, name)}, and the model "
                    f"{getattr(ours, name)}: their outputs could not be compared; expected the "
                    "same model.vocab_size and model.vocab_size_multiple."
                )
    check_model(theirs, mesh)
    if objective.hidden_weight:
        _check_layers(named, objective.layers, ours, theirs)
    return Teacher(found, theirs, sha256, objective)


def _check_layers(named: str, layers: Any, ours: Any, theirs: Any) -> None:
    if ours.hidden_size != theirs.hidden_size:
        raise ConfigError(
            f"{named}: its hidden states have {theirs.hidden_size} features, and those of the "
            f"model {ours.hidden_size}; expected equally many, or distillation.hidden_weight=0."
        )
    counts = ours.num_hidden_layers, theirs.num_hidden_layers
    for pair in layers:
        if not all(0 <= layer <= count for layer, count in zip(pair, counts, strict=True)):
            raise ConfigError(
                f"--config.distillation.layers: {pair!r}: expected a layer of the model (up to "
                f"{counts[0]}) and one of the teacher (up to {counts[1]}), 0 the embeddings."
            )
