"""Commands of Redis that the project sends, each in a form that changes nothing: it asks a server whether the command is permitted.

A form has as many words as the command wants: since Redis 8 a script that asks with fewer ends with an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

__all__ = ["CHANNEL", "KEY", "TRIES", "Name", "Try", "name_of", "places", "try_of"]

Name = tuple[str, ...]
"""A command, with its subcommand where it has some."""
Try = tuple[str, ...]
"""A command with its words; `KEY` and `CHANNEL` stand where it has one."""

KEY, CHANNEL = "<key>", "<channel>"
CONTAINERS = ("XGROUP", "XINFO", "PUBSUB")

TRIES: Mapping[str, tuple[Try, ...]] = {
    "scripts": (("EVALSHA", "0" * 40, "1", KEY), ("EVAL", "return 1", "1", KEY)),
    "server": (("TIME",), ("PING",), ("WAIT", "1", "1")),
    "hashes": (
        ("HSET", KEY, "field", "1", "odd"), ("HGET", KEY, "field"), ("HMGET", KEY, "field"), ("HGETALL", KEY),
        ("HSTRLEN", KEY, "field"), ("HSCAN", KEY, "0"),
        ("HEXISTS", KEY, "field"), ("HINCRBY", KEY, "field", "none"), ("HDEL", KEY, "field"),
    ),
    "sorted sets": (
        ("ZADD", KEY, "none", "member"), ("ZSCORE", KEY, "member"), ("ZCARD", KEY), ("ZCOUNT", KEY, "-inf", "+inf"),
        ("ZRANGE", KEY, "0", "1"), ("ZRANGEBYSCORE", KEY, "0", "1"), ("ZREM", KEY, "member"),
    ),
    "sets": (
        ("SADD", KEY, "member"), ("SCARD", KEY), ("SISMEMBER", KEY, "member"), ("SMEMBERS", KEY), ("SRANDMEMBER", KEY, "1"),
        ("SSCAN", KEY, "0"), ("SREM", KEY, "member"),
    ),
    "streams": (
        ("XADD", KEY, "none", "field", "1"), ("XGROUP", "CREATE", KEY, "workers", "0"),
        ("XGROUP", "DELCONSUMER", KEY, "workers", "member"),
        ("XREADGROUP", "GROUP", "workers", "member", "COUNT", "1", "STREAMS", KEY, ">"), ("XPENDING", KEY, "workers"),
        ("XINFO", "GROUPS", KEY), ("XINFO", "CONSUMERS", KEY, "workers"),
        ("XRANGE", KEY, "-", "+"), ("XREAD", "COUNT", "1", "STREAMS", KEY, "0"), ("XLEN", KEY),
        ("XACK", KEY, "workers", "1-1"), ("XDEL", KEY, "1-1"),
    ),
    "strings": (("GET", KEY), ("GETRANGE", KEY, "0", "1"), ("SET", KEY, "value", "PX", "none")),
    "pub/sub": (
        ("PUBLISH", CHANNEL, "rights"), ("SUBSCRIBE", CHANNEL), ("UNSUBSCRIBE", CHANNEL), ("PUBSUB", "NUMSUB", CHANNEL),
    ),
    "keys": (
        ("PEXPIRE", KEY, "60000"), ("PERSIST", KEY), ("RENAME", KEY, KEY), ("EXISTS", KEY), ("TYPE", KEY), ("SCAN", "0", "COUNT", "1"),
        ("DEL", KEY),
    ),
}  # fmt: skip
"""Each command in a form that changes nothing: with a value that it refuses, or a key that is not there. `SADD` has no such form:
`SREM` and `DEL` come after it."""


def name_of(words: Sequence[str]) -> Name:
    """The command, with its subcommand where it has some."""
    return (words[0], words[1]) if words[0] in CONTAINERS else (words[0],)


_BY_NAME: Mapping[Name, Try] = {name_of(one): one for tries in TRIES.values() for one in tries}


def try_of(name: Name) -> Try:
    """The form of one command.

    Raises:
        KeyError: the command is not listed.
    """
    return _BY_NAME[name]


def places(tries: Iterable[Try], key: str, channel: str) -> list[Try]:
    """Tries with this key and channel in their places."""
    named = {KEY: key, CHANNEL: channel}
    return [tuple(named.get(word, word) for word in one) for one in tries]
