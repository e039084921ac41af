"""An ``AgentSession`` that knows what was said before its worker died: `recover`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import structlog
from livekit.agents import Agent, AgentSession, ChatContext, JobContext

from coordinator.adapters.livekit import inside
from coordinator.adapters.livekit.call import LiveKitCall
from coordinator.adapters.livekit.call_turns import CallTurns
from coordinator.adapters.livekit.transcript import fitted_items, size_of
from coordinator.bounds import check_json
from coordinator.errors import DataTooLargeError, FencedError, SessionGoneError
from coordinator.printable import told, trace
from coordinator.voice.duration import check_limit
from coordinator.voice.meter import turn_meter
from coordinator.voice.progress import CallState

__all__ = ["recover"]

log = structlog.get_logger()

SUBSCRIBED_SECONDS = 2.0
"""Longest wait for the caller to hear this agent's track; who only listens to others never does."""
LEAVE_SECONDS = 1.5
"""The room is left so long after the call went to an heir: the caller's device has both tracks meanwhile, and one is silent."""

LEAST_BYTES = 1024
"""What user data leaves to the conversation."""

OnRecovered = str | Callable[[LiveKitCall], Awaitable[object]]


async def recover(
    context: JobContext,
    session: AgentSession[Any],
    agent: Agent | Callable[[LiveKitCall], Agent],
    *,
    on_recovered: OnRecovered | None = None,
    moves_while_speaking: bool = False,
    max_duration: float | None = None,
    on_warn: Callable[[float], Awaitable[object]] | None = None,
    on_end: Callable[[], Awaitable[object]] | None = None,
    **start: Any,
) -> LiveKitCall:
    """Starts the session in the place of ``session.start(agent, room=ctx.room)``, and keeps what an heir needs.

    After each turn the agent's chat context and the session's user data are kept, as much as fits: the oldest turns are left out
    first. At an heir they are restored before the agent begins. There ``on_enter`` is not called: instead ``on_recovered`` is, and
    without one an agent that owes the caller an answer gives it.

    Args:
        context: the entrypoint's.
        session: not started; user data in it that is a dictionary or a dataclass of JSON-able values is kept and restored.
        agent: the agent to begin with, or a function that returns the one to go on with; ``call.data["agent"]`` is the id of the agent
            that served last.
        on_recovered: a sentence to be said after a crash, or an async function; not called after a planned move.
        moves_while_speaking: whether a planned move may cut the agent's sentence; by default it waits until the agent listens.
        max_duration: seconds from the first opening of the call, over all its workers, after which it is ended in order.
        on_warn, on_end: called a minute before, with the seconds that are left, and at the end: see `coordinator.limit_duration`.
        start: as for ``AgentSession.start``.

    Turns are spans ``voice.turn`` and counted in ``recovery_voice_turn_latency_seconds`` of the default registry, their totals kept.

    Returns:
        The call, for `LiveKitCall.held` before what cannot be undone.

    Raises:
        InvalidValueError: the limit is invalid; nothing was begun.
        SessionGoneError: a recovered call is over, or went elsewhere meanwhile. The job ends; nothing was said.
        TypeError: the user data can neither be kept nor restored.
    """
    if max_duration is not None:
        check_limit(max_duration, on_warn=on_warn, on_end=on_end)
    keeper = _Keeper(LiveKitCall(context), session, moves_while_speaking)
    call = keeper.call
    try:
        await keeper.begin()
        if call.recovered:
            await keeper.go_on(
                agent(call) if callable(agent) and not isinstance(agent, Agent) else agent, on_recovered, start
            )
        else:
            first = agent(call) if callable(agent) and not isinstance(agent, Agent) else agent
            await session.start(first, room=context.room, **start)
    except SessionGoneError:
        await keeper.leave("its call went elsewhere")
        raise
    keeper.follow()
    if max_duration is not None:
        keeper.limit(max_duration, on_warn=on_warn, on_end=on_end)
    return call


