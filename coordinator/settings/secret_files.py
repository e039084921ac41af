"""Secrets in files, as ``*_FILE`` names them, and tokens."""

from __future__ import annotations

import re
from pathlib import Path

from coordinator.errors import ConfigurationError

__all__ = ["check_tokens", "secret_in", "tokens_in"]

MOST_SECRET = 65536
"""Characters of a file with a secret: a device or a pipe may have no end."""
MOST_TOKENS = 2
"""Of one setting: the old one and the new one."""
_TOKEN = re.compile(r"[!-~]+")
"""No header can show any other."""


def secret_in(path: Path) -> str:
    """What a file says, without white space around it.

    Raises:
        ConfigurationError: it cannot be read, or is empty. The path is not repeated: it may be the secret, in the wrong variable.
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
    """Looks whether a text names one token, two, or none.

    Raises:
        ValueError: it does not; the message repeats no token.
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
