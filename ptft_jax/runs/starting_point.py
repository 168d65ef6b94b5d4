"""What a run starts from: another run's parameters or a Hugging Face folder."""

import dataclasses
from typing import TYPE_CHECKING

from ptft_jax.data.hub import locate
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.models.build import Params
from ptft_jax.models.config import EncoderConfig
from ptft_jax.runs.folder import host_params, open_run
from ptft_jax.runs.record import RunRecord, is_run

if TYPE_CHECKING:
    from ptft_jax.convert.folder import HeadsInfo


@dataclasses.dataclass(frozen=True)
class StartingPoint:
    """Model, tokenizer and parameters to start from.

    Attributes:
        params: nested dict of NumPy arrays, any part of the tree; the rest is initialised from
            the run's seed.
        config: the model with the heads that were asked for.
        tokenizer: text to ids.
        source: the folder that `params` come from, or NAME@COMMIT of a model of the Hub; None
            where there are none.
        new: heads that the source lacks.
        dropped: heads of the source that were not asked for.
    """

    params: Params
    config: EncoderConfig
    tokenizer: TextTokenizer
    source: str | None = None
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"initialised from {self.source}"
        if self.new:
            text += f"; new, from the seed: {', '.join(self.new)}"
        if self.dropped:
            text += f"; not used: {', '.join(self.dropped)}"
        return text


def imported_record(origin: str, config: EncoderConfig, info: "HeadsInfo") -> RunRecord:
    """Returns the record of a Hugging Face folder, or model of the Hub, that is taken for a run."""
    has_names = {"classification", "tagging"} & set(config.heads) and config.num_labels > 1
    return RunRecord(
        command="import",
        config={"hf_dir": origin},
        model=dataclasses.asdict(config),
        init_from=origin,
        labels=info.id2label if has_names else None,
        problem_type=info.problem_type,
    )


def load_starting_point(
    source: str,
    heads: tuple[str, ...],
    *,
    labels: tuple[str, ...] | None = None,
    num_labels: int | None = None,
) -> StartingPoint:
    """Reads the parameters of a run, a Hugging Face folder or a model of the Hub.

    Args:
        source: the folder, or the model's name (`ptft_jax.data.hub.locate`).
        heads: the heads that the new model has.
        labels: names of the new task's classes; a classification or tagging head of the source is
            kept only if it has the same ones.
        num_labels: width of such a head; None if there is none.

    Raises:
        ConfigError: the folder is neither a run nor a Hugging Face folder, or the model is not to
            be had.
        DataError: its content is damaged.
    """
    named = f"--init_from={source}"
    path, origin = locate(source, named)
    if is_run(path, named):
        run = open_run(path)
        params, config, tokenizer = host_params(run.params), run.model_config, run.tokenizer
        source_labels = run.record.labels
        has = config.heads
    else:
        # Here, because a run from fresh parameters needs nothing of it.
        from ptft_jax.convert.folder import read_hf_folder

        params, config, tokenizer, info = read_hf_folder(path, heads)
        source_labels = info.id2label
        has = (*info.found, *info.dropped)
    kept = {head for head in has if head in heads}
    if config.num_labels != num_labels or (labels or None) != (source_labels or None):
        kept -= {"classification", "tagging"}
    params = {
        "encoder": {
            name: value
            for name, value in params["encoder"].items()
            if name != "pooler" or "pooler" in kept
        },
        "heads": {name: value for name, value in params.get("heads", {}).items() if name in kept},
    }
    changes = {"heads": heads} | ({} if num_labels is None else {"num_labels": num_labels})
    return StartingPoint(
        params=params,
        config=config.replace(**changes),
        tokenizer=tokenizer,
        source=origin,
        new=tuple(head for head in heads if head not in kept),
        dropped=tuple(head for head in has if head not in kept),
    )
