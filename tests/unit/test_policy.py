"""Decisions of the coordinator, as functions of what they are given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.policy import (
    Candidate,
    Observation,
    Suspect,
    backoff,
    clock_step_ms,
    earliest,
    horizon,
    lost_counts_after,
    released,
    sleep_seconds,
    unfit_to_judge,
    vote,
    watch,
)

DEAD_AFTER, GAP = 2.0, 1.0


def test_both_clocks_must_agree() -> None:
    """Past its deadline on the server's clock is not enough; it must have been seen unchanged for half of dead_after."""
    silent = Suspect("a~1", 10_000)
    dead, _, seen = vote([silent], {}, 10_001, 50.0, DEAD_AFTER)
    assert dead == []
    dead, _, seen = vote([silent], seen, 10_002, 50.9, DEAD_AFTER)
    assert dead == []
    dead, _, seen = vote([silent], seen, 10_003, 51.0, DEAD_AFTER)
    assert dead == [silent]


def test_a_deadline_that_is_ahead_is_nobodys_death() -> None:
    """However long it has been watched, an instance is alive until its deadline passed on the server's clock."""
    suspect = Suspect("a~1", 10_000)
    dead, _, _ = vote([suspect], {"a~1": Observation(10_000, 0.0)}, 9_999, 100.0, DEAD_AFTER)
    assert dead == []


def test_a_beat_starts_the_watch_anew() -> None:
    """A deadline that moved is a new observation."""
    dead, _, seen = vote([Suspect("a~1", 11_000)], {"a~1": Observation(10_000, 0.0)}, 12_000, 100.0, DEAD_AFTER)
    assert dead == []
    assert seen == {"a~1": Observation(11_000, 100.0)}


def test_who_is_no_suspect_any_more_is_forgotten() -> None:
    """What is remembered is bounded by the suspects of the last look."""
    _, _, seen = vote([], {"a~1": Observation(1, 0.0)}, 2, 1.0, DEAD_AFTER)
    assert seen == {}


@given(st.floats(0.25, 60), st.floats(0.01, 30))
def test_a_suspect_is_watched_for_long_enough_before_its_deadline(dead_after: float, gap: float) -> None:
    """With a look each quarter of max_scan_gap the watch is half of dead_after old when the deadline passes."""
    first_look_at_the_latest = horizon(dead_after, gap) - gap / 4
    assert first_look_at_the_latest >= dead_after / 2


def test_the_sleep_ends_at_the_next_deadline() -> None:
    """The next look comes a millisecond after the next deadline, and never later than a quarter of max_scan_gap."""
    assert sleep_seconds(1000, 1100, {}, 0.0, DEAD_AFTER, GAP) == 0.101
    assert sleep_seconds(1000, 9000, {}, 0.0, DEAD_AFTER, GAP) == 0.25
    assert sleep_seconds(1000, 0, {}, 0.0, DEAD_AFTER, GAP) == 0.25
    waiting = {"a~1": Observation(900, 5.0)}
    assert abs(sleep_seconds(1000, 0, waiting, 5.9, DEAD_AFTER, GAP) - 0.1) < 1e-9


@given(
    st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1000), st.floats(0, 1000), st.integers(0, 10**6)
)  # fmt: skip
def test_the_sleep_is_bounded(now_ms: int, next_ms: int, since: float, now: float, deadline_ms: int) -> None:
    """Whatever it is given, the sleep is above zero and at most a quarter of max_scan_gap."""
    seen = {"a~1": Observation(deadline_ms, since)}
    assert 0.001 <= sleep_seconds(now_ms, next_ms, seen, now, DEAD_AFTER, GAP) <= GAP / 4


def test_a_slow_judge_does_not_judge() -> None:
    """Own lag or a slow store above a quarter of max_scan_gap withholds a declaration, with the reason."""
    assert unfit_to_judge(0.01, 0.01, GAP) == ""
    assert "own loop was 0.300 s late" in unfit_to_judge(0.3, 0.01, GAP)
    assert "the store took 0.300 s" in unfit_to_judge(0.01, 0.3, GAP)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_backoff_is_bounded(attempt: int, chance: float) -> None:
    """It grows from 50 ms to 2 s, with jitter in the upper half."""
    wait = backoff(attempt, chance)
    full = min(2.0, 0.05 * 2.0 ** min(attempt, 16))
    assert full / 2 <= wait <= full


LOST = 1.0


