"""Who is to blame for a death; and that a call which kills its workers takes no neighbours with it, for many chances.

The simulated deployment uses the real rules (`judge`, `Apart`, `Share`) and knows nothing of who kills.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass, field

import pytest

from coordinator.blame import FRESH_SECONDS, LONGEST_PROBATION_SECONDS, SHARE, Blamed, judge
from coordinator.worker.placement import Apart, Share

MAX_RECOVERIES = 3


def died(session: str, times: int = 1, age: float = 1.0, probation: float = 0.0) -> Blamed:
    """A session that died before."""
    return Blamed(session, times, age, probation)


def test_who_dies_alone_is_to_blame() -> None:
    """The only one that had come shortly before."""
    verdict = judge([died("a", times=3)], MAX_RECOVERIES)
    assert verdict.convict == "a"


def test_of_several_nobody_is_convicted() -> None:
    """They share the blame, and are kept apart: one heir gets a part of them at a time."""
    verdict = judge([died(f"s{n}", times=2) for n in range(20)], MAX_RECOVERIES)
    assert (verdict.convict, verdict.apart) == ("", math.ceil(20 / SHARE))


def test_the_only_one_that_died_often_is_to_blame() -> None:
    """Those that died once before are less likely to have done it than the one that died twice."""
    sessions = [died("killer", times=2), *(died(f"s{n}") for n in range(5))]
    assert judge(sessions, MAX_RECOVERIES).convict == "killer"


def test_who_was_there_for_long_is_not_to_blame() -> None:
    """Adopted long before, while others came a second ago: the death says nothing of it."""
    verdict = judge([died("old", times=3, age=60.0), died("new", age=1.0)], MAX_RECOVERIES)
    assert verdict.oldest == 1.0
    assert verdict.convict == "new"


def test_two_ordinary_deaths_keep_nobody_apart() -> None:
    """A worker ends an hour after the last one: its calls are spread and offered at once, all of them."""
    verdict = judge([died(f"s{n}", age=3600.0) for n in range(50)], MAX_RECOVERIES)
    assert (verdict.oldest, verdict.apart, verdict.convict) == (None, 0, "")


def test_a_slow_killer_is_kept_apart_in_the_end() -> None:
    """Deaths long after the adoptions count for all; once they are enough for a dead letter those are kept apart."""
    sessions = [died(f"s{n}", times=MAX_RECOVERIES, age=60.0) for n in range(8)]
    verdict = judge(sessions, MAX_RECOVERIES)
    assert (verdict.convict, verdict.apart) == ("", 2)
    assert judge([died("killer", times=3, age=60.0), *sessions[:0]], MAX_RECOVERIES).convict == "killer"


def test_a_probation_is_longer_than_it_took_to_kill() -> None:
    """The next one that kills as quickly is found before its heir takes more; and nobody waits for ever."""
    verdict = judge([died("a", age=2.0), died("b", age=1.0)], MAX_RECOVERIES)
    assert verdict.probation > 2.0
    long = judge([died("a", age=30.0, probation=40.0), died("b", age=1.0)], MAX_RECOVERIES)
    assert long.probation == LONGEST_PROBATION_SECONDS


def test_its_own_probation_decides_whether_it_is_fresh() -> None:
    """One that killed after eight seconds is looked at for as long the next time."""
    fresh = judge([died("slow", times=2, age=8.0, probation=10.0)], MAX_RECOVERIES)
    assert fresh.oldest == 8.0
    assert judge([died("quick", times=2, age=FRESH_SECONDS + 1)], MAX_RECOVERIES).oldest is None


def test_nobody_is_nothing() -> None:
    """Without sessions that died before there is nothing to say."""
    verdict = judge([], MAX_RECOVERIES)
    assert (verdict.convict, verdict.apart, verdict.oldest) == ("", 0, None)


@dataclass(eq=False)
class Call:
    """A simulated session."""

    name: str
    kills: bool = False
    level: int = 0
    moves: int = 0
    got_at: float = -1e9
    limit: int = 0
    probation: float = 0.0
    state: str = "active"
    orphaned_at: float = 0.0
    silence: float = 0.0


@dataclass(eq=False)
class Heir:
    """A simulated worker."""

    name: str
    owns: dict[Call, None] = field(default_factory=dict)
    up: bool = True
    apart: Apart = field(default_factory=Apart)
    share: Share = field(default_factory=Share)
    paused_until: float = 0.0


class World:
    """Workers that are started again after a while, calls of which some kill their worker a second after they came."""

    def __init__(self, neighbours: int, workers: int, killers: int, chance: random.Random) -> None:
        self.chance, self.now, self.deaths = chance, 0.0, 0
        self.heirs = [Heir(f"w{n}") for n in range(workers)]
        calls = [Call(f"k{n}", kills=True) for n in range(killers)] + [Call(f"n{n}") for n in range(neighbours)]
        self.heirs[0].owns.update(dict.fromkeys(calls))
        for heir in self.heirs[1:]:
            heir.owns.update((Call(f"{heir.name}-{n}"), None) for n in range(10))
        self.calls = [call for heir in self.heirs for call in heir.owns]
        self._offers: list[tuple[float, int, Call, str, int, int]] = []
        self._events: list[tuple[float, int, str, object]] = []
        self._count = itertools.count()
        self._again_at = 0.0

    def _at(self, seconds: float, what: str, who: object) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._count), what, who))

    def run(self, seconds: float = 600.0) -> None:
        """From the first death until nothing happens any more."""
        self._die(self.heirs[0])
        while self._events and self.now < seconds:
            self.now, _, what, who = heapq.heappop(self._events)
            if what == "declared" and isinstance(who, tuple):
                self._claim(*who)
            elif what == "up" and isinstance(who, Heir):
                who.up, who.apart, who.share, who.paused_until = True, Apart(), Share(), 0.0
            elif what == "kills" and isinstance(who, tuple):
                call, heir, moves = who
                if call in heir.owns and call.moves == moves and heir.up:
                    self._die(heir)
            self._take()

    def _die(self, heir: Heir) -> None:
        heir.up = False
        self.deaths += 1
        owned, heir.owns = list(heir.owns), {}
        for call in owned:
            call.state, call.orphaned_at = "orphan", self.now
        self._at(self.chance.uniform(0.7, 1.0), "declared", (owned, self.now))
        self._at(self.chance.uniform(1.0, 2.0), "up", heir)

    def _claim(self, owned: list[Call], at: float) -> None:
        blamed = {c.name: c for c in owned if c.level and c.moves}
        verdict = judge([Blamed(c.name, c.level, at - c.got_at, c.probation) for c in blamed.values()], MAX_RECOVERIES)
        rank, living = 0, [heir for heir in self.heirs if heir.up]
        for call in sorted(owned, key=lambda _: self.chance.random()):
            judged = bool(blamed)
            here = not judged or (
                call.name in blamed and (verdict.oldest is None or at - call.got_at <= verdict.oldest)
            )
            call.level += here
            if judged and call.level > MAX_RECOVERIES and verdict.convict == call.name:
                call.state = "dead_lettered"
                continue
            call.limit, call.probation, waits = 0, verdict.probation, 0.0
            if judged and here and verdict.apart:
                call.limit = verdict.apart
                waits = rank // (verdict.apart * max(1, len(living))) * verdict.probation
                rank += 1
            room = 500 * len(living)
            offer = (self.now + waits, next(self._count), call, f"{at}", len(owned), room)
            heapq.heappush(self._offers, offer)
            if waits:
                self._at(waits, "offered", None)

    def _again(self) -> None:
        """Somebody looks again in a moment."""
        if self._again_at <= self.now:
            self._again_at = self.now + 0.1
            self._at(0.1, "again", None)

    def _take(self) -> None:
        """Every heir takes what it may, in turns; who is full of suspected calls leaves others to the others."""
        later, heirs = [], [h for h in self.heirs if h.up]
        while self._offers and self._offers[0][0] <= self.now:
            free = [h for h in heirs if h.paused_until <= self.now] or (heirs[:] if len(heirs) == 1 else [])
            if not free:
                self._again()
                break  # nobody takes any of the others either
            offer = heapq.heappop(self._offers)
            _, _, call, death, died_with, room = offer
            self.chance.shuffle(free)
            if call.limit:
                free = sorted(
                    (h for h in free if h.apart.may_take(call.limit, [], self.now)), key=lambda h: len(h.owns)
                )
            if not free:
                later.append(offer)
                self._again()
                continue
            heir = free[0]
            heir.share.seen(death, died_with, 500 - len(heir.owns), room)
            if not call.limit and heir.share.took(death):
                heir.paused_until = max(heir.paused_until, self.now + 0.1)
                self._again()
            pause = heir.apart.took(call.limit, call.probation, self.now)
            if pause and len(heirs) > 1:
                heir.paused_until = self.now + pause
            heir.owns[call] = None
            call.state, call.got_at, call.moves = "active", self.now, call.moves + 1
            call.silence = max(call.silence, self.now - call.orphaned_at)
            if call.kills:
                self._at(self.chance.uniform(0.9, 1.1), "kills", (call, heir, call.moves))
        for offer in later:
            heapq.heappush(self._offers, offer)


MOST_MOVES = {(20, 2, 1): 7, (20, 2, 3): 12, (20, 10, 1): 4, (20, 10, 3): 5,
              (200, 2, 1): 10, (200, 2, 3): 14, (200, 10, 1): 6, (200, 10, 3): 8}  # fmt: skip
"""Neighbours, workers and calls that kill -> how often an innocent call moves at most. docs/faults.md states these bounds."""


@pytest.mark.parametrize("killers", [1, 3])
@pytest.mark.parametrize("workers", [2, 10])
@pytest.mark.parametrize("neighbours", [20, 200])
def test_a_killer_takes_no_neighbours_with_it(neighbours: int, workers: int, killers: int) -> None:
    """Whatever the chances: only those that kill become dead letters, all others are served, and none moves often."""
    for seed in range(12):
        world = World(neighbours, workers, killers, random.Random(seed))
        world.run()
        states = {call.name: call.state for call in world.calls}
        assert {name for name, state in states.items() if state == "dead_lettered"} == {f"k{n}" for n in range(killers)}
        assert {state for name, state in states.items() if not name.startswith("k")} == {"active"}
        moves = max(call.moves for call in world.calls if not call.kills)
        assert moves <= MOST_MOVES[neighbours, workers, killers], f"seed {seed}"
