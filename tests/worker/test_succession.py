"""For how long a name in use is asked for."""

from __future__ import annotations

from coordinator.worker.succession import NameWait


def asked(wait: NameWait, answers: list[tuple[float, float]]) -> float | None:
    """At which of these times (now, left) it gives up."""
    return next((now for now, left in answers if wait.is_over(now, left)), None)


def beating(until: float, window: float, every: float = 0.25) -> list[tuple[float, float]]:
    """Answers while a predecessor beats until a time, and is silent afterwards until its window is over."""
    steps = [n * every for n in range(400)]
    return [(now, window - max(0.0, now - until)) for now in steps if now < until + window]


def test_one_that_beats_is_waited_for_as_long_as_others() -> None:
    """However long its trust window is."""
    assert asked(NameWait(0.0, 5.0, 2.0), beating(1000, 0.75)) == 5.25
    assert asked(NameWait(0.0, 5.0, 2.0), beating(1000, 19.75)) == 5.25


def test_one_that_is_silent_is_waited_for_until_its_window_is_over() -> None:
    """It may be many times longer than the newcomer's own patience: who stands for it is being started again, or is gone."""
    assert asked(NameWait(0.0, 5.0, 2.0), beating(0, 19.75)) is None


def test_one_that_falls_silent_while_it_is_asked_for_is_waited_for() -> None:
    """What counts is whether it beats now, not whether it ever did."""
    assert asked(NameWait(0.0, 5.0, 2.0), beating(1.0, 19.75)) is None


def test_one_that_beats_again_is_not() -> None:
    """Its sidecar was started again in the meantime: the name is in use."""
    again = [*beating(0, 8.0), *((8.0 + n * 0.25, 19.75) for n in range(20))]
    assert asked(NameWait(0.0, 5.0, 2.0), again) == 8.0