def test_a_lost_connection_is_looked_at_after_lost_after() -> None:
    """A suspect whose last beat is old enough, watched for half of that time, has its connection looked at."""
    suspect = Suspect("a~1", 11_000)  # its last beat came at 9,000
    silent, doubtful, seen = vote([suspect], {}, 9_500, 5.0, DEAD_AFTER, LOST)
    assert (silent, doubtful) == ([], [])
    _, doubtful, seen = vote([suspect], seen, 9_999, 5.5, DEAD_AFTER, LOST)
    assert doubtful == []
    silent, doubtful, seen = vote([suspect], seen, 10_000, 5.5, DEAD_AFTER, LOST)
    assert (silent, doubtful) == ([], [suspect])
    silent, doubtful, _ = vote([suspect], seen, 11_000, 6.5, DEAD_AFTER, LOST)
    assert (silent, doubtful) == ([suspect], [])


def test_without_lost_connections_nobody_is_doubtful() -> None:
    """Switched off, only silence counts."""
    _, doubtful, _ = vote([Suspect("a~1", 11_000)], {"a~1": Observation(11_000, 0.0)}, 10_900, 9.0, DEAD_AFTER)
    assert doubtful == []


def test_the_look_comes_when_the_connection_counts() -> None:
    """The sleep ends when a suspect's lost connection would count on both clocks, and is not short for ever after."""
    seen = {"a~1": Observation(11_000, 5.0)}
    assert abs(sleep_seconds(9_900, 0, seen, 5.4, DEAD_AFTER, GAP, LOST) - 0.101) < 1e-9
    assert sleep_seconds(10_100, 0, seen, 5.6, DEAD_AFTER, GAP, LOST) == GAP / 4


def test_what_is_held_back_does_not_make_the_loop_spin() -> None:
    """A silent instance that is not declared (a hold, a breaker) is looked at each quarter of max_scan_gap."""
    assert sleep_seconds(20_000, 0, {"a~1": Observation(10_000, 0.0)}, 100.0, DEAD_AFTER, GAP) == GAP / 4


def candidate(name: str, owned: int, pool: str = "default") -> Candidate:
    """A silent instance."""
    return Candidate(Suspect(name, 1), pool, owned)


def test_the_breaker_releases_what_there_is_room_for() -> None:
    """The oldest first, while there is room; each pool by itself; who owns nothing goes at once."""
    many = [candidate(f"w{n}", 20) for n in range(5)]
    assert [s.instance for s in released(many, {"default": 50})] == ["w0", "w1"]
    assert released(many, {}) == []
    assert released(many, {"default": 0}) == []
    assert released(many, {"video": 100}) == []
    assert [s.instance for s in released([candidate("idle", 0)], {})] == ["idle"]


def test_one_that_is_larger_than_all_room_goes_alone() -> None:
    """Nothing is stuck because one instance owns more than the survivors have room for."""
    many = [candidate("big", 100), candidate("small", 5)]
    assert [s.instance for s in released(many, {"default": 10})] == ["big"]


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(0, 200))
def test_never_more_is_released_than_fits_but_for_one(owned: list[int], room: int) -> None:
    """What is released fits, or is one instance alone."""
    gone = released([candidate(f"w{n}", size) for n, size in enumerate(owned)], {"default": room})
    total = sum(owned[int(s.instance[1:])] for s in gone)
    assert total <= room or len(gone) == 1
    assert bool(gone) == (bool(owned) and room > 0)


OWN, OWN_LOST = {"hosted~1": 20.0, "near~1": 2.0}, {"hosted~1": 19.5, "near~1": 1.0}


def test_each_is_judged_by_its_own_times() -> None:
    """Whoever is given longer is neither silent nor doubtful when others are; the coordinator's settings count for nobody else."""
    near, hosted = Suspect("near~1", 10_000), Suspect("hosted~1", 28_000)  # the last beat of both came at 8,000
    seen = {"near~1": Observation(10_000, 0.0), "hosted~1": Observation(28_000, 0.0)}
    silent, doubtful, _ = vote([near, hosted], seen, 9_100, 1.0, DEAD_AFTER, LOST, OWN, OWN_LOST)
    assert (silent, doubtful) == ([], [near])
    silent, doubtful, _ = vote([near, hosted], seen, 27_400, 19.4, DEAD_AFTER, LOST, OWN, OWN_LOST)
    assert (silent, doubtful) == ([near], [])
    silent, doubtful, _ = vote([near, hosted], seen, 27_500, 19.5, DEAD_AFTER, LOST, OWN, OWN_LOST)
    assert (silent, doubtful) == ([near], [hosted])
    _, doubtful, _ = vote([near, hosted], seen, 27_500, 19.5, DEAD_AFTER, 0, OWN, OWN_LOST)
    assert doubtful == []
    silent, _, _ = vote([near, hosted], seen, 28_000, 20.0, DEAD_AFTER, LOST, OWN, OWN_LOST)
    assert silent == [near, hosted]


