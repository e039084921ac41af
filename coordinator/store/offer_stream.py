"""The stream of offers to a pool: group ``workers``, one consumer an instance.

Workers read it, and coordinators look after it: they offer again what a dead reader had read, and take out what has ended. Each
function raises `StoreUnavailableError` where the store did not answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coordinator.clock import in_ms
from coordinator.errors import CoordinatorError
from coordinator.store.connect import Blocking
from coordinator.store.consumers import consumers_of
from coordinator.store.executor import Executor, StorePartition
from coordinator.store.shapes import session_id, text, text_if_any, whole
from coordinator.store.usual import BATCH

__all__ = [
    "Entry", "HeldOffer", "StoredOffer", "acknowledge", "forget_reader", "given_before", "held_by", "idle_readers", "make_group",
    "offers_waiting", "stored_after", "wait_for",
]  # fmt: skip

GROUP = "workers"
GIVEN_AT_ONCE = 100

Entry = tuple[bytes, list[bytes]]
"""Id of an entry, and its names and values in turn; none of these where only its delivery is left."""


def _entries(answer: list[tuple[bytes, list[Entry]]] | None) -> list[Entry]:
    return list(answer[0][1]) if answer else []


async def wait_for(blocking: Blocking, stream: str, instance: str, count: int, seconds: float) -> list[Entry]:
    """New entries, at most ``count``; none when none came within so many ``seconds``.

    Raises:
        NoGroupError: no worker has read there yet; see `make_group`.
        StoreUnavailableError: the store did not answer.
    """
    return _entries(
        await blocking.command(
            "XREADGROUP",
            "GROUP",
            GROUP,
            instance,
            "COUNT",
            count,
            "BLOCK",
            in_ms(seconds),
            "STREAMS",
            stream,
            ">",
        )
    )


async def given_before(run: Executor, stream: str, instance: str) -> list[Entry]:
    """Entries that this consumer was given and has not answered. Raises as `wait_for`."""
    return _entries(
        await run.command("XREADGROUP", "GROUP", GROUP, instance, "COUNT", GIVEN_AT_ONCE, "STREAMS", stream, "0")
    )


async def acknowledge(run: Executor, stream: str, entry: bytes) -> None:
    """Acknowledges an entry, so that it is delivered to no reader again. Safe to repeat.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    await run.command("XACK", stream, GROUP, entry)


async def make_group(blocking: Blocking, stream: str) -> bool:
    """Makes the group of consumers, and the stream where there is none; returns whether it is there now. Safe to repeat."""
    try:
        await blocking.command("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")
    except CoordinatorError as error:
        return "BUSYGROUP" in str(error)
    return True


@dataclass(frozen=True, slots=True)
class HeldOffer:
    """An entry that was given to a reader and not answered.

    Attributes:
        session: '' of an entry that was trimmed away, or that no program of this kind wrote.
        stands: whether the entry is still in the stream.
    """

    entry: bytes
    session: str
    attempt: int
    stands: bool


async def held_by(run: Executor, stream: str, reader: str) -> list[HeldOffer]:
    """Some of what a reader was given and has not answered; empty when there is nothing.

    Raises:
        NoGroupError: no worker has read there yet.
    """
    pending = await run.command("XPENDING", stream, GROUP, "-", "+", BATCH, reader)
    entries = [row[0] for row in pending]
    if not entries:
        return []
    found = await run.commands([("XRANGE", stream, entry, entry) for entry in entries])
    held = []
    for entry, rows in zip(entries, found, strict=True):
        values = _values(rows[0][1]) if rows else {}
        held.append(HeldOffer(entry, session_id(values.get(b"session")), whole(values.get(b"attempt"), 1), bool(rows)))
    return held


async def forget_reader(run: Executor, stream: str, reader: str) -> None:
    """Deletes a consumer, with what is pending for it. Safe to repeat.

    Raises:
        NoGroupError: no worker has read there yet.
    """
    await run.command("XGROUP", "DELCONSUMER", stream, GROUP, reader)


async def idle_readers(run: Executor, stream: str) -> list[str]:
    """Consumers for which nothing is pending."""
    return [name for name, row in (await consumers_of(run, stream, GROUP)).items() if not row.get("pending")]


async def offers_waiting(part: StorePartition, pools: Iterable[str]) -> dict[str, int]:
    """How many offers lie in the stream of each pool; 0 where its key is of another type."""
    named = list(pools)
    counts = await part.executor.outcomes([("XLEN", part.keys.offers(pool)) for pool in named])
    return {pool: count if isinstance(count, int) else 0 for pool, count in zip(named, counts, strict=True)}


@dataclass(frozen=True, slots=True)
class StoredOffer:
    """An entry of the stream.

    Attributes:
        session: None where the entry names none that is text: no program of this kind wrote it.
        current: whether the session's record names this entry as its offer.
    """

    entry: str
    session: str | None
    current: bool


async def stored_after(part: StorePartition, pool: str, last: str, count: int) -> list[StoredOffer]:
    """At most ``count`` entries of a pool's stream after the entry ``last``, '' for the first ones."""
    keys, run = part.keys, part.executor
    found = await run.command("XRANGE", keys.offers(pool), f"({last}" if last else "-", "+", "COUNT", count)
    named = {entry: text_if_any(_values(fields).get(b"session")) for entry, fields in found}
    of_sessions = {entry: session for entry, session in named.items() if session is not None}
    offers = await run.outcomes([("HGET", keys.session(session), "offer_id") for session in of_sessions.values()])
    current = {entry for entry, offer in zip(of_sessions, offers, strict=True) if offer == entry}
    return [StoredOffer(text(entry), session, entry in current) for entry, session in named.items()]


def _values(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(fields[::2], fields[1::2], strict=False))
