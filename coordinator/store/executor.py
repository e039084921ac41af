"""Runs calls on a partition's server: what arrives while one batch is under way goes out together as the next."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from coordinator.errors import CoordinatorError, StoreUnavailableError
from coordinator.store.faults import is_noscript, store_error
from coordinator.store.keys import Keys
from coordinator.store.link import Link, ThreadLink
from coordinator.store.scripts import Answer, Argument, Call

__all__ = ["Executor", "StorePartition", "SyncExecutor"]

BATCH = 200
"""Most commands that go out together."""

_Item = tuple[Call | tuple[Argument, ...], "asyncio.Future[Any]"]


class Executor:
    """Scripts and commands of one partition, in order, over one connection.

    Args:
        link: the connection.
        observe: told of each request's operation (a script's name or a command) and its seconds on the wire.

    A call that is cancelled may still be applied; its answer is read and thrown away, so that no other call gets it.
    """

    def __init__(self, link: Link, observe: Callable[[str, float], None] | None = None) -> None:
        self._link, self._observe = link, observe
        self._waiting: deque[_Item] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def server(self) -> str:
        """Run id of the server of the present connection; '' before the first."""
        return self._link.server.decode()

    async def run(self, call: Call) -> Answer:
        """Runs a script; safe to repeat as its header says.

        Raises:
            StoreUnavailableError: the store did not answer, or refused; the call may have been applied.
            ScriptError: the script is wrong.
        """
        answer: Answer = await self._submit(call)
        return answer

    async def run_many(self, calls: Sequence[Call]) -> list[Answer]:
        """Runs scripts, pipelined; the first error is raised after all were answered."""
        futures = [self._submit(call) for call in calls]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        return [_value(a) for a in answers]

    async def command(self, *args: Argument) -> Any:
        """Runs a plain command; bytes come back as they are.

        Raises:
            StoreUnavailableError: the store did not answer, or refused.
        """
        return await self._submit(args)

    async def commands(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Runs plain commands, pipelined; the first error is raised after all were answered."""
        futures = [self._submit(args) for args in commands]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        return [_value(a) for a in answers]

    def _submit(self, what: Call | tuple[Argument, ...]) -> asyncio.Future[Any]:
        if self._closed:
            raise StoreUnavailableError("connection", "the connection was closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((what, future))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._flush(), name="store-executor")
        return future

    async def _flush(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # whoever is ready in this turn of the loop comes along
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                await self._exchange(batch)
            except StoreUnavailableError as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(StoreUnavailableError(error.kind, error.detail))
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(StoreUnavailableError("other", f"stopped: {error!r}"))
                raise

    async def _exchange(self, batch: list[_Item]) -> None:
        began = time.monotonic()
        answers = await self._link.exchange([w.evalsha() if isinstance(w, Call) else w for w, _ in batch])
        if self._observe is not None:
            took = time.monotonic() - began
            for what, _ in batch:
                self._observe(what.script.name if isinstance(what, Call) else str(what[0]).lower(), took)
        unknown = [
            i
            for i, a in enumerate(answers)
            if isinstance(a, Exception) and is_noscript(a) and isinstance(batch[i][0], Call)
        ]
        if unknown:  # the server does not know these scripts (any more): once with their text
            texts = [what.eval() for i in unknown if isinstance(what := batch[i][0], Call)]
            for i, answer in zip(unknown, await self._link.exchange(texts), strict=True):
                answers[i] = answer
        for (what, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(store_error(answer, what.script.name if isinstance(what, Call) else ""))
            else:
                future.set_result(what.parse(answer) if isinstance(what, Call) else answer)

    async def aclose(self) -> None:
        """Closes the connection; calls that wait fail."""
        self._closed = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(StoreUnavailableError("connection", "the connection was closed"))
        await self._link.aclose()


def _value(answer: Any) -> Any:
    if isinstance(answer, BaseException):
        raise answer
    return answer


class SyncExecutor:
    """Scripts of one partition from a thread, over a connection of its own."""

    def __init__(self, link: ThreadLink) -> None:
        self._link = link

    @property
    def server(self) -> str:
        """Run id of the server of the present connection; '' before the first."""
        return self._link.server.decode()

    def run(self, call: Call) -> Answer:
        """Runs a script.

        Raises:
            StoreUnavailableError: the store did not answer within the time limit, or refused.
            ScriptError: the script is wrong.
        """
        [answer] = self.run_many([call])
        if isinstance(answer, CoordinatorError):
            raise answer
        return answer

    def run_many(self, calls: Sequence[Call]) -> list[Answer | CoordinatorError]:
        """Runs scripts, pipelined; what went wrong stands in the place of the answer, and nothing is raised."""
        try:
            answers = self._link.exchange([call.evalsha() for call in calls])
            for i, answer in enumerate(answers):
                if isinstance(answer, redis.ResponseError) and is_noscript(answer):
                    [answers[i]] = self._link.exchange([calls[i].eval()])
        except StoreUnavailableError as error:
            return [error] * len(calls)
        return [
            store_error(answer, call.script.name) if isinstance(answer, Exception) else call.parse(answer)
            for call, answer in zip(calls, answers, strict=True)
        ]

    def close(self) -> None:
        """Closes the connection."""
        self._link.close()


@dataclass(frozen=True, slots=True)
class StorePartition:
    """One partition: its keys and what runs calls on its server."""

    keys: Keys
    executor: Executor
