"""A voice worker of the fault tests: serves calls, ticks media every 20 ms, checkpoints every 100 ms, writes its history.

SIGUSR1 blocks its event loop for 3 s, SIGUSR2 for 12 s. SIGHUP makes it release all its calls, and then go on writing them
past the library, as a program with a bug might. SIGTERM drains it and ends it.

With MEDIA_PORT in its environment each tick also goes there as a datagram, ``session epoch`` a line. DIES_AT is where it kills
itself: ``read:3`` with the third offer in hand, ``adopted:3`` when it has adopted the third call and not ticked yet.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any
from zlib import crc32

import anyio

from coordinator import CoordinatorError, FencedError, Session, StoreUnavailableError, Worker, clock
from coordinator.store import calls
from coordinator.worker.heart import Beat, Beating, Heart
from tests.faults.history import Recorder

TICK_SECONDS = 0.02
CHECKPOINT_SECONDS = 0.1
SHARES = 10


class Fault:
    """A worker of the test, with its calls."""

    def __init__(self, worker: Worker, recorder: Recorder) -> None:
        self._worker, self._recorder = worker, recorder
        self._granted: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self._taking = True
        self._dies_at, _, nth = os.environ.get("DIES_AT", "").partition(":")
        self._lives = int(nth or 1)
        self._port = int(os.environ.get("MEDIA_PORT", "0"))
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def _reach(self, point: str) -> None:
        if point != self._dies_at:
            return
        self._lives -= 1
        if not self._lives:
            self._recorder.write("dies", instance=self._worker.id)
            os.kill(os.getpid(), signal.SIGKILL)

    def _tick(self, sessions: Iterable[Session]) -> None:
        speaks = {s.id: s.epoch for s in sessions if s.may_speak}
        held = {s.id: s.epoch for s in sessions if s.held}
        self._recorder.write("media", name=self._worker.name, held=held, speaks=speaks)
        if self._port and speaks:
            text = "\n".join(f"{session} {epoch}" for session, epoch in speaks.items())
            self._socket.sendto(text.encode(), ("127.0.0.1", self._port))

    def granted(self, session: Session, how: str, sent: float) -> None:
        """A session is ours under this epoch."""
        self._granted[session.id] = session.epoch
        self._recorder.write(
            "grant", session=session.id, epoch=session.epoch, data=session.raw_data.decode(), how=how,
            cause=session.cause, previous=session.previous_owner, sent=sent, instance=session._instance,
        )  # fmt: skip
        if how == "adopted":
            self._reach("adopted")
        self._tick([session])

    async def open(self, call: str) -> None:
        """A call begins."""
        sent = clock.now()
        self.granted(await self._worker.open(call, call.encode()), "opened", sent)

    async def serve(self) -> None:
        """Adopts what is offered."""
        async for offer in self._worker.offers():
            sent = clock.now()
            try:
                if not self._taking:
                    await offer.decline(counts=False)
                    continue
                self._reach("read")
                session = await offer.adopt()
            except CoordinatorError:
                continue
            if session is not None:
                self.granted(session, "adopted", sent)

    async def checkpoint(self) -> None:
        """Each call's data, all the time; not all calls at the same moment."""
        async with anyio.create_task_group() as tasks:
            for share in range(SHARES):
                tasks.start_soon(self._checkpoint, share)

    async def _checkpoint(self, share: int) -> None:
        await anyio.sleep(CHECKPOINT_SECONDS * share / SHARES)
        while True:
            async with anyio.create_task_group() as tasks:
                for session in self._worker.sessions:
                    if crc32(session.id.encode()) % SHARES == share:
                        tasks.start_soon(self._write, session)
                tasks.start_soon(anyio.sleep, CHECKPOINT_SECONDS)

    async def _write(self, session: Session) -> None:
        data, sent, epoch, answer = (
            f"{session.id} {self._worker.name} {next(self._numbers)}",
            clock.now(),
            session.epoch,
            "ok",
        )
        self._recorder.write("sending", session=session.id, epoch=epoch, data=data)
        try:
            await session.checkpoint(data.encode())
        except FencedError:
            answer = "fenced"
        except StoreUnavailableError:
            answer = "unknown"
        if session.epoch != epoch:
            epoch = session.epoch
            self.granted(session, "renewed", sent)
        self._recorder.write("checkpoint", session=session.id, epoch=epoch, data=data, sent=sent, answer=answer)

    async def rogue(self) -> None:
        """Waits for SIGHUP, releases everything and writes it nevertheless."""
        await self._worker_hangs_up()
        self._taking = False
        sessions = self._worker.sessions
        for session in sessions:
            await session.release("told to")
        for _ in range(40):
            for session in sessions:
                sent, data = clock.now(), f"{session.id} rogue"
                call = calls.checkpoint(
                    session._member.part.keys, session=session.id, instance=session._instance, epoch=session.epoch,
                    sequence=10**6, data=data.encode(),
                )  # fmt: skip
                answer = (await session._member.part.executor.run(call)).word.lower()
                self._recorder.write(
                    "checkpoint", session=session.id, epoch=session.epoch, data=data, sent=sent, answer=answer
                )
            await anyio.sleep(0.05)

    @staticmethod
    async def _worker_hangs_up() -> None:
        with anyio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                return

    async def media(self) -> None:
        """What a caller would hear."""
        while True:
            for session in self._worker.sessions:
                if self._granted.get(session.id, session.epoch) != session.epoch:
                    self.granted(session, "renewed", clock.now())
            self._tick(self._worker.sessions)
            await anyio.sleep(TICK_SECONDS)


def record_beats(recorder: Recorder) -> None:
    """Every beat of this process goes into the history."""
    plain = Heart.beat

    def beat(heart: Heart, beatings: Sequence[Beating]) -> list[tuple[Beating, Beat]]:
        told = plain(heart, beatings)
        for _, done in told:
            word = done.answer.word if done.answer else "unknown"
            recorder.write("beat", instance=done.roll.instance, sent=done.sent, answer=word)
        return told

    Heart.beat = beat  # type: ignore[method-assign, assignment]


async def main(*arguments: str) -> None:
    url, path, settings, *named = arguments
    recorder = Recorder(path)
    record_beats(recorder)
    gc.collect()
    gc.freeze()  # else a full collection looks at all that was imported, and media stands still for 30 to 40 ms
    for number, seconds in ((signal.SIGUSR1, 3.0), (signal.SIGUSR2, 12.0)):
        signal.signal(number, lambda *_, seconds=seconds: time.sleep(seconds))
    options: dict[str, Any] = json.loads(settings)
    async with anyio.create_task_group() as tasks:
        for one in named:
            tasks.start_soon(run, url, recorder, options, one)


async def run(url: str, recorder: Recorder, options: dict[str, Any], named: str) -> None:
    """One worker: ``name:call,call``."""
    name, _, opened = named.partition(":")
    async with Worker(url, name=name, **options) as worker, anyio.create_task_group() as tasks:
        mine = Fault(worker, recorder)
        for call in filter(None, opened.split(",")):
            await mine.open(call)
        for task in (mine.serve, mine.checkpoint, mine.media, mine.rogue):
            tasks.start_soon(task)
        os.write(1, json.dumps({"what": "ready", "name": name, "id": worker.id}).encode() + b"\n")
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                break
        report = await worker.drain()
        moved = {"handed_over": len(report.handed_over), "released": len(report.released), "failed": len(report.failed)}
        os.write(1, json.dumps({"what": "drained", "name": name, **moved}).encode() + b"\n")
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
