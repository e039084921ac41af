"""What the model knows of a moment: the store, the workers, and what may still go wrong.

Time is abstract: a deadline may pass whenever its owner does not beat, never while it does. A step is one script, one
reply or one fault. Left out: capacity, ``give_up_after``, the mass breaker, several servers that are writable at once.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

T = TypeVar("T")

FAULTS = (
    "crash", "freeze", "cut", "rollback", "wipe", "stranger", "lost_reply", "late", "unknown", "lose_entry", "lose_index", "forget",
    "checkpoint", "close", "release", "leave", "again", "handover",
)  # fmt: skip
"""What a scenario's budget counts; the last six are a worker's own doing, or its caller's."""

_PLACES = {fault: place for place, fault in enumerate(FAULTS)}

Memory = tuple[int, int]
"""Epoch and number of the last checkpoint, as a worker believes them."""


class Request(NamedTuple):
    """One that is on its way, and whose sender goes on without an answer."""

    operation: str
    instance: int
    session: int
    epoch: int
    data: int  # number of a checkpoint; of `let_go` the heir


class Record(NamedTuple):
    """A session record."""

    state: str  # active handing_over offered dead_lettered closed
    owner: int | None
    epoch: int
    data: int
    tries: int = 0
    heir: int | None = None
    anew: bool = False  # re-asserted and not renewed
    last_owner: int | None = None
    before: int = -1  # the epoch that was renewed


class Store(NamedTuple):
    """One partition on one server: what a failover loses together."""

    known: tuple[str, ...]  # instance -> "-", alive, dead
    records: tuple[Record | None, ...]
    owned: frozenset[tuple[int, int]] = frozenset()  # index: (instance, session)
    graves: frozenset[int] = frozenset()
    stream: frozenset[tuple[int, int, int]] = frozenset()  # (session, epoch, reader or -1)
    server: int = 0
    held: bool = False  # after lost writes nothing changes hands
    floor: tuple[int, ...] = ()  # session -> what its epochs are lifted above
    untold: bool = False  # a stranger made it, and nobody has told of a past


class Process(NamedTuple):
    """A worker."""

    memory: tuple[Memory | None, ...]  # session -> what it serves
    run: str = "up"  # up cut frozen gone
    trust_window: bool = True  # its deadline lies ahead
    trust: bool = True  # its trust window is open
    over: bool = False  # it was told that its id is dead
    seen: int = 0  # server with which it last agreed
    unsure: frozenset[int] = frozenset()  # sessions that it does not hold until they are renewed
    stated: frozenset[int] = frozenset()  # of these: re-asserted
    offer: Memory | None = None  # (session, epoch) that it has read
    closed: frozenset[tuple[int, int]] = frozenset()  # (session, epoch) that ended here
    waits: frozenset[int] = frozenset()  # as an heir, where outcomes may be unknown
    doing: tuple[str, int, int] | None = None  # what a comparison found: give up or end it, the session, the epoch seen
    past: tuple[int, ...] = ()  # session -> highest epoch that it remembers, where a stranger may come


class World(NamedTuple):
    """Everything."""

    store: Store
    processes: tuple[Process, ...]
    budget: tuple[int, ...]
    snapshot: Store | None = None  # what a lagging replica has
    deaths: frozenset[int] = frozenset()  # that coordinators remember
    network: frozenset[Request] = frozenset()
    top: tuple[int, ...] = ()  # ghost: highest epoch granted
    acknowledged: tuple[int, ...] = ()  # ghost: last acknowledged checkpoint
    lost: bool = False  # ghost: writes were lost


class Scenario(NamedTuple):
    """How many there are, and what may go wrong how often; the last instance never fails."""

    name: str
    budget: dict[str, int]
    instances: int = 2
    sessions: int = 1
    slow_clock: bool = False  # a new server's clock is behind
    unknown: tuple[str, ...] = ()  # operations whose outcome may be unknown


def start(scenario: Scenario) -> World:
    """Every instance registered, nothing opened."""
    n, s = scenario.instances, scenario.sessions
    store = Store(("alive",) * n, (None,) * s, floor=(0,) * s)
    budget = tuple(scenario.budget.get(f, 0) for f in FAULTS)
    past = (0,) * s if scenario.budget.get("stranger") else ()
    return World(store, (Process((None,) * s, past=past),) * n, budget, top=(0,) * s, acknowledged=(0,) * s)


def holds(process: Process, session: int, *, doubt: bool = True) -> bool:
    """What ``session.held`` says in that process."""
    believes = process.memory[session] is not None and not (doubt and session in process.unsure)
    return process.run in ("up", "cut") and process.trust and not process.over and believes


def may_go_wrong(world: World, fault: str) -> bool:
    """Whether the budget has it."""
    return world.budget[_PLACES[fault]] > 0


def spend(world: World, fault: str) -> World:
    """It went wrong once."""
    i = _PLACES[fault]
    return world._replace(budget=put(world.budget, i, world.budget[i] - 1))


def put(items: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    """The tuple with one item replaced."""
    return (*items[:index], value, *items[index + 1 :])


def canonical(world: World) -> World:
    """The same world with its epochs numbered anew: only their order matters, so loops come back to where they began."""
    stores = [world.store] if world.snapshot is None else [world.store, world.snapshot]
    epochs: list[set[int]] = []
    for s, top in enumerate(world.top):
        seen = {0, top}
        for st in stores:
            seen.add(st.floor[s])
            if (r := st.records[s]) is not None:
                seen |= {r.epoch, max(r.before, 0)}
            seen.update(e[1] for e in st.stream if e[0] == s)
        for x in world.processes:
            if (mine := x.memory[s]) is not None:
                seen.add(mine[0])
            if x.offer is not None and x.offer[0] == s:
                seen.add(x.offer[1])
            if x.doing is not None and x.doing[1] == s:
                seen.add(x.doing[2])
            seen.update(epoch for t, epoch in x.closed if t == s)
            seen.update(x.past[s : s + 1])
        seen.update(late.epoch for late in world.network if late.session == s)
        epochs.append(seen)
    if all(max(seen) == len(seen) - 1 for seen in epochs):
        return world
    ranks = [{epoch: rank for rank, epoch in enumerate(sorted(seen))} for seen in epochs]

    def renumbered(st: Store) -> Store:
        return st._replace(
            records=tuple(
                r and r._replace(epoch=ranks[s][r.epoch], before=ranks[s][r.before] if r.before >= 0 else -1)
                for s, r in enumerate(st.records)
            ),
            stream=frozenset((s, ranks[s][epoch], reader) for s, epoch, reader in st.stream),
            floor=tuple(ranks[s][epoch] for s, epoch in enumerate(st.floor)),
        )

    processes = tuple(
        x._replace(
            memory=tuple(m and (ranks[s][m[0]], m[1]) for s, m in enumerate(x.memory)),
            offer=x.offer and (x.offer[0], ranks[x.offer[0]][x.offer[1]]),
            doing=x.doing and (*x.doing[:2], ranks[x.doing[1]][x.doing[2]]),
            closed=frozenset((s, ranks[s][epoch]) for s, epoch in x.closed),
            past=tuple(ranks[s][epoch] for s, epoch in enumerate(x.past)),
        )
        for x in world.processes
    )
    return world._replace(
        store=renumbered(world.store),
        snapshot=world.snapshot and renumbered(world.snapshot),
        processes=processes,
        network=frozenset(q._replace(epoch=ranks[q.session][q.epoch]) for q in world.network),
        top=tuple(ranks[s][epoch] for s, epoch in enumerate(world.top)),
    )
