"""Parts of the adapter inside real pipelines: serializers, rooms, what comes first, and what is kept."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import redis
from prometheus_client import REGISTRY

from coordinator import Session, Worker, certify
from coordinator.adapters.pipecat import PipecatCall, new_call, room_handler
from coordinator.adapters.pipecat.frame_turns import SeenFrame, ServiceTime
from coordinator.adapters.pipecat.hang_ups import guard_serializer
from coordinator.errors import InvalidValueError
from coordinator.store.keys import Keys
from tests.coordinating import coordinating
from tests.waiting import eventually

pytest.importorskip("pipecat", reason="Pipecat is not installed here: `make adapters` runs this where it is")

from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    LLMFullResponseStartFrame,
    MetricsFrame,
    OutputAudioRawFrame,
    TranscriptionFrame,
    TTSSpeakFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import TTFBMetricsData
from pipecat.processors.aggregators.llm_context import LLMSpecificMessage
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.serializers.plivo import PlivoFrameSerializer
from pipecat.serializers.telnyx import TelnyxFrameSerializer
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import BaseTransport, TransportParams

from coordinator.adapters.pipecat.frame_observer import FrameObserver
from tests.adapters.pipecat.bot import context_of, pipeline_of

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.xdist_group("pipecat"),
    pytest.mark.filterwarnings("default"),  # Pipecat's own are not ours
]

LEVEL = 2000


def hangs_up(kind: type[Any], *arguments: str, **more: str) -> tuple[Any, list[str]]:
    """A serializer, and what it asked its provider for."""
    asked: list[str] = []

    class Reporting(kind):
        async def _hang_up_call(self) -> None:
            asked.append("hang up")

    return Reporting(*arguments, **more), asked


SERIALIZERS: dict[str, Callable[[], tuple[Any, list[str]]]] = {
    "twilio": partial(hangs_up, TwilioFrameSerializer, "MZ1", "CA1", "AC1", "token"),
    "telnyx": partial(hangs_up, TelnyxFrameSerializer, "s1", "PCMU", "PCMU", "v3:1", "key"),
    "plivo": partial(hangs_up, PlivoFrameSerializer, "s1", "c1", "id", "token"),
}


@pytest.mark.parametrize("provider", SERIALIZERS)
@pytest.mark.parametrize("frame", [EndFrame, CancelFrame])
async def test_a_guarded_serializer_asks_before_it_hangs_up(provider: str, frame: type[Any]) -> None:
    """Without a guard each provider's hangs up whatever ended the pipeline; with one it does when it may, and audio passes."""
    plain, asked = SERIALIZERS[provider]()
    await plain.serialize(frame())
    assert asked == ["hang up"]

    may = False

    async def may_hang_up() -> bool:
        return may

    serializer, asked = SERIALIZERS[provider]()
    assert guard_serializer(serializer, may_hang_up) is serializer
    await serializer.serialize(frame())
    assert asked == []
    audio = OutputAudioRawFrame(audio=struct.pack("<160h", *[LEVEL] * 160), sample_rate=8000, num_channels=1)
    assert await serializer.serialize(audio)
    may = True
    await serializer.serialize(frame())
    assert asked == ["hang up"]


class RoomOutput(BaseOutputTransport):
    """Plays into a list, at the pace of the audio."""

    def __init__(self, params: Any, played: list[float]) -> None:
        super().__init__(params)
        self._played = played

    async def start(self, frame: Any) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: Any) -> bool:
        self._played.append(time.monotonic())
        await anyio.sleep(len(frame.audio) / 2 / frame.sample_rate)
        return True


ENDS_SECONDS = 0.3


class Room(BaseTransport):
    """A transport of a room in memory, which takes its time when its pipeline is cancelled, as a service does that disconnects."""

    def __init__(self) -> None:
        super().__init__()
        self.played: list[float] = []
        self._input = FrameProcessor()
        self._input.process_frame = self._pass  # type: ignore[method-assign, unused-ignore]
        self._output = RoomOutput(TransportParams(audio_out_enabled=True), self.played)

    async def _pass(self, frame: Any, direction: Any) -> None:
        await FrameProcessor.process_frame(self._input, frame, direction)
        if isinstance(frame, CancelFrame):
            await anyio.sleep(ENDS_SECONDS)
        await self._input.push_frame(frame, direction)

    def input(self) -> Any:
        return self._input

    def output(self) -> Any:
        return self._output


