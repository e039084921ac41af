"""Two workers that serve, one that only owns, a coordinator, and what must be true of them once faults have stopped."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc
import redis

from coordinator import Session, Worker
from coordinator.store.keys import Keys
from tests.coordinating import coordinating
from tests.inside import impatient, instance_of, member_of, serving_of
from tests.outcomes.faulty import FaultyExecutor
from tests.store.harness import Bench
from tests.waiting import eventually

__all__ = ["World", "Written", "world"]

KEYS = Keys("recovery", 0)
LEASE = "1s"
PATIENCE = 0.1
SERVED = ("active", "handing_over")


@dataclass(slots=True)
class Written:
    """Recovery data of a call.

    Attributes:
        opened: with which it was opened.
        sent: what may have been written: it has no acknowledgement.
        acknowledged: what was acknowledged by writes of which none came after another.
    """

    opened: bytes
    sent: set[bytes] = field(default_factory=set)
    acknowledged: set[bytes] = field(default_factory=set)

    @property
    def right(self) -> set[bytes]:
        """What the store may have."""
        return (self.acknowledged or {self.opened}) | self.sent


class World:
    """What an operation and its faults act in.

    Attributes:
        actor: whose operations are tried; its handlers run.
        heir: serves what it is offered once it was told to begin.
        plain: owns and adopts, and runs no handlers.
        store: the actor's way to the store, with faults.
        data: id -> what was written.
        closed: ids whose end was acknowledged.
    """

    def __init__(
        self, actor: Worker, heir: Worker, plain: Worker, client: redis.Redis, tasks: anyio.abc.TaskGroup
    ) -> None:
        self.actor, self.heir, self.plain = actor, heir, plain
        self.bench = Bench(client)
        self._client: Any = client
        self._tasks = tasks
        self.running: dict[str, Counter[str]] = {"actor": Counter(), "heir": Counter()}
        self.begun: dict[str, Counter[str]] = {"actor": Counter(), "heir": Counter()}
        self.data: dict[str, Written] = {}
        self.closed: set[str] = set()
        self._heir_serves = False
        member = member_of(actor)
        self.store = FaultyExecutor.before(member.part.executor, self._while_stopped)

    def serve(self) -> None:
        """The actor's handlers run from now on."""
        self._tasks.start_soon(self.actor.serve, self._handler("actor"))

    def let_heir_serve(self) -> None:
        """The heir's handlers run from now on. Safe to repeat."""
        if not self._heir_serves:
            self._heir_serves = True
            self._tasks.start_soon(self.heir.serve, self._handler("heir"))

    def _handler(self, who: str) -> Any:
        async def handler(session: Session) -> None:
            self.running[who][session.id] += 1
            self.begun[who][session.id] += 1
            try:
                await anyio.sleep_forever()
            finally:
                self.running[who][session.id] -= 1

        return handler

    def _while_stopped(self) -> None:
        """The actor stood still, and a coordinator has declared it dead."""
        self.bench.certify(self.actor.id, "silence")

    @contextlib.asynccontextmanager
    async def writes(self, call: str, data: bytes) -> AsyncIterator[Written]:
        """Inside of the block data is written; it is acknowledged when that returns."""
        written = self.data[call]
        written.sent.add(data)
        yield written
        written.sent.discard(data)
        written.acknowledged.add(data)

    async def settle(self) -> None:
        """The store answers again, heirs serve, and everything is as the promises say; late requests change nothing."""
        self.store.mend()
        self.let_heir_serve()
        await self._agree()
        if await self.store.deliver():
            await self._agree()
        for session_id, written in self.data.items():
            record = self.record(session_id)
            if record and record[b"state"] != b"closed":
                assert record[b"data"] in written.right, f"{session_id}: what was acknowledged is not stored"
        for session_id in self.closed:
            assert self.record(session_id).get(b"state", b"closed") == b"closed", f"{session_id} lives again"

    def record(self, session_id: str) -> dict[bytes, bytes]:
        """The record as stored."""
        found: dict[bytes, bytes] = self._client.hgetall(KEYS.session(session_id))
        return found

    async def _agree(self) -> None:
        wrong: list[str] = []

        def agrees() -> bool:
            wrong[:] = self.wrong()
            return not wrong

        try:
            await eventually(agrees, 20)
        except AssertionError:
            raise AssertionError("; ".join(wrong)) from None

    def wrong(self) -> list[str]:
        """In what the store, the handles and the handlers differ just now."""
        found = []
        workers = {"actor": self.actor, "heir": self.heir, "plain": self.plain}
        records = {
            key.decode().split(":session:", 1)[1]: self._client.hgetall(key) for key in self._client.keys("*:session:*")
        }
        for session_id, record in records.items():
            state, owner, epoch = (record[name].decode() for name in (b"state", b"owner", b"epoch"))
            handles = {n: s for n, w in workers.items() for s in w.sessions if s.id == session_id}
            holders = [name for name, session in handles.items() if session.held]
            running = {name: count[session_id] for name, count in self.running.items() if count[session_id]}
            if state == "closed":
                if handles:
                    found.append(f"{session_id} is closed, handles {list(handles)}")
                continue
            if state not in SERVED:
                found.append(f"{session_id} is {state}")
                continue
            at = [name for name, worker in workers.items() if worker.id == owner]
            if not at or list(handles) != at or holders != at:
                found.append(f"{session_id} is of {at}, handles at {list(handles)}, held at {holders}")
            elif handles[at[0]].epoch != int(epoch) or handles[at[0]].lost.is_set():
                found.append(f"{session_id} has epoch {epoch}, its handle {handles[at[0]].epoch}")
            expected = {} if at == ["plain"] or self._not_served(at) else dict.fromkeys(at, 1)
            if running != expected:
                found.append(f"{session_id} is of {at}, handlers {running}")
        known = {s.id for worker in workers.values() for s in worker.sessions}
        if known - records.keys():
            found.append(f"handles of {known - records.keys()}, which the store does not know")
        return found

    def _not_served(self, at: list[str]) -> bool:
        return at == ["actor"] and serving_of(self.actor) is None


@contextlib.asynccontextmanager
async def world(url: str, client: redis.Redis, *, serving: bool = True) -> AsyncIterator[World]:
    """A running world, in which an operation gives up soon after the store stopped to answer.

    Args:
        serving: whether the actor runs handlers; else what it adopts is the caller's.
    """
    async with (
        coordinating(url, lease=LEASE),
        impatient(Worker(url, name="actor", lease=LEASE), PATIENCE) as actor,
        impatient(Worker(url, name="heir", lease=LEASE), PATIENCE) as heir,
        impatient(Worker(url, name="plain", lease=LEASE), PATIENCE) as plain,
        anyio.create_task_group() as tasks,
    ):
        made = World(actor, heir, plain, client, tasks)
        if serving:
            made.serve()
            await eventually(lambda: serving_of(actor) is not None)
        yield made
        made.store.mend()
        for worker in (actor, heir, plain):
            instance_of(worker).abandon()  # what was to be shown was shown: nobody hands over
        tasks.cancel_scope.cancel()
