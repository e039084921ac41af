"""What may stand behind the ``?`` of a Redis URL: each option with its type, and which of them fit together."""

from __future__ import annotations

import difflib
import re
import ssl
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import unquote

__all__ = ["SENTINEL", "TLS", "TYPES", "check_tls", "decoded", "parse_options", "try_tls", "unverified"]

_NAME = re.compile(r"[a-z0-9_]{1,40}")


def decoded(text: str) -> str:
    """The text, percent-decoded.

    Raises:
        ValueError: the result is invalid UTF-8; the message does not repeat it.
    """
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("what is written with % is invalid UTF-8") from None


def _text(text: str) -> str:
    if not text:
        raise ValueError("has no value")
    return text


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("is not a number")
    return int(text)


def _switch(text: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in known:
        raise ValueError("is neither true nor false")
    return known[text.lower()]


def _cert_reqs(text: str) -> ssl.VerifyMode:
    known = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_REQUIRED, "none": ssl.CERT_NONE}
    if text.lower() not in known:
        raise ValueError("is neither required nor none")
    return known[text.lower()]


def _min_version(text: str) -> ssl.TLSVersion:
    match = re.fullmatch(r"(?:tlsv?)?1[._]([23])", text.lower())
    if not match:
        raise ValueError("is neither TLSv1.2 nor TLSv1.3")
    return ssl.TLSVersion.TLSv1_2 if match[1] == "2" else ssl.TLSVersion.TLSv1_3


TLS: dict[str, Callable[[str], Any]] = {
    "ssl_ca_certs": _text,
    "ssl_ca_path": _text,
    "ssl_ca_data": _text,
    "ssl_certfile": _text,
    "ssl_keyfile": _text,
    "ssl_password": _text,
    "ssl_cert_reqs": _cert_reqs,
    "ssl_check_hostname": _switch,
    "ssl_min_version": _min_version,
    "ssl_ciphers": _text,
}
SENTINEL: dict[str, Callable[[str], Any]] = {"sentinel_username": _text, "sentinel_password": _text}
TYPES: dict[str, Callable[[str], Any]] = {"db": _number, **TLS, **SENTINEL}
_ELSEWHERE = {
    **dict.fromkeys(TLS, "is for TLS, and this URL is not: begin it with rediss"),
    **dict.fromkeys(SENTINEL, "is for redis+sentinel:// and rediss+sentinel://"),
    "db": "is not for this URL: the database of a sentinel URL stands in its path, and a cluster has but one",
    "username": "is not supported: user and password stand before the host",
    "password": "is not supported: user and password stand before the host",
}


def parse_options(query: str, known: Collection[str]) -> dict[str, Any]:
    """The options of a query, by name, each of its type.

    Args:
        query: as it stands in the URL. A ``+`` is a plus.
        known: names that fit the URL's scheme.

    Raises:
        ValueError: an option is unknown, does not fit, is given twice or has a wrong value. Values are not repeated.
    """
    found: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if not _NAME.fullmatch(name):
            raise ValueError("an option's name has other characters than a-z, 0-9 and _")
        if name in found:
            raise ValueError(f"option {name} is given twice")
        if name not in known:
            raise ValueError(f"option {name} {_ELSEWHERE.get(name) or _unknown(name, known)}")
        try:
            found[name] = TYPES[name](decoded(value))
        except ValueError as error:
            raise ValueError(f"option {name}: its value {error}") from None
    return found


def _unknown(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"is not known{f'; did you mean {near[0]}?' if near else ''} (known: {', '.join(sorted(known))})"


def check_tls(options: dict[str, Any]) -> None:
    """Checks that the TLS options fit together.

    Raises:
        ValueError: one of them would have no effect.
    """
    unchecked = options.get("ssl_cert_reqs") == ssl.CERT_NONE
    if unchecked and options.get("ssl_check_hostname"):
        raise ValueError("ssl_check_hostname=true does not go with ssl_cert_reqs=none, which looks at no certificate")
    if unchecked and (named := [name for name in options if name.startswith("ssl_ca_")]):
        raise ValueError(f"{named[0]} does not go with ssl_cert_reqs=none, which looks at no certificate")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ValueError("ssl_keyfile needs ssl_certfile")
    if "ssl_password" in options and "ssl_certfile" not in options:
        raise ValueError("ssl_password opens a client's key: it needs ssl_certfile")


def unverified(options: dict[str, Any]) -> str:
    """What is wrong with a connection that trusts servers that it should not, '' when nothing is."""
    if options.get("ssl_cert_reqs") == ssl.CERT_NONE:
        return "ssl_cert_reqs=none: the server's certificate is not checked, so any machine on the way can read and change everything"
    if options.get("ssl_check_hostname") is False:
        return "ssl_check_hostname=false: the server may show the certificate of any other host of the same authority"
    return ""


def try_tls(options: dict[str, Any]) -> None:
    """Reads the files that the options name, as each connection will.

    Raises:
        ValueError: a file cannot be read or used; the message names options, no values.
    """
    context = ssl.create_default_context()
    own = {name.removeprefix("ssl_ca_"): options[name] for name in options if name.startswith("ssl_ca_")}
    if "ssl_certfile" in options:
        password = options.get("ssl_password", "")
        _reading(
            "ssl_certfile, ssl_keyfile or ssl_password",
            lambda: context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), password),
        )
    for name, value in own.items():
        keyword = {"certs": "cafile", "path": "capath", "data": "cadata"}[name]
        _reading(f"ssl_ca_{name}", lambda k=keyword, v=value: context.load_verify_locations(**{k: v}))  # type: ignore[misc]
    if "ssl_ciphers" in options:
        _reading("ssl_ciphers", lambda: context.set_ciphers(options["ssl_ciphers"]))


def _reading(option: str, read: Callable[[], object]) -> None:
    """Calls ``read``, and names the option to blame when it fails.

    Raises:
        ValueError: it failed.
    """
    try:
        read()
    except ssl.SSLError as error:
        raise ValueError(
            f"{option} cannot be used: {(getattr(error, 'reason', '') or 'not what it should be').lower()}"
        ) from None
    except OSError as error:
        raise ValueError(f"{option} cannot be used: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{option} cannot be used: not what it should be") from None