class Bots:
    """Bots in rooms.

    Attributes:
        rooms, calls, contexts: of each bot, in their order.
    """

    def __init__(self, on_recovered: Any = None) -> None:
        self.rooms: list[Room] = []
        self.calls: list[PipecatCall] = []
        self.contexts: list[Any] = []
        self._on_recovered = on_recovered

    async def __call__(self, call: PipecatCall) -> None:
        room = Room()
        context = call.keep(context_of())
        self.rooms.append(room)
        self.calls.append(call)
        self.contexts.append(context)
        await call.run(pipeline_of(call.mute(room), context, LEVEL), on_recovered=self._on_recovered)

    async def speaks(self, number: int, sentence: str = "long sentence") -> None:
        """That bot says something, and is heard."""
        await eventually(lambda: len(self.calls) > number and self.calls[number].task is not None, 20)
        before = len(self.rooms[number].played)
        await self.calls[number].task.queue_frame(TTSSpeakFrame(sentence))
        await eventually(lambda: len(self.rooms[number].played) > before, 20, "it is heard")


class Hall:
    """Workers of one store in the test's process."""

    def __init__(self, url: str, client: Any, tasks: Any, stack: AsyncExitStack) -> None:
        self.url, self._client, self._tasks, self._stack = url, client, tasks, stack

    async def worker(self, name: str, bots: Callable[[PipecatCall], Awaitable[None]], **settings: Any) -> Worker:
        """One that serves rooms."""
        worker = await self._stack.enter_async_context(Worker(self.url, name=name, **settings))
        self._tasks.start_soon(worker.serve, room_handler(worker, bots))
        await anyio.wait_all_tasks_blocked()
        return worker

    def happened(self, kind: str) -> int:
        """How often, by the stream of events."""
        return sum(fields[b"type"] == kind.encode() for _, fields in self._client.xrange(Keys("recovery", 0).events))


@pytest.fixture
async def hall(url: str, redis_client: redis.Redis) -> AsyncIterator[Hall]:
    """With a coordinator."""
    async with coordinating(url), AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        yield Hall(url, redis_client, tasks, stack)
        tasks.cancel_scope.cancel()


async def test_a_bot_in_a_room_is_silent_as_soon_as_it_is_fenced(hall: Hall) -> None:
    """In the middle of a sentence its audio stops although its pipeline still ends, and the heir is heard with the context."""
    bots, heirs = Bots(), Bots("I am back.")
    first = await hall.worker("a", bots)
    session: Session = await first.open("r-1", new_call({"room": "x"}))
    await bots.speaks(0)
    bots.contexts[0].add_message({"role": "user", "content": "hello"})
    await bots.calls[0].checkpoint()
    await hall.worker("b", heirs)
    await certify(first.id, "it is to be taken for dead", url=hall.url)
    await session.lost.wait()
    lost_at = time.monotonic()
    await eventually(lambda: heirs.rooms and heirs.rooms[0].played, 30, "the heir is heard")
    await eventually(lambda: bots.calls[0].finished.is_set(), 20, "the old bot has ended")
    assert [at for at in bots.rooms[0].played if at > lost_at + 0.001] == []
    assert heirs.contexts[0].get_messages()[-1] == {"role": "user", "content": "hello"}
    assert heirs.calls[0].data == {"room": "x"}


