"""The console script `ptft`: finds the command, runs it, and turns errors into exit codes."""

import importlib
import importlib.metadata
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from ptft_jax.errors import ConfigError, PtftError, StopError, StorageError
from ptft_jax.training.memory import keep_freed_memory
from ptft_jax.training.storage import refusal

COMMANDS = {
    "demo": "the whole path on the embedded corpus, in a few minutes",
    "prepare": "raw text → tokenizer and token shards",
    "check": "finds what is wrong with a corpus, or with raw text",
    "data inspect": "rows of a corpus as the model gets them, decoded",
    "data stats": "a corpus and the rows made of it in tables and charts",
    "pretrain": "MLM + NSP pretraining",
    "finetune": "fine-tuning on GLUE or on your own table",
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
_PRINT_CONFIG = "--print_config"
# Commands that go on where they were when they are started again.
_RESTARTABLE = ("pretrain", "finetune", "evaluate")


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
            f"ptft: error: {error.filename or 'a file'} could not be written: {reason}. Expected "
            "room on its disk: make some, and start the same command again.",
            file=sys.stderr,
        )
        return StorageError.exit_code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"ptft_jax {importlib.metadata.version('ptft_jax')}")
        return 0
    wants_help = "--help" in arguments or "-h" in arguments
    parts = _parts_of(arguments[0])
    if parts and wants_help and " ".join(arguments[:2]) not in COMMANDS:
        print(_overview(parts))
        return 0
    name, rest = command_of(arguments)
    if name in _RESTARTABLE and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop_early)
    keep_freed_memory()
    module = module_of(name)
    from ptft_jax.commands.parsing import parse
    from ptft_jax.runs.defaults import BY_COMMAND

    defaults = BY_COMMAND.get(_CONFIG_OF.get(name, name))
    if wants_help:
        print(_help(module, rest, defaults))
        return 0
    if name in _CONFIG_OPTIONAL and not any(word.startswith("--config") for word in rest):
        defaults = None
    prints = defaults is not None and _PRINT_CONFIG in rest
    if prints:
        rest.remove(_PRINT_CONFIG)
    values, positional = parse(module.define_flags, rest, defaults)
    if prints:
        print("\n".join(_keys(values.config)))
        return 0
    module.run(values, positional)
    return 0


def _stop_early(number: int, frame: Any) -> None:
    """Ends a command that loads its modules; later its job takes SIGTERM (`cluster.job`)."""
    print("ptft: stopped by SIGTERM before the first update: nothing to save", file=sys.stderr)
    os._exit(StopError.exit_code)


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
        near = nearest(name, parts or list(COMMANDS))
        hint = f"; did you mean '{near}'?" if near else ""
        known = ", ".join(parts or COMMANDS)
        raise ConfigError(f"there is no command {name!r}{hint} Commands: {known}.")
    return name, list(arguments[words:])


def module_of(name: str) -> Any:
    """Imports a command's module, when it is called and not before: JAX takes seconds to load."""
    module, _, part = _MODULES[name].partition(":")
    found = importlib.import_module(f"ptft_jax.commands.{module}")
    return getattr(found, part) if part else found


def _parts_of(first: str) -> list[str]:
    """The commands of two words that begin with this one."""
    return [name for name in COMMANDS if name.startswith(f"{first} ")]


def _overview(commands: Sequence[str] = tuple(COMMANDS)) -> str:
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {COMMANDS[name]}" for name in commands]
    return (
        "ptft COMMAND [flags]: encoder models in JAX\n\n"
        + "\n".join(lines)
        + "\n\n`ptft COMMAND --help` explains a command."
    )


def _keys(config: Any) -> list[str]:
    """Returns a config's keys as the flags that set them."""
    from ptft_jax.runs.config import flatten

    return [f"--config.{name}={value}" for name, value in flatten(config.to_dict()).items()]


def _help(module: Any, arguments: Sequence[str], defaults: Callable[[], Any] | None) -> str:
    """Returns a command's docstring, its flags, and the config's keys with their values."""
    from ptft_jax.commands.parsing import config_of
    from ptft_jax.runs.config import load_config

    values = flags.FlagValues()
    module.define_flags(values)
    lines = [inspect.cleandoc(module.__doc__), "", "Flags:"]
    if defaults is not None:
        lines.append(
            "  --config: A shipped config (pretrain/bert_base) or FILE.py, :TASK behind it."
        )
        lines.append(f"  {_PRINT_CONFIG}: Print the config as the flags make it, and stop.")
    for name in sorted(values):
        flag = values[name]
        default = "" if flag.default is None else f" (default: {flag.default})"
        lines.append(f"  --{name}: {flag.help}{default}")
    if defaults is not None:
        file = config_of(arguments)
        config = defaults() if file is None else load_config(file)
        source = "the command's own defaults; a config file changes some" if file is None else file
        lines += ["", f"Keys of the config, with the values of {source}:"]
        lines += [f"  {line}" for line in _keys(config)]
        made = inspect.cleandoc(defaults.__doc__ or "").partition("\n\n")[2]
        lines += ["", made] if made else []
    return "\n".join(lines)