class _Keeper:
    """What `recover` does beside the agent."""

    def __init__(self, call: LiveKitCall, session: AgentSession[Any], moves_while_speaking: bool) -> None:
        self.call = self._call = call
        self._session, self._moves = session, moves_while_speaking
        self._tasks: set[asyncio.Task[Any]] = set()
        self._busy = contextlib.ExitStack()
        self._is_busy = self._cut = False
        self._closed_by = ""
        self._userdata = _UserData(session)

    async def begin(self) -> None:
        """Joins the worker."""
        self._call.letting_go = self._last_words
        self._call.context.add_shutdown_callback(self._job_ends)
        await self._call.begin()
        if self._call.recovered:
            self._call.turns = CallTurns(self._call.data)

    def limit(self, seconds: float, **hooks: Any) -> None:
        """Ends the call in order when its time is over."""
        self._start(self._call.limited(seconds, **hooks))

    def follow(self) -> None:
        """Keeps every turn from now on."""
        self._session.on("conversation_item_added", self._turn)
        self._session.on("agent_state_changed", self._state_changed)
        self._session.on("user_state_changed", self._caller_changed)
        self._session.on("close", self._session_closed)
        self._start(self._stop_when_lost())
        self._turn()

    def _start(self, what: Any) -> None:
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what is kept --------------------------------------------------------------------------------------------------

    def _turn(self, event: Any = None) -> None:
        if self._call.lost.is_set():
            return
        item: Any = getattr(event, "item", None)
        if getattr(item, "type", "") == "message":
            latencies, speech = self._call.turns.said(item.role, getattr(item, "metrics", None) or {})
            turn_meter().record(latencies, speech=speech)
        self._keep()

    def _keep(self) -> None:
        if self._call.lost.is_set():
            return
        try:
            self._call.keep(self._now())
        except FencedError:  # the call is over here
            return
        except Exception as error:  # noqa: BLE001 - the session has closed, or an item cannot be stored; the call goes on
            log.error("turn_not_kept", job=self._call.context.job.id, error=told(error))

    def _now(self) -> dict[str, Any]:
        agent = self._session.current_agent
        data: dict[str, Any] = {"agent": agent.id, **self._call.turns.to_data()}
        with self._userdata.told():
            data["userdata"] = self._userdata.now(self._call.most_bytes - size_of(data) - LEAST_BYTES)
        items = agent.chat_ctx.to_dict(exclude_timestamp=False)["items"]
        fitting = fitted_items(items, self._call.most_bytes - size_of(data) - 16)
        if len(fitting) < len(items) and not self._cut:
            self._cut = True
            log.warning("conversation_too_long", job=self._call.context.job.id, items=len(items), kept=len(fitting))
        data["items"] = fitting
        return data

    async def _last_words(self) -> None:
        await self._call.keep_now(self._now())

    def _state_changed(self, event: Any) -> None:
        self._call.turns.agent_is(event.new_state)
        speaks = event.new_state in ("speaking", "thinking")
        if speaks and not self._is_busy and not self._moves:
            self._busy.enter_context(self._call.busy())
        elif not speaks and self._is_busy:
            self._busy.close()
        self._is_busy = speaks and not self._moves
        self._keep()  # an heir is told what was cut off

    def _caller_changed(self, event: Any) -> None:
        self._call.turns.caller_is(event.new_state)
        self._keep()

    # -- a call that goes on -------------------------------------------------------------------------------------------

    async def go_on(self, agent: Agent, on_recovered: OnRecovered | None, start: dict[str, Any]) -> None:
        """Restores what was said, and begins: in a handover silently, until the predecessor is silent."""
        call, session = self._call, self._session
        if not call.planned:
            await call.takes_over()
        await self._restore(agent)

        entered_before(agent)
        await session.start(agent, room=call.context.room, **start)
        if call.planned:
            session.input.set_audio_enabled(False)  # the predecessor answers what the caller says now
            await self._until_heard()
            await call.takes_over()
            await self._restore(agent)  # the predecessor may have said more meanwhile
            session.input.set_audio_enabled(True)
        if not await call.caller_is_there():
            log.info("caller_gone", job=call.context.job.id)
            call.context.shutdown("the caller is gone")
            return
        call.turns.moves_to(CallState.CONNECTED)
        self._start(self._heard_again())
        if not call.planned:
            self._start(self._resume(on_recovered))

    async def _restore(self, agent: Agent) -> None:
        with self._userdata.told():
            self._userdata.restore(self._call.data.get("userdata"))
        items = self._call.data.get("items") or []
        await agent.update_chat_ctx(ChatContext.from_dict({"items": items}), exclude_invalid_function_calls=False)

    async def _until_heard(self) -> None:
        subscribed = getattr(self._session.room_io, "subscribed_fut", None)
        if subscribed is not None:
            await asyncio.wait([subscribed], timeout=SUBSCRIBED_SECONDS)

    async def _heard_again(self) -> None:
        await self._until_heard()
        await self._call.speaks_again()

    async def _resume(self, on_recovered: OnRecovered | None) -> None:
        try:
            if isinstance(on_recovered, str):
                await self._session.say(on_recovered)
            elif on_recovered is not None:
                await on_recovered(self._call)
            elif owes_an_answer(self._call.data.get("items") or []) and self._session.llm is not None:
                await self._session.generate_reply()
        except Exception as error:  # noqa: BLE001 - the program's own code, or its provider's; the call goes on
            log.error("on_recovered_failed", job=self._call.context.job.id, exception=trace(error))

    # -- its end -------------------------------------------------------------------------------------------------------

    async def _stop_when_lost(self) -> None:
        """Another worker has the call: this agent is silent at once, hangs nobody up, and leaves a moment later."""
        await self._call.lost.wait()
        await self.leave("another worker has the call")

    async def leave(self, reason: str) -> None:
        """Silences the agent, and ends the job without a word to the caller."""
        session = self._session
        for silence in (
            lambda: session.output.set_audio_enabled(False),
            lambda: session.input.set_audio_enabled(False),
            lambda: inside.keep_room(session),
            lambda: inside.silence(session),
        ):
            try:
                silence()
            except Exception as error:  # noqa: BLE001 - it may not have begun, or be closing
                log.debug("agent_not_silenced", job=self._call.context.job.id, error=told(error))
        await anyio.sleep(LEAVE_SECONDS)
        self._call.context.shutdown(reason)

    def _session_closed(self, event: Any) -> None:
        self._closed_by = getattr(event.reason, "value", str(event.reason))
        if self._closed_by == "error":
            self._start(self._call.end(f"its agent ended by an error: {type(event.error).__name__}"))
        elif self._closed_by in ("participant_disconnected", "task_completed"):  # the job may stay in the room for long
            self._start(self._call.end())

    async def _job_ends(self, reason: str = "") -> None:
        await self._call.end("the job crashed" if reason == "job crashed" else "")


