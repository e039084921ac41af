"""A call in the hands of a Pipecat bot: its context is kept, its media stops with its ownership, and its pipeline is watched."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import anyio
import structlog
from starlette.websockets import WebSocket

from coordinator import clock
from coordinator.adapters.pipecat.bot_outcome import BotEnd, BotOutcome, outcome_of
from coordinator.adapters.pipecat.bot_state import CallFloor, PipelinePulse
from coordinator.adapters.pipecat.context_record import (
    ContextRecord,
    RecordDraft,
    draft_record,
    plain_message,
    read_record,
)
from coordinator.adapters.pipecat.first_words import FirstWords, first_words
from coordinator.adapters.pipecat.frame_turns import FrameTurns, SeenFrame
from coordinator.adapters.pipecat.hang_ups import guard_serializer, guard_transport
from coordinator.adapters.pipecat.media_socket import MediaSocket
from coordinator.adapters.pipecat.running import frame_of, run_pipeline
from coordinator.adapters.pipecat.start_message import StartMessage
from coordinator.errors import CoordinatorError, FencedError, StoreUnavailableError
from coordinator.printable import told, trace
from coordinator.voice.duration import DurationLimit, check_limit, limit_duration
from coordinator.voice.meter import turn_meter
from coordinator.voice.progress import CallProgress
from coordinator.worker.session import Session

__all__ = ["HANGS_AFTER_SECONDS", "PipecatCall", "any_of"]

log = structlog.get_logger()

HANGS_AFTER_SECONDS = 30.0
TICK_SECONDS = 0.25
LOOK_SECONDS = 1.0
"""Between two looks at what the program may have changed without a frame, and between two frames that show that the pipeline moves."""
HELD_SECONDS = 2.0
"""How long a bot that ends a call waits, while it is in doubt whether the call is its own."""
END_SECONDS = 5.0
"""Time for a pipeline to end when its task is cancelled."""
GOODBYE_SECONDS = 10.0
"""Time for a pipeline to say what is queued when the call's time is over."""
AGAIN_SECONDS = 0.5

CONTEXT_FRAMES = frozenset((
    "FunctionCallResultFrame", "LLMContextAssistantTimestampFrame", "LLMContextFrame", "LLMContextSummaryResultFrame",
    "LLMFullResponseEndFrame", "LLMMessagesAppendFrame", "LLMMessagesTransformFrame", "LLMMessagesUpdateFrame",
))  # fmt: skip
"""After one of these the context may be another one."""
AUDIO_FRAMES = ("BotSpeakingFrame", "BotStartedSpeakingFrame")

Serializer = TypeVar("Serializer")
Transport = TypeVar("Transport")
Context = TypeVar("Context")
Limit = Callable[[], AbstractAsyncContextManager[DurationLimit]]


