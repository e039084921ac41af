"""What the errors of Redis and of redis-py mean here."""

from __future__ import annotations

import pytest
import redis
from redis import exceptions as r

from coordinator.errors import STORE_ERROR_KINDS, StoreUnavailableError
from coordinator.store.faults import (
    NoGroupError,
    ScriptError,
    concerns_one,
    connection_error,
    is_noscript,
    moves_the_server,
    store_error,
)

CASES = [
    (r.TimeoutError("Timeout reading"), "timeout"),
    (r.BusyLoadingError("Redis is loading the dataset in memory"), "loading"),
    (r.ReadOnlyError("You can't write against a read only replica."), "read_only"),
    (r.ResponseError("READONLY You can't write against a read only replica. script: x"), "read_only"),
    (r.ClusterDownError("CLUSTERDOWN Hash slot not served"), "cluster_down"),
    (r.ResponseError("MASTERDOWN Link with MASTER is down"), "cluster_down"),
    (r.TryAgainError("TRYAGAIN"), "try_again"),
    (r.ResponseError("NOREPLICAS Not enough good replicas to write."), "no_replicas"),
    (r.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "disk"),
    (r.ResponseError("OOM command not allowed when used memory > 'maxmemory'."), "out_of_memory"),
    (r.ResponseError("BUSY Redis is busy running a script."), "busy"),
    (r.AuthenticationError("WRONGPASS invalid username-password pair"), "auth"),
    (redis.ConnectionError("Authentication required."), "auth"),
    (r.NoPermissionError("this user has no permissions to run the 'evalsha' command"), "permission"),
    (
        r.ResponseError(
            "The user executing the script can't run this command or subcommand script: 3c4f, on @user_script:1."
        ),
        "permission",
    ),
    (
        r.ResponseError(
            "The user executing the script can't publish to the channel mentioned in the command script: 3c4f."
        ),
        "permission",
    ),
    (
        r.ResponseError("ACL failure in script: User voice has no permissions to run the 'hset' command script: 3c4f."),
        "permission",
    ),
    (r.ResponseError("NOPERM No permissions to access a key"), "permission"),
    (r.ResponseError("User voice has no permissions to access the '{recovery:0}:mailbox:a' channel"), "permission"),
    (r.ResponseError("MOVED 5798 127.0.0.1:7001"), "try_again"),
    (r.ResponseError("ASK 5798 127.0.0.1:7001"), "try_again"),
    (r.ResponseError("TRYAGAIN Multiple keys request during rehashing of slot"), "try_again"),
    (r.ResponseError("LOADING Redis is loading the dataset in memory"), "loading"),
    (r.ResponseError("NOAUTH Authentication required."), "auth"),
    (redis.ConnectionError("max number of clients reached"), "max_clients"),
    (redis.ConnectionError("Connection closed by server."), "connection"),
    (OSError(2, "No such file or directory"), "connection"),
    (r.ResponseError("unknown command 'FOO'"), "unsupported"),
    (r.ResponseError("something new"), "other"),
]


@pytest.mark.parametrize(("error", "kind"), CASES, ids=[kind + str(n) for n, (_, kind) in enumerate(CASES)])
def test_kinds(error: Exception, kind: str) -> None:
    """Each error that a server can give means that the store is unavailable, by a kind of the closed list."""
    found = store_error(error)
    assert isinstance(found, StoreUnavailableError)
    assert found.kind == kind
    assert found.kind in STORE_ERROR_KINDS


def test_an_error_inside_a_script_is_ours() -> None:
    """What a script raises by itself is no state of the store."""
    found = store_error(r.ResponseError("user_script:3: attempt to index a nil value"), "open")
    assert isinstance(found, ScriptError)
    assert "open.lua" in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "NOGROUP No such key 'x' or consumer group 'workers' in XREADGROUP with GROUP option",
        "UNBLOCKED the stream key no longer exists",
    ],
)
def test_a_missing_group_is_told_apart(text: str) -> None:
    """The group is to be made again; the server is well."""
    assert isinstance(store_error(r.ResponseError(text)), NoGroupError)


def test_passwords_are_left_out() -> None:
    """Credentials of a URL in an error's text do not come through."""
    assert "hush" not in str(store_error(OSError("cannot reach redis://user:hush@host:1")))


def test_what_sends_us_looking_for_another_server() -> None:
    """After a failover's errors the address is asked for again; after a full memory it is not."""
    assert moves_the_server(StoreUnavailableError("read_only"))
    assert moves_the_server(StoreUnavailableError("connection"))
    assert moves_the_server(StoreUnavailableError("no_replicas")), (
        "the primary may be cut off from the one that is named now"
    )
    assert not moves_the_server(StoreUnavailableError("out_of_memory"))
    assert is_noscript(r.NoScriptError("NOSCRIPT"))
    assert is_noscript(r.ResponseError("NOSCRIPT No matching script. Please use EVAL."))
    assert not is_noscript(r.ResponseError("ERR"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("the handler is closed"), "connection"),
        (AttributeError("'NoneType' object has no attribute 'writelines'"), "connection"),
        (TimeoutError(), "timeout"),
        (r.AuthenticationError("WRONGPASS invalid username-password pair"), "auth"),
        (r.ResponseError("something new"), "connection"),
        (r.InvalidResponse("Protocol error"), "connection"),
        (StoreUnavailableError("loading"), "loading"),
    ],
)
def test_whatever_a_connection_raises_has_a_kind(error: Exception, kind: str) -> None:
    """It is never another error than that the store is unavailable."""
    assert connection_error(error).kind == kind
    assert "hush" not in str(connection_error(RuntimeError("redis://user:hush@host:1")))


def test_what_concerns_one_request_says_nothing_about_the_store() -> None:
    """A key of another type, a script that met one, a group that is missing."""
    assert concerns_one(store_error(r.ResponseError("WRONGTYPE Operation against a key"), "repair"))
    assert concerns_one(store_error(r.ResponseError("WRONGTYPE Operation against a key")))
    assert concerns_one(NoGroupError("NOGROUP"))
    assert not concerns_one(StoreUnavailableError("timeout"))
    assert not concerns_one(RuntimeError())
