"""Addresses of servers."""

from __future__ import annotations

from coordinator.store.address import Address, slot_owner


def test_the_owner_of_a_slot() -> None:
    """The primary of the slot's range; an empty host is the host that was asked; None where nobody serves it."""
    asked = Address("asked", 1)
    rows = [[0, 8191, [b"", 7000]], [8192, 16000, [b"other", 7001]]]
    slot_12182, slot_5061 = "{foo}", "{bar}"
    assert slot_owner(rows, slot_12182, asked) == Address("other", 7001)
    assert slot_owner(rows, slot_5061, asked) == Address("asked", 7000)
    assert slot_owner(rows[:1], slot_12182, asked) is None


def test_a_host_that_a_node_does_not_know_is_the_one_that_was_asked() -> None:
    """It writes nothing where clients are to know it, and a question mark where it has no name."""
    slot, asked = "{recovery:0}:meta", Address("asked", 7000)
    for host in (b"", b"?", None):
        assert slot_owner([[0, 16383, [host, 7001, b"id"]]], slot, asked) == Address("asked", 7001)
