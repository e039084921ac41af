"""Each fault as a function of a running deployment: it begins, lasts, and is over when the function returns."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from coordinator.store import PROTOCOL, calls
from coordinator.store.scripts import SERVER
from tests.faults.deployment import KEYS, Deployment
from tests.proxy import Proxy
from tests.store.harness import Bench

BUSY = """
local from = redis.call('TIME')
while true do
  local now = redis.call('TIME')
  if (now[1] - from[1]) * 1000 + (now[2] - from[2]) / 1000 > tonumber(ARGV[1]) then return 1 end
end
"""


def last(seconds: float) -> None:
    """The fault goes on for so long."""
    threading.Event().wait(seconds)


def redis_stands_still(d: Deployment, seconds: float) -> None:
    """The Redis process is stopped and continued."""
    d.server.pause()
    last(seconds)
    d.server.resume()


def redis_restarts(d: Deployment, seconds: float) -> None:
    """Redis is killed and started again; what it had not written is lost."""
    d.server.kill()
    last(seconds)
    d.server.start()


def scripts_are_flushed(d: Deployment, seconds: float) -> None:
    """SCRIPT FLUSH, again and again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        d.client.script_flush()
        last(0.1)


def connections_are_killed(d: Deployment, seconds: float) -> None:
    """All connections of all processes, presence included, twice a second."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for kind in ("normal", "pubsub"):
            d.client.client_kill_filter(_type=kind, skipme=True)
        last(0.5)


def clients_are_paused(d: Deployment, seconds: float) -> None:
    """CLIENT PAUSE for all commands."""
    d.client.client_pause(int(seconds * 1000))
    last(seconds)


def memory_is_full(d: Deployment, seconds: float) -> None:
    """Redis refuses writes."""
    d.client.config_set("maxmemory", "1")
    last(seconds)
    d.client.config_set("maxmemory", "0")


def disk_is_full(d: Deployment, seconds: float) -> None:
    """The append-only file cannot be written: its file system has no room."""
    ballast = Path(d.server.directory) / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65536)
    last(seconds)
    ballast.unlink()


def clock_steps(d: Deployment, seconds: float) -> None:
    """The server's clock jumps by so many seconds, and stays there."""
    (Path(d.server.directory) / "clock").write_text(f"{seconds:+g}")
    last(1.0)


def foreign_script_blocks(d: Deployment, seconds: float) -> None:
    """Somebody else's script keeps the server busy."""
    with contextlib.suppress(redis.RedisError):
        d.client.eval(BUSY, 0, int(seconds * 1000))


def coordinators_stand_still(d: Deployment, seconds: float) -> None:
    """Every coordinator is stopped and continued, one of them later."""
    for process in d.coordinators:
        process.send(signal.SIGSTOP)
    last(seconds)
    for process in d.coordinators:
        process.send(signal.SIGCONT)


def loop_is_blocked(d: Deployment, seconds: float) -> None:
    """The event loop of one worker stands still for 3 s; its threads live."""
    d.workers[1].send(signal.SIGUSR1)
    last(seconds)


