"""``python -m tests.voice_stacks.pipecat [--kills N]``: what a caller hears when the server of a real Pipecat bot ends, as a table.

Counts must be right, and the exit status is 1 where one is not. Times are printed only. It runs in Pipecat's environment
(``make environment-pipecat``).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import anyio

from coordinator.cli.figures import percentile
from tests.adapters.pipecat.provider import Caller
from tests.adapters.pipecat.site import BotServer, CallSite, call_site
from tests.redis_server import RedisServer
from tests.voice_stacks.page import write_table
from tests.waiting import eventually

TURNS = 2
SYSTEM = {"role": "system", "content": "You count turns."}
SAID = [
    SYSTEM,
    *(
        {"role": role, "content": f"{word} {n}"}
        for n in range(1, TURNS + 1)
        for role, word in (("user", "key"), ("assistant", "turn"))
    ),
]
LONG = {"role": "user", "content": "key 9"}
CONTROL_SECONDS = 3.0


@dataclass
class Case:
    """One way in which a server ends, and what came of it.

    Attributes:
        expected: whether the caller hears the bot again, and it knows what was said.
        heard: seconds from the end until the caller heard the next bot.
        equal: how often its context was equal.
        two_voices: seconds of audio of the old bot that came after the first audio of the new one, each time.
        hung_up: how often a serializer hung up.
    """

    name: str
    run: Callable[[Case, CallSite, int], Awaitable[None]]
    watched: bool = False
    adapter: bool = True
    fetches: bool = False
    expected: bool = True
    runs: int = 0
    heard: list[float] = field(default_factory=list)
    equal: int = 0
    two_voices: list[float] = field(default_factory=list)
    hung_up: int = 0

    @property
    def is_right(self) -> bool:
        """Whether all counts are as they must be."""
        wanted = self.runs if self.expected else 0
        return (len(self.heard), self.equal, self.hung_up, sum(self.two_voices)) == (
            wanted,
            wanted,
            0,
            0,
        ) and self.runs > 0

    async def start(self, site: CallSite) -> BotServer:
        """A server of this case."""
        return await site.start(watched=self.watched, adapter=self.adapter, fetches=self.fetches, always_speaks=True)

    async def take(self, old: BotServer, new: BotServer, call_sid: str, since: float, *callers: Caller) -> None:
        """The new bot is heard, or not."""
        newest = callers[-1]
        await eventually(lambda: bots(new, call_sid), 20, "its bot has the call")
        found = bots(new, call_sid)
        first = newest.heard_after(since, new.level)
        if first is not None:
            self.heard.append(first.at - since)
            late = [one for caller in callers for one in caller.heard if one.at > first.at]
            self.two_voices.append(sum(one.seconds for one in late if abs(one.level - old.level) < old.level / 4))
        wanted = [SAID, [*SAID, LONG]]
        self.equal += found[-1]["messages"] in wanted
        self.hung_up += len(old.told("hung_up"))


def bots(server: BotServer, call_sid: str) -> list[dict[str, Any]]:
    """What that server's bots of a call have found."""
    return [one for one in server.told("bot") if one["call"] == call_sid]


async def killed(case: Case, site: CallSite, number: int) -> None:
    """SIGKILL between two sentences; the provider connects at once."""
    call_sid, old = f"CA{number}", site.server
    assert old is not None
    caller = await site.call(call_sid, turns=TURNS)
    new = site.server = await case.start(site)
    since = site.kill(old)
    await eventually(lambda: caller.heard_after(since, new.level), 20, "the caller hears the heir")
    await case.take(old, new, call_sid, since, caller)
    await caller.hang_up()


async def control(case: Case, site: CallSite, number: int) -> None:
    """The same without the adapter: the provider connects as well."""
    call_sid, old = f"CA{number}", site.server
    assert old is not None
    caller = Caller(call_sid, site.door)
    site.run(caller.run)
    await eventually(lambda: bots(old, call_sid), 30)
    then = time.monotonic()
    await caller.press("1")
    await eventually(lambda: caller.heard_after(then, old.level), 20)
    new = site.server = await case.start(site)
    since = site.kill(old)
    await eventually(lambda: bots(new, call_sid), 20, "the provider has connected")
    await anyio.sleep(CONTROL_SECONDS)
    await case.take(old, new, call_sid, since, caller)
    await caller.hang_up()


