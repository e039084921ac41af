"""Calls over Twilio's media streams with bots of real Pipecat, whose servers are killed, frozen and restarted."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Any

import anyio
import pytest
import redis

from coordinator.keyring import KeyRing
from tests.adapters.pipecat.provider import Caller
from tests.adapters.pipecat.site import BotServer, CallSite, call_site
from tests.waiting import eventually

pytestmark = [
    pytest.mark.skipif(
        find_spec("pipecat") is None, reason="Pipecat is not installed here: `make adapters` runs this where it is"
    ),
    pytest.mark.timeout(240),
    pytest.mark.xdist_group("pipecat"),
]

SYSTEM = {"role": "system", "content": "You count turns."}


def said(turns: int) -> list[dict[str, str]]:
    """A context after so many turns."""
    return [
        SYSTEM,
        *(
            {"role": role, "content": f"{word} {n}"}
            for n in range(1, turns + 1)
            for role, word in (("user", "key"), ("assistant", "turn"))
        ),
    ]


@pytest.fixture
async def site(url: str, redis_client: redis.Redis) -> AsyncIterator[CallSite]:
    """Without servers."""
    async with call_site(url, redis_client) as site:
        yield site


async def bot_of(server: BotServer, count: int = 1) -> dict[str, Any]:
    """What its newest bot found."""
    await eventually(lambda: len(server.told("bot")) >= count, 30, "a bot has the call")
    return server.told("bot")[count - 1]


async def hears(caller: Caller, server: BotServer, then: float) -> None:
    """The caller hears that server after that time."""
    await eventually(lambda: caller.heard_after(then, server.level), 30, "the caller hears the heir")


def hung_up(*servers: BotServer) -> int:
    """How often a serializer hung up."""
    return sum(len(server.told("hung_up")) for server in servers)


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "found-out"])
async def test_a_call_goes_on_when_its_server_is_killed(site: CallSite, watched: bool) -> None:
    """Its provider connects to another server, whose bot has the whole context and the program's data, and is heard."""
    first, second = await site.start(watched=watched), await site.start(watched=watched)
    caller = await site.call()
    site.server = second
    then = site.kill(first)
    await hears(caller, second, then)
    found = await bot_of(second)
    assert (found["returned"], found["recovered"], found["planned"]) == (True, True, False)
    assert found["messages"] == said(2)
    assert found["data"]["served_by"] == ["voice-1"]
    await site.turn(caller, second, 3)
    assert site.stored()["context"] == said(3)
    assert hung_up(first, second) == 0


async def test_an_heir_knows_what_was_cut_off(site: CallSite) -> None:
    """Its predecessor was killed in the middle of a sentence, and the latencies of its turns are counted on."""
    first, second = await site.start(watched=True), await site.start(watched=True)
    caller = await site.call(turns=1)
    assert site.stored()["latencies"]["e2e"]["count"] == 1
    then = time.monotonic()
    await caller.press("9")  # a long answer
    await hears(caller, first, then)
    await eventually(lambda: site.stored().get("progress") == {"state": "responding"}, 20, "what it does is kept")
    site.server = second
    site.kill(first)
    found = await bot_of(second)
    assert found["progress"] == {"state": "reconnecting", "interrupted": "responding"}
    await eventually(lambda: caller.heard_after(then, second.level), 30, "the heir is heard")
    await eventually(lambda: site.stored().get("progress") == {"state": "listening"}, 20, "it has said its sentence")
    then = time.monotonic()
    await caller.press("3")
    await hears(caller, second, then)
    await eventually(lambda: site.stored()["latencies"]["e2e"]["count"] == 3, 20, "three turns were counted")


