"""The console script `ptft`: finds the command, runs it, and turns errors into exit codes."""

import importlib
import importlib.metadata
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from ptft_jax.errors import ConfigError, PtftError, StopError, StorageError
from ptft_jax.training.resources.memory import keep_freed_memory
from ptft_jax.training.resources.storage import expected_of, refusal

COMMANDS = {
    "demo": "the whole path on the embedded corpus, in a few minutes",
    "prepare": "raw text → tokenizer and token shards",
    "check": "finds what is wrong with a corpus, or with raw text",
    "data inspect": "rows of a corpus as the model gets them, decoded",
    "data stats": "a corpus and the rows made of it in tables and charts",
    "pretrain": "MLM + NSP pretraining",
    "finetune": "fine-tuning on GLUE or on your own table",
    "sweep": "grid or random search over the settings of trainings",
    "lr_find": "up to which learning rate a training is stable",
    "plan": "memory, traffic, time and cost of pretraining on machines that are not at hand",
    "bench train": "updates a second here, and beside PyTorch",
    "bench attention": "attention alone, by each backend",
    "bench input": "how fast batches are made",
    "bench predict": "answers of a trained model a second, and beside PyTorch",
    "status": "how a run stands, and where its time went",
    "evaluate": "a run's metrics again, from its checkpoint",
    "predict": "fill in masks, or classify texts",
    "embed": "texts → vectors",
    "export": "a run → a Hugging Face folder",
    "import": "a Hugging Face folder → a run",
    "ckpt ls": "the checkpoints of a run",
    "ckpt verify": "compares checkpoints with their SHA-256 manifests",
    "ckpt rewind": "takes a run back to an earlier checkpoint",
    "launch local": "a training command in several processes on this machine",
    "launch slurm": "a training command as a SLURM job",
    "launch gke": "a training command as a JobSet on Kubernetes",
    "launch tpu": "a training command on all workers of a TPU VM",
    "launch mpi": "a training command under Open MPI",
}

