"""What an error of redis-py means here: the store is unavailable (and how), or a script is wrong."""

from __future__ import annotations

from redis import exceptions as r

from coordinator.errors import CoordinatorError, StoreUnavailableError
from coordinator.masking import mask_error, masked

__all__ = [
    "NoGroupError",
    "ScriptError",
    "concerns_one",
    "connection_error",
    "is_noscript",
    "moves_the_server",
    "store_error",
]

_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (r.TimeoutError, "timeout"),
    (r.BusyLoadingError, "loading"),
    (r.ReadOnlyError, "read_only"),
    (r.MasterDownError, "cluster_down"),
    (r.ClusterDownError, "cluster_down"),
    (r.MovedError, "try_again"),
    (r.OutOfMemoryError, "out_of_memory"),
    (r.NoPermissionError, "permission"),
    (r.AuthenticationError, "auth"),
    (r.AuthenticationWrongNumberOfArgsError, "auth"),
    (r.MaxConnectionsError, "max_clients"),
)

_CODES = {"MOVED": "try_again"}
_MOVING = ("ASK", "TRYAGAIN")
"""First words of an error answer of which the rest may say anything."""

_WORDS = (
    ("max number of clients", "max_clients"),
    ("NOREPLICAS", "no_replicas"),
    ("not enough good replicas", "no_replicas"),
    ("MISCONF", "disk"),
    ("BUSY ", "busy"),
    ("UNBLOCKED", "try_again"),
    ("LOADING", "loading"),
    ("READONLY", "read_only"),
    ("MASTERDOWN", "cluster_down"),
    ("CLUSTERDOWN", "cluster_down"),
    ("used memory > 'maxmemory'", "out_of_memory"),
    ("NOAUTH", "auth"),
    ("Authentication required", "auth"),
    ("WRONGPASS", "auth"),
    ("invalid username-password pair", "auth"),
    ("NOPERM", "permission"),
    ("has no permissions to", "permission"),
    ("No permissions to access", "permission"),
    ("ACL failure in script", "permission"),
    ("The user executing the script can't", "permission"),
    ("unknown command", "unsupported"),
)


class ScriptError(CoordinatorError):
    """A script met something that it must never meet: an error of this program, not of the store."""


class NoGroupError(CoordinatorError):
    """A stream or its consumer group is missing: make the group at 0, then ask again."""


def is_noscript(error: Exception) -> bool:
    """Whether the server does not know a script's digest."""
    return isinstance(error, r.NoScriptError) or (
        isinstance(error, r.ResponseError) and str(error).startswith("NOSCRIPT")
    )


def concerns_one(error: BaseException) -> bool:
    """Whether an error is about what one request touched (a key of another type, say), and not about the store."""
    return isinstance(error, ScriptError | NoGroupError) or (
        isinstance(error, StoreUnavailableError) and error.kind == "other"
    )


def moves_the_server(error: StoreUnavailableError) -> bool:
    """Whether the right server may be another one now, so that its address must be asked for again."""
    return error.kind in ("connection", "timeout", "read_only", "cluster_down", "try_again", "loading", "no_replicas")


def store_error(error: Exception, script: str = "") -> CoordinatorError:
    """The error to raise for one of redis-py's (or of the socket).

    Args:
        error: what redis-py raised or answered.
        script: name of the script that ran, '' for a plain command.
    """
    mask_error(error)
    text = masked(str(error))
    if isinstance(error, r.AskError | r.TryAgainError) or text.split(" ", 1)[0] in _MOVING:
        return StoreUnavailableError(
            "try_again", f"{text}: the slot of this partition is being moved to another server"
        )
    for kind_of_error, kind in _KINDS:
        if isinstance(error, kind_of_error):
            return StoreUnavailableError(kind, text)
    if "stream key no longer exists" in text:
        return NoGroupError(text)
    if (code := text.split(" ", 1)[0]) in _CODES:
        return StoreUnavailableError(_CODES[code], text)
    for word, kind in _WORDS:
        if word in text:
            return StoreUnavailableError(kind, text)
    if text.startswith("NOGROUP") or "No such key" in text:
        return NoGroupError(text)
    if isinstance(error, r.ConnectionError | OSError):
        return StoreUnavailableError("connection", text)
    if script:
        return ScriptError(f"{script}.lua: {text}")
    return StoreUnavailableError("other", text)


def connection_error(error: BaseException) -> StoreUnavailableError:
    """The error to raise for any error of a connection: event loops, TLS and resolvers do not raise `OSError` alone."""
    if isinstance(error, StoreUnavailableError):
        return error
    if isinstance(error, TimeoutError):
        return StoreUnavailableError("timeout", str(error) or "no answer in time")
    if isinstance(error, r.RedisError | OSError):
        known = store_error(error)
        if isinstance(known, StoreUnavailableError) and known.kind != "other":
            return known
    return StoreUnavailableError("connection", masked(f"{type(error).__name__}: {error}"))
