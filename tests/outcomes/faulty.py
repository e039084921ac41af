"""An executor between a worker and its store that loses requests and answers, and then is away until it is mended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import anyio
import anyio.lowlevel

from coordinator.errors import StoreUnavailableError
from coordinator.store.executor import Executor
from coordinator.store.scripts import ScriptCall

__all__ = ["Fault", "FaultyExecutor"]

Fault = Literal["lost", "unanswered", "late", "stopped"]
"""Of one request: never applied; applied, and its answer lost; applied when nobody thinks of it any more; sent by a process that stood
still until it was dead for all others."""


class _Plain:
    """An executor as it was before some of its methods were replaced."""

    def __init__(self, executor: Executor, names: Sequence[str]) -> None:
        self._executor = executor
        self.__dict__.update({name: getattr(executor, name) for name in names})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


class FaultyExecutor:
    """Does what the real one does, but for the request that a fault waits for.

    Attributes:
        hit: what the fault met, if anything.
    """

    def __init__(self, real: Executor, while_stopped: Callable[[], object]) -> None:
        self._real, self._while_stopped = real, while_stopped
        self._armed: tuple[str, Fault] | None = None
        self._away = False
        self._late: list[ScriptCall[Any]] = []
        self.hit = ""

    @classmethod
    def before(cls, executor: Executor, while_stopped: Callable[[], object]) -> FaultyExecutor:
        """Stands before an executor from now on, for all who have it already."""
        names = ("run", "command", "commands")
        faulty = cls(cast(Executor, _Plain(executor, names)), while_stopped)
        for name in names:
            setattr(executor, name, getattr(faulty, name))
        return faulty

    def arm(self, script: str, fault: Fault) -> None:
        """The next request of that script has this fault."""
        self._armed, self.hit = (script, fault), ""

    def mend(self) -> None:
        """The store answers again."""
        self._away, self._armed = False, None

    async def deliver(self) -> bool:
        """What was late arrives now; whether there was anything."""
        late, self._late = self._late, []
        for call in late:
            await self._real.run(call)
        return bool(late)

    async def _answers(self) -> None:
        if self._away:
            await anyio.lowlevel.checkpoint()
            raise StoreUnavailableError("timeout", "no answer")

    async def run(self, call: ScriptCall[Any]) -> Any:
        """Runs a script, or has its fault."""
        await self._answers()
        script, fault = self._armed or ("", "")
        if call.script.name != script:
            return await self._real.run(call)
        self._armed, self.hit = None, script
        if fault == "stopped":
            await anyio.to_thread.run_sync(self._while_stopped)
            return await self._real.run(call)
        self._away = True
        if fault == "unanswered":
            await self._real.run(call)
        elif fault == "late":
            self._late.append(call)
        raise StoreUnavailableError("timeout", "no answer")

    async def command(self, *args: Any) -> Any:
        """Runs a plain command."""
        await self._answers()
        return await self._real.command(*args)

    async def commands(self, commands: Sequence[Any]) -> list[Any]:
        """Runs plain commands."""
        await self._answers()
        return await self._real.commands(commands)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