async def test_a_drain_hands_a_room_over_with_its_last_context(hall: Hall) -> None:
    """What was not written yet is written before the call is let go."""
    bots = Bots()
    first = await hall.worker("a", bots)
    await first.open("r-1", new_call())
    await bots.speaks(0)
    heirs = Bots()
    await hall.worker("b", heirs)
    bots.contexts[0].add_message({"role": "assistant", "content": "goodbye"})
    report = await first.drain()
    assert list(report.handed_over) == ["r-1"]
    await eventually(lambda: heirs.contexts, 20)
    assert heirs.contexts[0].get_messages()[-1] == {"role": "assistant", "content": "goodbye"}
    assert heirs.calls[0].session.planned


async def test_the_program_may_decide_what_comes_first(hall: Hall) -> None:
    """Its function gets the call, with its task; an error in it does not end the call."""
    seen: list[PipecatCall] = []

    async def first_words(call: PipecatCall) -> None:
        seen.append(call)
        await call.task.queue_frame(TTSSpeakFrame("hello again"))
        raise RuntimeError("and then it failed")

    bots, heirs = Bots(first_words), Bots(first_words)
    first = await hall.worker("a", bots)
    session: Session = await first.open("r-1", new_call())
    await bots.speaks(0)
    await hall.worker("b", heirs)
    await session.release("it is to move")
    await eventually(lambda: heirs.rooms and heirs.rooms[0].played, 30, "its words are heard")
    assert seen == heirs.calls
    assert heirs.calls[0].session.held


async def test_a_message_in_a_services_own_form_comes_back(hall: Hall) -> None:
    """As Pipecat has it."""
    bots, heirs = Bots(), Bots()
    first = await hall.worker("a", bots)
    session: Session = await first.open("r-1", new_call())
    await eventually(lambda: bots.contexts, 20)
    own = LLMSpecificMessage(llm="google", message={"parts": ["x"]})
    bots.contexts[0].add_message(own)
    await bots.calls[0].checkpoint()
    await hall.worker("b", heirs)
    await session.release("it is to move")
    await eventually(lambda: heirs.contexts, 20)
    assert heirs.contexts[0].get_messages()[-1] == own


async def test_a_change_without_a_frame_is_kept_too(hall: Hall, redis_client: redis.Redis) -> None:
    """The program adds a message and changes its data; both are written without a word from it."""
    bots = Bots()
    first = await hall.worker("a", bots)
    await first.open("r-1", new_call())
    await eventually(lambda: bots.contexts, 20)
    bots.contexts[0].add_message({"role": "user", "content": "by hand"})
    bots.calls[0].data["nested"] = {"n": 1}

    def stored() -> str:
        return str(redis_client.hget(Keys("recovery", 0).session("r-1"), "data"))

    await eventually(lambda: "by hand" in stored() and '"n":1' in stored(), 20)
    bots.calls[0].data["nested"]["n"] = 2
    await eventually(lambda: '"n":2' in stored(), 20)


async def test_an_answer_is_counted(hall: Hall, redis_client: redis.Redis) -> None:
    """Its latencies are in the histogram of the default registry, and in what is kept for an heir, once."""

    def counted(part: str) -> float:
        return REGISTRY.get_sample_value("recovery_voice_turn_latency_seconds_count", {"part": part}) or 0.0

    before = {part: counted(part) for part in ("agent", "tts", "e2e")}
    bots = Bots()
    worker = await hall.worker("a", bots)
    await worker.open("r-1", new_call())
    await bots.speaks(0, "greeting")
    await bots.calls[0].task.queue_frames(
        [
            UserStartedSpeakingFrame(),
            TranscriptionFrame("hello", "caller", "now"),
            UserStoppedSpeakingFrame(),
        ]
    )

    def kept() -> Any:
        data = redis_client.hget(Keys("recovery", 0).session("r-1"), "data")
        return json.loads(str(data, "utf-8") if isinstance(data, bytes) else data or "{}").get("latencies", {})

    await eventually(lambda: kept().get("e2e"), 20, "the turn is kept")
    assert {part: counted(part) - was for part, was in before.items()} == {"agent": 1, "tts": 1, "e2e": 1}
    assert {part: one["count"] for part, one in kept().items()} == {"agent": 1, "tts": 1, "e2e": 1}
    assert bots.calls[0].turns.totals.e2e.count == 1


