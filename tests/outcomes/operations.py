"""The table: each operation of the library, how a call comes into the state that it needs, and the script that it sends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from coordinator.store import calls
from tests.inside import instance_of, member_of
from tests.outcomes.world import World, Written
from tests.waiting import eventually

__all__ = ["OPERATIONS", "READS", "Operation"]

Prepare = Callable[[World, str], Awaitable[Any]]
Run = Callable[[World, str, Any], Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row.

    Attributes:
        of: the public method that it is, as ``Class.name``.
        script: what it sends to change the store.
        prepare: brings a call into the state that it needs; what it returns is handed to ``run``.
        run: does it, in the actor's program.
        serving: whether the actor runs handlers.
        ends: whether the actor is another one, or none, afterwards: then it is tried in a world of its own.
    """

    of: str
    script: str
    prepare: Prepare
    run: Run
    serving: bool = True
    ends: bool = False

    @property
    def again(self) -> bool:
        """Whether it can be tried again in the same world: an heir that serves by then does not take its call away."""
        return self.serving and not self.ends and self.of != "Worker.serve"


async def nothing(w: World, call: str) -> None:
    """No such call yet."""


async def opened(w: World, call: str) -> Any:
    """The actor owns and serves it."""
    w.data[call] = Written(b"opened")
    return await w.actor.open(call, b"opened")


async def elsewhere(w: World, call: str) -> Any:
    """Another worker owns it, and lives."""
    w.data[call] = Written(b"opened")
    return await w.plain.open(call, b"opened")


async def offered(w: World, call: str) -> Any:
    """The actor's program has an offer of it."""
    await (await elsewhere(w, call)).hand_back("for others")
    async for offer in w.actor.offers():
        if offer.session_id == call:
            return offer
    raise AssertionError("no offer came")


async def attached(w: World, call: str) -> Any:
    """A child of another owner writes it, in the actor's process."""
    session = await elsewhere(w, call)
    return await w.actor.attach(call, session.epoch)


async def unknown_here(w: World, call: str) -> None:
    """The store says that it is the actor's, who knows nothing of it."""
    w.data[call] = Written(b"opened")
    w.bench.open(call, w.actor.id, b"opened")


async def _open(w: World, call: str, _: Any) -> Any:
    w.data.setdefault(call, Written(b"opened"))
    session = await w.actor.open(call, b"opened")
    w.closed.discard(call)
    return session


async def _write(w: World, call: str, writer: Any) -> None:
    async with w.writes(call, b"newer"):
        await writer.checkpoint(b"newer")


async def _numbered(w: World, call: str, session: Any) -> None:
    async with w.writes(call, b"numbered"):
        await session.checkpoint_numbered(b"numbered", 7)


async def _stage(w: World, call: str, session: Any) -> None:
    w.data[call].sent.add(b"staged")
    session.stage(b"staged")
    await session.flush()


async def _fenced(w: World, call: str, session: Any) -> None:
    await session.fenced(
        lambda fence: calls.resumed(fence.keys, session=call, instance=fence.instance, epoch=fence.epoch), w.store
    )


async def _close(w: World, call: str, session: Any) -> None:
    await session.close()
    w.closed.add(call)


async def _offered_to_its_handlers(w: World, call: str, session: Any) -> None:
    await session.hand_back("for others")
    await eventually(lambda: w.store.hit or w.record(call)[b"state"] == b"active")


async def _taken_by_an_heir(w: World, call: str, session: Any) -> None:
    await w.plain.adopt(call, wait=2)


async def _drained_to_an_heir(w: World, call: str, session: Any) -> None:
    w.let_heir_serve()
    await w.actor.drain(timeout=4)


async def _ended(w: World, call: str, session: Any) -> None:
    await instance_of(w.actor).end("exited", "it ends")


async def _give_up(w: World, call: str, _: Any) -> None:
    epoch = w.record(call)[b"epoch"]
    member_of(w.actor).resync.want("roll_call", "told to look")
    await eventually(lambda: w.store.hit or w.record(call)[b"epoch"] != epoch)


