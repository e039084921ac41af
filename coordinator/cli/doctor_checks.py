"""Whether a Redis is fit for this: each check reads, judges and says what to do.

What a server refuses to tell is `unknown`, never `fail`. The rights that the program itself needs are tried out.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from coordinator.cli.figures import percentile
from coordinator.clock import in_ms
from coordinator.errors import StoreUnavailableError
from coordinator.store.deployment import OLDEST_REDIS
from coordinator.store.keys import Keys

__all__ = ["OF_EACH_SERVER", "OF_THE_STORE", "Check", "Command", "Finding", "Server", "refused", "worst"]

Level = Literal["ok", "warn", "fail", "unknown"]
Command = Callable[..., Awaitable[Any]]
"""Sends one command to the server and answers with the raw reply; raises `StoreUnavailableError`."""

ROUND_TRIPS = 100
SLOW_ROUND_TRIP_MS = 50.0
CLOCK_WARNING = 1.0
"""Seconds between the server's clock and this machine's."""
HEADROOM = 0.2


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    level: Level
    found: str
    advice: str = ""

    @property
    def is_line(self) -> bool:
        """Whether the advice is a command for ``redis-cli``."""
        return self.advice.startswith("ACL SETUSER ")

    def as_data(self) -> dict[str, str]:
        """For ``--json``."""
        return asdict(self)


def refused(error: StoreUnavailableError) -> bool:
    """Whether the server answered and said no, so that the other checks can go on."""
    return error.kind in ("permission", "unsupported", "other")


class Server:
    """A server's answers, read once.

    Args:
        command: asks the server that holds the first partition.
        others: those of the other partitions, in order.
        wanted: replicas that DURABILITY waits for.
        without_info: `INFO` may be forbidden.

    Attributes:
        holds: partitions that lie there.
    """

    def __init__(
        self,
        command: Command,
        keys: Keys,
        partitions: int,
        protocol: int,
        others: Sequence[Command] = (),
        wanted: int = 0,
        *,
        without_info: bool = False,
        holds: Sequence[int] = (0,),
    ) -> None:
        self.wanted, self.holds = wanted, list(holds)
        self._without_info = without_info
        self.command = command
        self.commands = [command, *others]
        self.keys = keys
        self.partitions = partitions
        self.protocol = protocol
        self.info: dict[str, str] = {}

    async def read_info(self) -> Finding | None:
        """INFO as text fields; a finding when it may not be read."""
        try:
            raw = await self.command("INFO")
        except StoreUnavailableError as error:
            if not refused(error):
                raise
            if self._without_info:
                return Finding("INFO", "warn", f"{error.detail}; WITHOUT_INFO accepts that", "see WITHOUT_INFO")
            return Finding(
                "INFO", "fail", error.detail, "allow INFO: a failover is noticed by the run id that it tells"
            )
        lines = raw.decode(errors="replace").splitlines()
        self.info = dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
        return None

    async def config(self, name: str) -> str | None:
        """A setting of the server; None when it does not say (managed services refuse CONFIG)."""
        try:
            reply = await self.command("CONFIG", "GET", name)
        except StoreUnavailableError as error:
            if not refused(error):
                raise
            return None
        return reply[1].decode() if reply else None


async def latency(server: Server) -> Finding:
    """The round trip of a question for the time, of `ROUND_TRIPS` in a row."""
    times = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        await server.command("TIME")
        times.append((time.perf_counter() - began) * 1000)
    p50, p99 = percentile(times, 0.5) or 0.0, percentile(times, 0.99) or 0.0
    found = f"round trip p50 {p50:.2f} ms, p99 {p99:.2f} ms of {ROUND_TRIPS}"
    if p99 > SLOW_ROUND_TRIP_MS:
        return Finding(
            "latency",
            "warn",
            found,
            f"above {SLOW_ROUND_TRIP_MS:.0f} ms: raise DEAD_AFTER and STORE_TIMEOUT, or run closer to the server",
        )
    return Finding("latency", "ok", found)


async def version(server: Server) -> Finding:
    """Redis 6.2 or newer, or Valkey."""
    valkey = server.info.get("valkey_version")
    text = server.info.get("redis_version", "")
    if valkey:
        return Finding("version", "ok", f"Valkey {valkey}")
    numbers = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if len(numbers) < 2:
        return Finding("version", "unknown", "the server does not tell its version", "Redis 6.2 or Valkey is needed")
    if numbers < OLDEST_REDIS:
        return Finding("version", "fail", f"Redis {text}", "Redis 6.2 or newer, or Valkey, is needed")
    return Finding("version", "ok", f"Redis {text}")


async def role(server: Server) -> Finding:
    """Writes need the primary."""
    found = server.info.get("role", "unknown")
    if found == "slave":
        return Finding(
            "role", "fail", "replica (read-only)", "point REDIS_URL at the primary, or at Sentinel or Cluster"
        )
    if found != "master":
        return Finding("role", "unknown", found)
    return Finding("role", "ok", f"primary, {server.info.get('connected_slaves', '0')} replicas")


async def shape(server: Server) -> Finding:
    """Standalone, Sentinel or Cluster."""
    mode = server.info.get("redis_mode") or server.info.get("server_mode") or "unknown"
    if mode == "sentinel":
        return Finding("shape", "fail", "this is a Sentinel", "use redis+sentinel://host:port,.../service/db")
    if mode == "cluster":
        if server.info.get("cluster_enabled") == "1":
            state = (await server.command("CLUSTER", "INFO")).decode(errors="replace")
            if "cluster_state:ok" not in state:
                return Finding("shape", "fail", "cluster, state is not ok", "see CLUSTER INFO and CLUSTER SLOTS")
        return Finding("shape", "ok", "cluster")
    return Finding("shape", "ok" if mode == "standalone" else "unknown", mode)


async def replication(server: Server) -> Finding:
    """Replicas, and whether a primary that is cut off from them goes on acknowledging what the failover then loses."""
    if server.info.get("role") != "master":
        return Finding("replication", "unknown", "not told", "see min-replicas-to-write on the primary")
    replicas = int(server.info.get("connected_slaves", "0"))
    if replicas < server.wanted:
        return Finding(
            "replication", "warn", f"DURABILITY waits for {server.wanted} replicas, and there are {replicas}",
            "calls change hands without being replicated, and programs log not_replicated: add replicas, or unset it",
        )  # fmt: skip
    if "min_slaves_good_slaves" in server.info:  # told only where it is set
        return Finding("replication", "ok", f"{replicas} replicas, writes need some of them (min-replicas-to-write)")
    if not replicas:
        return Finding("replication", "ok", "no replicas")
    return Finding(
        "replication", "warn", f"{replicas} replicas, and writes need none of them (min-replicas-to-write 0)",
        "set min-replicas-to-write 1, and min-replicas-max-lag to the seconds of writes that may be lost: a primary that was "
        "replaced or cut off then refuses writes instead of losing them; the price: without a replica nothing is written",
    )  # fmt: skip


async def coverage(server: Server) -> Finding:
    """In a Cluster: whether the failure of one shard stops the others."""
    if server.info.get("cluster_enabled") != "1":
        return Finding("coverage", "ok", "no cluster")
    setting = await server.config("cluster-require-full-coverage")
    if setting is None:
        return Finding("coverage", "unknown", "not told", "cluster-require-full-coverage should be no")
    if setting == "no":
        return Finding("coverage", "ok", "a shard that fails stops no other")
    return Finding(
        "coverage", "warn", "a shard that fails stops all (cluster-require-full-coverage yes)",
        "set cluster-require-full-coverage no: partitions are independent of each other",
    )  # fmt: skip


async def persistence(server: Server) -> Finding:
    """AOF or snapshots: without, a restart forgets every call that no worker states again."""
    advice = "switch on AOF (appendonly yes); without it a restart keeps only what living workers state again"
    if "aof_enabled" not in server.info:
        return Finding("persistence", "unknown", "not told", advice)
    if server.info.get("aof_enabled") == "1":
        if server.info.get("aof_last_write_status", "ok") != "ok":
            return Finding("persistence", "fail", "AOF cannot be written", "see the server's log and disk")
        return Finding("persistence", "ok", "AOF")
    save = await server.config("save")
    if save is None:
        return Finding("persistence", "unknown", "no AOF; whether snapshots are on is not told", advice)
    if save:
        return Finding("persistence", "warn", "snapshots only: a restart loses the writes since the last one", advice)
    return Finding("persistence", "warn", "none", advice)


async def eviction(server: Server) -> Finding:
    """A server that evicts deletes live calls when its memory is full."""
    policy = server.info.get("maxmemory_policy") or await server.config("maxmemory-policy")
    if policy is None:
        return Finding("eviction", "unknown", "not told", "maxmemory-policy must be noeviction")
    if policy == "noeviction":
        return Finding("eviction", "ok", policy)
    if policy.startswith("volatile-"):
        advice = "set maxmemory-policy noeviction: when full it deletes dead letters, and what refuses the dead"
        return Finding("eviction", "fail", policy, advice)
    return Finding(
        "eviction", "fail", policy, "set maxmemory-policy noeviction: when full it deletes sessions of live calls"
    )


async def memory(server: Server) -> Finding:
    """How much of its memory is left."""
    if "used_memory" not in server.info:
        return Finding("memory", "unknown", "not told")
    used, limit = int(server.info.get("used_memory", 0)), int(server.info.get("maxmemory", 0))
    megabytes = f"{used / 1e6:.1f} MB used"
    if not limit:
        total = int(server.info.get("total_system_memory", 0))
        advice = "set maxmemory below the machine's memory: better refused writes than a killed server"
        return Finding("memory", "warn", f"{megabytes}, no maxmemory, machine has {total / 1e6:.0f} MB", advice)
    left = 1 - used / limit
    found = f"{megabytes} of {limit / 1e6:.1f} MB, {left:.0%} left"
    if left <= 0:
        return Finding("memory", "fail", found, "full: writes are refused, no worker is declared dead; raise maxmemory")
    return Finding("memory", "warn" if left < HEADROOM else "ok", found, "raise maxmemory" if left < HEADROOM else "")


async def clock(server: Server) -> Finding:
    """The server's clock beside this machine's: nothing depends on it but people who read times."""
    began = time.time()  # noqa: TID251 - this machine's date is what is asked about
    seconds, micros = await server.command("TIME")
    ended = time.time()  # noqa: TID251 - as above
    at = int(seconds) + int(micros) / 1e6
    apart = max(began - at, at - ended, 0.0)
    found = f"{in_ms(apart)} ms apart"
    if apart > CLOCK_WARNING:
        return Finding(
            "clock", "warn", found, "the server's clock judges; synchronise both, or times in logs will not match"
        )
    return Finding("clock", "ok", found)


async def stored(server: Server) -> Finding:
    """What a coordinator has stored here before: its partitions and its protocol."""
    raw = await server.command("HMGET", server.keys.meta, "partitions", "protocol", "lineage")
    partitions, protocol, lineage = (None if value is None else value.decode() for value in raw)
    if lineage is None:
        return Finding("stored", "ok", f"nothing yet under the prefix {server.keys.prefix}")
    found = f"{partitions} partitions, protocol {protocol}, lineage {lineage[:8]}"
    if partitions != str(server.partitions):
        return Finding(
            "stored",
            "fail",
            found,
            f"PARTITIONS is {server.partitions} here and cannot be changed: set it to {partitions}",
        )
    if abs(int(protocol or 0) - server.protocol) > 1:
        return Finding(
            "stored", "fail", found, f"this program speaks protocol {server.protocol}: use a version beside it"
        )
    return Finding("stored", "ok", found)


async def quarantine(server: Server) -> Finding:
    """What did not parse and was set aside."""
    count = 0
    for partition, command in enumerate(server.commands):
        count += int(await command("ZCARD", Keys(server.keys.prefix, partition).quarantine))
    if not count:
        return Finding("quarantine", "ok", "nothing was set aside")
    return Finding(
        "quarantine", "warn", f"{count} records, members or entries did not parse", "coordinator quarantine list"
    )


Check = Callable[[Server], Awaitable[Finding]]
OF_EACH_SERVER: tuple[Check, ...] = (
    latency, version, role, shape, replication, coverage, persistence, eviction, memory, clock,
)  # fmt: skip
OF_THE_STORE: tuple[Check, ...] = (stored, quarantine)
GRAVITY: dict[Level, int] = {"ok": 0, "unknown": 1, "warn": 2, "fail": 3}


def worst(found: Sequence[tuple[Server, Finding]]) -> Finding:
    """What is told of a check at several servers: the gravest finding, and of which partitions' servers it is."""
    gravest = max((finding for _, finding in found), key=lambda finding: GRAVITY[finding.level])
    same = [server for server, finding in found if finding.level == gravest.level]
    if len(same) == len(found):
        return gravest
    where = ", ".join(str(n) for server in same for n in server.holds)
    return replace(gravest, found=f"{gravest.found} (the server of partition {where})")