async def test_a_limit_that_is_none_is_refused(hall: Hall) -> None:
    """Before anything begins, with the rule."""
    bots, refused = Bots(), []

    async def bot(call: PipecatCall) -> None:
        bots.calls.append(call)
        try:
            await call.run(None, max_duration=30, on_warn=say_nothing)
        except InvalidValueError as error:
            refused.append(str(error))

    async def say_nothing(left: float) -> None:
        """It never gets here."""

    worker = await hall.worker("a", bot)
    await worker.open("r-1", new_call())
    await eventually(lambda: refused, 20)
    assert "less than the limit of 30 s" in refused[0]
    assert bots.calls[0].task is None


async def test_services_tell_what_they_measured() -> None:
    """Frames come through the observer once each, with their sources, metrics and what the detector of voices waited."""
    seen: list[SeenFrame] = []
    observer = FrameObserver(lambda _: None, seen.append)
    source = SimpleNamespace(name="llm")
    byte = TTFBMetricsData(processor="llm", value=0.2)
    frames = [MetricsFrame(data=[byte]), VADUserStoppedSpeakingFrame(stop_secs=0.2), LLMFullResponseStartFrame()]
    for _ in range(2):
        for frame in frames:
            await observer.on_push_frame(SimpleNamespace(frame=frame, source=source))
    assert [one.name for one in seen] == [type(frame).__name__ for frame in frames]
    assert seen[0].times == (ServiceTime("llm", "TTFBMetricsData", 0.2),)
    assert seen[1].stop_seconds == 0.2
    assert seen[2].source == "llm"


async def test_the_takeover_ends_with_the_first_audio(hall: Hall) -> None:
    """`resumed` is stated when the heir is heard, and not before."""
    bots, heirs = Bots(), Bots("I am back.")
    first = await hall.worker("a", bots)
    session: Session = await first.open("r-1", new_call())
    await bots.speaks(0)
    await eventually(lambda: hall.happened("resumed") == 1, 20)
    await hall.worker("b", heirs)
    await session.release("it is to move")
    await eventually(lambda: hall.happened("resumed") == 2, 30)
    assert heirs.rooms[0].played


async def test_it_ends_at_once_where_the_caller_has_the_word(hall: Hall) -> None:
    """A bot that has nothing to say is up when its pipeline is."""
    bots, heirs = Bots(), Bots()
    first = await hall.worker("a", bots)
    session: Session = await first.open("r-1", new_call())
    await bots.speaks(0)
    await eventually(lambda: hall.happened("resumed") == 1, 20)
    await hall.worker("b", heirs)
    await session.release("it is to move")
    await eventually(lambda: hall.happened("resumed") == 2, 30)
    assert heirs.rooms[0].played == []


async def test_a_pipeline_that_a_worker_ends_under_is_ended(hall: Hall) -> None:
    """Its task is cancelled: the pipeline has ended and nothing is heard when the worker has left."""
    bots = Bots()
    async with Worker(hall.url, name="a") as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.serve, room_handler(worker, bots))
        await anyio.wait_all_tasks_blocked()
        await worker.open("r-1", new_call())
        await bots.speaks(0)
        tasks.cancel_scope.cancel()
    assert bots.calls[0].task.has_finished()
    assert bots.calls[0].may_speak is False


async def test_a_bot_may_work_on_after_its_pipeline(hall: Hall) -> None:
    """Its call is alive meanwhile, however long it takes, and is closed when the bot returns."""
    bots, written = Bots(), anyio.Event()

    async def bot(call: PipecatCall) -> None:
        await bots(call)
        await written.wait()

    worker = await hall.worker("a", bot, wedged_after=1.0)
    session: Session = await worker.open("r-1", new_call())
    await bots.speaks(0, "short")
    await bots.calls[0].task.cancel()
    await eventually(lambda: bots.calls[0].task.has_finished(), 20)
    ended = session.signs
    await eventually(lambda: session.signs > ended + 8, 20, "it says that it is alive for longer than it may be silent")
    assert session.held
    written.set()
    await session.closed.wait()
