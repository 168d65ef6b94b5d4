"""The console script `ptft`: finds the command, runs it, and turns errors into exit codes."""

import importlib
import importlib.metadata
import inspect
import os
import sys
from collections.abc import Sequence

from absl import flags

from ptft_jax.errors import ConfigError, PtftError

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
    # A command is imported only when it is called: JAX takes seconds to load.
    module = importlib.import_module(f"ptft_jax.commands.{_MODULES.get(name, name)}")
    if "--help" in rest or "-h" in rest:
        print(_help(module))
        return 0
    values, positional = settings.parse(module.define_flags, rest, has_config=module.HAS_CONFIG)
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


def _help(module) -> str:
    values = flags.FlagValues()
    module.define_flags(values)
    text = inspect.cleandoc(module.__doc__)
    if module.HAS_CONFIG:
        text += (
            "\n\n  --config: Config file, FILE.py or FILE.py:TASK.\n"
            "  --config.key=value: Overrides a key of the config; the file's docstring and\n"
            "    ptft_jax/commands/defaults.py say which there are."
        )
    for name in sorted(values):
        flag = values[name]
        default = "" if flag.default is None else f" (default: {flag.default})"
        choices = getattr(flag.parser, "enum_values", None)
        shown = f"={'|'.join(choices)}" if choices else ""
        text += f"\n  --{name}{shown}: {flag.help}{default}"
    return text
