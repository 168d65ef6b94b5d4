"""From the config of `ptft pretrain` to the settings of its examples, phase by phase."""

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from ptft_jax.data.pretraining.examples import PretrainingSettings
from ptft_jax.data.pretraining.masking import MaskingSettings
from ptft_jax.errors import ConfigError
from ptft_jax.runs.config import Config, nearest

if TYPE_CHECKING:
    from ptft_jax.runs.folder import RunFolder

# Where a phase begins: after so many updates, or after a share of all.
START_KEYS = ("step", "step_ratio")
# What a phase may change: how much text an update sees, and in which form.
PHASE_KEYS = (
    "max_seq_length",
    "batch_size",
    "accumulate",
    "max_predictions_per_seq",
    "short_seq_prob",
    "packing",
    "max_sequences_per_pack",
)


@dataclasses.dataclass(frozen=True)
class PhaseConfig:
    """The updates after `start` up to `until`, with the config as it is for them."""

    start: int
    until: int
    config: Config


def pretraining_settings(config: Config) -> PretrainingSettings:
    """Returns the settings of the examples of a config (of one phase)."""
    masking = {field.name: config[field.name] for field in dataclasses.fields(MaskingSettings)}
    names = [field.name for field in dataclasses.fields(PretrainingSettings)]
    others = {name: config[name] for name in names if name != "masking"}
    return PretrainingSettings(masking=MaskingSettings(**masking), **others)


def phases_of(config: Config) -> list[PhaseConfig]:
    """Returns the phases of a run, in order; one without `phases` has a single one.

    Raises:
        ConfigError: a phase has an unknown key or value, or begins where it cannot.
    """
    starts, configs = [0], [config]
    for number, phase in enumerate(config.phases, start=1):
        where = f"--config.phases, number {number}"
        changes = _checked(phase, where, config)
        named = {key: changes.pop(key) for key in START_KEYS if key in changes}
        start = named["step"] if "step" in named else round(named["step_ratio"] * config.steps)
        if not starts[-1] < start < config.steps:
            raise ConfigError(
                f"{where}: it begins after {start} updates ({named}): expected more than "
                f"{starts[-1]} and less than steps={config.steps}."
            )
        changed = copy.deepcopy(configs[-1])
        for key, value in changes.items():
            changed[key] = value
        starts.append(start)
        configs.append(changed)
    ends = [*starts[1:], config.steps]
    return [PhaseConfig(*phase) for phase in zip(starts, ends, configs, strict=True)]


def rows_of(phases: Iterable[PhaseConfig]) -> list[tuple[int, bool]]:
    """Returns the length of each phase's rows, and whether they hold several examples."""
    return [(phase.config.max_seq_length, phase.config.packing) for phase in phases]


def phase_of(config: Config, number: int) -> Config:
    """Returns the config as it is in phase `number` of a run, counted from 1.

    Raises:
        ConfigError: the config has no such phase, or one that cannot be.
    """
    phases = phases_of(config)
    if not 1 <= number <= len(phases):
        there = f"phases 1 to {len(phases)}" if len(phases) > 1 else "one phase"
        raise ConfigError(f"--phase={number}: the config has {there}.")
    return phases[number - 1].config


def _checked(phase: Any, where: str, config: Config) -> dict[str, Any]:
    if not isinstance(phase, Mapping):
        raise ConfigError(
            f"{where}: {phase!r}: expected a dict, such as "
            "{'step': 900000, 'max_seq_length': 512}."
        )
    if len(phase.keys() & set(START_KEYS)) != 1:
        raise ConfigError(
            f"{where}: expected either 'step' (it begins after so many updates) or 'step_ratio' "
            "(after this share of all)."
        )
    for key, value in phase.items():
        allowed = (*START_KEYS, *PHASE_KEYS)
        if key not in allowed:
            near = nearest(key, list(allowed))
            hint = f"; the nearest is {near!r}" if near else ""
            raise ConfigError(
                f"{where}: {key!r} cannot change in a phase{hint}. Keys: {', '.join(allowed)}."
            )
        example = {"step": 900_000, "step_ratio": 0.9}.get(key, config.get(key))
        if type(value) is not type(example):
            raise ConfigError(f"{where}: {key}={value!r}: expected a value like {example!r}.")
    return dict(phase)


def check_borders(folder: "RunFolder", phases: Sequence[PhaseConfig]) -> None:
    """Raises ConfigError for other borders of phases that a run has begun: it counts from them."""
    if not folder.has_checkpoint():
        return
    done, config = folder.checkpoints().latest_step() or 0, ConfigDict(folder.record().config)
    before = [phase.start for phase in phases_of(config)] if "phases" in config else [0]
    there, now = (
        [start for start in starts if start < done]
        for starts in (before, [phase.start for phase in phases])
    )
    if done and there != now:
        raise ConfigError(
            f"--run_dir={folder.path} has made {done} updates, in phases that began after {there} "
            f"updates; with this config they would have begun after {now}: expected the same "
            "borders up to where the run is (a step_ratio moves with steps: name the step). Go on "
            f"with them, or start another --run_dir with --init_from={folder.path}."
        )
