"""Secrets in files, as ``*_FILE`` names them, which are read again; and tokens."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

import structlog
from pydantic import SecretStr

from coordinator.errors import ConfigurationError
from coordinator.keyring import KeyFile

__all__ = ["SecretsReadAgain", "check_tokens", "secret_in", "tokens_in"]

log = structlog.get_logger()

MOST_SECRET = 65536
"""Most characters of a file with a secret: a device or a pipe may have no end."""
MOST_TOKENS = 2
"""Most tokens of one setting: the old one and the new one."""
_TOKEN = re.compile(r"[!-~]+")
"""Characters of a token: no header can show any other."""


def secret_in(path: Path) -> str:
    """What a file says, without white space around it.

    Raises:
        ConfigurationError: the file cannot be read, or is empty. The path is not repeated: it may be the secret itself.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_SECRET + 1)
    except OSError as error:
        raise ConfigurationError(f"the file that it names cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigurationError("the file that it names cannot be read: it is not UTF-8") from None
    if len(text) > MOST_SECRET:
        raise ConfigurationError(f"the file that it names is longer than {MOST_SECRET:,} characters")
    if not text.strip():
        raise ConfigurationError("the file that it names is empty")
    return text.strip()


def tokens_in(text: str) -> tuple[str, ...]:
    """The tokens that a text names, separated by commas."""
    return tuple(filter(None, (token.strip() for token in text.split(","))))


def check_tokens(text: str) -> None:
    """Checks that a text names one token, two, or none.

    Raises:
        ValueError: the text is invalid; the message repeats no token.
    """
    tokens = text.split(",") if text.strip() else []
    if any(not _TOKEN.fullmatch(token.strip()) for token in tokens if token.strip()):
        raise ValueError(
            "a token is printable ASCII without white space; of two, one stands before a comma, and one after it"
        )
    if any(not token.strip() for token in tokens):
        raise ValueError("beside a comma there is no token: one, or two with a comma between them, may be valid")
    if len(tokens) > MOST_TOKENS:
        raise ValueError(f"there are {len(tokens)} tokens: two may be valid at once, the old and the new one")


class SecretsReadAgain:
    """The secrets of a program that came out of files: each is read again when it is used, and the last good one stays.

    Args:
        paths: their files, by the names of the settings; what is not there stays as it was given.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths
        self._refused: dict[str, str] = {}

    def url(self, last: SecretStr | None) -> SecretStr | None:
        """The store's URL as its file says it now."""
        if (path := self._paths.get("redis_url")) is not None:
            with contextlib.suppress(ConfigurationError):  # being replaced just now: the last one
                return SecretStr(secret_in(path))
        return last

    def keys(self) -> KeyFile | None:
        """The file of ``ENCRYPTION_KEYS``, which reads itself again; None when they came from elsewhere."""
        path = self._paths.get("encryption_keys")
        return None if path is None else KeyFile(path)

    def tokens(self, name: str, last: SecretStr | None) -> SecretStr | None:
        """Those that their file says now. Where it says none, or cannot be read, the last ones stay, which is logged once a reason."""
        if (path := self._paths.get(name)) is None:
            return last
        try:
            text = secret_in(path)
            check_tokens(text)
        except (ConfigurationError, ValueError) as error:
            if self._refused.get(name) != str(error):
                log.warning("token_file_refused", setting=name, why=str(error))
            self._refused[name] = str(error)
            return last
        self._refused.pop(name, None)
        if last is not None and last.get_secret_value() == text:
            return last
        log.info("token_file_changed", setting=name, tokens=len(tokens_in(text)))
        return SecretStr(text)