class PipecatCall:
    """One call, for the bot that serves it.

    Attributes:
        session: the call's session: its id, whether it was ``recovered``, the ``gap``.
        start: what the provider said of the call; None in a room.
        websocket: for the transport; None in a room.
        data: the program's own, JSON-able; written beside the context with each checkpoint, and found here by the next worker.
        returned: whether the call began before this bot: at another worker, or here on a connection that broke.
        task: the pipeline's task or worker, once it runs.
        turns: what the call is doing (``turns.progress``) and what its turns took (``turns.totals``), over all its bots.
        superseded, sent_on, finished: its caller came on another connection; it was sent to another worker; nothing of it is left.

    Args:
        most_bytes: the worker's setting ``max_data_bytes``.
        is_draining: whether the worker drains. A call that comes while it does is not sent on: no other worker took it.
        hangs_after: seconds without movement after which the pipeline hangs; None: it is not watched.
        quiet_within: how many seconds a drain waits for a moment in which nobody speaks.
        before: the record of the bot that served the call before in this process.
    """

    def __init__(
        self,
        session: Session[Any],
        *,
        most_bytes: int,
        is_draining: Callable[[], bool],
        start: StartMessage | None = None,
        hangs_after: float | None = HANGS_AFTER_SECONDS,
        quiet_within: float = 0.0,
        before: ContextRecord | None = None,
    ) -> None:
        self.session, self.start = session, start
        self.task: Any = None
        self.socket: MediaSocket | None = None
        self.returned = session.recovered or before is not None
        found = before if before is not None else read_record(session.recovery_data)
        if found.fault:
            log.error("context_not_restored", session=session.id, reason=found.fault)
        self._found, self.data = found, dict(found.data)
        self.turns = FrameTurns(found.turns if self.returned else None)
        self._most_bytes, self._is_draining = most_bytes, is_draining
        self._is_last_resort = is_draining()
        self._hangs_after, self._quiet_within = hangs_after, quiet_within
        self._context: Any = None
        self._written: tuple[list[Any], dict[str, Any]] | None = None
        self._said: set[str] = set()
        self._floor, self._pulse = CallFloor(), PipelinePulse(hangs_after, clock.now())
        self._changed, self._media_up, self._moves = anyio.Event(), anyio.Event(), anyio.Event()
        self.superseded, self.sent_on, self.finished = anyio.Event(), anyio.Event(), anyio.Event()
        self._stopped = self._in_pipeline = self._limit_reached = False
        self._said_all, self._last_pulse = anyio.Event(), math.inf
        self._failure = ""
        session.letting_go = self._last_words

    # -- what a bot uses -----------------------------------------------------------------------------------------------

    @property
    def websocket(self) -> MediaSocket:
        """The provider's websocket, for the bot's transport.

        Raises:
            ValueError: the call did not come by a websocket.
        """
        if self.socket is None:
            raise ValueError(f"call {self.session.id!r} did not come by a websocket: its bot joins its room")
        return self.socket

    @property
    def progress(self) -> CallProgress:
        """What the call is doing; ``interrupted`` is what was cut off, until the conversation goes on."""
        return self.turns.progress

    def keep(self, context: Context) -> Context:
        """Has a context kept from now on, and fills it with what was kept before; returns it.

        Args:
            context: an ``LLMContext``. The messages that it was made with stay where nothing was kept: of a new call.
        """
        self._context = context
        if self._found.messages:
            self._context.set_messages([_revived(one) for one in self._found.messages])
        self._changed.set()
        return context

    def guard(self, serializer: Serializer) -> Serializer:
        """Keeps a serializer from hanging up a call that goes on elsewhere, or may; returns it.

        It hangs up as before when the bot itself ends the call.
        """
        return guard_serializer(serializer, self._may_hang_up)

    def mute(self, transport: Transport) -> Transport:
        """Keeps a room's transport silent unless the call is this bot's; returns it. Websockets need none of this."""
        return guard_transport(transport, lambda: self.may_speak, self._media_up.set)

    async def run(
        self,
        task: Any,
        *,
        on_recovered: str | Callable[[PipecatCall], Awaitable[object]] | None = None,
        max_duration: float | None = None,
        on_warn: Callable[[float], Awaitable[object]] | None = None,
        on_end: Callable[[], Awaitable[object]] | None = None,
        runner: Callable[[Any], Awaitable[object]] = run_pipeline,
    ) -> None:
        """Runs the bot's pipeline until the call is over here.

        Its turns are spans ``voice.turn`` and counted in ``recovery_voice_turn_latency_seconds`` of the default registry, their
        totals kept.

        Args:
            task: a ``PipelineWorker`` or ``PipelineTask``.
            on_recovered: what comes first when the call began before this bot: a sentence, which is said to a caller who was cut
                off, or an async function of the call. Without it the model answers what the caller said last, if nobody did.
            max_duration: seconds from the first opening of the call, over all its workers, after which it is ended in order: what
                is queued by then is said, for ten seconds at most, the serializer hangs up, and the session is closed.
            on_warn, on_end: called a minute before, with the seconds that are left, and at the end: see
                `coordinator.limit_duration`.
            runner: runs the task instead of a runner of Pipecat's that hears no signals.

        Raises:
            InvalidValueError: the limit is invalid; nothing was begun.
            RuntimeError: an error ended the pipeline.
            Exception: what the runner raised.
        """
        limit = None
        if max_duration is not None:
            check_limit(max_duration, on_warn=on_warn, on_end=on_end)
            limit = partial(limit_duration, self.session, max_duration, on_warn=on_warn, on_end=on_end)
        self.task, self._in_pipeline = task, True
        try:
            running = await self._run(task, on_recovered, runner, limit)
        finally:
            self._in_pipeline = False
        if self._limit_reached:
            return
        failed = bool(running.cancelled() or running.exception() or self._failure)
        self.turns.ended(outcome_of(replace(self.ended_by(None), failed=failed)))
        self.save()
        running.result()
        if self._failure:
            raise RuntimeError(f"an error ended the pipeline: {self._failure}")

    async def _run(
        self,
        task: Any,
        on_recovered: str | Callable[[PipecatCall], Awaitable[object]] | None,
        runner: Callable[[Any], Awaitable[object]],
        limit: Limit | None,
    ) -> asyncio.Future[Any]:
        async with anyio.create_task_group() as tasks:
            self._listen(task)
            for each in (self._end_when_over, self._watch):
                tasks.start_soon(each, task)
            tasks.start_soon(self._state_resumed)
            tasks.start_soon(self._begin, task, on_recovered)
            running = asyncio.ensure_future(runner(task))
            if limit is not None:
                tasks.start_soon(self._limited, task, running, limit)
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError:
                await self._end_pipeline(task, running)
                raise
            tasks.cancel_scope.cancel()
        return running

    async def checkpoint(self) -> None:
        """Writes context and data now. When this returns, another worker would get them. It is done after each turn anyway.

        Raises:
            FencedError, StoreUnavailableError, DataTooLargeError, InvalidDataError: as `Session.checkpoint`.
        """
        await self.session.checkpoint(self._draft().recovery_data)

    # -- what the door uses --------------------------------------------------------------------------------------------

    @property
    def may_speak(self) -> bool:
        """Whether the bot may be heard at this moment."""
        return not self._stopped and self.session.may_speak

    @property
    def record(self) -> ContextRecord:
        """What this bot knows, whole, for the one that serves the call after it in the same process."""
        messages = [plain_message(one) for one in self._messages()]
        return ContextRecord(messages, self._found.dropped_turns, self.data, self.turns.to_data())

    def connect(self, websocket: WebSocket) -> MediaSocket:
        """The call came by this websocket. Returns what its bot gets of it."""
        self.socket = MediaSocket(websocket, lambda: self.may_speak, self._media_up.set)
        return self.socket

    async def served_by(self, bot: Callable[[PipecatCall], Awaitable[object]]) -> None:
        """Runs the bot, and says that the call is alive while the bot works after its pipeline: it may have much to write.

        Raises:
            Exception: what the bot raised.
        """
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._alive_without_pipeline)
            try:
                await bot(self)
            except Exception as error:  # noqa: BLE001 - the group would wrap it
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def ended_by(self, failure: Exception | None) -> BotEnd:
        """How the bot ended."""
        socket = self.socket
        return BotEnd(
            lost=self.session.lost.is_set(),
            superseded=self.superseded.is_set(),
            sent_on=self.sent_on.is_set(),
            hung_up=socket is not None and socket.hung_up.is_set(),
            disconnected=socket is not None and socket.disconnected.is_set(),
            failed=failure is not None,
        )

    def stop_media(self) -> None:
        """From now on nothing of this bot is heard, and it hangs nobody up. Safe to repeat."""
        self._stopped = True
        if self.socket is not None:
            self.socket.silence()

    def save(self) -> None:
        """Has context and data written soon; never raises."""
        try:
            draft = self._draft()
            self.session.stage(draft.recovery_data)
            self._written = self._present()
        except FencedError:  # `lost` tells
            return
        except CoordinatorError as error:
            self._say("data_not_kept", log.error, error=str(error))

    # ------------------------------------------------------------------------------------------------------------------

    def _messages(self) -> Sequence[Any]:
        found: Sequence[Any] = self._found.messages if self._context is None else self._context.get_messages()
        return found

    def _present(self) -> tuple[list[Any], dict[str, Any]]:
        try:
            return [*self._messages()], copy.deepcopy(self.data)
        except Exception:  # noqa: BLE001 - it cannot be written either, which `save` tells
            return [*self._messages()], dict(self.data)

    def _draft(self) -> RecordDraft:
        messages, dropped_before = self._messages(), self._found.dropped_turns
        draft = draft_record(messages, self.data, self._most_bytes, dropped_before, self.turns.to_data())
        if draft.dropped_turns > self._found.dropped_turns:
            self._say("context_trimmed", log.warning, dropped_turns=draft.dropped_turns, most_bytes=self._most_bytes)
        if draft.is_lost:
            self._say(
                "context_not_kept",
                log.error,
                reason="what the system was told does not fit",
                most_bytes=self._most_bytes,
            )
        if draft.unwritable:
            self._say("message_not_kept", log.error, reason=draft.unwritable)
        return draft

    def _say(self, event: str, tell: Callable[..., object], **fields: object) -> None:
        """Once a call."""
        if event not in self._said:
            self._said.add(event)
            tell(event, session=self.session.id, **fields)

    async def _last_words(self) -> None:
        await self.checkpoint()

    async def _alive_without_pipeline(self) -> None:
        while True:
            if self.task is not None and not self._in_pipeline:
                self.session.alive()
            await anyio.sleep(TICK_SECONDS)

    def _listen(self, task: Any) -> None:
        from coordinator.adapters.pipecat.frame_observer import FrameObserver

        async def failed(_: Any, frame: Any) -> None:
            unusable = getattr(getattr(frame, "processor", None), "is_usable", True) is False
            policy = getattr(getattr(task, "_processor_unusable_policy", None), "name", "CONTINUE")
            if frame.fatal or (unusable and policy != "CONTINUE"):
                self._failure = self._failure or str(frame.error)
                self.turns.ended(BotOutcome.RELEASE)

        async def came_through(_: Any, frame: Any) -> None:
            if type(frame).__name__ == "PulseFrame":
                self._pulse.moved(clock.now())
                self.turns.connected()
                self._moves.set()
                if frame.id >= self._last_pulse:  # a later one, where a caller who spoke had that one dropped
                    self._said_all.set()

        task.add_observer(FrameObserver(self._passed, self._turned))
        task.add_event_handler("on_pipeline_error", failed)
        task.add_event_handler("on_frame_reached_downstream", came_through)

    def _passed(self, name: str) -> None:
        self._floor.passed(name)
        if name in CONTEXT_FRAMES:
            self._changed.set()
        elif name in AUDIO_FRAMES:
            self._pulse.moved(clock.now())
            if self.socket is None:
                self._media_up.set()

    def _turned(self, frame: SeenFrame) -> None:
        before = self.progress.state
        if latencies := self.turns.passed(frame):
            turn_meter().record(latencies)
        if latencies or self.progress.state is not before:
            self._changed.set()

    async def _end_when_over(self, task: Any) -> None:
        session, socket = self.session, self.socket
        over = [session.lost, session.closed, self.superseded, self.sent_on]
        await any_of(*over, *((socket.hung_up, socket.disconnected) if socket is not None else ()))
        self.stop_media()
        self.turns.ended(outcome_of(self.ended_by(None)))
        await task.cancel(reason="the call is over here")

    async def _limited(self, task: Any, running: asyncio.Future[Any], limit: Limit) -> None:
        """The limit closes the session behind this block, and only who holds it may hang up: the pipeline ends before."""
        async with limit() as reached:
            try:
                await anyio.sleep_forever()
            finally:
                if reached.reached:
                    self._limit_reached = True
                    with anyio.CancelScope(shield=True):
                        await self._end_in_order(task, running)

    async def _end_in_order(self, task: Any, running: asyncio.Future[Any]) -> None:
        """Ends the pipeline behind what it has to say. One that does not get there is cancelled, which hangs up, too.

        A frame shows whether it gets there: Pipecat cancels no pipeline that was told to end, however long it takes.
        """
        from coordinator.adapters.pipecat.frame_observer import PulseFrame

        pulse = PulseFrame()
        self._last_pulse = pulse.id
        await task.queue_frame(pulse)
        said_all = asyncio.ensure_future(self._said_all.wait())
        await asyncio.wait({running, said_all}, timeout=GOODBYE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        said_all.cancel()
        if self._said_all.is_set():
            await task.stop_when_done()
        elif not running.done():
            log.warning("goodbye_cut_short", session=self.session.id, seconds=GOODBYE_SECONDS)
            await task.cancel(reason="its time is over")
        await asyncio.wait({running}, timeout=END_SECONDS)
        running.cancel()
        self.turns.ended(outcome_of(self.ended_by(None)))

    async def _end_pipeline(self, task: Any, running: asyncio.Future[Any]) -> None:
        """Pipecat's runners end their pipeline with many waits, which a cancelled scope would all cut short."""
        self.stop_media()
        self.turns.ended(BotOutcome.RELEASE)
        with anyio.CancelScope(shield=True):
            await task.cancel(reason="the call is over here")
            await asyncio.wait({running}, timeout=END_SECONDS)
        running.cancel()

    async def _watch(self, task: Any) -> None:
        from coordinator.adapters.pipecat.frame_observer import PulseFrame

        looked_at, drains_since = float("-inf"), None
        self._pulse.moved(clock.now())
        while True:
            now = clock.now()
            if self._pulse.is_alive(now):
                self.session.alive()
            else:
                self._say("pipeline_hangs", log.error, seconds=self._hangs_after)
            if now - looked_at >= LOOK_SECONDS:
                looked_at = now
                if self._written != self._present():
                    self._changed.set()
                task.add_reached_downstream_filter((PulseFrame,))  # the program may have set another one
                await task.queue_frame(PulseFrame())
            if self._changed.is_set():
                self._changed = anyio.Event()
                self.save()
            if self.socket is not None and self._is_draining() and not self._is_last_resort:
                drains_since = now if drains_since is None else drains_since
                if self._floor.is_quiet or now - drains_since > self._quiet_within:
                    self.sent_on.set()
            with anyio.move_on_after(TICK_SECONDS):
                await self._changed.wait()

    async def _state_resumed(self) -> None:
        await self._media_up.wait()
        while True:
            try:
                await self.session.resumed()
            except StoreUnavailableError:
                await anyio.sleep(AGAIN_SECONDS)
            except FencedError:
                return
            else:
                return

    async def _begin(self, task: Any, on_recovered: str | Callable[[PipecatCall], Awaitable[object]] | None) -> None:
        sentence = on_recovered if isinstance(on_recovered, str) else ""
        hook = on_recovered if callable(on_recovered) else None
        match first_words(
            self._messages(),
            returned=self.returned,
            planned=self.session.planned,
            has_hook=hook is not None,
            has_sentence=bool(sentence),
        ):
            case FirstWords.HOOK:
                assert hook is not None  # noqa: S101 - it has one
                try:
                    await hook(self)
                except Exception as error:  # noqa: BLE001 - the program's own code; the call goes on
                    log.error("on_recovered_failed", session=self.session.id, error=told(error), exception=trace(error))
            case FirstWords.SENTENCE:
                await task.queue_frame(frame_of("TTSSpeakFrame", sentence))
            case FirstWords.ANSWER:
                await task.queue_frame(frame_of("LLMRunFrame"))
            case FirstWords.NOTHING if self.returned:  # it is the caller's turn, who is heard again
                await self._moves.wait()
                self._media_up.set()

    async def _may_hang_up(self) -> bool:
        end = self.ended_by(None)
        if self._stopped or self._failure or end != BotEnd():
            return False
        with anyio.move_on_after(HELD_SECONDS):
            while not (self.session.held or self.session.lost.is_set()):
                await anyio.sleep(TICK_SECONDS / 10)
        return self.session.held and not self._stopped


async def any_of(*events: anyio.Event) -> None:
    """Waits until one of them is set."""
    async with anyio.create_task_group() as tasks:

        async def wait(event: anyio.Event) -> None:
            await event.wait()
            tasks.cancel_scope.cancel()

        for event in events:
            tasks.start_soon(wait, event)


def _revived(message: dict[str, Any]) -> Any:
    """A message as Pipecat has it; the inverse of `plain_message`."""
    if "llm_specific" not in message:
        return message
    from pipecat.processors.aggregators.llm_context import LLMSpecificMessage

    return LLMSpecificMessage(llm=message["llm_specific"], message=message.get("message"))
