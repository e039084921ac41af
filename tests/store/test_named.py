"""Which server the Sentinels name, from what each of them said last."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.store.address import Address
from coordinator.store.named import FRESH_SECONDS, OUTDATED_SECONDS, Named, View, choose, view_of

OLD, NEW, THIRD = Address("a", 1), Address("b", 2), Address("c", 3)
NOW = 1000.0


def row(**fields: str) -> list[bytes]:
    """A row as a Sentinel answers it."""
    return [word.encode() for pair in fields.items() for word in (pair[0].replace("_", "-"), pair[1])]


def test_the_newest_configuration_wins() -> None:
    """However many Sentinels have not heard of it yet."""
    found = choose([View(NOW, OLD, 1), View(NOW, OLD, 1), View(NOW, NEW, 2)], Named(OLD, 1, NOW), NOW)
    assert found == Named(NEW, 2, NOW)


def test_who_names_an_older_configuration_is_not_believed_for_a_while() -> None:
    """Else a switch would be taken back as soon as the one that told of it falls silent; after that they were set up anew."""
    views, before = [View(NOW, OLD, 1)], Named(NEW, 2, NOW)
    assert choose(views, before, NOW) == before
    later = NOW + OUTDATED_SECONDS
    assert choose([View(later, OLD, 1)], before, later) == Named(OLD, 1, later)


def test_without_an_answer_it_stays_as_it_was() -> None:
    """One that is too old is none, nor is one of a Sentinel that does not know."""
    before = Named(OLD, 1, NOW)
    assert (
        choose([View(NOW - FRESH_SECONDS, NEW, 9), View(NOW, None, 9), View(NOW, error="away")], before, NOW) == before
    )
    assert choose([], None, NOW) is None


def test_of_one_configuration_most_are_believed() -> None:
    """Where they tell no epochs, and differ; of equally many, those who name the same as before."""
    unknown = [View(NOW, OLD), View(NOW, NEW), View(NOW, NEW)]
    assert choose(unknown, Named(OLD, -1, NOW), NOW) == Named(NEW, -1, NOW)
    assert choose(unknown[:2], Named(NEW, -1, NOW), NOW) == Named(NEW, -1, NOW)
    assert choose(unknown[:2], Named(OLD, -1, NOW), NOW) == Named(OLD, -1, NOW)


def test_other_primaries_are_those_of_the_newest_configuration() -> None:
    """Never the one that is named, as who has not heard of the switch lists it."""
    views = [View(NOW, NEW, 2, (OLD,)), View(NOW, OLD, 1, (NEW, THIRD)), View(NOW, NEW, 2, (OLD, NEW))]
    assert choose(views, None, NOW) == Named(NEW, 2, NOW, (OLD,))


def test_answers_are_read_once() -> None:
    """Address, epoch, and replicas that say of themselves that they are primaries and can be reached."""
    replicas = [
        row(ip="a", port="1", flags="slave", role_reported="master"),
        row(ip="c", port="3", flags="s_down,slave,disconnected", role_reported="master"),
        row(ip="d", port="4", flags="slave", role_reported="slave"),
    ]
    assert view_of(NOW, [b"b", b"2"], row(config_epoch="7"), replicas) == View(NOW, NEW, 7, (OLD,))


@pytest.mark.parametrize(
    "odd", [None, b"", 7, [], [b"x"], [[b"ip"]], [[b"port", b"x", b"ip"]], ["text", 3], ValueError("no")]
)
def test_what_makes_no_sense_is_not_known(odd: Any) -> None:
    """Each answer may be anything, an error too, without harm to the others."""
    assert view_of(NOW, [b"b", b"2"], odd, odd) == View(NOW, NEW)
    assert view_of(NOW, odd, row(config_epoch="7"), odd) == View(NOW, None, 7)
    assert view_of(NOW, [b"b", b"no port"], odd, odd) == View(NOW)
