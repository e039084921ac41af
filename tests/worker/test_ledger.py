"""What an instance owns, and the roll that is made of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from coordinator.worker.comparing import Stored, compare
from coordinator.worker.ledger import Ledger, mark
from coordinator.worker.trust_window import TrustWindow

ME = "a~1"


def fresh() -> Any:
    return Ledger(ME, TrustWindow(1.0, 1.0), 60)


def session(name: str, epoch: int) -> Any:
    return SimpleNamespace(id=name, epoch=epoch)


@given(st.lists(st.tuples(st.sampled_from("krf"), st.sampled_from("xyz"), st.integers(1, 9)), max_size=30))
def test_the_roll_is_the_sum_of_what_is_owned(steps: list[tuple[str, str, int]]) -> None:
    """Whatever is kept, renewed and forgotten, the roll is that of the sessions and epochs that are there."""
    ledger = fresh()
    for what, name, epoch in steps:
        there = ledger.sessions.get(name)
        before = ledger.version
        if what == "k":
            ledger.keep(session(name, epoch))
        elif there is not None:
            there.epoch = epoch
            ledger.renewed(there) if what == "r" else ledger.forget(there)
        assert (ledger.version > before) == (what == "k" or there is not None)
        assert ledger.digest == sum(mark(s.id, s.epoch) for s in ledger.sessions.values())


def test_a_handle_that_was_replaced_is_told_and_changes_nothing_any_more() -> None:
    """The older handle of an id comes back from `keep`; forgetting it leaves the newer one."""
    ledger = fresh()
    old, new = session("x", 1), session("x", 2)
    assert ledger.keep(old) is None
    assert ledger.keep(new) is old
    ledger.forget(old)
    ledger.renewed(old)
    assert ledger.sessions == {"x": new}
    assert ledger.digest == mark("x", 2)


def test_what_follows_from_each_difference() -> None:
    """Equal is nothing; what only the store names is given up, what only we name is stated again, and a newer epoch is taken over."""
    assert compare(ME, 5, Stored("active", ME, 5)) == ""
    assert compare(ME, 5, Stored("handing_over", ME, 5)) == ""
    assert compare(ME, 5, Stored("active", ME, 6)) == "renew"
    assert compare(ME, 5, Stored("active", ME, 4)) == "state_again"
    assert compare(ME, 5, Stored()) == "state_again"
    assert compare(ME, 5, Stored("offered", "", 6)) == "state_again"
    assert compare(ME, 5, Stored("active", "b~1", 6)) == "state_again"
    assert compare(ME, 5, Stored("closed", ME, 5)) == "state_again"
    assert compare(ME, None, Stored("active", ME, 5)) == "give_up"
    assert compare(ME, None, Stored("handing_over", ME, 5)) == "give_up"
    for state, owner in (("active", "b~1"), ("offered", ""), ("closed", ME), ("", "")):
        assert compare(ME, None, Stored(state, owner, 5)) == ""
