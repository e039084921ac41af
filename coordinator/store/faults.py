"""What an error of redis-py means here: the store is unavailable (and how), or a script is wrong."""

from __future__ import annotations

import re

from redis import exceptions as r

from coordinator.errors import CoordinatorError, StoreUnavailableError

__all__ = ["NoGroupError", "ScriptError", "is_noscript", "moves_the_server", "store_error"]

_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (r.TimeoutError, "timeout"),
    (r.BusyLoadingError, "loading"),
    (r.ReadOnlyError, "read_only"),
    (r.MasterDownError, "cluster_down"),
    (r.ClusterDownError, "cluster_down"),
    (r.MovedError, "try_again"),
    (r.AskError, "try_again"),
    (r.TryAgainError, "try_again"),
    (r.OutOfMemoryError, "out_of_memory"),
    (r.NoPermissionError, "permission"),
    (r.AuthenticationError, "auth"),
    (r.AuthenticationWrongNumberOfArgsError, "auth"),
    (r.MaxConnectionsError, "max_clients"),
)

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
    ("this user has no permissions", "permission"),
    ("unknown command", "unsupported"),
)

_SECRETS = re.compile(r"(?<=://)[^@/\s]+@")


class ScriptError(CoordinatorError):
    """A script met something that it must never meet: an error of this program, not of the store."""


class NoGroupError(CoordinatorError):
    """A stream or its consumer group is missing: make the group at 0, then ask again."""


def is_noscript(error: Exception) -> bool:
    """Whether the server does not know a script's digest."""
    return isinstance(error, r.NoScriptError)


def moves_the_server(error: StoreUnavailableError) -> bool:
    """Whether the right server may be another one now, so that its address must be asked for again."""
    return error.kind in ("connection", "timeout", "read_only", "cluster_down", "try_again", "loading")


def store_error(error: Exception, script: str = "") -> CoordinatorError:
    """The error to raise for one of redis-py's (or of the socket).

    Args:
        error: what redis-py raised or answered.
        script: name of the script that ran, '' for a plain command.
    """
    text = _SECRETS.sub("***@", str(error))
    for kind_of_error, kind in _KINDS:
        if isinstance(error, kind_of_error):
            return StoreUnavailableError(kind, text)
    if "stream key no longer exists" in text:
        return NoGroupError(text)
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
