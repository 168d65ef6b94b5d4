"""Protocols of published GLUE tables: which settings each task is fine-tuned with, and from what.

Figures of different protocols do not compare: searched rates and a start from MNLI are worth more
than many a model.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.errors import ConfigError

# What an update takes off a weight at the peak of the schedule, in Composer's DecoupledAdamW; here,
# as in PyTorch's AdamW, `optimizer.weight_decay` is multiplied by the learning rate.
_DECAY_OF_AN_UPDATE = "decay of an update"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a published table was made.

    Attributes:
        source: where it is described.
        settings: for each task ("": for any) config keys with the values to try, one or several.
        from_mnli: the tasks that start from a run on MNLI (STILTs) and not from the model itself.
    """

    source: str
    settings: Mapping[str, Mapping[str, Sequence[Any]]]
    from_mnli: tuple[str, ...] = ()

    def combinations(self, task: str, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns the settings to try a task with, as config keys and values.

        `given` are keys that somebody has set to other values; they are left out.
        """
        all_keys = self.settings.get(task) or self.settings[""]
        keys = {key: values for key, values in all_keys.items() if key not in given}
        if "optimizer.weight_decay" in given:
            keys.pop(_DECAY_OF_AN_UPDATE, None)
        if given.get("steps"):
            keys.pop("epochs", None)
        found = []
        for values in itertools.product(*keys.values()):
            one = dict(zip(keys, values, strict=True))
            if _DECAY_OF_AN_UPDATE in one:
                rate = {**given, **one}["optimizer.learning_rate"]
                decay = one.pop(_DECAY_OF_AN_UPDATE) / rate
                one["optimizer.weight_decay"] = float(f"{decay:.6g}")
            found.append(one)
        return found


# Of both of MosaicML's and ModernBERT's scripts; Composer does not clip unless it is asked to.
_COMPOSER = {
    "max_seq_length": (256,),
    "length_buckets": ((32, 64, 96, 128, 192, 256),),
    "optimizer.b2": (0.98,),
    "optimizer.eps": (1e-6,),
    "optimizer.max_grad_norm": (0.0,),
    "schedule.warmup_ratio": (0.06,),
}
# Task: learning rate, batch size, epochs, decay of an update.
_MOSAIC = {
    "mnli": (5e-5, 48, 3.0, 5e-6),
    "cola": (5e-5, 32, 10.0, 5e-6),
    "sst2": (3e-5, 16, 3.0, 3e-6),
    "qqp": (3e-5, 16, 5.0, 3e-6),
    "qnli": (1e-5, 16, 10.0, 1e-6),
    "mrpc": (8e-5, 32, 10.0, 8e-6),
    "stsb": (3e-5, 32, 10.0, 3e-6),
    "rte": (1e-5, 16, 3.0, 1e-5),
}
# Task: batch size, epochs to try.
_MODERNBERT = {
    "mnli": (64, (1.0, 2.0, 3.0)),
    "cola": (32, (2.0, 5.0, 10.0)),
    "sst2": (16, (1.0, 2.0, 3.0)),
    "qqp": (16, (2.0, 5.0, 10.0)),
    "qnli": (16, (2.0, 5.0, 10.0)),
    "mrpc": (32, (2.0, 5.0, 10.0)),
    "stsb": (32, (2.0, 5.0, 10.0)),
    "rte": (16, (1.0, 2.0, 3.0)),
}
_FROM_MNLI = ("mrpc", "stsb", "rte")

PROTOCOLS = {
    "hf": Protocol(
        "the settings of the config, for GLUE those of Hugging Face's run_glue.py", {"": {}}
    ),
    "bert_paper": Protocol(
        "the grid of Devlin et al. 2019, appendix A.3, with the rate 4e-5 of section 4.1",
        {
            "": {
                "optimizer.learning_rate": (5e-5, 4e-5, 3e-5, 2e-5),
                "batch_size": (16, 32),
                "epochs": (2.0, 3.0, 4.0),
            }
        },
    ),
    "ulmfit": Protocol(
        "discriminative rates (each layer 1/2.6 of the one above), one cycle, layers unfrozen from "
        "the head down over 60 % of the run: Howard & Ruder 2018 (ULMFiT), as fastai has it",
        {
            "": {
                "optimizer.layer_decay": (float(f"{1 / 2.6:.6g}"),),
                "schedule.name": ("one_cycle",),
                "schedule.warmup_steps": (0,),
                "schedule.warmup_ratio": (0.25,),
                "schedule.end_learning_rate_ratio": (1e-5,),
                "unfreeze": (0.6,),
            }
        },
    ),
    "mosaic": Protocol(
        "MosaicML's examples/benchmarks/bert/src/glue/finetuning_jobs.py (MosaicBERT)",
        {
            task: {
                "optimizer.learning_rate": (rate,),
                "batch_size": (batch,),
                "epochs": (epochs,),
                _DECAY_OF_AN_UPDATE: (decay,),
                **_COMPOSER,
            }
            for task, (rate, batch, epochs, decay) in _MOSAIC.items()
        },
        _FROM_MNLI,
    ),
    "modernbert": Protocol(
        "the search of Warner et al. 2024 (ModernBERT), batches and lengths of its glue_jobs.py",
        {
            task: {
                "optimizer.learning_rate": (1e-5, 3e-5, 5e-5, 8e-5),
                "epochs": epochs,
                _DECAY_OF_AN_UPDATE: (1e-6, 5e-6, 8e-6, 1e-5),
                "batch_size": (batch,),
                **_COMPOSER,
            }
            for task, (batch, epochs) in _MODERNBERT.items()
        },
        _FROM_MNLI,
    ),
}
"""Name → protocol."""


def tasks_with(name: str, tasks: Sequence[str], every: bool) -> list[str]:
    """Returns the tasks of a table in the order in which they are made: MNLI before what needs it.

    Args:
        name: of the protocol.
        tasks: those asked for.
        every: whether they are a benchmark's, of which those that the protocol has are taken.

    Raises:
        ConfigError: the protocol has no settings for a task.
    """
    protocol = PROTOCOLS[name]
    if "" in protocol.settings:
        return list(tasks)
    lacking = [task for task in tasks if task not in protocol.settings]
    if len(lacking) == len(tasks) or (lacking and not every):
        raise ConfigError(
            f"--protocol={name}: it has no settings for {', '.join(lacking)}; expected one of "
            f"{', '.join(protocol.settings)}, or --protocol=hf for what the config says."
        )
    found = [task for task in tasks if task not in lacking]
    if set(found) & set(protocol.from_mnli) and "mnli" not in found:
        found = ["mnli", *found]
    return sorted(found, key=lambda task: task != "mnli") if protocol.from_mnli else found
