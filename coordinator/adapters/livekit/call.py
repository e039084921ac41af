"""One job's call, in its job process: what is kept of it for an heir, and how it comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import anyio
import structlog
from livekit import rtc
from livekit.agents import JobContext

from coordinator.adapters.livekit import inside
from coordinator.adapters.livekit.call_turns import CallTurns
from coordinator.adapters.livekit.job_record import JobRecord
from coordinator.adapters.livekit.server import ADDRESS
from coordinator.adapters.livekit.transcript import size_of
from coordinator.child import ChildSession
from coordinator.errors import CoordinatorError, SessionGoneError
from coordinator.printable import told
from coordinator.voice.duration import limit_duration
from coordinator.voice.progress import CallProgress

__all__ = ["LiveKitCall"]

log = structlog.get_logger()

JOIN_SECONDS = 3.0
"""Longest wait for the session of a job that begins; the call begins meanwhile."""
SUBSCRIBED_SECONDS = 2.0
CALLER_SECONDS = 5.0
OVER = ("CLIENT_INITIATED", "ROOM_DELETED", "ROOM_CLOSED", "PARTICIPANT_REMOVED", "USER_REJECTED", "USER_UNAVAILABLE")
"""Reasons of a room's end after which nobody waits for an agent any more."""


class LiveKitCall:
    """What a job's entrypoint has of its call: an asynchronous context manager, or `begin` and `end` by hand.

    It is for agents without an ``AgentSession``; `recover` uses it for those that have one::

        async with LiveKitCall(ctx) as call:
            await ctx.connect()
            ...                         # publish, silently, and wait until the caller has subscribed
            await call.takes_over()     # from here on this process serves the call alone
            call.keep({"turn": 7})      # again and again
            await call.lost.wait()      # another worker has it: be silent at once, and do not hang up

    Leaving the block normally closes the call, and leaving it by an error offers it to other workers.

    Attributes:
        context: LiveKit's.
        data: what `keep` was last given, here or by the worker before; empty for a new call.
        recovered: whether the call was another worker's before.
        planned: whether it was handed over on purpose: then the predecessor speaks until `takes_over` returns.
        turns: what the call is doing (``turns.progress``: ``interrupted`` is what a crash cut off) and what its turns took.
        gap, data_age, cause, previous_owner: as `coordinator.Session` has them; complete once `takes_over` has returned.
    """

    def __init__(self, context: JobContext) -> None:
        self.context = context
        self.data: dict[str, Any] = {}
        self.recovered = self.planned = False
        self.lost = anyio.Event()
        self.letting_go: Callable[[], Any] | None = None
        self.turns = CallTurns()
        self._session: ChildSession | None = None
        self._record: Any = None
        self._joining: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._kept: Mapping[str, Any] | None = None
        self._room_ended_by = ""
        self._is_over = False

    def __getattr__(self, name: str) -> Any:
        if name in ("gap", "data_age", "cause", "previous_owner", "epoch", "attempt"):
            return getattr(self._session, name) if self._session is not None else None
        raise AttributeError(name)

    @property
    def progress(self) -> CallProgress:
        """What the call is doing; ``interrupted`` is what was cut off, until the conversation goes on."""
        return self.turns.progress

    @property
    def held(self) -> bool:
        """Whether no other worker can have the call; False, too, while it is not protected yet. Ask before what cannot be undone."""
        return self._session is not None and self._session.held

    @property
    def may_speak(self) -> bool:
        """Whether the agent may go on speaking; also while the call is not protected yet."""
        return not self.lost.is_set() and (self._session is None or self._session.may_speak or not self._session.epoch)

    async def __aenter__(self) -> Self:
        return await self.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.end("" if error is None else f"the agent raised {type(error).__name__}")

    async def begin(self) -> Self:
        """Joins the worker. A call that begins does not wait for it: its protection may come later."""
        self.context.room.on("disconnected", self._room_ended)
        address = os.environ.get(ADDRESS)
        if not address or self.context.is_fake_job():
            log.warning("call_unprotected", job=self.context.job.id, reason="its agent server is no RecoveringServer")
            return self
        self._joining = asyncio.create_task(self._join(address), name=f"join {self.context.job.id}")
        if inside.recovers(self.context):
            await asyncio.shield(self._joining)
            if self._session is None:
                raise SessionGoneError(self.context.job.id, "its worker does not have it any more")
        return self

    async def _join(self, address: str) -> None:
        """Until the worker owns the call, which it does at once unless Redis is away; a recovered call is tried for once."""
        job_id, said = self.context.job.id, ""
        while True:
            session = ChildSession(address, job_id, JOIN_SECONDS)
            try:
                await session.__aenter__()
                break
            except CoordinatorError as error:
                if said != (said := told(error)):  # once, as it may take long
                    log.warning("call_unprotected", job=job_id, reason=said)
                if inside.recovers(self.context) or not isinstance(error, SessionGoneError):
                    return
        self._joined(session)

    def _joined(self, session: ChildSession) -> None:
        data = session.recovery_data if isinstance(session.recovery_data, dict) else {}
        self.recovered, self.planned = session.recovered, session.planned
        self._record = data.get("livekit")
        if self.recovered:
            self.data = data.get("data") or {}
        if self.planned:
            self._record = JobRecord.from_json(self._record).moved().as_json()
        session.letting_go = self._let_go
        self._session = session
        self._following = asyncio.create_task(self._follow(session), name=f"follow {session.id}")
        if self._kept is not None:
            try:
                self.keep(self._kept)
            except CoordinatorError as error:  # it was made before the limit was known; the next one fits
                log.warning("not_kept", job=self.context.job.id, error=told(error))

    async def _follow(self, session: ChildSession) -> None:
        await session.lost.wait()
        if not self._is_over:
            self.lost.set()

    async def _let_go(self) -> None:
        if self.letting_go is not None:
            await self.letting_go()

    async def takes_over(self) -> None:
        """Says that this process is prepared, and returns when its worker owns the call; at once if it does already.

        In a handover the predecessor is silent from then on, and leaves the room a moment later.

        Raises:
            SessionGoneError: another worker got the call, or it is over: leave the room, silently.
        """
        session = self._session
        if session is None:
            return
        await session.owned()
        if self.recovered and isinstance(session.recovery_data, dict):  # what it said last came after the offer
            self.data = session.recovery_data.get("data") or self.data
        if self.planned:
            self.keep(self.data)  # under the identity with which this process is in the room

    def keep(self, data: Mapping[str, Any]) -> None:
        """Keeps data for the heir: returns at once, and the newest is written a moment later. From any thread.

        Raises:
            DataTooLargeError, InvalidDataError: nothing is kept.
            FencedError: another worker has the call.
        """
        self.data = dict(data)
        if self._session is None or not self._session.is_owned:
            self._kept = self.data
            return
        self._session.stage({"livekit": self._record, "data": self.data})

    async def keep_now(self, data: Mapping[str, Any]) -> None:
        """As `keep`, and returns when it is written.

        Raises:
            StoreUnavailableError: no answer; it may have been written.
            DataTooLargeError, InvalidDataError, FencedError: as `keep`.
        """
        self.data = dict(data)
        if self._session is None or not self._session.is_owned:
            self._kept = self.data
            return
        await self._session.checkpoint({"livekit": self._record, "data": self.data})

    @property
    def most_bytes(self) -> int:
        """How many bytes of data can be kept."""
        limit = self._session.max_data_bytes if self._session is not None else 0
        return (limit or 64 * 1024) - size_of(self._record) - 64

    async def speaks_again(self) -> None:
        """States that the media is up again. Safe to repeat."""
        if self._session is not None and self.recovered:
            with contextlib.suppress(CoordinatorError):
                await self._session.resumed()

    async def limited(self, seconds: float, **hooks: Any) -> None:
        """Ends the call in order, and the job, so many seconds after it was first opened; see `coordinator.limit_duration`."""
        while self._session is None or not self._session.is_owned:  # not protected yet: its time does not run yet
            if self._is_over:
                return
            await anyio.sleep(0.2)
        async with limit_duration(self._session, seconds, **hooks) as limit:
            await anyio.sleep_forever()
        if limit.reached:
            self.context.shutdown("its time is over")

    @contextlib.contextmanager
    def busy(self) -> Any:
        """Inside this block a planned handover waits for a better moment, as long as its deadline allows."""
        with self._session.busy() if self._session is not None else contextlib.nullcontext():
            yield

    async def caller_is_there(self) -> bool:
        """Whether somebody else is in the room, or comes within five seconds. A recovered call may be over without a word."""
        room = self.context.room
        with anyio.move_on_after(CALLER_SECONDS):
            while not any(
                one.kind != rtc.ParticipantKind.PARTICIPANT_KIND_AGENT for one in room.remote_participants.values()
            ):
                await anyio.sleep(0.05)
            return True
        return False

    def _room_ended(self, *said: Any) -> None:
        if said:
            with contextlib.suppress(Exception):  # a number that this version does not know
                self._room_ended_by = str(rtc.DisconnectReason.Name(said[0]))

    async def end(self, reason: str = "") -> None:
        """Ends the call here. Safe to repeat.

        Args:
            reason: why it is to be offered to other workers; '' when the call is over.
        """
        if self._is_over:
            return
        self._is_over = True
        if not reason and self._room_ended_by and self._room_ended_by not in OVER:
            reason = f"its room was left: {self._room_ended_by}"
        if self._joining is not None and not self._joining.done():
            self._joining.cancel()
            await asyncio.wait([self._joining])
        session = self._session
        if session is not None:
            with contextlib.suppress(CoordinatorError):  # told, and carried out by the worker
                if session.is_owned and not session.lost.is_set():
                    await (session.release(reason) if reason else session.close())
            await session.leave()
        if self._following is not None:
            self._following.cancel()