async def test_a_limit_ends_the_call_in_order(site: CallSite) -> None:
    """Its good-bye is heard, its serializer hangs up once, and the session is closed; an heir counts on where the call was."""
    first, second = await site.start(watched=True, lasts=6.0), await site.start(watched=True, lasts=6.0)
    caller = await site.call(turns=1)
    site.server = second
    site.kill(first)
    await eventually(lambda: second.told("good_bye"), 30, "its time is over")
    caller.again = False
    await eventually(lambda: site.state() == "closed", 30, "the session is closed")
    await eventually(lambda: second.told("answered"), 30, "the bot is gone")
    good_bye = second.told("good_bye")[0]["at"]
    assert sum(one.seconds for one in caller.heard if one.at > good_bye) >= 0.45
    assert second.told("bot_ended")[0]["state"] == "disconnected"
    assert hung_up(first, second) == 1
    assert first.told("good_bye") == []


async def test_a_limit_ends_a_bot_that_hangs(site: CallSite) -> None:
    """Its pipeline does not come to its end: it is cancelled, which hangs up as well, once."""
    first = await site.start(lasts=4.0)
    caller = await site.call(turns=1)
    await caller.press("8")  # its model never returns
    await eventually(lambda: first.told("good_bye"), 30, "its time is over")
    caller.again = False
    await eventually(lambda: site.state() == "closed", 30, "the session is closed")
    assert hung_up(first) == 1


async def test_without_the_adapter_the_next_bot_knows_nothing(site: CallSite) -> None:
    """The control: the provider connects again, and the bot begins with an empty context and says nothing."""
    first, second = await site.start(adapter=False), await site.start(adapter=False)
    caller = Caller("CA1", site.door)
    site.run(caller.run)
    await bot_of(first)
    then = time.monotonic()
    await caller.press("1")
    await hears(caller, first, then)
    site.server = second
    then = site.kill(first)
    found = await bot_of(second)
    assert found["messages"] == [SYSTEM]
    await anyio.sleep(1.0)
    assert caller.heard_after(then, second.level) is None


async def test_an_answer_that_was_cut_off_is_given_anew(site: CallSite) -> None:
    """A caller whose sentence has no answer in the context gets it from the heir, where the program gives no sentence."""
    first, second = await site.start(watched=True), await site.start(watched=True, sentence="")
    caller = await site.call(turns=1)
    await caller.press("8")  # its model never answers
    await eventually(lambda: "key 8" in str(site.stored()), 20, "the question is kept")
    site.server = second
    site.kill(first)
    found = await bot_of(second)
    assert found["messages"] == [*said(1), {"role": "user", "content": "key 8"}]


async def test_a_drain_moves_a_call_between_two_sentences(site: CallSite) -> None:
    """SIGTERM sends the caller on, the heir has the newest context, the old server ends by itself, and nobody hangs up."""
    first, second = await site.start(), await site.start()
    caller = await site.call()
    site.server = second
    first.process.send(signal.SIGTERM)
    found = await bot_of(second)
    assert (found["recovered"], found["planned"]) == (True, True)
    assert found["messages"] == said(2)
    await eventually(lambda: not first.process.alive, 30, "the old server ends")
    assert first.told("left")
    assert [code for _, _, code in caller.ends] == [1012]
    await site.turn(caller, second, 3)
    assert hung_up(first, second) == 0


async def test_a_drain_waits_until_the_bot_has_spoken(site: CallSite) -> None:
    """The last sentence is heard to its end on the old connection, and is in the context of the heir."""
    first, second = await site.start(), await site.start()
    caller = await site.call(turns=1)
    site.server = second
    then = time.monotonic()
    await caller.press("2")
    await hears(caller, first, then)
    first.process.send(signal.SIGTERM)
    found = await bot_of(second)
    heard = sum(one.seconds for one in caller.heard if one.at > then and one.connection == 1)
    assert heard == pytest.approx(0.5, abs=0.05)
    assert found["messages"] == said(2)


