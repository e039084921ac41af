"""Runs calls on a partition's server: the requests of one turn of the event loop go out together.

No more goes out than the line carries (see `coordinator.store.pace`); the rest waits here, and stays here when the connection
breaks. Only a request that was sent and has no answer has an unknown outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from coordinator.errors import CoordinatorError, StoreUnavailableError
from coordinator.forked import in_a_child
from coordinator.store.durability import NOT_ASKED_FOR, Confirming, Durability
from coordinator.store.endpoint import Endpoint
from coordinator.store.faults import ScriptError, concerns_one, is_noscript, store_error
from coordinator.store.keys import Keys
from coordinator.store.link import Link
from coordinator.store.mending import Mending, mend, mend_keys
from coordinator.store.pace import LARGE
from coordinator.store.packing import Packed, pack
from coordinator.store.replies import Reply
from coordinator.store.scripts import Argument, R, ScriptCall
from coordinator.store.thread_link import ThreadLink
from coordinator.store.waiting import Waiting

__all__ = ["Executor", "StorePartition", "SyncExecutor"]

PIECE = 8 * 1024
"""Bytes after which a part of a batch is sent: the server answers it while the rest is put together."""


class _Request:
    """One call or command, until its caller has the answer."""

    __slots__ = (
        "_executor",
        "_kept",
        "_texted",
        "durable",
        "future",
        "held_back",
        "number",
        "packed",
        "session",
        "size",
        "what",
    )

    def __init__(
        self, executor: Executor, what: ScriptCall[Reply] | tuple[Argument, ...], future: asyncio.Future[Any]
    ) -> None:
        self._executor, self.what, self.future = executor, what, future
        self._texted = False
        self._kept: Reply | None = None
        self.durable = isinstance(what, ScriptCall) and executor.durability.concerns(what)
        self.held_back = False
        self.session = what.session if isinstance(what, ScriptCall) else ""
        self.number = 0
        self._pack(what.evalsha() if isinstance(what, ScriptCall) else what)

    def _pack(self, command: tuple[Argument, ...]) -> None:
        self.packed: Packed = pack(command)
        self.size = self.packed.size

    def prepare(self, known: set[str]) -> None:
        """Sends much data with the script's text when the server may not know the script; else it might go out twice."""
        if (
            self.size > LARGE
            and not self._texted
            and isinstance(self.what, ScriptCall)
            and self.what.script.sha not in known
        ):
            self._texted = True
            self._pack(self.what.eval())

    @property
    def over(self) -> bool:
        """Whether its answer is no longer awaited: its caller was cancelled."""
        return self.future.done()

    @property
    def operation(self) -> str:
        """A script's name, or a command."""
        return self.what.script.name if isinstance(self.what, ScriptCall) else str(self.what[0]).lower()

    def answered(self, answer: Any, seconds: float) -> None:
        """See `coordinator.store.wire.Asked`."""
        if isinstance(answer, StoreUnavailableError):
            self.failed(answer)
            return
        self._executor.observe(self.operation, seconds)
        call = self.what if isinstance(self.what, ScriptCall) else None
        if isinstance(answer, redis.ResponseError):
            if call is not None and is_noscript(answer) and not self._texted:
                self._texted = True  # the server does not know this script, or no longer: once with its text
                self._executor.known.discard(call.script.sha)
                self._pack(call.eval())
                self._executor.again([self])
            else:
                self.failed(store_error(answer, call.script.name if call else ""))
            return
        if call is not None:
            self._executor.known.add(call.script.sha)
        if self.future.done():
            return  # its caller was cancelled
        if call is None:
            self.future.set_result(answer)
        else:
            try:
                parsed = call.parse(answer)
            except Exception as error:  # noqa: BLE001 - an unreadable answer concerns its caller only
                self.failed(ScriptError(f"{call.script.name}.lua answered what cannot be read: {error}"))
                return
            if self.held_back:
                self._kept = parsed
            else:
                self.future.set_result(parsed)

    def confirmed(self, error: StoreUnavailableError | None) -> None:
        """The confirmation behind it was answered: its own answer counts now, or does not."""
        if self._kept is None:
            return  # it is sent once more, or failed
        if error is not None:
            self.failed(error)
        elif not self.future.done():
            self.future.set_result(self._kept)

    def unsent(self, error: StoreUnavailableError) -> None:
        """See `coordinator.store.wire.Asked`."""
        self._executor.again([self])

    def failed(self, error: CoordinatorError) -> None:
        """Gives the caller an error in place of an answer."""
        if not self.future.done():
            self.future.set_exception(error)


