"""The worker of the README under the fault tests: the same file, watched from outside, with its history written down.

Of each call it is written down when it came, each write, and every 20 ms whether it is held, and served by a handler.

SIGUSR1 blocks its event loop for 3 s, SIGUSR2 for 12 s. SIGHUP makes it release all its calls, and then go on writing them
past the library, as a program with a bug might. SIGTERM drains it and ends it: that is the worker's own.

With MEDIA_PORT in its environment each tick also goes there as a datagram, ``session epoch`` a line. DIES_AT is where it kills
itself: ``read:3`` with the third offer in hand, ``adopted:3`` when it has adopted the third call and not ticked yet.
SERVES is ``offers`` for the same worker written as a loop over its offers, its calls in tasks. ATTACH_SECONDS is how long that
loop needs for a call that it adopted, WORK_SECONDS for how long a handler that takes over holds up the event loop. A call whose
id begins with ``kills`` kills its worker a second after that one got it, or as soon as the file ARMED is there.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import anyio

from coordinator import CoordinatorError, FencedError, Offer, Session, StoreUnavailableError, Worker, clock
from coordinator.cli import demo_worker
from coordinator.store import calls
from coordinator.worker.heart import Beat, Beating, Heart
from tests import inside
from tests.faults.history import Recorder
from tests.inside import instance_of, member_of, members_of

TICK_SECONDS = 0.02
STAGE_SECONDS = 0.1
"""The worker's own is longer; a fault is over in seconds."""


class Watched:
    """One worker of this process, as it looks from outside."""

    def __init__(self, worker: Worker, recorder: Recorder) -> None:
        self.worker, self._recorder = worker, recorder
        self._granted: dict[str, int] = {}
        self._serving: set[Session] = set()
        self.taking = True
        self._dies_at, _, nth = os.environ.get("DIES_AT", "").partition(":")
        self._lives = int(nth or 1)
        self._port = int(os.environ.get("MEDIA_PORT", "0"))
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def reach(self, point: str) -> None:
        """Kills this process where it is told to."""
        if point != self._dies_at:
            return
        self._lives -= 1
        if not self._lives:
            self._recorder.write("dies", instance=self.worker.id)
            os.kill(os.getpid(), signal.SIGKILL)

    def granted(self, session: Session, how: str, sent: float) -> None:
        """A session is ours under this epoch."""
        if self._granted.get(session.id) == session.epoch:
            return
        self._granted[session.id] = session.epoch
        self._recorder.write(
            "grant", session=session.id, epoch=session.epoch, data=session.raw_data.decode(), how=how,
            cause=session.cause, previous=session.previous_owner, sent=sent, instance=session.instance,
        )  # fmt: skip
        if how == "adopted":
            self.reach("adopted")

    def sending(self, session: Session, data: bytes, sent: float) -> None:
        """It may be in the store from now on."""
        self._recorder.write("sending", session=session.id, epoch=session.epoch, data=data.decode(), at=sent)

    def wrote(self, session: Session, epoch: int, data: bytes, sent: float, answer: str) -> None:
        """A write has its answer."""
        if session.epoch != epoch:
            epoch = session.epoch
            self.granted(session, "renewed", sent)
        self._recorder.write(
            "checkpoint", session=session.id, epoch=epoch, data=data.decode(), sent=sent, answer=answer
        )

    def handler(self, plain: Callable[[Session], Awaitable[object]]) -> Callable[[Session], Awaitable[None]]:
        """The worker's handler, and that it runs."""

        async def serve_call(session: Session) -> None:
            if session.recovered:
                time.sleep(float(os.environ.get("WORK_SECONDS", "0")))  # noqa: ASYNC251 - that is what is tried
            self._serving.add(session)
            self._tick([session])
            try:
                async with anyio.create_task_group() as tasks:
                    if session.id.startswith("kills"):
                        tasks.start_soon(self._kill, session)
                    await plain(session)
                    tasks.cancel_scope.cancel()
            finally:
                self._serving.discard(session)

        return serve_call

    async def _kill(self, session: Session) -> None:
        """What such a call does to its worker."""
        if session.recovered:
            await anyio.sleep(1.0)
        while not session.recovered and not await anyio.Path(os.environ["ARMED"]).exists():
            await anyio.sleep(0.01)
        self._recorder.write("dies", instance=self.worker.id)
        os.kill(os.getpid(), signal.SIGKILL)

    def _tick(self, sessions: Iterable[Session]) -> None:
        served = {s.id: s.epoch for s in sessions if s in self._serving}
        speaks = {s.id: s.epoch for s in sessions if s in self._serving and s.may_speak}
        held = {s.id: s.epoch for s in sessions if s.held}
        self._recorder.write("media", name=self.worker.name, held=held, speaks=speaks, served=served)
        if self._port and speaks:
            text = "\n".join(f"{session} {epoch}" for session, epoch in speaks.items())
            self._socket.sendto(text.encode(), ("127.0.0.1", self._port))

    async def media(self) -> None:
        """What callers would hear."""
        while True:
            for session in self.worker.sessions:
                if self._granted.get(session.id, session.epoch) != session.epoch:
                    self.granted(session, "renewed", clock.now())
            self._tick(self.worker.sessions)
            await anyio.sleep(TICK_SECONDS)

    async def rogue(self) -> None:
        """Waits for SIGHUP, releases everything and writes it nevertheless."""
        with anyio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                break
        self.taking = False
        sessions = self.worker.sessions
        for session in sessions:
            await session.release("told to")
        for _ in range(40):
            for session in sessions:
                sent, data = clock.now(), f"{session.id} rogue"
                call = calls.checkpoint(
                    inside.owner_of(session).keys, session=session.id, instance=session.instance, epoch=session.epoch,
                    sequence=10**6, data=data.encode(),
                )  # fmt: skip
                answer = (await member_of(self.worker).part.executor.run(call)).word.lower()
                self._recorder.write(
                    "checkpoint", session=session.id, epoch=session.epoch, data=data, sent=sent, answer=answer
                )
            await anyio.sleep(0.05)


