"""Which instance an offer suits best."""

from __future__ import annotations

import pytest

from coordinator.worker.placement import has_a_small_part, suits


@pytest.mark.parametrize(
    ("labels", "requires", "fits"),
    [
        ({}, [], True),
        ({"zone": "a"}, ["zone"], True),
        ({"zone": "a"}, ["zone=a"], True),
        ({"zone": "b"}, ["zone=a"], False),
        ({}, ["zone"], False),
        ({"zone": ""}, ["zone="], True),
        ({"zone": "a"}, ["zone="], False),
        ({"zone": "a", "version": "2"}, ["zone=a", "version=2"], True),
        ({"zone": "a"}, ["zone=a", "version=2"], False),
        ({"note": "a=b"}, ["note=a=b"], True),
    ],
)
def test_labels(labels: dict[str, str], requires: list[str], fits: bool) -> None:
    """All that a session asks for must be there: a name alone with any value."""
    assert suits(labels, 1, requires, 0) == (fits, True)


def test_labels_count_more_than_staying() -> None:
    """Right labels and about to be restarted is better than wrong labels and staying; both is best."""
    both = suits({"zone": "a"}, 20, ["zone=a"], 10)
    goes = suits({"zone": "a"}, 5, ["zone=a"], 10)
    stays = suits({"zone": "b"}, 20, ["zone=a"], 10)
    neither = suits({}, 5, ["zone=a"], 10)
    assert both > goes > stays > neither


@pytest.mark.parametrize(
    ("died_with", "mine", "room", "small"),
    [
        (5, 1, 101, True),  # beside one with room for a hundred
        (5, 1, 10, False),  # its part is half of one
        (10, 100, 3000, False),  # thirty alike: each has room for all
        (0, 1, 100, False),  # nothing is known of the death
        (5, 1, 0, False),  # nor of the others
        (1, 1, 1000, False),  # it has room for all that there is
    ],
)
def test_a_small_part(died_with: int, mine: int, room: int, small: bool) -> None:
    """Who is nearly full beside the others, and cannot take all, has one."""
    assert has_a_small_part(died_with, mine, room) is small
