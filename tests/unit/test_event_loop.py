"""What runs on which event loop, and from where tasks are started."""

from __future__ import annotations

import ast

import pytest

from coordinator import ConfigurationError, Worker
from coordinator.sessions import RedisStore
from tests.sources import package_nodes

CALLBACKS = {
    "call_soon",
    "call_soon_threadsafe",
    "call_later",
    "call_at",
    "add_done_callback",
    "add_reader",
    "add_writer",
    "add_signal_handler",
}
STARTS_NOTHING = {
    "self._event.set": "an event is set, and a task hears it",
    "ended": "of a task that used a session: puts it where a task finds it",
    "self._too_slow": "closes a connection",
    "self._send": "sends; a connection is made in a task of asyncio itself, which asks for no library",
    "self._tasks.discard": "forgets a task",
    "self._accept": "accepts connections, and hands each to the connection's own protocol",
    "self.start": "accepts again after a pause",
    "self._moved": "closes a connection whose address is no longer named",
    "self._is_late": "logs",
    "self._drain": "reads, and sets an event",
    "self._wake.set": "an event is set, and a task hears it",
    "changed.set": "an event is set, and a task hears it",
    "self._sweep": "closes connections whose time is over",
    "self._look_now": "looks at a connection, and closes it",
}
"""What bare callbacks of the event loop call. Nothing may be started there: it would have no task above it, and whoever asks
which library runs the loop is told that none does (anyio with the package sniffio beside it).
"""


def _callbacks() -> list[tuple[str, str]]:
    """Where and what the package hands to the event loop as a bare callback."""
    found = []
    for name, nodes in package_nodes("|".join(CALLBACKS)).items():
        for node in nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLBACKS:
                later = node.func.attr in ("call_later", "call_at", "add_reader", "add_writer", "add_signal_handler")
                found.append((name, ast.unparse(node.args[1 if later else 0])))
    return found


def test_bare_callbacks_start_nothing() -> None:
    """Each callback that the event loop calls outside of a task is one that is known to start no task."""
    assert [one for one in _callbacks() if one[1] not in STARTS_NOTHING] == []


@pytest.mark.parametrize(
    "what", [Worker("redis://localhost:1"), RedisStore("redis://localhost:1")], ids=["worker", "store"]
)
def test_another_event_loop_is_refused(what: Worker | RedisStore) -> None:
    """Entered where asyncio does not run, as under trio: one sentence that says what to do instead."""
    entering = what.__aenter__()
    with pytest.raises(ConfigurationError, match=r"runs on asyncio \(uvloop too\).*not with trio"):
        entering.send(None)