class _Confirmation:
    """Ends a batch: the answers of these requests count once the replicas have them."""

    def __init__(self, confirming: Confirming, requests: Sequence[_Request]) -> None:
        self.packed: Packed = pack(confirming.command)
        self._confirming, self._requests = confirming, requests

    def answered(self, answer: Any, seconds: float) -> None:
        """See `coordinator.store.wire.Asked`."""
        error = self._confirming.heard(answer)
        for request in self._requests:
            request.confirmed(error)

    def unsent(self, error: StoreUnavailableError) -> None:
        """See `coordinator.store.wire.Asked`."""
        self.answered(StoreUnavailableError(error.kind, error.detail), 0.0)


class Executor:
    """Scripts and commands of one partition over one connection.

    The requests of one caller stay in their order. A small script for one session may be sent before large ones for others;
    everything else keeps its place.

    Args:
        link: the connection.
        observe: called with each request's operation (a script's name or a command) and its seconds on the wire.
        durability: which replicas are waited for after a change of hands.
        timeout: the store's time limit, in seconds.

    A call that is cancelled before it was sent is not sent. One that was sent may still be applied; its answer is read and
    thrown away, so that no other call gets it.

    Attributes:
        known: digests of the scripts that ran on the present connection.
    """

    def __init__(
        self,
        link: Link,
        observe: Callable[[str, float], None] | None = None,
        durability: Durability = NOT_ASKED_FOR,
        timeout: float = 0.5,
    ) -> None:
        self._link, self._observe = link, observe
        self.durability, self._confirming = durability, Confirming(durability, timeout)
        link.free = self._send
        self.known: set[str] = set()
        self._waiting: Waiting[_Request] = Waiting()
        self._connecting: asyncio.Task[None] | None = None
        self._soon = self._closed = False
        in_a_child(self, Executor._forked)

    @property
    def server(self) -> str:
        """Run id of the server of the present connection; '' before the first."""
        return self._link.server.decode()

    @property
    def endpoint(self) -> Endpoint | None:
        """How another program reaches the server of the present connection, or of the last one; None before the first."""
        return self._link.endpoint

    async def run(self, call: ScriptCall[R]) -> R:
        """Runs a script; safe to repeat as its header says.

        Raises:
            StoreUnavailableError: the store did not answer, or refused; the call may have been applied, unless it was not ``sent``.
            ScriptError: the script is wrong.
            CoordinatorError: an argument cannot be packed; nothing was sent.
        """
        try:
            answer: R = await self._submit([call])[0]
        except ScriptError:
            await self._mend(call)
            answer = await self._submit([call])[0]
        return answer

    async def run_many(self, calls: Sequence[ScriptCall[R]]) -> list[R]:
        """Runs scripts, pipelined; the first error is raised after all were answered. Raises as `run`."""
        answers: list[Any] = await asyncio.gather(*self._submit(calls), return_exceptions=True)
        for n, answer in enumerate(answers):
            if isinstance(answer, ScriptError):
                await self._mend(calls[n])
                [answers[n]] = await asyncio.gather(*self._submit([calls[n]]), return_exceptions=True)
        return _without_errors(answers)

    async def mend(self, keys: Sequence[str]) -> None:
        """Sets aside what does not parse of these keys, after a plain command met it; safe to repeat.

        Raises:
            StoreUnavailableError: the store did not answer, or refused.
        """
        await self._run_mending(mend_keys(keys))

    async def _mend(self, call: ScriptCall[Reply]) -> None:
        """Sets aside what does not parse of all that a script met; another program may do the same at this moment."""
        await self._run_mending(mend(call))

    async def _run_mending(self, mending: Mending) -> None:
        step = next(mending)
        while True:
            answers: list[Any] = await asyncio.gather(*self._submit(step), return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException) and not concerns_one(answer):
                    raise answer
            try:
                step = mending.send(answers)
            except StopIteration:
                return

    async def command(self, *args: Argument) -> Any:
        """Runs a plain command; bytes come back as they are.

        Raises:
            StoreUnavailableError: the store did not answer, or refused.
            CoordinatorError: an argument cannot be packed; nothing was sent.
        """
        return await self._submit([args])[0]

    async def commands(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Runs plain commands, pipelined; the first error is raised after all were answered. Raises as `command`."""
        return await _all(self._submit(commands))

    async def outcomes(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Runs plain commands about many things, pipelined; where the server refused one, the error stands in its place.

        Raises:
            StoreUnavailableError: the store did not answer, or refused more than single commands.
        """
        answers = await asyncio.gather(*self._submit(commands), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not concerns_one(answer):
                raise answer
        return answers

    def _submit(self, what: Sequence[ScriptCall[Reply] | tuple[Argument, ...]]) -> list[asyncio.Future[Any]]:
        if self._closed:
            raise StoreUnavailableError("connection", "the connection was closed", sent=False)
        loop = asyncio.get_running_loop()
        requests = [_Request(self, one, loop.create_future()) for one in what]  # all are packed before one is sent
        self._waiting.put(requests)
        if not self._soon:
            self._soon = True
            loop.call_soon(self._send)  # requests made later in this turn of the loop come along
        return [request.future for request in requests]

    def observe(self, operation: str, seconds: float) -> None:
        """Called by a request that was answered."""
        if self._observe is not None:
            self._observe(operation, seconds)

    def again(self, requests: Sequence[_Request]) -> None:
        """Called by requests that are to be sent before all that wait."""
        self._waiting.put_first(requests)

    def _send(self) -> None:
        """Sends the requests that may go now."""
        self._soon = False
        if self._closed or not len(self._waiting):
            return
        wire = self._link.wire
        if wire is None or not self._link.open:
            if (wire is None or not wire.busy) and self._connecting is None:
                self._connecting = asyncio.get_running_loop().create_task(self._connect(), name="store-executor")
            return  # requests on their way are answered first: they may have to be sent again
        durable, waits = list[_Request](), self._confirming.waits
        while (
            wire.open
            and not wire.full
            and (request := self._waiting.take(wire.room, only=not wire.large_away)) is not None
        ):
            request.prepare(self.known)
            request.held_back = request.durable and waits
            wire.put(request, self._link.server)
            if request.held_back:
                durable.append(request)
            if wire.held >= PIECE:
                wire.flush()
        if durable:
            confirmation = _Confirmation(self._confirming, durable)
            if wire.open:
                wire.put(confirmation, self._link.server, self._confirming.longest)
            else:
                confirmation.unsent(StoreUnavailableError("connection", "the connection was closed"))
        if wire.held and wire.open:
            wire.flush()

    async def _connect(self) -> None:
        error = StoreUnavailableError("connection", "the connection was closed")
        self.known.clear()
        try:
            await self._link.connect()
        except StoreUnavailableError as refused:
            error = refused
        finally:
            self._connecting = None
            if not self._link.open:
                self._fail_waiting(error)
        self._send()

    def _fail_waiting(self, error: StoreUnavailableError) -> None:
        for request in self._waiting.take_all():
            request.failed(StoreUnavailableError(error.kind, error.detail, sent=False))

    def _forked(self) -> None:
        self._closed = True

    async def aclose(self) -> None:
        """Closes the connection; calls that wait fail. Safe to repeat."""
        self._closed = True
        task = self._connecting
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._link.close()
        self._fail_waiting(StoreUnavailableError("connection", "the connection was closed"))


async def _all(futures: Sequence[asyncio.Future[Any]]) -> list[Any]:
    return _without_errors(await asyncio.gather(*futures, return_exceptions=True))


def _without_errors(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


class SyncExecutor:
    """Scripts of one partition from a thread, over a connection of its own."""

    def __init__(self, link: ThreadLink, durability: Durability = NOT_ASKED_FOR, timeout: float = 0.5) -> None:
        self._link = link
        self._durability, self._confirming = durability, Confirming(durability, timeout)

    @property
    def server(self) -> str:
        """Run id of the server of the present connection; '' before the first."""
        return self._link.server.decode()

    def run(self, call: ScriptCall[R]) -> R:
        """Runs a script.

        Raises:
            StoreUnavailableError: the store did not answer within the time limit, or refused.
            ScriptError: the script is wrong.
            CoordinatorError: an argument cannot be packed; nothing was sent.
        """
        [answer] = self.run_many([call])
        if isinstance(answer, CoordinatorError):
            raise answer
        return answer

    def run_many(self, calls: Sequence[ScriptCall[R]]) -> list[R | CoordinatorError]:
        """Runs scripts, pipelined; an error stands in the place of its answer, and nothing is raised."""
        outcomes = self._run_once(calls)
        for n, outcome in enumerate(outcomes):
            if isinstance(outcome, ScriptError):
                self._mend(calls[n])
                [outcomes[n]] = self._run_once([calls[n]])
        return outcomes

    def _mend(self, call: ScriptCall[Reply]) -> None:
        """As the other executor's."""
        mending = mend(call)
        step = next(mending)
        while True:
            scripts = [one for one in step if isinstance(one, ScriptCall)]
            answers: list[Any] = (
                list(self._run_once(scripts))
                if scripts
                else self._link.exchange([pack(one) for one in step if not isinstance(one, ScriptCall)])
            )
            if any(isinstance(answer, StoreUnavailableError) for answer in answers):
                return
            try:
                step = mending.send(answers)
            except StopIteration:
                return

    def _run_once(self, calls: Sequence[ScriptCall[R]]) -> list[R | CoordinatorError]:
        found: dict[int, Any] = {}
        packed: dict[int, Packed] = {}
        for i, call in enumerate(calls):
            try:
                packed[i] = pack(call.evalsha())
            except CoordinatorError as error:
                found[i] = error
        found |= self._exchange(packed)
        unknown = {
            i: pack(calls[i].eval()) for i, a in found.items() if isinstance(a, redis.ResponseError) and is_noscript(a)
        }
        found |= self._exchange(unknown)
        durable = [i for i in packed if self._durability.concerns(calls[i]) and not isinstance(found[i], Exception)]
        if durable and self._confirming.waits:
            [answer] = self._link.exchange([pack(self._confirming.command)])
            if (unknown_outcome := self._confirming.heard(answer)) is not None:
                found |= dict.fromkeys(durable, unknown_outcome)
        return [_outcome(call, found[i]) for i, call in enumerate(calls)]

    def _exchange(self, packed: dict[int, Packed]) -> dict[int, Any]:
        return dict(zip(packed, self._link.exchange(list(packed.values())), strict=True)) if packed else {}

    def close(self) -> None:
        """Closes the connection. Safe to repeat."""
        self._link.close()


def _outcome(call: ScriptCall[R], answer: Any) -> R | CoordinatorError:
    if isinstance(answer, CoordinatorError):
        return answer
    if isinstance(answer, redis.ResponseError):
        return store_error(answer, call.script.name)
    try:
        return call.parse(answer)
    except Exception as error:  # noqa: BLE001 - an unreadable answer concerns its caller only
        return ScriptError(f"{call.script.name}.lua answered what cannot be read: {error}")


@dataclass(frozen=True, slots=True)
class StorePartition:
    """One partition: its keys, and the executor that runs calls on its server."""

    keys: Keys
    executor: Executor
