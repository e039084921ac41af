"""Which request is the next to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from coordinator.store.pace import LARGE, RESERVE
from coordinator.store.waiting import Waiting

BIG, SMALL = 65536, 500


@dataclass
class One:
    """A request: its name for the test, the session that it is for, its bytes."""

    name: str
    session: str
    size: int
    number: int = 0
    over: bool = False
    group: int = field(default=0)


def sent(waiting: Waiting[One], window: int = 0) -> list[str]:
    """Names in the order in which they are sent, one answered after the other."""
    names = []
    while (one := waiting.take(window, only=True)) is not None:
        names.append(one.name)
    return names


def waiting_for(*ones: One) -> Waiting[One]:
    waiting: Waiting[One] = Waiting()
    for one in ones:
        waiting.put([one])
    return waiting


def test_a_small_request_does_not_wait_behind_large_ones_of_others() -> None:
    """It passes, and the large ones keep their order."""
    waiting = waiting_for(One("a", "s1", BIG), One("b", "s2", BIG), One("c", "s3", SMALL))
    assert sent(waiting) == ["c", "a", "b"]


def test_requests_for_one_session_stay_in_order() -> None:
    """A small one waits behind a large one for the same session, and one after it too."""
    waiting = waiting_for(One("a", "s1", BIG), One("b", "s1", SMALL), One("c", "s2", SMALL), One("d", "s1", SMALL))
    assert sent(waiting) == ["c", "a", "b", "d"]


def test_what_is_for_no_session_keeps_its_place() -> None:
    """A plain command passes nothing, and nothing passes it."""
    waiting = waiting_for(One("a", "s1", BIG), One("plain", "", SMALL), One("b", "s2", SMALL))
    assert sent(waiting) == ["a", "plain", "b"]


def test_requests_of_one_caller_stay_together_in_order() -> None:
    """What was handed over at once is sent in that order, large and small."""
    waiting = waiting_for(One("a", "s1", BIG))
    waiting.put([One("b", "s2", SMALL), One("c", "s3", BIG), One("d", "s4", SMALL)])
    assert sent(waiting) == ["a", "b", "c", "d"]


def test_a_large_request_does_not_pass_what_came_before_it() -> None:
    """However much of that there is."""
    before = [One(f"{n}", f"s{n % 7}", SMALL) for n in range(3 * BIG // SMALL)]
    waiting = waiting_for(*before, One("large", "s0", BIG))
    assert sent(waiting) == [*(one.name for one in before), "large"]


def test_large_requests_are_not_starved() -> None:
    """With small ones for others coming without end, a large one has its turn when as many bytes have passed it."""
    waiting = waiting_for(One("large", "s0", BIG))
    names: list[str] = []
    for n in range(BIG // SMALL + 3):
        waiting.put([One(f"a{n}", f"s{n + 1}", SMALL), One(f"b{n}", f"s{n + 1}", SMALL)])
        one = waiting.take(0, only=True)
        assert one is not None
        names.append(one.name)
    assert "large" in names


def test_a_large_request_waits_for_room_and_a_small_one_has_a_reserve() -> None:
    """While a large one is on its way another waits unless the window has room; small ones need not."""
    waiting = waiting_for(One("a", "s1", BIG))
    assert waiting.take(BIG - 1, only=False) is None
    waiting.put([One("b", "s2", SMALL)])
    small = waiting.take(-RESERVE + SMALL, only=False)
    assert small is not None
    assert small.name == "b"
    assert waiting.take(-RESERVE, only=False) is None
    large = waiting.take(BIG, only=False)
    assert large is not None
    assert large.name == "a"


def test_whose_caller_is_gone_is_not_sent() -> None:
    """A cancelled request is left out, and blocks nobody."""
    gone = One("gone", "s1", BIG)
    waiting = waiting_for(gone, One("b", "s2", BIG))
    gone.over = True
    assert sent(waiting) == ["b"]


def test_what_must_be_sent_again_comes_first() -> None:
    """In its order, before all that waits."""
    waiting = waiting_for(One("a", "s1", SMALL))
    waiting.put_first([One("x", "s2", BIG), One("y", "s3", SMALL)])
    assert [one.name for one in waiting.take_all()] == ["x", "y", "a"]
    assert len(waiting) == 0


GROUPS = st.lists(
    st.tuples(st.sampled_from(["", "s1", "s2", "s3"]), st.sampled_from([SMALL, LARGE, BIG])), min_size=1, max_size=4
)
STEPS = st.lists(st.one_of(GROUPS, st.tuples(st.integers(-70_000, 70_000), st.booleans())), max_size=40)


@given(STEPS)
def test_no_caller_sees_another_order(steps: Sequence[object]) -> None:
    """Whatever comes and goes: one session's requests, one caller's, and everything around a plain command stay in order."""
    waiting: Waiting[One] = Waiting()
    came: list[One] = []
    left: list[One] = []
    for n, step in enumerate(steps):
        if isinstance(step, tuple):
            room, only = step
            one = waiting.take(room, only=only)
            left += [one] if one else []
        else:
            assert isinstance(step, list)
            group = [One("", session, size, group=n) for session, size in step]
            came += group
            waiting.put(group)
    while (one := waiting.take(0, only=True)) is not None:
        left.append(one)
    assert sorted(one.number for one in left) == [one.number for one in came], "each once"
    for i, first in enumerate(left):
        for later in left[i + 1 :]:
            if later.number < first.number:  # `first` passed `later`
                assert first.session, "nothing but a session's request passes"
                assert later.session, "nothing passes a plain command"
                assert first.session != later.session
                assert first.group != later.group
                assert first.size <= LARGE
