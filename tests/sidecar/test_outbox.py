"""What waits for a worker's stream."""

from __future__ import annotations

from coordinator.sidecar import outbox
from coordinator.sidecar.outbox import Outbox


def test_too_many_events_drop_the_oldest_and_say_so_once() -> None:
    """One more than there is room for: `overflow` comes first, the oldest is missing, and the next take is as usual."""
    box = Outbox()
    for number in range(outbox.MOST + 1):
        box.put("lost", f"call-{number}", epoch=number)
    assert len(box) == outbox.MOST
    first, second = box.take(2)
    assert first == {"event": "overflow"}
    assert second == {"event": "lost", "session": "call-1", "epoch": 1}
    rest = box.take(outbox.MOST)
    assert [event["session"] for event in rest] == [f"call-{number}" for number in range(2, outbox.MOST + 1)]
    box.put("lost", "call-0")
    assert box.take() == [{"event": "lost", "session": "call-0"}]


def test_a_newer_event_of_a_kind_takes_no_more_room() -> None:
    """Pings that nobody reads are one event, the newest, and never an overflow; what was dropped is not told."""
    box = Outbox()
    woken: list[int] = []
    box.wake = lambda: woken.append(len(box))
    for number in range(outbox.MOST + 1):
        box.put("ping", ping=number)
    box.put("offer", "call-1")
    box.drop("offer", "call-1")
    assert (len(woken), woken[-1]) == (outbox.MOST + 2, 2)
    assert box.take() == [{"event": "ping", "ping": outbox.MOST}]
    assert box.take() == []
