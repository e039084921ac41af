"""How many offers a worker has in hand, how fast it starts handlers, and which calls it leaves to others: pure rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.worker.offers_in_hand import MOST, Window
from coordinator.worker.pace import HandlerPace
from coordinator.worker.placement import MOST_DEATHS, Apart, Share
from tests import inside


def test_a_quick_program_has_more_in_hand() -> None:
    """Each offer that is answered at once makes room for one more, up to a bound."""
    window = Window()
    first = window.size
    window.answered_after(0.001)
    assert window.size == first + 1
    for _ in range(100):
        window.answered_after(0.001)
    assert window.size == MOST


def test_a_slow_program_has_few_in_hand() -> None:
    """What waits is better off elsewhere: down to one at a time, and never to none."""
    window = Window()
    for _ in range(10):
        window.answered_after(2.0)
    assert window.size == 1
    window.answered_after(0.3)
    assert window.size == 1, "neither quick nor slow changes nothing"


def test_a_stalled_program_begins_again_with_one() -> None:
    """It did not get to what it was given."""
    window = Window()
    window.stalled()
    assert window.size == 1


def test_who_may_take_none_takes_none() -> None:
    """A worker of a sidecar that nobody listens for is given nothing."""
    window = Window()
    window.most = 0
    assert window.size == 0


def test_handlers_start_faster_while_the_loop_turns_over() -> None:
    """One, two, four at a time, without a pause."""
    pace, together = HandlerPace(), []
    for _ in range(6):
        together.append(pace.together)
        assert pace.turned_over(0.0) == 0.0
    assert together == [1, 2, 4, 8, 16, 16]


def test_a_late_loop_has_a_pause_as_long_as_it_was_late() -> None:
    """The live calls get half of the time, and the next start is a small one."""
    pace = HandlerPace()
    for _ in range(5):
        pace.turned_over(0.0)
    assert pace.turned_over(0.05) == 0.05
    assert pace.together == 4
    pace.turned_over(0.05)
    assert pace.together == 1
    pace.turned_over(0.05)
    assert pace.together == 1


def _takes(share: Share, death: str, calls: int) -> list[int]:
    """How many are taken between two pauses, until all are."""
    runs, run = [], 0
    for _ in range(calls):
        run += 1
        if share.took(death):
            runs.append(run)
            run = 0
    return [*runs, run] if run else runs


def test_a_share_is_the_part_of_the_room() -> None:
    """Of 20 calls a worker with a quarter of the room takes five, and then leaves the others a moment."""
    share = Share()
    share.seen("dead", 20, 10, 40)
    assert share.left("dead") == 5
    assert _takes(share, "dead", 20)[0] == 5


def test_what_nobody_else_takes_is_taken_in_growing_steps() -> None:
    """The room of others was not what it seemed: nothing waits for long."""
    share = Share()
    share.seen("dead", 1000, 10, 1000)
    assert _takes(share, "dead", 1000) == [10, 20, 40, 80, 160, 320, 370]


def test_who_is_alone_takes_all() -> None:
    """No other room, or none that is known: no pause."""
    share = Share()
    share.seen("alone", 50, 100, 100)
    share.seen("unknown", 50, 100, 0)
    assert share.left("alone") == share.left("unknown") == 50 or share.left("unknown") > 50
    assert _takes(share, "alone", 49) == [49]


def test_who_took_all_of_a_death_leaves_nothing_to_others() -> None:
    """Many workers of one call each die: their calls are taken one after the other, without a moment between them."""
    share = Share()
    for n in range(3 * MOST_DEATHS):
        share.seen(f"dead-{n}", 1, 10, 1000)
        assert not share.took(f"dead-{n}")
    share.seen("of two", 2, 10, 1000)
    assert share.took("of two"), "one of two is left"
    assert not share.took("of two")


def test_a_share_is_told_once() -> None:
    """The room shrinks as the calls are taken: the first sight counts."""
    share = Share()
    share.seen("dead", 20, 10, 20)
    share.took("dead")
    share.seen("dead", 20, 1, 20)
    assert share.left("dead") == 9


def test_deaths_are_forgotten() -> None:
    """What is remembered of deaths is bounded."""
    share = Share()
    for n in range(10 * MOST_DEATHS):
        share.seen(f"dead-{n}", 1, 1, 1)
    assert len(inside.deaths_known(share)) <= MOST_DEATHS


def test_the_suspected_are_taken_one_by_one() -> None:
    """With a limit of one, the second is taken when the first is clear."""
    apart = Apart()
    assert apart.may_take(1, [], 0.0)
    assert apart.took(1, 2.0, 0.0) == 2.0
    assert not apart.may_take(1, [], 1.9)
    assert apart.clear_at(1.0) == 2.0
    assert apart.may_take(1, [], 2.1)


def test_what_is_in_hand_counts() -> None:
    """One that is in hand and not adopted yet takes the place."""
    assert not Apart().may_take(1, [1], 0.0)
    assert Apart().may_take(2, [2], 0.0)
    assert not Apart().may_take(5, [1], 0.0), "the smallest limit counts"


def test_who_is_not_suspected_is_always_taken() -> None:
    """Calls that died with nobody are not kept waiting by those that did."""
    apart = Apart()
    apart.took(1, 60.0, 0.0)
    assert apart.may_take(0, [1, 1], 0.0)
    assert apart.took(0, 60.0, 0.0) == 0.0


def test_who_is_to_be_alone_waits_for_those_that_moved_along() -> None:
    """Calls of the same death that are not suspected came here first: until they are clear here the last suspect waits."""
    apart = Apart()
    apart.took(0, 2.0, 0.0)
    assert not apart.may_take(1, [], 1.0)
    assert apart.may_take(5, [], 1.0), "several may have done it all the same"
    assert apart.clear_at(1.0) == 2.0
    assert apart.may_take(1, [], 2.0)


@given(st.lists(st.tuples(st.integers(1, 8), st.floats(0, 3)), max_size=60))
def test_never_more_than_the_smallest_limit(offers: list[tuple[int, float]]) -> None:
    """Whatever comes in whatever order: those under probation at one time are never more than any of them allows."""
    apart, now = Apart(), 0.0
    served: list[tuple[float, int]] = []
    for limit, step in offers:
        now += step
        if apart.may_take(limit, [], now):
            apart.took(limit, 2.0, now)
            served.append((now + 2.0, limit))
        here = [its for until, its in served if until > now]
        assert not here or len(here) <= min(here)
