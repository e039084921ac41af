"""``coordinator demo``: kills a worker and a coordinator before your eyes, and shows what happens to each call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Annotated

import anyio
import anyio.abc
import typer

from coordinator import clock
from coordinator.cli.demo_calls import Calls, DemoCall
from coordinator.cli.demo_report import as_data, line_of, print_summary
from coordinator.cli.options import command_errors
from coordinator.cli.processes import ChildProcess, CoordinatorProcess, StartError, interruptible, started
from coordinator.cli.tables import console, print_json
from coordinator.embedded import EmbeddedRedis
from coordinator.store.connect import Connector
from coordinator.store.executor import Executor
from coordinator.store.keys import Keys
from coordinator.store.lookups import now_ms

__all__ = ["demo"]

PREFIX = "demo"
START_LIMIT = 60.0
"""Seconds in which all processes must have started: that takes longest on a slow machine."""
LIMIT = 15.0
"""Seconds after the kill within which every call must be recovered."""
CHECKPOINTS_FIRST = 3
"""Each call is checkpointed this often before a worker is killed: by the worker of the README, which stages."""
POLL = 0.01

Say = Callable[[str], None]


class Demo:
    """One run: its processes, and what is known of the calls."""

    def __init__(self, url: str, say: Say, *, calls: int, workers: int, coordinators: int) -> None:
        self.url, self.say = url, say
        self.keys = Keys(PREFIX, 0)
        self.calls = Calls()
        self.size = (calls, workers, coordinators)
        self.workers: list[ChildProcess] = []
        self.coordinators: list[CoordinatorProcess] = []
        self.drained: dict[str, anyio.Event] = {}
        self.killed: dict[str, str] = {}
        self.shown: set[str] = set()
        self.began = clock.now()

    def told(self, text: str) -> None:
        """Prints what happened, and when."""
        self.say(f"{clock.now() - self.began:6.2f} s  {text}")

    async def run(self) -> None:
        """Starts everything, kills, and returns when every call is recovered, or at the limit."""
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            connector = Connector(self.url, store_timeout=1.0)
            stack.push_async_callback(connector.aclose)
            executor = connector.executor(self.keys.tag)
            with anyio.move_on_after(START_LIMIT) as limit:
                await self._start(stack, tasks)
                tasks.start_soon(self._follow_events, executor)
                await self._until_busy(executor)
                limit.deadline = anyio.current_time() + LIMIT
                dead = await self._kill(executor)
                while not all(call.recovered for call in dead):
                    await anyio.sleep(POLL)
            self._show_recovered()
            tasks.cancel_scope.cancel()

    async def _start(self, stack: AsyncExitStack, tasks: anyio.abc.TaskGroup) -> None:
        n_calls, n_workers, n_coordinators = self.size
        for i in range(1, n_coordinators + 1):
            name = f"demo-coordinator-{i}"
            self.coordinators.append(
                await stack.enter_async_context(
                    CoordinatorProcess.run(name, self.url, PREFIX, "--log-level", "warning")
                )
            )
        names = [f"demo-worker-{i}" for i in range(1, n_workers + 1)]
        for i in range(n_calls):
            self.calls.add(f"call-{i + 1:03d}", names[i % n_workers])
        for name in names:
            own = [call.session for call in self.calls.of(name)]
            said = {
                "COORDINATOR_REDIS_URL": self.url,
                "COORDINATOR_PREFIX": PREFIX,
                "COORDINATOR_CAPACITY": str(n_calls),
            }
            worker = await stack.enter_async_context(
                started(name, "coordinator.cli.demo_worker", [name, *own], output=True, environment=said)
            )
            self.workers.append(worker)
            self.drained[name] = anyio.Event()
            tasks.start_soon(self._follow_worker, worker)
        for coordinator in self.coordinators:
            await coordinator.ready()
        self.told(f"{n_coordinators} coordinators and {n_workers} workers are running, each a process of its own")

    async def _follow_worker(self, worker: ChildProcess) -> None:
        async for line in worker.lines():
            self.calls.said(line)
        self.drained[worker.name].set()
        if worker.name not in self.killed:
            raise StartError(f"{worker.name} ended by itself: {worker.last_words()}")

    async def _follow_events(self, executor: Executor) -> None:
        last: bytes = b"0"
        while True:
            await anyio.sleep(POLL)
            for _, entries in await executor.command("XREAD", "COUNT", 1000, "STREAMS", self.keys.events, last) or ():
                for entry_id, raw in entries:
                    last = entry_id
                    values = [v.decode(errors="replace") for v in raw]
                    self._event(dict(zip(values[::2], values[1::2], strict=True)))
            self._show_recovered()

    def _show_recovered(self) -> None:
        for call in self.calls.by_session.values():
            if call.recovered and call.session not in self.shown:
                self.shown.add(call.session)
                self.told(line_of(call))

    def _event(self, fields: dict[str, str]) -> None:
        taken = self.calls.event(fields)
        if taken is not None and taken.owner not in self.killed:
            self.told(f"{taken.session} was taken from {taken.owner}, which is alive: this must not happen")
        if fields["type"] == "died":
            by = f" by {fields['by']}" if fields.get("by") else ""
            self.told(f"{fields['instance']} was declared dead{by}: {fields.get('reason') or fields.get('cause')}")

    async def _until_busy(self, executor: Executor) -> None:
        """Waits until every call has been checkpointed a few times and the hold at the start is over."""
        keys = [self.keys.session(session) for session in self.calls.by_session]
        counts: list[bytes | None] = [None]
        while any(int(count or 0) < CHECKPOINTS_FIRST for count in counts):
            counts = await executor.commands([("HGET", key, "checkpoint") for key in keys])
            await anyio.sleep(POLL)
        share = ", ".join(f"{worker.name} {len(self.calls.of(worker.name))}" for worker in self.workers)
        self.told(f"{len(self.calls.by_session)} calls are open and checkpointed all the time: {share}")
        while True:
            ends = await executor.command("HGET", self.keys.detector, "hold_until_ms")
            if ends is not None and int(ends) < await now_ms(executor):
                return
            await anyio.sleep(POLL)

    async def _kill(self, executor: Executor) -> list[DemoCall]:
        """SIGKILLs the first worker and, at once, the first coordinator; returns the calls that lost their owner."""
        worker = self.workers[0]
        dead = self.calls.of(worker.name)
        self.killed[worker.name] = "worker"
        died_ms = await now_ms(executor)
        worker.kill()
        for call in dead:
            call.died_ms = died_ms
        self.told(f"SIGKILL to {worker.name} (pid {worker.pid}), which serves {len(dead)} calls")
        if len(self.coordinators) > 1:
            coordinator = self.coordinators[0].child
            self.killed[coordinator.name] = "coordinator"
            coordinator.kill()
            self.told(f"SIGKILL to {coordinator.name} (pid {coordinator.pid}): the others must do it without this one")
        else:
            self.told("the only coordinator is left alive: no other could do its work")
        await self.drained[worker.name].wait()
        stored = await executor.commands([("HGET", self.keys.session(call.session), "data") for call in dead])
        for call, data in zip(dead, stored, strict=True):
            call.accepted = data or b""
        return dead


async def _demo(say: Say, calls: int, workers: int, coordinators: int) -> Demo:
    with EmbeddedRedis() as redis:
        demo = Demo(redis.url, say, calls=calls, workers=workers, coordinators=coordinators)
        demo.told(f"an embedded Redis {redis.version} is running, for this demo only")
        async with interruptible():
            await demo.run()
        return demo


def _quiet(text: str) -> None:
    """Says nothing: with --json only the document is printed."""


@command_errors
def demo(
    calls: Annotated[int, typer.Option(min=1, max=5000, help="Number of calls, spread over the workers.")] = 60,
    workers: Annotated[int, typer.Option(min=2, max=50, help="Number of worker processes; one is killed.")] = 3,
    coordinators: Annotated[
        int, typer.Option(min=1, max=10, help="Number of coordinator processes; of several, one is killed.")
    ] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> int:
    """Kill a worker and a coordinator, and watch how each call is recovered.

    Starts an embedded Redis, coordinators and workers as separate processes, kills one of each with SIGKILL and
    compares what the survivors were given with what was checkpointed last, byte for byte.

    Exit status: 0 every call was recovered with its last data within 15 s of the kill; 1 not; 2 wrong usage.
    """
    out = console(soft_wrap=True)
    run = anyio.run(_demo, _quiet if as_json else out.print, calls, workers, coordinators)
    seconds = clock.now() - run.began
    result = as_data(run.calls, run.killed, seconds)
    if as_json:
        print_json(result)
    else:
        print_summary(out, run.calls, run.killed, seconds)
    return 0 if result["ok"] else 1