async def drained(case: Case, site: CallSite, number: int) -> None:
    """SIGTERM, timed from the end of the old connection on; here the bot says something after a planned move, too."""
    call_sid, old = f"CA{number}", site.server
    assert old is not None
    caller = await site.call(call_sid, turns=TURNS)
    new = site.server = await case.start(site)
    old.process.send(signal.SIGTERM)
    await eventually(lambda: caller.ends, 30, "the old connection ends")
    since = caller.ends[-1][0]
    await eventually(lambda: caller.heard_after(since, new.level), 20, "the caller hears the heir")
    await case.take(old, new, call_sid, since, caller)
    await eventually(lambda: not old.process.alive, 30, "the old server ends")
    await caller.hang_up()


async def frozen(case: Case, site: CallSite, number: int) -> None:
    """SIGSTOP in the middle of a sentence. The first connection stays up, and a second one comes; then the old server goes on."""
    call_sid, old = f"CA{number}", site.server
    assert old is not None
    caller = await site.call(call_sid, turns=TURNS)
    caller.again = False
    new = site.server = await case.start(site)
    then = time.monotonic()
    await caller.press("9")
    await eventually(lambda: caller.heard_after(then, old.level), 20, "it speaks")
    since = time.monotonic()
    old.process.send(signal.SIGSTOP)
    if case.fetches:
        await eventually(lambda: new.told("redirect"), 30, "the heir has the provider connect it anew")
    again = Caller(call_sid, site.door, again=False)
    site.run(again.run)
    await eventually(lambda: again.heard_after(since, new.level), 30, "the caller hears the heir")
    old.process.send(signal.SIGCONT)
    await eventually(lambda: not caller.is_connected, 30, "the old connection ends")
    await case.take(old, new, call_sid, since, caller, again)
    await again.hang_up()
    old.process.close()


def cases() -> list[Case]:
    """The rows of the table."""
    return [
        Case("SIGKILL, its exit is watched", killed, watched=True),
        Case("SIGKILL, found out", killed),
        Case("drain (SIGTERM)", drained),
        Case("frozen, the provider connects anew", frozen),
        Case("frozen, the provider stays connected and is asked", frozen, fetches=True),
        Case("control: SIGKILL without the adapter", control, adapter=False, expected=False),
    ]


async def run(case: Case, kills: int) -> None:
    """All runs of one case, on a store of its own."""
    server = RedisServer()
    try:
        async with call_site(server.url, server.client()) as site:
            await case.start(site)
            for number in range(kills):
                case.runs += 1
                await case.run(case, site, number)
    finally:
        server.close()


def row(case: Case) -> str:
    """Of the table."""
    middle, longest = percentile(case.heard, 0.5), max(case.heard, default=None)
    times = " | ".join("-" if one is None else f"{one * 1000:.0f}" for one in (middle, longest))
    voices = f"{max(case.two_voices) * 1000:.0f}" if case.two_voices else "-"
    right = "" if case.is_right else "NOT AS IT MUST BE"
    heard, equal = (f"{count} of {case.runs}" for count in (len(case.heard), case.equal))
    return f"| {case.name} | {heard} | {times} | {equal} | {voices} | {case.hung_up} | {right} |"


def main() -> int:
    """Prints the table; 1 when a count is wrong, 2 without Pipecat."""
    parser = argparse.ArgumentParser(description="what callers of Pipecat bots hear when a server ends")
    parser.add_argument("--kills", type=int, default=5, metavar="N", help="runs of each case (5)")
    parser.add_argument("--write", action="store_true", help="writes the table into docs/voice-stacks.md")
    arguments = parser.parse_args()
    kills = arguments.kills
    if find_spec("pipecat") is None:
        print(
            "Pipecat is not installed here: .environments/pipecat, which `make environment-pipecat` makes, has it",
            file=sys.stderr,
        )
        return 2
    table = [
        "| what ends the server | heard again | p50 ms | max ms | context equal | two voices, max ms | hung up | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print(*table, sep="\n")
    done = cases()
    for case in done:
        anyio.run(run, case, kills)
        table.append(row(case))
        print(table[-1], flush=True)
    if arguments.write:
        write_table("pipecat", f"{kills} times each, on {os.cpu_count()} cores.\n\n" + "\n".join(table))
    return 0 if all(case.is_right for case in done) else 1


if __name__ == "__main__":
    sys.exit(main())
