"""The walk over all keys of a partition, which finds what an index lost.

Each function raises `StoreUnavailableError` where the store did not answer; only `records_that_parse` and `give_deadline` change
anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from coordinator.clock import in_ms
from coordinator.states import SERVED, SessionState
from coordinator.store.executor import StorePartition
from coordinator.store.lookups import now_ms
from coordinator.store.mending import broken_in, fields_of, look, set_aside
from coordinator.store.shapes import text, text_if_any

__all__ = [
    "Indexed",
    "InstanceIndexed",
    "Step",
    "give_deadline",
    "indexed",
    "instances_indexed",
    "next_keys",
    "records_that_parse",
]


@dataclass(frozen=True, slots=True)
class Step:
    """What a step of the walk found.

    Attributes:
        cursor: where the next step begins; `over` after the last one.
        sessions, instances: ids.
        pools: those with a stream of offers.
        events: whether it found the stream of events.
    """

    cursor: bytes
    sessions: list[str] = field(default_factory=list)
    instances: list[str] = field(default_factory=list)
    pools: list[str] = field(default_factory=list)
    events: bool = False

    @property
    def over(self) -> bool:
        """Whether the walk is at its end."""
        return self.cursor == b"0"


async def next_keys(part: StorePartition, cursor: bytes, count: int) -> Step:
    """The next keys, about ``count``, which SCAN takes as a hint."""
    tag = part.keys.tag
    after, found = await part.executor.command("SCAN", cursor, "MATCH", f"{tag}:*", "COUNT", count)
    by_kind: dict[str, list[str]] = {"session": [], "instance": [], "offers": [], "events": []}
    for raw in found:
        kind, _, name = (text_if_any(raw) or "").removeprefix(f"{tag}:").partition(":")
        if kind in by_kind:
            by_kind[kind].append(name)
    return Step(after, by_kind["session"], by_kind["instance"], by_kind["offers"], bool(by_kind["events"]))


async def records_that_parse(part: StorePartition, keys: Sequence[str]) -> dict[str, dict[str, bytes | None]]:
    """Key -> fields of those records that parse; the others are set aside."""
    run = part.executor
    answers = await run.outcomes(look(keys))
    sound, broken = {}, []
    for key, there, values in zip(keys, answers[::2], answers[1::2], strict=True):
        if (one := broken_in(key, there, values)) is not None:
            broken.append(one)
        elif not isinstance(values, Exception):
            sound[key] = dict(zip(fields_of(key), values, strict=True))
    for one in broken:
        await set_aside(run, one)
    return sound


@dataclass(frozen=True, slots=True)
class Indexed:
    """Where the indexes have a session.

    Attributes:
        needed: whether its state needs an index at all.
        listed: whether each index that its state needs has it.
        owner_state: state of the owner, '' where it has no record, None for a session that is not served.
        beats, buried: whether that instance is in the index of heartbeats, and among the graves.
        refused: why an index could not be read, '' when all could.
    """

    needed: bool
    listed: bool = True
    owner_state: str | None = None
    beats: bool = False
    buried: bool = False
    refused: str = ""


def _questions(part: StorePartition, session: str, state: str, owner: str) -> list[tuple[Any, ...]]:
    keys = part.keys
    if state in SERVED:
        return [
            ("HGET", keys.instance(owner), "state"),
            ("ZSCORE", keys.instances, owner),
            ("ZSCORE", keys.graves, owner),
            ("SISMEMBER", keys.owned(owner), session),
            *([("ZSCORE", keys.leases, session)] if state == SessionState.HANDING_OVER else []),
        ]
    if state == SessionState.OFFERED:
        return [("ZSCORE", keys.leases, session), ("ZSCORE", keys.orphans, session)]
    return [("ZSCORE", keys.dead_letters, session)] if state == SessionState.DEAD_LETTERED else []


async def indexed(part: StorePartition, records: Sequence[tuple[str, str, str]]) -> list[Indexed]:
    """Where the indexes have these sessions. ``records``: id, state and owner of each by its record."""
    asked = [_questions(part, *record) for record in records]
    answers = iter(await part.executor.outcomes([one for questions in asked for one in questions]))
    found = []
    for (_, state, _), questions in zip(records, asked, strict=True):
        told = [next(answers) for _ in questions]
        refused = next((str(one) for one in told if isinstance(one, Exception)), "")
        if refused or not told:
            found.append(Indexed(bool(told), refused=refused))
        elif state in SERVED:
            owner_state, beats, grave, owned, *lease = told
            found.append(
                Indexed(
                    True,
                    bool(owned) and all(one is not None for one in lease),
                    text(owner_state),
                    beats is not None,
                    grave is not None,
                )
            )
        else:
            found.append(Indexed(True, all(one is not None for one in told)))
    return found


@dataclass(frozen=True, slots=True)
class InstanceIndexed:
    """An instance by its record, and whether an index has it."""

    instance: str
    state: str
    listed: bool


async def instances_indexed(part: StorePartition, instances: Sequence[str]) -> list[InstanceIndexed]:
    """Whether the index of heartbeats or that of graves has these instances; one of which it cannot be told counts as listed."""
    keys = part.keys
    looks = await part.executor.outcomes(
        [
            one
            for i in instances
            for one in (
                ("HGET", keys.instance(i), "state"),
                ("ZSCORE", keys.instances, i),
                ("ZSCORE", keys.graves, i),
            )
        ]
    )
    return [
        InstanceIndexed(i, text(state), beats is not None or grave is not None)
        for i, state, beats, grave in zip(instances, looks[::3], looks[1::3], looks[2::3], strict=True)
    ]


async def give_deadline(part: StorePartition, instance: str, seconds: float) -> bool:
    """Gives an instance that no index has so many seconds to beat; returns whether it did. Safe to repeat."""
    deadline_ms = await now_ms(part.executor) + in_ms(seconds)
    return bool(await part.executor.command("ZADD", part.keys.instances, "NX", deadline_ms, instance))