def test_who_is_given_longer_is_watched_for_longer() -> None:
    """Half of its own time by the own clock, and not half of the coordinator's."""
    hosted = Suspect("hosted~1", 10_000)
    silent, _, seen = vote([hosted], {"hosted~1": Observation(10_000, 0.0)}, 10_001, 9.9, DEAD_AFTER, 0, OWN, OWN_LOST)
    assert silent == []
    silent, _, _ = vote([hosted], seen, 10_101, 10.0, DEAD_AFTER, 0, OWN, OWN_LOST)
    assert silent == [hosted]


def test_a_list_is_watched_before_anybody_is_a_suspect() -> None:
    """A deadline that stands still keeps the time at which it was seen first; one that moved, and one that is new, begin anew."""
    first = watch({}, {"a~1": 1, "b~1": 1}, 5.0)
    assert watch(first, {"a~1": 1, "b~1": 2, "c~1": 3}, 6.0) == {
        "a~1": Observation(1, 5.0),
        "b~1": Observation(2, 6.0),
        "c~1": Observation(3, 6.0),
    }


def test_the_longest_watch_over_the_present_deadline_counts() -> None:
    """Of what several remember; what is remembered of another deadline counts nothing."""
    a, b, c = Suspect("a~1", 10), Suspect("b~1", 10), Suspect("c~1", 10)
    one = {"a~1": Observation(10, 5.0), "b~1": Observation(9, 1.0)}
    other = {"a~1": Observation(10, 3.0), "b~1": Observation(10, 4.0), "d~1": Observation(10, 0.0)}
    assert earliest([a, b, c], one, other) == {"a~1": Observation(10, 3.0), "b~1": Observation(10, 4.0)}


def test_the_sleep_ends_at_the_own_times_of_each() -> None:
    """The look comes when the lost connection of whoever is given longer counts, and when it was watched for long enough."""
    seen = {"hosted~1": Observation(28_000, 0.0)}
    assert sleep_seconds(9_900, 0, seen, 1.9, DEAD_AFTER, GAP, LOST, OWN, OWN_LOST) == GAP / 4
    assert abs(sleep_seconds(27_400, 0, seen, 19.4, DEAD_AFTER, GAP, LOST, OWN, OWN_LOST) - 0.101) < 1e-9
    late = {"hosted~1": Observation(8_000, 0.0)}
    assert abs(sleep_seconds(9_000, 0, late, 9.9, DEAD_AFTER, GAP, LOST, OWN, OWN_LOST) - 0.1) < 1e-9


@given(st.floats(0.5, 60), st.floats(0.01, 30), st.floats(0, 1))
def test_a_lost_connection_never_counts_while_an_instance_trusts_itself(
    lost: float, trust: float, margin: float
) -> None:
    """Nor before the coordinator's own setting."""
    assert lost_counts_after(lost, trust, margin) >= max(lost, trust + margin)
    assert lost_counts_after(1.0, 0.75, 0.25) == 1.0


@pytest.mark.parametrize(
    ("before", "after", "step"),
    [
        ((0, 0.0), (5_000_000, 1.0), 0),
        ((1_000, 10.0), (1_250, 10.25), 0),
        ((1_000, 10.0), (61_250, 10.25), 60_000),
        ((1_000, 10.0), (11_000, 20.0), 0),
        ((61_000, 10.0), (1_250, 10.25), 0),
        ((1_000, 10.0), (6_250, 15.25), 0),
    ],
    ids=[
        "no look before", "both went on", "a minute forward", "ten seconds without an answer", "backward",
        "asked, and stopped for five seconds before the answer was read",
    ],
)  # fmt: skip
def test_how_far_a_clock_stepped(before: tuple[int, float], after: tuple[int, float], step: int) -> None:
    """What the server's clock went further than the own one; time that both counted is none."""
    assert clock_step_ms(before, after) == step
