"""Tries out each command that the program sends or that its scripts call, on a scratch key that ends by itself."""

from __future__ import annotations

import hashlib

from coordinator.cli.doctor_checks import Finding, Server, refused
from coordinator.errors import StoreUnavailableError
from coordinator.ids import new_request_id

__all__ = ["RIGHTS", "check_rights", "tried_commands"]

SCRIPT = "return 1"
SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
KEY, MEMBER = "<key>", "<member>"
Try = tuple[str | int, ...]

RIGHTS: dict[str, tuple[Try, ...]] = {
    "scripts": (("EVAL", SCRIPT, 0), ("SCRIPT", "LOAD", SCRIPT), ("EVALSHA", SHA, 0)),
    "clock": (("TIME",),),
    "hashes": (
        ("HSET", KEY, "field", "1"), ("HGET", KEY, "field"), ("HMGET", KEY, "field"), ("HGETALL", KEY),
        ("HSTRLEN", KEY, "field"), ("HSCAN", KEY, 0),
        ("HEXISTS", KEY, "field"), ("HINCRBY", KEY, "field", 1), ("HDEL", KEY, "field"),
    ),
    "sorted sets": (
        ("ZADD", KEY, 1, MEMBER), ("ZSCORE", KEY, MEMBER), ("ZCARD", KEY), ("ZCOUNT", KEY, "-inf", "+inf"),
        ("ZRANGE", KEY, 0, 1), ("ZRANGEBYSCORE", KEY, 0, 1), ("ZREM", KEY, MEMBER),
    ),
    "sets": (
        ("SADD", KEY, MEMBER), ("SCARD", KEY), ("SISMEMBER", KEY, MEMBER), ("SMEMBERS", KEY), ("SRANDMEMBER", KEY, 1),
        ("SSCAN", KEY, 0), ("SREM", KEY, MEMBER),
    ),
    "streams": (
        ("XADD", KEY, "MAXLEN", "~", 10, "1-1", "field", "1"), ("XGROUP", "CREATE", KEY, "workers", "0", "MKSTREAM"),
        ("XREADGROUP", "GROUP", "workers", MEMBER, "COUNT", 1, "STREAMS", KEY, ">"), ("XPENDING", KEY, "workers"),
        ("XINFO", "GROUPS", KEY),
        ("XRANGE", KEY, "-", "+"), ("XREAD", "COUNT", 1, "STREAMS", KEY, "0"), ("XLEN", KEY),
        ("XACK", KEY, "workers", "1-1"), ("XDEL", KEY, "1-1"),
    ),
    "pub/sub": (("PUBLISH", KEY, "doctor"), ("PUBSUB", "NUMSUB", KEY)),
    "keys": (("PEXPIRE", KEY, 60000), ("PERSIST", KEY), ("EXISTS", KEY), ("DEL", KEY), ("SCAN", 0, "COUNT", 1)),
}  # fmt: skip


def tried_commands() -> frozenset[str]:
    """Names of all commands that are tried, in upper case."""
    return frozenset(str(one[0]) for tries in RIGHTS.values() for one in tries)


async def check_rights(server: Server) -> list[Finding]:
    """One finding a group of commands; nothing is left in the store.

    Raises:
        StoreUnavailableError: the store went away meanwhile.
    """
    findings = []
    for group, tries in RIGHTS.items():
        key = f"{server.keys.tag}:doctor:{new_request_id()}"
        denied: dict[str, str] = {}
        for one in tries:
            words = [key if word == KEY else "doctor" if word == MEMBER else word for word in one]
            try:
                await server.command(*words)
            except StoreUnavailableError as error:
                if error.kind == "permission" or (error.kind == "unsupported" and group != "keys"):
                    denied[str(one[0])] = error.detail
                elif not refused(error):
                    raise
        await _forget(server, key)
        if denied:
            rules = " ".join(f"+{name.lower()}" for name in denied)
            advice = f"ACL SETUSER <user> {rules} ~{{{server.keys.prefix}:* &{{{server.keys.prefix}:*"
            findings.append(Finding(f"rights: {group}", "fail", f"refused: {', '.join(denied)}", advice))
        else:
            findings.append(Finding(f"rights: {group}", "ok", ", ".join(dict.fromkeys(str(one[0]) for one in tries))))
    return findings


async def _forget(server: Server, key: str) -> None:
    try:
        await server.command("DEL", key)
    except StoreUnavailableError as error:
        if not refused(error):
            raise
