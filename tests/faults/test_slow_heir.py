"""An heir that needs a while for each call loses none, and its own calls are not silent for it. Short forms."""

from __future__ import annotations

from tests.faults.slow_heir import take_over


def test_an_heir_that_takes_one_after_the_other() -> None:
    """Forty calls, 100 ms each, one heir with room for all: none is given up on, none needs a second attempt."""
    taken = take_over(40, attach=0.1)
    assert taken.broken == []
    assert (taken.letters, taken.attempts) == (0, 1)


def test_an_heir_whose_handlers_begin_with_work() -> None:
    """Thirty calls, each with 50 ms of work as it begins: none is given up on, and nobody fences the heir for it."""
    taken = take_over(30, work=0.05)
    assert taken.broken == []
    assert (taken.letters, taken.attempts) == (0, 1)
