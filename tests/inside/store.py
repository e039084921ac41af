"""Inside the store: connections, and what is looked at for them."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

from coordinator.store import faults
from coordinator.store.executor import Executor

if TYPE_CHECKING:
    from collections.abc import Collection

    from coordinator.store.connect import Connector
    from coordinator.store.executor import SyncExecutor
    from coordinator.store.link import Link
    from coordinator.store.lookout import Lookout
    from coordinator.store.named import View
    from coordinator.store.thread_link import ThreadLink
    from coordinator.store.wire import Wire
    from tests.inside.spots import Spot

__all__ = [
    "askers_of",
    "connect",
    "distrust_no_proxy",
    "kinds_of_faults",
    "link_of",
    "lookout_of",
    "open_transports",
    "quiet_of",
    "set_time_limit",
    "socket_spot",
    "submit_spot",
    "thread_link_of",
    "transport_spot",
    "views_of",
]


def link_of(executor: Executor) -> Link:
    """The connection of an executor: what breaks it, or how it stands, is below all that an executor tells."""
    return executor._link


def thread_link_of(executor: SyncExecutor) -> ThreadLink:
    """The same of an executor for threads."""
    return executor._link


def connect(executor: SyncExecutor) -> None:
    """Connects, and asks nothing: what is asked for would say a word for itself."""
    executor._link._connect()


def set_time_limit(executor: Executor, seconds: float) -> None:
    """Another time limit for one connection of a program; the setting is for all of them."""
    executor._link._timeout = seconds


def distrust_no_proxy(executor: Executor) -> None:
    """No time is allowed for bytes that a proxy may hold: how a connection judges its line is below all that asks it."""
    executor._link._pace.gulp = 0


def quiet_of(wire: Wire) -> float:
    """Seconds for which nothing has moved on a connection, as far as this process has watched it."""
    return wire._quiet


def transport_spot(wire: Wire) -> Spot:
    """What a connection writes to: another one raises what event loops raise on connections that were reset."""
    return wire, "_transport"


def socket_spot(executor: SyncExecutor) -> Spot:
    """The socket of a connection of a thread: another one raises what the operating system raises."""
    return executor._link._connection, "_sock"


def submit_spot() -> Spot:
    """Through which every request of an event loop goes, whoever makes it, before it is sent."""
    return Executor, "_submit"


def lookout_of(connector: Connector) -> Lookout:
    """What asks the Sentinels; of its answers a connector shows only where it connects to."""
    return connector._source.lookout


def askers_of(lookout: Lookout) -> Collection[Any]:
    """Threads that ask one Sentinel each: whether they end shows nowhere else."""
    return list(lookout._askers.values())


def views_of(lookout: Lookout) -> Collection[View]:
    """What each Sentinel said last; a lookout says what follows from all of them."""
    return list(lookout._views.values())


def kinds_of_faults() -> frozenset[str]:
    """Kinds that errors of redis-py and texts of a server are told apart as."""
    return frozenset(kind for _, kind in (*faults._KINDS, *faults._WORDS))


def open_transports(loop: asyncio.AbstractEventLoop) -> list[object]:
    """Connections of an event loop whose socket is open: asyncio closes it some turns after the connection, and tells nobody."""
    transports = [one for one in gc.get_objects() if isinstance(one, asyncio.Transport)]
    return [one for one in transports if getattr(one, "_loop", None) is loop and getattr(one, "_sock", None)]