async def test_a_bot_that_lost_its_call_is_silent_at_once(site: CallSite) -> None:
    """Fenced in the middle of a sentence, its audio stops, its connection ends without a hang-up, and the heir goes on."""
    first, second = await site.start(), await site.start()
    caller = await site.call(turns=1)
    then = time.monotonic()
    await caller.press("9")  # a long answer
    await hears(caller, first, then)
    site.server = second
    first.process.send(signal.SIGSTOP)
    again = Caller("CA1", site.door, again=False)  # the provider's second connection, while the first is still up
    site.run(again.run)
    found = await bot_of(second)
    assert (found["recovered"], found["planned"]) == (True, False)
    await hears(again, second, then)
    continued = time.monotonic()
    caller.again = False
    first.process.send(signal.SIGCONT)
    await eventually(lambda: first.told("bot_ended"), 30, "the old bot ends")
    await eventually(lambda: not caller.is_connected, 30, "its connection ends")
    assert first.told("bot_ended")[0]["lost"] is True
    sent_before = [one for one in caller.heard if one.at > continued]
    assert sum(one.seconds for one in sent_before) < 0.5  # what was on the line when it was frozen
    assert hung_up(first, second) == 0
    assert site.state() == "active"


async def test_a_serializer_that_was_not_guarded_hangs_nobody_up_either(site: CallSite) -> None:
    """A program that forgets `guard` is safe over websockets: its transport finds nobody at the other end."""
    first, second = await site.start(guards=False), await site.start(guards=False)
    await site.call(turns=1)
    site.server = second
    again = Caller("CA1", site.door, again=False)
    site.run(again.run)
    await bot_of(second)
    await eventually(lambda: first.told("answered"), 30, "the old bot is gone")
    assert hung_up(first, second) == 0


@pytest.mark.parametrize("where", ["same server", "other server"])
async def test_the_newest_connection_has_the_call(site: CallSite, where: str) -> None:
    """The provider connects a second time while the first connection is up: one bot is heard, the other is silent."""
    first = await site.start()
    second = first if where == "same server" else await site.start()
    caller = await site.call()
    caller.again = False
    site.server = second
    again = Caller("CA1", site.door, again=False)
    site.run(again.run)
    found = await bot_of(second, 2 if second is first else 1)
    assert found["messages"] == said(2)
    assert found["returned"] is True
    await eventually(lambda: not caller.is_connected, 30, "the older connection ends")
    await site.turn(again, second, 3)
    assert site.stored()["context"] == said(3)
    assert hung_up(first, second) == 0


async def test_a_caller_who_hangs_up_is_gone(site: CallSite) -> None:
    """The provider's stop closes the session, and its serializer asks for no second hang-up."""
    first = await site.start()
    caller = await site.call(turns=1)
    await caller.hang_up()
    await eventually(lambda: site.state() == "closed", 20, "the session is closed")
    assert hung_up(first) == 0


async def test_a_bot_that_ends_the_call_hangs_up(site: CallSite) -> None:
    """The frame that ends the pipeline does what it did before: the serializer hangs up once, and the session is closed."""
    first = await site.start()
    caller = await site.call(turns=1)
    caller.again = False
    await caller.press("0")
    await eventually(lambda: site.state() == "closed", 20, "the session is closed")
    assert hung_up(first) == 1


async def test_a_broken_line_is_no_end(site: CallSite) -> None:
    """The connection breaks without a word: the caller comes to the same server again, and finds the whole context."""
    first = await site.start()
    caller = await site.call()
    await caller.drop()
    found = await bot_of(first, 2)
    assert (found["returned"], found["recovered"]) == (True, False)
    assert found["messages"] == said(2)
    assert hung_up(first) == 0


async def test_a_caller_who_does_not_come_back_is_given_up(site: CallSite) -> None:
    """After `comes_back_within` the session of a broken connection is closed."""
    await site.start(door={"comes_back_within": 0.2})
    caller = await site.call(turns=1)
    caller.again = False
    await caller.drop()
    await eventually(lambda: site.state() == "closed", 20, "the session is closed")


