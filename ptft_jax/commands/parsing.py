"""From a command line to flags and an ml_collections config, with every mistake caught by name."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import unquote

from absl import flags
from ml_collections import config_flags

from ptft_jax.errors import ConfigError
from ptft_jax.runs.config import (
    Config,
    check_complete,
    flatten,
    load_config,
    nearest,
    shipped_configs,
)

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET_NAMES = ("key", "sig", "auth", "pwd", "pass", "passwd", "code")
_SECRET_ENDINGS = (
    *("token", "secret", "password", "signature", "credential", "credentials"),
    *("apikey", "accesskey", "accesskeyid", "privatekey"),
)


Define = Callable[[flags.FlagValues], None]


def parse(define: Define, arguments: Sequence[str], command: str | None = None) -> flags.FlagValues:
    """Reads a command's flags, beside which there is nothing; see `parse_with_words`.

    Raises:
        ConfigError: as there, and for a word that is no flag.
    """
    values, words = parse_with_words(define, arguments, command)
    if words:
        raise ConfigError(
            f"{words[0]!r}: expected flags only, like --run_dir=RUN. `ptft COMMAND --help` lists "
            "the flags."
        )
    return values


def required(values: flags.FlagValues, *names: str) -> None:
    """Raises ConfigError, with a flag's help, where one of some flags has no value."""
    for name in names:
        if values[name].value in (None, ""):
            raise ConfigError(f"--{name} is missing: {values[name].help}")


def parse_with_words(
    define: Define, arguments: Sequence[str], command: str | None = None
) -> tuple[flags.FlagValues, list[str]]:
    """Reads a command's flags, and the words beside them.

    Args:
        define: defines the command's own flags.
        arguments: what follows the command's name.
        command: the one whose config it takes, by `--config=NAME_OR_FILE` and
            `--config.key=value`; None for a command without a config.

    Returns:
        The flag values, `config` (a locked ConfigDict) among them, and the words.

    Raises:
        ConfigError: an unknown flag or config key (with the nearest one), a value of a wrong type,
            a credential in a URL, or a config file that is not there or lacks keys.
    """
    refuse_secrets(arguments)
    arguments = [_at_home(argument) for argument in arguments]
    if command is None:
        return _read(define, arguments)
    file, arguments = _split_config(arguments)
    if file is None:
        raise ConfigError(
            f"--config is missing: name a config or its file; {shipped_configs(command)}."
        )
    config = load_config(file)
    refuse_secrets((), flatten(config.to_dict()).items())
    check_complete(config, command, f"--config={file}")
    known = flatten(config.to_dict())
    for argument in arguments:
        if argument.startswith(("--config.", "--noconfig.")):
            _check_key(argument.partition("=")[0].partition("config.")[2], known)
            if "=" in argument:
                _check_value(argument, load_config(file))
    return _read(define, arguments, config)


def _at_home(argument: str) -> str:
    """Expands the ~ of `--flag=~/folder`, which a shell leaves to the program."""
    name, equals, value = argument.partition("=")
    is_flag = name.startswith("-") and equals and re.match(r"~[\w.-]*(/|$)", value)
    return f"{name}={os.path.expanduser(value)}" if is_flag else argument


def config_of(arguments: Sequence[str]) -> str | None:
    """Returns the value of `--config` in a command line, None where there is none."""
    return _split_config(arguments)[0]


def _read(
    define: Define, arguments: Sequence[str], config: Any = None
) -> tuple[flags.FlagValues, list[str]]:
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    argv = ["ptft", *arguments]
    if config is not None:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    define(values)
    try:
        return values, values(argv)[1:]
    except flags.Error as error:
        text = str(error).strip().rstrip(".?").rstrip()
        raise ConfigError(f"{text}. `ptft COMMAND --help` lists the flags.") from error


def _split_config(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Takes `--config=FILE` or `--config FILE` out of a command line."""
    found, rest = [], []
    ahead = iter(arguments)
    for argument in ahead:
        if argument == "--config":
            found.append(next(ahead, ""))
        elif argument.startswith("--config="):
            found.append(argument.removeprefix("--config="))
        else:
            rest.append(argument)
    if len(found) > 1:
        raise ConfigError(f"--config is given {len(found)} times, {', '.join(found)}: name one.")
    return (found[0] or None) if found else None, rest


def _check_key(key: str, known: dict[str, Any]) -> None:
    if key in known:
        return
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        raise ConfigError(
            f"--config.{key}: '{key}' is a section; set its keys, like --config.{inside[0]}=…"
        )
    near = nearest(key, list(known))
    hint = f"the nearest key is '{near}'" if near else "`ptft COMMAND --help` lists the keys"
    raise ConfigError(f"--config.{key}: the config has no key '{key}'; {hint}.")


def key_type(config: Config, key: str) -> type:
    """Returns the type of a key's values; of one that is None, that of those it may have."""
    *path, last = key.split(".")
    for name in path:
        config = config[name]
    return config.get_type(last)


def _check_value(argument: str, config: Config) -> None:
    """Raises ConfigError when an override is not of its key's type; writes into `config`."""
    key = argument.partition("=")[0].removeprefix("--config.")
    kind, now = key_type(config, key), flatten(config.to_dict())[key]
    try:
        _read(lambda _: None, [argument], config)
    except ConfigError as error:
        example = "" if now in (None, "", ()) else f", like {now}"
        raise ConfigError(f"{argument}: expected {_KINDS.get(kind, kind)}{example}.") from error


_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    tuple: "a list in brackets, like (32,64)",
}


def refuse_secrets(arguments: Sequence[str], settings: Iterable[tuple[str, Any]] = ()) -> None:
    """Raises ConfigError for a URL with a user's password or a token in it; never repeats them.

    Args:
        arguments: the words of a command line.
        settings: names and values from elsewhere, as of a config file.
    """
    named = [(f"--config.{name}", str(value)) for name, value in settings]
    for before, word in zip(("", *arguments), arguments, strict=False):
        flag, equals, value = word.partition("=")
        if word.startswith("-"):
            named.append((flag, value) if equals else ("the command line", word))
        else:
            named.append((before if before.startswith("-") else "the command line", word))
    for name, value in named:
        found = _secret_in(value)
        if found:
            raise ConfigError(
                f"{name}: {found}; a run writes its config and command line to files, and other "
                "users of the machine can read a command line. Take it out and give it through "
                "the environment, where the library of the file system looks for it "
                "(AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN; for https:// "
                "FSSPEC_HTTPS)"
            )


def _secret_in(text: str) -> str:
    """Says which part of a URL in a text is a credential, without its value; "" for none."""
    for match in _URL.finditer(text):
        scheme = match[1].lower()
        rest = text[match.end() :].split(maxsplit=1)[0] if text[match.end() :].strip() else ""
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
        user, at, _ = authority.rpartition("@")
        # Elsewhere a name before the @ is an account (ssh://me@host) or the @ begins a weight.
        if at and (":" in user or scheme in ("http", "https")):
            return f"a URL of {scheme}:// has a user and password before its host"
        _, mark, query = rest.partition("?" if "?" in rest else "#")
        for part in re.split(r"[&;#]", query) if mark else ():
            parameter, equals, value = part.partition("=")
            plain = re.sub(r"[-_.]", "", unquote(parameter)).lower()
            if equals and value and (plain in _SECRET_NAMES or plain.endswith(_SECRET_ENDINGS)):
                return f"a URL of {scheme}:// has the parameter {parameter!r}, a credential"
    return ""