# The module of each command below `ptft_jax.commands`; those that share one are objects in it.
_MODULES = {
    "demo": "use.demo",
    "prepare": "data.prepare",
    "check": "data.check",
    "data inspect": "data.inspect",
    "data stats": "data.stats",
    "pretrain": "train.pretrain",
    "finetune": "train.finetune",
    "sweep": "train.sweep",
    "lr_find": "train.lr_find",
    "plan": "look.plan",
    "bench train": "look.bench:Train",
    "bench attention": "look.bench:Attention",
    "bench input": "look.bench:Input",
    "bench predict": "look.bench:Predict",
    "status": "look.status",
    "evaluate": "train.evaluate",
    "predict": "use.predict",
    "embed": "use.embed",
    "export": "use.export",
    "import": "use.import_hf",
    "ckpt ls": "look.checkpoints:Ls",
    "ckpt verify": "look.checkpoints:Verify",
    "ckpt rewind": "look.checkpoints:Rewind",
    "launch local": "launch.local",
    "launch slurm": "launch.slurm",
    "launch gke": "launch.gke",
    "launch tpu": "launch.tpu",
    "launch mpi": "launch.mpi",
}
# Commands that read another one's config, and those that can do without any.
_CONFIG_OF = {
    "check": "prepare",
    "data inspect": "pretrain",
    "data stats": "pretrain",
    "plan": "pretrain",
    "bench train": "pretrain",
    "bench input": "pretrain",
}
_CONFIG_OPTIONAL = ("check",)
# Commands for a config of `ptft finetune` or of `ptft pretrain`.
_CONFIG_OF_EITHER = ("sweep", "lr_find")
_PRINT_CONFIG = "--print_config"
# Commands that take words beside their flags: texts, or the command to launch.
_TAKE_WORDS = ("predict", *(name for name in COMMANDS if name.startswith("launch ")))
# Commands that go on where they were when they are started again.
_RESTARTABLE = ("pretrain", "finetune", "sweep", "evaluate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code (docs/errors.md lists the codes)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(arguments)
    except PtftError as error:
        print(f"ptft: error: {error}", file=sys.stderr)
        return error.exit_code
    except PermissionError as error:
        print(
            f"ptft: error: {error.filename}: permission denied; expected a path that this user may "
            "use: change its owner or mode, or name another.",
            file=sys.stderr,
        )
        return ConfigError.exit_code
    except KeyboardInterrupt:
        print("ptft: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain again while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        reason = refusal(error)
        if reason is None:
            raise
        print(
            f"ptft: error: {error.filename or 'a file'} could not be written: {reason}. "
            f"{expected_of(error)}, and start the same command again.",
            file=sys.stderr,
        )
        return StorageError.exit_code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        from ptft_jax.commands import help

        if " ".join(arguments[1:]) in COMMANDS:
            return _run([*arguments[1:], "--help"])
        print(help.of_key(arguments[1]) if len(arguments) > 1 else help.overview(COMMANDS))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"ptft_jax {importlib.metadata.version('ptft_jax')}")
        return 0
    wants_help = "--help" in arguments or "-h" in arguments
    parts = _parts_of(arguments[0])
    if parts and wants_help and " ".join(arguments[:2]) not in COMMANDS:
        from ptft_jax.commands import help

        print(help.overview({name: COMMANDS[name] for name in parts}))
        return 0
    name, rest = command_of(arguments)
    if name in _RESTARTABLE and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                signal.signal(number, _stop_early)
    keep_freed_memory()
    module = module_of(name)
    from ptft_jax.commands.parsing import parse, parse_with_words
    from ptft_jax.runs.defaults import WITH_CONFIG

    taken = _CONFIG_OF.get(name, name)
    if name in _CONFIG_OF_EITHER:
        from ptft_jax.commands.train.flags import command_for

        taken = command_for(rest)
    taken = taken if taken in WITH_CONFIG else None
    if wants_help:
        from ptft_jax.commands import help

        print(help.of_command(module, taken, rest))
        return 0
    if name in _CONFIG_OPTIONAL and not any(word.startswith("--config") for word in rest):
        taken = None
    prints = taken is not None and _PRINT_CONFIG in rest
    if prints:
        rest.remove(_PRINT_CONFIG)
    if name == "finetune" or name in _CONFIG_OF_EITHER:
        from ptft_jax.commands.train import continual, many

        several: Any = module
        if name == "finetune":
            several = continual if continual.is_asked(rest) else many
        if several is not many or many.is_asked(rest):
            plan = several.planned(rest)
            several.show(plan) if prints else several.run(plan)
            return 0
    if name in _TAKE_WORDS:
        module.run(*parse_with_words(module.define_flags, rest))
        return 0
    values = parse(module.define_flags, rest, taken)
    if prints:
        from ptft_jax.commands import help

        print("\n".join(help.key_flags(values.config)))
        return 0
    module.run(values)
    return 0


def _stop_early(number: int, frame: Any) -> None:
    """Ends a command that loads its modules; later its job takes signals (`cluster.job`)."""
    name = signal.Signals(number).name
    print(f"ptft: stopped by {name} before the first update: nothing to save", file=sys.stderr)
    os._exit(StopError.exit_code if number == signal.SIGTERM else 128 + number)


def command_of(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Splits a command line into its command, of one or two words, and what follows.

    Raises:
        ConfigError: there is no such command.
    """
    from ptft_jax.runs.config import nearest

    parts = _parts_of(arguments[0])
    words = 2 if parts and len(arguments) > 1 and arguments[1][:1] != "-" else 1
    name = " ".join(arguments[:words])
    if name not in COMMANDS:
        # Of two words the first one is right, and says nothing of which the second may be.
        names = {one.rpartition(" ")[2]: one for one in parts} or {one: one for one in COMMANDS}
        near = nearest(name.rpartition(" ")[2], list(names))
        all_of_it = f"expected {', '.join(parts)}." if parts else "`ptft help` lists them."
        hint = f"did you mean '{names[near]}'?" if near else all_of_it
        raise ConfigError(f"there is no command {name!r}; {hint}")
    return name, list(arguments[words:])


def module_of(name: str) -> Any:
    """Imports a command's module, when it is called and not before: JAX takes seconds to load."""
    module, _, part = _MODULES[name].partition(":")
    found = importlib.import_module(f"ptft_jax.commands.{module}")
    return getattr(found, part) if part else found


def _parts_of(first: str) -> list[str]:
    """The commands of two words that begin with this one."""
    return [name for name in COMMANDS if name.startswith(f"{first} ")]
