"""Rules of single settings that are more than a bound: what each value must be by itself, or what it is completed to."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationInfo

from coordinator.bounds import MOST_TEXT, NAME, NAME_RULE, check_labels, check_name, check_pool, check_text
from coordinator.errors import ConfigurationError, InvalidIdError, InvalidValueError
from coordinator.settings.secret_files import check_tokens
from coordinator.store.durability import Durability
from coordinator.store.url import parse_url

__all__ = [
    "IN_WORDS", "MOST_DATA_BYTES", "NAMESPACE", "PREFIX", "any_text", "api_server", "durability", "labels", "pool",
    "process_name", "store_url", "tokens",
]  # fmt: skip

MOST_DATA_BYTES = 64 * 1024 * 1024
MOST_SETTING = 4096
"""Characters of a text, such as a path."""
PREFIX = f"^{NAME}$"
NAMESPACE = r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$"
IN_WORDS = {
    PREFIX: NAME_RULE,
    NAMESPACE: "the name of a namespace: 1 to 63 characters of a-z 0-9 -, with no - at either end",
}
"""What a text is that these patterns describe, in words."""


def process_name(value: object) -> str:
    """The name of a process; that of its host where none is given."""
    if value == "":
        value = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:63] or "worker"
    try:
        return check_name(value)  # type: ignore[arg-type]
    except InvalidIdError as error:
        raise ValueError(str(error)) from None


def store_url(value: SecretStr | None) -> SecretStr | None:
    """A URL of the store that can be read."""
    if value is not None:
        try:
            parse_url(value.get_secret_value())
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
    return value


def tokens(value: SecretStr | None) -> SecretStr | None:
    """One token or two."""
    if value is not None:
        check_tokens(value.get_secret_value())
    return value


def durability(value: str) -> str:
    """A durability that can be read."""
    Durability.parse(value)
    return value


def pool(value: str) -> str:
    """The name of a pool."""
    try:
        return check_pool(value)
    except InvalidIdError as error:
        raise ValueError(str(error)) from None


def labels(value: dict[str, str]) -> dict[str, str]:
    """Labels, not too many and each within its bounds."""
    try:
        check_labels(value)
    except InvalidValueError as error:
        raise ValueError(str(error)) from None
    return value


def any_text(value: object, info: ValidationInfo) -> object:
    """Checks a text, such as a path or an address: it has no invisible characters."""
    if isinstance(value, str):
        try:
            check_text("it", value, MOST_TEXT if info.field_name in ("address", "tenant") else MOST_SETTING)
        except InvalidValueError as error:
            raise ValueError(str(error).removeprefix("it: ")) from None
    return value


def api_server(value: str) -> str:
    """The URL of an API server to which a token may be sent, or nothing."""
    try:
        parts = urlsplit(value)
        fits = not value or (parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
    except ValueError:  # whose text repeats a part of it
        fits = False
    if not fits:
        raise ValueError("that is not a URL: use https://host:port")
    if "@" in value or parts.query or parts.fragment:
        raise ValueError("the URL must be only https://host:port; its credentials are in pod_credentials")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError(f"http://{parts.hostname} would send the token in clear: use https, or http on loopback")
    return value
