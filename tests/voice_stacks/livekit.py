"""``python -m tests.voice_stacks.livekit [--kills N] [--write] [CASE…]``: what callers hear when agents on LiveKit die, move or hang.

Each case prints a row as it goes. The exit status is 1 when a caller was not heard again, or an heir knew less than was kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.cli.figures import percentile
from tests.redis_server import RedisServer
from tests.voice_stacks.livekit_caller import Caller
from tests.voice_stacks.livekit_server import KEY, SECRET, LiveKitServer, why_none
from tests.voice_stacks.page import write_table
from tests.voice_stacks.tone import PITCHES

NONE: Mapping[str, str] = {}
PATIENCE_SECONDS = 30.0
SETTLED_SECONDS = 2.0
SILENT_SECONDS = 10.0
"""How long the control is listened to in vain."""


@dataclass
class Heard:
    """One recovery, in seconds.

    Attributes:
        again: from the fault to the heir's first sound.
        silence: the longest around it.
        both: for which two voices were heard.
        knew: whether the heir knew all that was kept.
    """

    again: float
    silence: float
    both: float
    knew: bool


class Agent:
    """One agent server, a process of its own."""

    def __init__(self, stack: Stack, name: str, pitch: int, environment: Mapping[str, str]) -> None:
        self.name, self.pitch = name, pitch
        self._output = tempfile.NamedTemporaryFile(prefix=f"agent-{name}-", suffix=".log", delete=False)  # noqa: SIM115 - until `end`
        self._process = subprocess.Popen(
            [sys.executable, *stack.program, "start"],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={
                **os.environ,
                "LIVEKIT_URL": stack.livekit.url,
                "LIVEKIT_API_KEY": KEY,
                "LIVEKIT_API_SECRET": SECRET,
                "COORDINATOR_REDIS_URL": stack.redis.url,
                "NAME": name,
                "PITCH": str(pitch),
                **environment,
            },
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def text(self) -> str:
        return Path(self._output.name).read_text(errors="replace")

    def told(self, what: str, job: str = "") -> list[dict[str, Any]]:
        lines = [
            json.loads(line) for line in self.text().splitlines() if line.startswith('{"what"') and line.endswith("}")
        ]
        return [one for one in lines if one["what"] == what and job in ("", one.get("job"))]

    @property
    def is_ready(self) -> bool:
        return "registered worker" in self.text()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Ends it and its job processes, which are its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()
        Path(self._output.name).unlink(missing_ok=True)


class Stack:
    """LiveKit, Redis, a coordinator and two agents."""

    def __init__(
        self, *, heirs: int = 1, agent: str = "tone", program: Sequence[str] = (), environment: Mapping[str, str] = NONE
    ) -> None:
        self.agent = agent
        self.program = program or ["-m", f"tests.voice_stacks.livekit_{agent}_agent"]
        self.livekit, self.redis = LiveKitServer(), RedisServer()
        self._environment, self._count = environment, heirs + 1
        self.agents: list[Agent] = []
        self._rooms = 0
        self._coordinator: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Stack:
        self.livekit.start()
        self._coordinator = subprocess.Popen(
            [sys.executable, "-m", "coordinator", "run", "--redis-url", self.redis.url, "--http-port", "0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for n in range(self._count):
            self.agents.append(Agent(self, f"agent-{n}", PITCHES[n], self._environment))
        await self.all_ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        for agent in self.agents:
            agent.end()
        if self._coordinator is not None:
            self._coordinator.kill()
            self._coordinator.wait()
        self.livekit.kill()
        self.redis.close()

    def print_logs(self) -> None:
        print("--- LiveKit", self.livekit.log(), file=sys.stderr)
        print(*(f"--- {one.name}\n{one.text()[-9000:]}" for one in self.agents), sep="\n", file=sys.stderr)

    async def all_ready(self) -> None:
        await until(
            lambda: all(agent.is_ready for agent in self.agents),
            f"agents are there: {[a.text()[-500:] for a in self.agents]}",
        )

    async def replaced(self, agent: Agent) -> None:
        """An agent that was ended is started again."""
        agent.end()
        self.agents[self.agents.index(agent)] = Agent(self, agent.name, agent.pitch, self._environment)
        await self.all_ready()
        await asyncio.sleep(SETTLED_SECONDS)  # its idle processes become warm

    @contextlib.asynccontextmanager
    async def call(self) -> AsyncIterator[tuple[Caller, Agent, str]]:
        """A call that is heard, the agent that serves it, and its job."""
        self._rooms += 1
        async with Caller(self.livekit.url, f"room-{self._rooms}") as caller:
            await caller.dispatch(self.agent, f"metadata-{self._rooms}")
            try:
                await until(lambda: any(caller.hearing.frames.values()), "the agent is heard")
            except AssertionError:
                self.print_logs()
                raise
            await asyncio.sleep(SETTLED_SECONDS)
            served = [
                (agent, one)
                for agent in self.agents
                for one in agent.told("serves")
                if one["metadata"] == f"metadata-{self._rooms}"
            ]
            agent, one = served[-1]
            yield caller, agent, one["job"]


async def until(condition: Callable[[], object], what: str, patience: float = PATIENCE_SECONDS) -> None:
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"in vain waited until {what}")
        await asyncio.sleep(0.01)


Fault = Callable[[Stack, Agent, str], Coroutine[Any, Any, None]]


def to_worker(number: signal.Signals) -> Fault:
    async def fault(stack: Stack, agent: Agent, job: str) -> None:
        agent.send(number)

    return fault


def to_job(number: signal.Signals) -> Fault:
    async def fault(stack: Stack, agent: Agent, job: str) -> None:
        os.kill(agent.told("serves", job)[-1]["pid"], number)

    return fault


async def drained(stack: Stack, agent: Agent, job: str) -> None:
    command = [sys.executable, "-m", "coordinator", "drain", agent.name, "--redis-url", stack.redis.url]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await process.wait()


async def one_recovery(stack: Stack, fault: Fault, *, replace: bool) -> Heard:
    async with stack.call() as (caller, agent, job):
        heirs = [one for one in stack.agents if one is not agent]
        kept = agent.told("kept", job)
        began = time.monotonic()
        task = asyncio.create_task(fault(stack, agent, job))

        def first() -> float | None:
            return min(
                (at for heir in heirs if (at := caller.hearing.first(heir.pitch, began)) is not None), default=None
            )

        try:
            await until(lambda: first() is not None, "the heir is heard")
        except AssertionError:
            stack.print_logs()
            raise
        heard = first()
        assert heard is not None
        await asyncio.sleep(SETTLED_SECONDS)
        await task
        hearing = caller.hearing
        heir = next(one for one in heirs if one.told("serves", job))
        knew = heir.told("serves", job)[-1]["turns"] >= max((one["turns"] for one in kept), default=0)
        found = Heard(
            heard - began,
            hearing.longest_silence(began - 0.5, heard + 1.0),
            hearing.two_voices(agent.pitch, heir.pitch),
            knew,
        )
    if replace:
        await stack.replaced(agent)
    return found


def _row(what: str, found: list[Heard]) -> list[str]:
    def three(values: list[float]) -> str:
        shown = (percentile(values, 0.5), percentile(values, 0.99), max(values))
        return " / ".join(f"{1000 * (one or 0):.0f}" for one in shown)

    return [
        what,
        f"{len(found)} of {len(found)}",
        three([one.again for one in found]),
        three([one.silence for one in found]),
        three([one.both for one in found]),
        "yes" if all(one.knew for one in found) else "no",
    ]


HEAD = [
    "what ends",
    "heard again",
    "after, ms (p50 / p99 / max)",
    "longest silence, ms",
    "two voices, ms",
    "data equal",
]


async def repeated(
    what: str, kills: int, fault: Fault, *, replace: bool = True, environment: Mapping[str, str] = NONE
) -> list[str]:
    found: list[Heard] = []
    async with Stack(environment=environment) as stack:
        for _ in range(kills):
            found.append(await one_recovery(stack, fault, replace=replace))
            print(what, found[-1], file=sys.stderr, flush=True)
    return _row(what, found)


async def control(what: str, kills: int) -> list[str]:
    """Without this project nobody is heard again."""
    async with Stack(environment={"CONTROL": "1"}) as stack, stack.call() as (caller, agent, _):
        began = time.monotonic()
        agent.send(signal.SIGKILL)
        await asyncio.sleep(SILENT_SECONDS)
        last = max(caller.hearing.last(one.pitch) for one in stack.agents)
        assert last - began < 1, "the control was heard again"
        return [what, "0 of 1", "never", f"{SILENT_SECONDS:.0f} s and on", "0", "-"]


async def six_at_once(what: str, kills: int) -> list[str]:
    """Six calls of one worker, and two heirs."""
    found: list[Heard] = []
    async with Stack(heirs=2, environment={"IDLE": "3"}) as stack, contextlib.AsyncExitStack() as calls:
        owner: Agent | None = None
        mine: list[tuple[Caller, str]] = []
        while len(mine) < 6:
            caller, agent, job = await calls.enter_async_context(stack.call())
            owner = owner or agent
            if agent is owner:
                mine.append((caller, job))
        assert owner is not None
        heirs = [one for one in stack.agents if one is not owner]
        began = time.monotonic()
        owner.send(signal.SIGKILL)

        def first(caller: Caller) -> float | None:
            return min(
                (at for heir in heirs if (at := caller.hearing.first(heir.pitch, began)) is not None), default=None
            )

        await until(lambda: all(first(caller) is not None for caller, _ in mine), "all six are heard again")
        await asyncio.sleep(SETTLED_SECONDS)
        for caller, _ in mine:
            at = first(caller)
            assert at is not None
            both = sum(caller.hearing.two_voices(owner.pitch, heir.pitch) for heir in heirs)
            found.append(Heard(at - began, caller.hearing.longest_silence(began - 0.5, at + 1), both, True))
    return _row(what, found)


async def store_restarts(what: str, kills: int) -> list[str]:
    """Redis is killed and started again in the middle of a call, which its agent goes on serving."""
    silences = []
    async with Stack() as stack, stack.call() as (caller, agent, _):
        for _ in range(kills):
            began = time.monotonic()
            stack.redis.kill()
            await asyncio.sleep(3)
            stack.redis.start()
            await asyncio.sleep(8)
            silences.append(caller.hearing.longest_silence(began - 0.5, time.monotonic() - 0.2))
        assert not agent.told("lost"), "the call moved"
    worst = f"{1000 * max(silences):.0f}"
    return [what, f"{kills} of {kills}", "goes on", worst, "0", "yes"]


async def room_server_restarts(what: str, kills: int) -> list[str]:
    """LiveKit is killed and started again in the middle of a call: caller and agent come back to it by themselves."""
    found: list[Heard] = []
    async with Stack() as stack, stack.call() as (caller, agent, job):
        for _ in range(kills):
            kept = agent.told("kept", job)[-1]["turns"]
            began = time.monotonic()
            stack.livekit.kill()
            await asyncio.sleep(1)
            stack.livekit.start()
            back = time.monotonic()

            def first(since: float = back) -> float | None:
                times = [caller.hearing.first(one.pitch, since) for one in stack.agents]
                return min((at for at in times if at is not None), default=None)

            await until(lambda: first() is not None, "somebody is heard again", 60)
            heard = first()
            assert heard is not None
            await asyncio.sleep(SETTLED_SECONDS)
            knew = agent.told("kept", job)[-1]["turns"] >= kept
            found.append(Heard(heard - began, caller.hearing.longest_silence(began - 0.5, heard + 1), 0.0, knew))
    return _row(what, found)


CASES: dict[str, tuple[str, Callable[[str, int], Awaitable[list[str]]]]] = {
    "control": ("worker, SIGKILL, without this project", control),
    "kill": ("worker, SIGKILL", lambda what, n: repeated(what, n, to_worker(signal.SIGKILL))),
    "unwatched": (
        "worker, SIGKILL, no exit watcher",
        lambda what, n: repeated(what, n, to_worker(signal.SIGKILL), environment={"COORDINATOR_WATCH_EXIT": "false"}),
    ),
    "job": ("job process, SIGKILL", lambda what, n: repeated(what, n, to_job(signal.SIGKILL), replace=False)),
    "term": ("worker, SIGTERM (a rollout)", lambda what, n: repeated(what, n, to_worker(signal.SIGTERM))),
    "drain": ("coordinator drain", lambda what, n: repeated(what, n, drained)),
    "frozen": ("worker, SIGSTOP", lambda what, n: repeated(what, n, to_worker(signal.SIGSTOP))),
    "frozen-job": ("job process, SIGSTOP", lambda what, n: repeated(what, n, to_job(signal.SIGSTOP), replace=False)),
    "six": ("six calls of one worker at once, two heirs", six_at_once),
    "redis": ("Redis, killed and started again after 3 s", store_restarts),
    "sfu": ("LiveKit's server, killed and started again after 1 s", room_server_restarts),
}


async def main(arguments: list[str]) -> int:
    if why := why_none():
        print(f"Nothing was run: {why}.")
        return 0
    kills = int(arguments[arguments.index("--kills") + 1]) if "--kills" in arguments else 5
    names = [one for one in arguments if one in CASES] or list(CASES)
    rows, failed = [], False
    for name in names:
        what, run = CASES[name]
        try:
            rows.append(await run(what, kills))
            failed = failed or rows[-1][-1] == "no"
        except AssertionError as error:
            rows.append([what, f"failed: {error}"[:200], "", "", "", ""])
            failed = True
        print(rows[-1], file=sys.stderr, flush=True)
    table = "\n".join("| " + " | ".join(line) + " |" for line in [HEAD, ["---"] * len(HEAD), *rows])
    print(table)
    if "--write" in arguments:
        write_table("livekit", f"{kills} times each, on {os.cpu_count()} cores.\n\n{table}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
