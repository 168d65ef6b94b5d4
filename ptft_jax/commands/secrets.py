"""Credentials are kept out of command lines and configs, which a run writes down."""

import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

from ptft_jax.errors import ConfigError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET_NAMES = ("key", "sig", "auth", "pwd", "pass", "passwd", "code")
_SECRET_ENDINGS = (
    *("token", "secret", "password", "signature", "credential", "credentials"),
    *("apikey", "accesskey", "accesskeyid", "privatekey"),
)


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