def entered_before(agent: Agent) -> None:
    """Leaves out the agent's next `on_enter`: it has entered this call. When it comes back from another one, it enters as always."""

    async def on_enter() -> None:
        del agent.on_enter

    agent.on_enter = on_enter


def owes_an_answer(items: list[Any]) -> bool:
    """Whether the caller said something last, or a tool's result has not been told."""
    for item in reversed(items):
        if item.get("type") == "message":
            return bool(item.get("role") == "user")
        if item.get("type") == "function_call_output":
            return True
    return False


class _UserData:
    """The session's user data, where it is a dictionary or a dataclass."""

    def __init__(self, session: AgentSession[Any]) -> None:
        self._session, self._failed = session, False
        try:
            self._value = session.userdata
        except ValueError:  # there is none
            self._value = None
        if self._value is not None and not isinstance(self._value, dict) and not dataclasses.is_dataclass(self._value):
            raise TypeError(f"userdata: {type(self._value).__name__} is neither a dictionary nor a dataclass")

    @contextlib.contextmanager
    def told(self) -> Any:
        """What the program's own values raise is logged once, and the conversation is kept without them."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the program's own
            if not self._failed:
                log.error("userdata_not_kept", exception=trace(error))
            self._failed = True

    def now(self, most: int) -> Any:
        value = self._session.userdata if self._value is not None else None
        if dataclasses.is_dataclass(value) and not inspect.isclass(value):
            value = dataclasses.asdict(value)
        raw = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        check_json("userdata", raw)  # as the conversation would be refused along with it
        if len(raw) > most:
            raise DataTooLargeError(len(raw), most)
        return value

    def restore(self, kept: Any) -> None:
        if kept is None or self._value is None:
            return
        if isinstance(self._value, dict):
            self._value.update(kept)
        else:
            self._session.userdata = type(self._value)(**kept)