def ids(worker: Worker) -> list[str]:
    """Of a worker in every partition."""
    return [member.instance for member in members_of(worker)]


def watch(recorder: Recorder) -> None:  # noqa: C901, PLR0915 - each function stands before one of the library
    """Every worker of this process is watched from now on: beats, openings, adoptions, writes, handlers."""
    watched: dict[Worker, Watched] = {}
    plain_beat, plain_enter, plain_open, plain_serve = Heart.beat, Worker.__aenter__, Worker.open, Worker.serve
    plain_adopt, plain_stage, plain_leave = Offer.adopt, Session.stage, Worker.__aexit__
    plain_write: Callable[..., Awaitable[bool]] = getattr(*inside.write_spot())

    def of(ledger: Any) -> Watched:
        return next(one for worker, one in watched.items() if any(ledger is m.ledger for m in members_of(worker)))

    def beat(heart: Heart, beatings: Sequence[Beating]) -> list[tuple[Beating, Beat]]:
        told = plain_beat(heart, beatings)
        for _, done in told:
            word = done.answer.word if done.answer else "unknown"
            recorder.write("beat", instance=done.roll.instance, sent=done.sent, answer=word)
        return told

    async def enter(worker: Worker) -> Worker:
        entered = await plain_enter(worker)
        mine = watched[worker] = Watched(worker, recorder)
        instance_of(worker).start(mine.media)
        instance_of(worker).start(mine.rogue)
        return entered

    async def leave(worker: Worker, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is not None:  # it ends itself, and says so to the coordinators
            recorder.write("expected", instances=ids(worker))
        await plain_leave(worker, kind, *rest)

    async def open_(worker: Worker, session_id: str, *args: Any, **options: Any) -> Session:
        sent = clock.now()
        session = await plain_open(worker, session_id, *args, **options)
        watched[worker].granted(session, "opened", sent)
        return session

    async def serve(worker: Worker, handler: Any, **options: Any) -> None:
        os.write(
            1, json.dumps({"what": "ready", "name": worker.name, "id": worker.id, "ids": ids(worker)}).encode() + b"\n"
        )
        mine = watched[worker]
        if os.environ.get("SERVES") == "offers":
            await _serve_offers(worker, mine.handler(handler), **options)
        else:
            await plain_serve(worker, mine.handler(handler), **options)
        report = await worker.drain()
        moved = {"handed_over": len(report.handed_over), "released": len(report.released), "failed": len(report.failed)}
        os.write(1, json.dumps({"what": "drained", "name": worker.name, **moved}).encode() + b"\n")

    async def adopt(offer: Offer) -> Session | None:
        mine, sent = of(inside.ledger_of_offer(offer)), clock.now()
        if not mine.taking:
            await offer.decline(counts=False)
            return None
        mine.reach("read")
        recorder.write("adopting", session=offer.session_id, instance=inside.instance_of_offer(offer))
        session = await plain_adopt(offer)
        if session is not None:
            mine.granted(session, "adopted", sent)
        return session

    async def write(session: Session, raw: bytes, *args: Any) -> bool:
        sent, epoch, answer = clock.now(), session.epoch, "unknown"
        mine = of(inside.owner_of(session).ledger)
        mine.sending(session, raw, sent)
        try:
            written = await plain_write(session, raw, *args)
            answer = "ok"
            return written
        except FencedError:
            answer = "fenced"
            raise
        finally:
            mine.wrote(session, epoch, raw, sent, answer)

    def stage(session: Session, data: Any) -> None:
        plain_stage(session, data)  # an owner that lets go or gives up sends along what is staged
        staged = inside.staged_of(session)
        if staged is not None:
            of(inside.owner_of(session).ledger).sending(session, staged[0], clock.now())

    for kind, name, wrapper in (
        (Heart, "beat", beat), (Worker, "__aenter__", enter), (Worker, "open", open_), (Worker, "serve", serve),
        (Offer, "adopt", adopt), (*inside.write_spot(), write), (Session, "stage", stage), (Worker, "__aexit__", leave),
    ):  # fmt: skip
        setattr(kind, name, wrapper)


async def _serve_offers(worker: Worker, handler: Callable[[Session], Awaitable[object]], **_: Any) -> None:
    """The same worker written without ``serve``: a loop over offers, a task a call, a drain at SIGTERM."""
    async with anyio.create_task_group() as tasks:

        async def one(session: Session) -> None:
            async with anyio.create_task_group() as both:
                both.start_soon(until_lost, session, both)
                while True:
                    try:
                        await handler(session)
                        break
                    except StoreUnavailableError:
                        continue
                both.cancel_scope.cancel()

        async def until_lost(session: Session, both: anyio.abc.TaskGroup) -> None:
            await session.lost.wait()
            both.cancel_scope.cancel()

        async def end() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    break
            await worker.drain()
            tasks.cancel_scope.cancel()

        tasks.start_soon(end)
        for session in worker.sessions:
            tasks.start_soon(one, session)
        async for offer in worker.offers():
            try:
                adopted = await offer.adopt()
            except CoordinatorError:
                continue
            if adopted is not None:
                await anyio.sleep(float(os.environ.get("ATTACH_SECONDS", "0")))
                tasks.start_soon(one, adopted)


async def main(*named: str) -> None:
    async with anyio.create_task_group() as tasks:
        for one in named:
            name, _, opened = one.partition(":")
            tasks.start_soon(demo_worker.main, name, *filter(None, opened.split(",")))


if __name__ == "__main__":
    url, path, settings, *workers = sys.argv[1:]
    os.environ["COORDINATOR_REDIS_URL"] = url
    os.environ |= {f"COORDINATOR_{name.upper()}": str(value) for name, value in json.loads(settings).items()}
    demo_worker.STAGE_SECONDS = STAGE_SECONDS
    watch(Recorder(path))
    gc.collect()
    gc.freeze()  # else a full collection looks at all that was imported, and media stands still for 30 to 40 ms
    for number, seconds in ((signal.SIGUSR1, 3.0), (signal.SIGUSR2, 12.0)):
        signal.signal(number, lambda *_, seconds=seconds: time.sleep(seconds))
    anyio.run(main, *workers)