def processor_is_scarce(d: Deployment, seconds: float) -> None:
    """One worker gets 5 % of a processor: 5 ms in each 100 ms."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        d.workers[1].send(signal.SIGSTOP)
        last(0.095)
        d.workers[1].send(signal.SIGCONT)
        last(0.005)


def everything_stands_still(d: Deployment, seconds: float) -> None:
    """The machine: Redis, coordinators and workers are stopped and continued together."""
    pids = [d.server.pid, *(process.pid for process in (*d.coordinators, *d.workers))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    last(seconds)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def wiped_and_made_by_a_stranger(d: Deployment, seconds: float) -> None:
    """Everything is gone, and a program that knows nothing of the past makes the partition before anybody else comes."""
    bench = Bench(d.client)
    pipe = d.client.pipeline()
    pipe.flushall()
    init = calls.init(KEYS, partitions=1, protocol=PROTOCOL, lineage="made-by-a-stranger", hold=2)
    pipe.execute_command(*(bench.server_id if part is SERVER else part for part in init.eval()))
    pipe.execute()
    last(seconds)


def restored_from_a_snapshot(d: Deployment, seconds: float) -> None:
    """Redis goes on with a snapshot that is so many seconds old: what was acknowledged since is lost."""
    d.client.save()
    last(seconds)
    d.server.kill()
    d.server.start()


def rights_are_taken_away(d: Deployment, seconds: float) -> None:
    """The user of all programs may not write, and has no channels; then it may again."""
    d.client.execute_command("ACL", "SETUSER", "default", "-zadd", "-hset", "-xadd", "resetchannels")
    last(seconds)
    d.client.execute_command("ACL", "SETUSER", "default", "+@all", "allchannels")


def listeners_are_forgotten(d: Deployment, seconds: float) -> None:
    """Something between workers and Redis drops the connections on which they listen without a word; then Redis pauses for 1.4 s."""
    assert d.proxy is not None
    d.proxy.forget_listeners(server_told=True)
    last(seconds)
    d.client.client_pause(1400)
    last(1.5)


@dataclass(frozen=True)
class Fault:
    """A fault with what it needs.

    Attributes:
        seconds: how long it lasts; the short form in CI.
        long: more lengths for the table.
        server: options of the Redis.
        needs: 'tmpfs' or 'faketime'.
        through: makes the proxy through which workers reach Redis.
        forgets: all is lost, so that who dies before it has stated its calls again takes them along.
    """

    name: str
    run: Callable[[Deployment, float], None]
    seconds: float
    long: tuple[float, ...] = ()
    server: tuple[str, ...] = ()
    needs: str = ""
    through: Callable[[str], Proxy] | None = None
    forgets: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def slow_proxy(target: str) -> Proxy:
    """200 ms there and back, with jitter, and one answer in twenty ends its connection."""
    return Proxy(target, delay=0.1, jitter=0.03, reset=0.05)


def forgetful_proxy(target: str) -> Proxy:
    """One answer in five ends its connection instead of coming."""
    return Proxy(target, reset=0.2)


APPEND = ("--appendonly", "yes", "--appendfsync", "everysec")

FAULTS = (
    Fault("Redis stands still", redis_stands_still, 4.0, (0.5, 1.0, 2.0, 10.0)),
    Fault(
        "Redis restarts with its data", redis_restarts, 0.5, (3.0,), ("--appendonly", "yes", "--appendfsync", "always")
    ),
    Fault("Redis restarts empty", redis_restarts, 0.5, (3.0,), forgets=True),
    Fault("SCRIPT FLUSH", scripts_are_flushed, 2.0),
    Fault("all connections killed", connections_are_killed, 2.0, (6.0,)),
    Fault("CLIENT PAUSE", clients_are_paused, 3.0),
    Fault("memory full", memory_is_full, 4.0),
    Fault("disk full", disk_is_full, 4.0, (), APPEND, "tmpfs"),
    Fault("clock ahead", clock_steps, 60.0, (), (), "faketime"),
    Fault("clock behind", clock_steps, -60.0, (), (), "faketime"),
    Fault("a foreign script blocks", foreign_script_blocks, 3.0),
    Fault("coordinators stand still", coordinators_stand_still, 4.0, (10.0,)),
    Fault("an event loop is blocked", loop_is_blocked, 3.2),
    Fault("5 % of a processor", processor_is_scarce, 4.0, (15.0,)),
    Fault("slow network with resets", lambda d, seconds: last(seconds), 5.0, (20.0,), through=slow_proxy),
    Fault("answers that never come", lambda d, seconds: last(seconds), 5.0, (20.0,), through=forgetful_proxy),
    Fault("the machine stands still", everything_stands_still, 6.0, (15.0,)),
    Fault("wiped, made by a stranger", wiped_and_made_by_a_stranger, 0.5, forgets=True),
    Fault("restored from a snapshot", restored_from_a_snapshot, 2.0, (10.0,), forgets=True),
    Fault("rights taken away", rights_are_taken_away, 3.0, (10.0,)),
    Fault("listeners forgotten, a pause", listeners_are_forgotten, 3.0, through=Proxy),
)