async def test_a_bot_that_fails_leaves_the_call_to_another_server(site: CallSite) -> None:
    """An error that ends the pipeline releases the call, hangs nobody up, and the provider finds it at the next door."""
    first, second = await site.start(), await site.start()
    caller = await site.call()
    site.server = second
    await caller.press("7")  # its ears break
    found = await bot_of(second)
    assert (found["recovered"], found["planned"]) == (True, False)
    assert found["messages"] == said(2)
    assert hung_up(first, second) == 0


async def test_a_pipeline_that_hangs_is_found(site: CallSite) -> None:
    """Nothing comes through it any more while its process is well: its call goes to another server, its caller by itself."""
    first = await site.start(wedged_after=1.0, door={"hangs_after": 1.0})
    second = await site.start(wedged_after=1.0)
    caller = await site.call(turns=1)
    site.server = second
    await caller.press("8")  # its model never returns
    found = await bot_of(second)
    assert (found["recovered"], found["planned"]) == (True, False)
    assert found["messages"] == [*said(1), {"role": "user", "content": "key 8"}]
    assert [code for _, _, code in caller.ends] == [1012]
    assert hung_up(first, second) == 0


async def test_a_provider_that_stays_connected_is_asked_to_come(site: CallSite) -> None:
    """A frozen server keeps its connections: another one takes the call, has the provider connect it anew, and answers it."""
    first, second = await site.start(), await site.start(fetches=True)
    caller = await site.call()
    site.server = second
    first.process.send(signal.SIGSTOP)
    await eventually(lambda: second.told("redirect"), 30, "the heir asks for the caller")
    assert second.told("redirect")[0]["data"]["served_by"] == ["voice-1"]
    caller.again = False
    again = Caller("CA1", site.door, again=False)
    site.run(again.run)
    found = await bot_of(second)
    assert found["messages"] == said(2)
    assert found["returned"] is True
    first.process.send(signal.SIGKILL)


async def test_a_draining_server_without_others_serves_on(site: CallSite) -> None:
    """A caller who was sent on and comes back to the same server is served there until it ends."""
    first = await site.start(drain_timeout=60)
    caller = await site.call(turns=1)
    first.process.send(signal.SIGTERM)
    found = await bot_of(first, 2)
    assert found["messages"] == said(1)
    await site.turn(caller, first, 2)
    assert [code for _, _, code in caller.ends] == [1012]


async def test_a_long_call_keeps_its_newest_turns(site: CallSite) -> None:
    """What exceeds `MAX_DATA_BYTES` is left out from the oldest turn on, the log says it once, and the model still knows its task."""
    first, second = (
        await site.start(watched=True, max_data_bytes=400),
        await site.start(watched=True, max_data_bytes=400),
    )
    await site.call(turns=6)
    site.server = second
    site.kill(first)
    found = await bot_of(second)
    kept = (len(found["messages"]) - 1) // 2
    assert 1 <= kept < 6
    assert found["messages"] == [SYSTEM, *said(6)[-2 * kept :]]
    assert first.process.errors().count("context_trimmed") == 1


async def test_what_was_said_is_sealed(site: CallSite, redis_client: redis.Redis) -> None:
    """With keys nothing of the conversation is readable in the store, and the heir has it whole."""
    keys = KeyRing.generate("new")
    first, second = (
        await site.start(watched=True, encryption_keys=keys),
        await site.start(watched=True, encryption_keys=keys),
    )
    caller = Caller("CA1", site.door)
    site.run(caller.run)
    await bot_of(first)
    then = time.monotonic()
    await caller.press("1")
    await hears(caller, first, then)
    await eventually(lambda: not caller.heard_after(time.monotonic() - 0.3, first.level), 20, "the answer is over")
    await anyio.sleep(0.3)
    dump = str([redis_client.hgetall(key) for key in redis_client.keys("{recovery:0}:session:*")])
    assert "CA1" in str(redis_client.keys("{recovery:0}:session:*"))
    assert "key 1" not in dump
    assert "count" not in dump
    site.server = second
    site.kill(first)
    assert (await bot_of(second))["messages"] == said(1)
