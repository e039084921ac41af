"""Decides which sessions of a dead instance may have killed it. Pure.

A call that kills its worker again and again becomes a dead letter. Keeping calls apart tells it from calls that only died with
it: the fewer calls may be to blame, the fewer of them one heir gets at a time, until the one to blame dies alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["SHARE", "Blamed", "Verdict", "judge"]

FRESH_SECONDS = 5.0
"""Seconds. A session adopted so shortly before a death is more likely to have caused it than one that was there for longer."""
SHARE = 6
"""From so many suspects on, one heir gets one of them at a time."""
LONGEST_PROBATION_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Blamed:
    """A session of the dead that has died with an instance before.

    Attributes:
        times: deaths for which it is blamed already, within the window.
        age: seconds from its adoption to the last sign of life.
        probation: seconds within which it may have killed before; 0 when it was never kept apart.
    """

    session: str
    times: int
    age: float
    probation: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a death says about the sessions of the dead.

    Attributes:
        oldest: seconds; blamed sessions that had been adopted for longer are not blamed for this death. None: all are.
        convict: the only session that can have done it, '' while there are several. It alone may become a dead letter.
        apart: how many of those that are blamed one heir gets within a probation; 0: they need not be kept apart.
        probation: seconds that a session must be served before it is clear that it does not kill as it did.
    """

    oldest: float | None
    convict: str
    apart: int
    probation: float


def judge(sessions: Collection[Blamed], max_recoveries: int) -> Verdict:
    """Decides which of the sessions that died before are to blame for one more death.

    They are the sessions that were adopted shortly before it, if there are any, else all. A session that died alone, or that is
    the only one to have died more than once before, is to blame. Among those of long standing it is the one with most deaths.

    Args:
        sessions: those of the dead instance that have died with an instance before.
        max_recoveries: deaths after which the session to blame is given up on.
    """
    fresh = [one for one in sessions if one.age <= (one.probation or FRESH_SECONDS)]
    blamed = fresh or list(sessions)
    if fresh:
        often = [one for one in fresh if one.times >= 2]
        suspected = often or fresh
    else:
        most = max((one.times for one in blamed), default=0)
        suspected = [one for one in blamed if one.times == most]
    convict = suspected[0].session if len(suspected) == 1 else ""
    strongly = bool(fresh) or any(one.times >= max_recoveries for one in blamed)
    if not strongly:
        return Verdict(None, convict, 0, 0.0)
    oldest = max(one.age for one in blamed)
    probation = min(LONGEST_PROBATION_SECONDS, 1.5 * oldest + 0.5)
    return Verdict(oldest if fresh else None, convict, -(-len(blamed) // SHARE), probation)