OPERATIONS = {
    "open": Operation("Worker.open", "open", nothing, _open),
    "receive a new call": Operation("Worker.receive", "open", nothing, lambda w, call, _: w.actor.receive(call, wait=2)),
    "receive a call": Operation("Worker.receive", "adopt", elsewhere, lambda w, call, _: w.actor.receive(call, wait=2)),
    "adopt by id": Operation("Worker.adopt", "adopt", elsewhere, lambda w, call, _: w.actor.adopt(call, wait=2)),
    "ask": Operation("Worker.adopt", "ask", elsewhere, lambda w, call, _: w.actor.adopt(call, wait=2)),
    "adopt what is served": Operation("Worker.serve", "adopt", elsewhere, _offered_to_its_handlers),
    "adopt an offer": Operation("Offer.adopt", "adopt", offered, lambda w, call, o: o.adopt(), serving=False),
    "decline": Operation("Offer.decline", "decline", offered, lambda w, call, o: o.decline(), serving=False),
    "cannot serve an offer": Operation(
        "Offer.cannot_serve", "decline", offered, lambda w, call, o: o.cannot_serve(), serving=False
    ),
    "delegate": Operation("Offer.delegate", "delegate", offered, lambda w, call, o: o.delegate(), serving=False),
    "checkpoint": Operation("Session.checkpoint", "checkpoint", opened, _write),
    "numbered checkpoint": Operation("Session.checkpoint_numbered", "checkpoint", opened, _numbered),
    "stage": Operation("Session.flush", "checkpoint", opened, _stage),
    "resumed": Operation("Session.resumed", "resumed", opened, lambda w, call, s: s.resumed()),
    "fenced write": Operation("Session.fenced", "resumed", opened, _fenced),
    "close": Operation("Session.close", "close", opened, _close),
    "release": Operation("Session.release", "release", opened, lambda w, call, s: s.release("cannot serve it")),
    "cannot serve": Operation("Session.cannot_serve", "release", opened, lambda w, call, s: s.cannot_serve("no key")),
    "hand back": Operation("Session.hand_back", "release", opened, lambda w, call, s: s.hand_back("no fault of it")),
    "carry out": Operation("Session.carry_out", "close", opened, _close),
    "offer a handover": Operation(
        "Session.offer_handover", "hand_over", opened, lambda w, call, s: s.offer_handover()
    ),
    "let go": Operation("Session.let_go", "let_go", opened, _taken_by_an_heir),
    "attach": Operation("Worker.attach", "trust", elsewhere, lambda w, call, s: w.actor.attach(call, s.epoch)),
    "look of a child": Operation("AttachedSession.look", "trust", attached, lambda w, call, child: child.look()),
    "checkpoint of a child": Operation("AttachedSession.checkpoint", "checkpoint", attached, _write),
    "fenced write of a child": Operation("AttachedSession.fenced", "resumed", attached, _fenced),
    "give up": Operation("Resync", "release", unknown_here, _give_up),
    "drain": Operation("Worker.drain", "let_go", opened, _drained_to_an_heir, ends=True),
    "begin to drain": Operation("Worker.drain", "drain", opened, _drained_to_an_heir, ends=True),
    "leave": Operation("Instance.end", "certify", opened, _ended, ends=True),
    "certify": Operation("Worker.certify", "certify", elsewhere, lambda w, call, s: w.actor.certify(w.plain.id), ends=True),
}  # fmt: skip

READS = {
    "Worker.locate": "asks where a session lives",
    "Worker.others_live": "asks who else is there",
    "Worker.channel": "makes a socket; what a child asks for is done by the session",
    "Worker.offers": "reads offers; what is done with one has a row",
    "Session.quiet": "waits for the program, and asks nothing",
    "Session.settled": "waits for an end, and asks nothing",
    "Offer.fetch_data": "reads the record",
    "AttachedSession.attach": "is `Worker.attach`",
    "AttachedSession.watch": "looks again and again; a look has a row",
}
"""Methods that change nothing in the store."""
