"""The console script `ptft`: finds the command, runs it, and turns errors into exit codes."""

import importlib
import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from ptft_jax.errors import ConfigError, PtftError
from ptft_jax.training.host_memory import keep_freed_memory

COMMANDS = {
    "demo": "the whole path on the embedded corpus, in a few minutes",
    "prepare": "raw text → tokenizer and token shards",
    "pretrain": "MLM + NSP pretraining",
    "finetune": "fine-tuning on GLUE or on your own table",
    "evaluate": "a run's metrics again, from its checkpoint",
    "predict": "fill in masks, or classify texts",
    "export": "a run → a Hugging Face folder",
    "import": "a Hugging Face folder → a run",
}

# `import` is no name for a Python module.
_MODULES = {"import": "import_hf"}


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


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(_overview())
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        print(f"ptft_jax {importlib.metadata.version('ptft_jax')}")
        return 0
    from ptft_jax.commands import settings

    if name not in COMMANDS:
        near = settings.nearest(name, list(COMMANDS))
        hint = f"; did you mean '{near}'?" if near else ""
        raise ConfigError(f"there is no command {name!r}{hint} Commands: {', '.join(COMMANDS)}.")
    keep_freed_memory()
    # A command is imported only when it is called: JAX takes seconds to load.
    module = importlib.import_module(f"ptft_jax.commands.{_MODULES.get(name, name)}")
    from ptft_jax.commands.defaults import BY_COMMAND

    defaults = BY_COMMAND.get(name)
    if "--help" in rest or "-h" in rest:
        print(_help(module, rest, defaults))
        return 0
    values, positional = settings.parse(module.define_flags, rest, defaults)
    module.run(values, positional)
    return 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return (
        "ptft COMMAND [flags]: encoder models in JAX\n\n"
        + "\n".join(lines)
        + "\n\n`ptft COMMAND --help` explains a command."
    )


def _help(module: Any, arguments: Sequence[str], defaults: Callable[[], Any] | None) -> str:
    """Returns a command's docstring, its flags, and the config's keys with their values."""
    from ptft_jax.commands import settings

    values = flags.FlagValues()
    module.define_flags(values)
    lines = [inspect.cleandoc(module.__doc__), "", "Flags:"]
    if defaults is not None:
        lines.append("  --config: Config file, FILE.py or FILE.py:TASK.")
    for name in sorted(values):
        flag = values[name]
        default = "" if flag.default is None else f" (default: {flag.default})"
        lines.append(f"  --{name}: {flag.help}{default}")
    if defaults is not None:
        file = settings.config_of(arguments)
        config = defaults() if file is None else settings.load_config(file)
        source = "the command's own defaults; a config file changes some" if file is None else file
        lines += ["", f"Keys of the config, with the values of {source}:"]
        for name, value in settings.flatten(config.to_dict()).items():
            lines.append(f"  --config.{name}={value}")
        made = inspect.cleandoc(defaults.__doc__ or "").partition("\n\n")[2]
        lines += ["", made] if made else []
    return "\n".join(lines)
