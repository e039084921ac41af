"""What waits for a worker's stream."""

from __future__ import annotations

from coordinator.sidecar import event_queue
from coordinator.sidecar.event_queue import EventQueue


def test_too_many_events_drop_the_oldest_and_say_so_once() -> None:
    """One more than there is room for: `overflow` comes first, the oldest is missing, and the next take is as usual."""
    box = EventQueue()
    for number in range(event_queue.MOST + 1):
        box.put("lost", f"call-{number}", epoch=number)
    assert len(box) == event_queue.MOST
    first, second = box.take(2)
    assert first == {"event": "overflow"}
    assert second == {"event": "lost", "session": "call-1", "epoch": 1}
    rest = box.take(event_queue.MOST)
    assert [event["session"] for event in rest] == [f"call-{number}" for number in range(2, event_queue.MOST + 1)]
    box.put("lost", "call-0")
    assert box.take() == [{"event": "lost", "session": "call-0"}]


def test_a_newer_event_of_a_kind_takes_no_more_room() -> None:
    """Pings that nobody reads are one event, the newest, and never an overflow; what was dropped is not told."""
    box = EventQueue()
    woken: list[int] = []
    box.wake = lambda: woken.append(len(box))
    for number in range(event_queue.MOST + 1):
        box.put("ping", ping=number)
    box.put("offer", "call-1")
    box.drop("offer", "call-1")
    assert (len(woken), woken[-1]) == (event_queue.MOST + 2, 2)
    assert box.take() == [{"event": "ping", "ping": event_queue.MOST}]
    assert box.take() == []
