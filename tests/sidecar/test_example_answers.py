"""The example workers and a sidecar that answers anything: no answer ends a worker, floods its output, or strands a call."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle, pairwise

import pytest

from tests.sidecar.examples import LANGUAGES, ExampleWorker
from tests.sidecar.fake_sidecar import Behaviour, Request, cut, fake_sidecar, hang, raw, reply, slow, trickle
from tests.waiting import wait_until

HTML = reply(200, text="<html>a proxy's page</html>", Content_Type="text/html")
PROBLEM = {"type": "about:blank", "title": "no", "status": 503, "detail": "it is not to be had"}
ANSWERS: dict[str, Behaviour] = {
    **{str(n): reply(n, PROBLEM) for n in (400, 401, 403, 404, 409, 410, 412, 413, 422, 429, 500, 502)},
    "503, to be asked again soon": reply(503, PROBLEM, Retry_After="1"),
    "503, to be asked again at a date": reply(503, PROBLEM, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"),
    "503 without a document": reply(503),
    "200 without a document": reply(200),
    "200, a page": HTML,
    "200, a list": reply(200, [1]),
    "200, null": reply(200, text="null"),
    "200, an empty object": reply(200, {}),
    "200, fields of other kinds": reply(
        200, {"instance": 5, "session": [], "epoch": "x", "sessions": 7, "recovery_data": 1}
    ),
    "200, no UTF-8": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n\xff\xfe{\x00"),
    "a document that nests deep": reply(200, text='{"a":' + "[" * 100_000),
    "half a document": cut(reply(200, {"session": "x" * 100, "epoch": 1}), 120),
    "half a head": raw(b"HTTP/1.1 200 O"),
    "no HTTP": raw(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"),
    "nothing": raw(b""),
}
OPERATIONS = (
    "register",
    "stream",
    "alive",
    "sessions",
    "open",
    "adopt",
    "resumed",
    "checkpoint",
    "close",
    "release",
    "let_go",
)
LINES = 150


class Pair:
    """A worker and the sidecar that it has."""

    def __init__(self, stack: ExitStack, language: str, refuse: str) -> None:
        self.sidecar = stack.enter_context(fake_sidecar())
        if refuse:
            self.sidecar.always(refuse, reply(503, PROBLEM))
        if language == "kubernetes":
            self.worker = ExampleWorker(language, f"{language}-0", url=f"http://127.0.0.1:{self.sidecar.port}")
        else:
            self.worker = ExampleWorker(language, f"{language}-0", socket=self.sidecar.path)
        stack.callback(self.worker.close)


def check(worker: ExampleWorker, lines: int = LINES) -> None:
    """It lives, met no defect, and did not flood its output."""
    assert worker.alive, worker.output()[-5:]
    assert worker.told("failed") == []
    assert len(worker.output()) < lines, worker.output()


def in_all_languages(body: Callable[[Pair], None], lines: int = LINES, refuse: str = "") -> None:
    """Runs it with a worker of each language at the same time; the worker must live at the end, as `check` says.

    Args:
        refuse: requests of this kind are refused from the start.
    """

    def run(language: str) -> None:
        with ExitStack() as stack:
            pair = Pair(stack, language, refuse)
            pair.worker.wait_for("telephone")
            body(pair)
            check(pair.worker, lines)

    with ThreadPoolExecutor() as threads:
        done = {language: threads.submit(run, language) for language in LANGUAGES}
    errors = [error for future in done.values() if isinstance(error := future.exception(), Exception)]
    for language, future in done.items():
        if (error := future.exception()) is not None:
            error.add_note(f"the worker of examples/{language}")
    if errors:
        raise ExceptionGroup("not all workers do that", errors)


def in_each_language(body: Callable[[Pair], None]) -> Callable[[], None]:
    """Makes a test of what a worker that is attached does."""

    def attached(pair: Pair) -> None:
        pair.worker.wait_for("attached")
        body(pair)

    def test() -> None:
        in_all_languages(attached)

    test.__name__, test.__doc__ = body.__name__, body.__doc__
    return test


def agree(pair: Pair) -> None:
    """In the end the worker speaks for what the sidecar says is its own, and for nothing else."""
    what = f"{pair.worker.name} speaks for what it owns, after {pair.worker.output()[-5:]}"
    wait_until(lambda: pair.worker.speaks_for() == sorted(pair.sidecar.owned), 30, what)


def provoke(pair: Pair, operation: str, n: int) -> None:
    """Gives the worker a reason to ask for it."""
    worker, sidecar, call = pair.worker, pair.sidecar, f"call-{n}"
    if operation == "register":
        sidecar.say({"event": "ended", "reason": "the test wants it to begin anew"})
    elif operation == "stream":
        sidecar.end_stream()
    elif operation in ("adopt", "resumed"):
        sidecar.say({"event": "offer", "session": call, "epoch": 2000})
    elif operation == "release":
        sidecar.owned[call] = (2000, b"it cannot be served")
        sidecar.say({"event": "offer", "session": call, "epoch": 2000})
    elif operation in ("open", "close", "checkpoint", "let_go"):
        worker.ring(call)
    if operation == "close":
        worker.hang_up(call)
    if operation == "let_go":
        sidecar.say({"event": "letting_go", "session": call, "epoch": 1000, "heir": "heir~1"})
    sidecar.say({"event": "overflow"})  # and it does at once what it would do a second later


def one_after_the_other(pair: Pair, operation: str) -> None:
    """All the answers to requests of that kind."""
    pair.sidecar.answer(operation, *ANSWERS.values())
    deadline, n = time.monotonic() + 60, 0
    while pair.sidecar.left(operation) and time.monotonic() < deadline:
        n, before = n + 1, pair.sidecar.left(operation)
        provoke(pair, operation, n)
        for _ in range(20):
            if pair.sidecar.left(operation) < before:
                break
            threading.Event().wait(0.01)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_answer(operation: str) -> None:
    """Each of these answers to each request, one after the other: the worker goes on, and serves what it owns in the end."""

    def body(pair: Pair) -> None:
        pair.worker.wait_for("attached")
        one_after_the_other(pair, operation)
        assert pair.sidecar.left(operation) == 0, f"{pair.worker.name} stopped asking: {pair.worker.output()[-5:]}"
        while not pair.worker.told("drain"):  # it has read all that was said before
            pair.sidecar.say({"event": "drain"})
            threading.Event().wait(0.2)
        wait_until(lambda: pair.worker.ring("afterwards") in (200, 201), 20, f"{pair.worker.name} takes a call")
        agree(pair)
        assert "afterwards" in pair.sidecar.owned

    in_all_languages(body, 20 * len(ANSWERS))


@in_each_language
def test_no_answer_in_time(pair: Pair) -> None:
    """The first requests of each kind get no answer, or one that never ends: each is given up after a while, and asked again."""
    worker, sidecar = pair.worker, pair.sidecar
    assert worker.ring("ended") == 201
    for operation, silences in zip(OPERATIONS, cycle([[hang], [trickle]]), strict=False):
        sidecar.answer(operation, *silences)
    sidecar.owned["failed"] = (2000, b"it cannot be served")
    sidecar.say(
        {"event": "offer", "session": "failed", "epoch": 2000}, {"event": "offer", "session": "taken", "epoch": 2000}
    )
    sidecar.wait_for("adopt", 2)
    worker.hang_up("ended")
    ringing = threading.Thread(target=worker.ring, args=("opened",))
    ringing.start()
    sidecar.end_stream()
    ringing.join()
    wait_until(lambda: "failed" not in sidecar.owned and "ended" not in sidecar.owned, 30, "it closes and releases")
    agree(pair)
    assert "opened" in sidecar.owned  # an offer whose answer is lost is offered again by a coordinator


@in_each_language
def test_half_lines_and_other_events(pair: Pair) -> None:
    """What is no event, not known, or not whole is left alone; the stream goes on."""
    assert pair.worker.ring("call") == 201
    odd = [
        b"\n",
        b"{\n",
        b"[]\n",
        b"null\n",
        b"7\n",
        b'"ping"\n',
        b"\xff\xfe\n",
        b"{" * 50_000 + b"\n",
        b'{"event": 5}\n',
        b'{"event": "offer"}\n',
    ]
    events = (
        "hello",
        "ping",
        "offer",
        "held",
        "in_doubt",
        "lost",
        "renewed",
        "letting_go",
        "drain",
        "joined",
        "replaced",
        "overflow",
    )
    odd += [
        b'{"event": "%s", "session": 5, "epoch": "x", "trust_ms": [], "ping": {}}\n' % kind.encode()
        for kind in (*events, "new")
    ]
    pair.sidecar.say(*odd)
    answered = len(pair.sidecar.of("alive"))
    pair.sidecar.wait_for("alive", answered + 3)
    pair.sidecar.say({"event": "held"}, {"event": "offer", "session": "next", "epoch": 2000})
    pair.sidecar.wait_for("adopt", session="next")
    agree(pair)
    assert len(pair.sidecar.of("stream")) == 1


@in_each_language
def test_a_stream_that_ends_in_the_middle_of_a_line(pair: Pair) -> None:
    """The half line is left alone, and the stream opened again, as often as that happens; not a line more is printed than needed."""
    assert pair.worker.ring("call") == 201
    for count in range(2, 7):
        pair.sidecar.say(b'{"event": "lost", "session": "call", "epo')
        wait_until(lambda: not pair.sidecar.waiting, 10, "it is said")
        pair.sidecar.end_stream()
        pair.sidecar.wait_for("stream", count)
    agree(pair)
    assert pair.worker.told("lost") == []


@in_each_language
def test_a_silent_stream_is_opened_again(pair: Pair) -> None:
    """Nothing comes for a while, though the connection stands: the stream is opened again, and the call goes on after that."""
    assert pair.worker.ring("call") == 201
    pair.sidecar.beating = False
    pair.worker.wait_for("in_doubt")
    pair.sidecar.wait_for("stream", 2)
    pair.sidecar.beating = True
    agree(pair)


@in_each_language
def test_the_stream_is_refused_for_a_while(pair: Pair) -> None:
    """503 again and again: the worker asks again as late as it is told to, prints that once, and keeps its call."""
    assert pair.worker.ring("call") == 201
    began = len(pair.sidecar.of("stream"))
    pair.sidecar.always("stream", reply(503, PROBLEM, Retry_After="1"))
    pair.sidecar.end_stream()
    asked = pair.sidecar.wait_for("stream", began + 4)[began:]
    assert all(after.at - before.at > 0.9 for before, after in pairwise(asked))
    pair.sidecar.always("stream", None)
    agree(pair)
    assert pair.worker.told("over") == []
    assert sum(line["request"] == "stream" for line in pair.worker.told("refused")) <= 2  # not to be had, and refused


@in_each_language
def test_trust_counts_from_the_asking(pair: Pair) -> None:
    """An answer that comes later than the time that it allows: the worker does not speak, though each of them says that it may."""
    pair.sidecar.trust_ms = 0
    pair.sidecar.always("alive", slow(reply(204, Trust_Ms="400"), 0.5))
    assert pair.worker.ring("call") == 201
    pair.worker.wait_for("in_doubt")
    heard = len(pair.worker.told("held"))
    pair.sidecar.wait_for("alive", len(pair.sidecar.of("alive")) + 6)
    assert len(pair.worker.told("held")) == heard
    assert pair.worker.silent_for() == ["call"]
    pair.sidecar.always("alive", None)
    pair.sidecar.trust_ms = 600
    agree(pair)


@in_each_language
def test_the_sidecar_says_to_go_on(pair: Pair) -> None:
    """In doubt since the store is away: it speaks as long as the sidecar is there and says so, and no longer."""
    sidecar, worker = pair.sidecar, pair.worker
    assert worker.ring("call") == 201
    sidecar.trust_ms = 0
    sidecar.say({"event": "in_doubt", "sessions": ["call"], "may_speak": True})
    wait_until(
        lambda: worker.told("in_doubt")[-1:] and worker.told("in_doubt")[-1]["may_speak"], 10, "it may speak in doubt"
    )
    assert worker.speaks_for() == ["call"]
    sidecar.always("alive", hang)
    wait_until(lambda: worker.silent_for() == ["call"], 10, "the sidecar does not answer")
    sidecar.always("alive", None)
    sidecar.wait_for("alive", len(sidecar.of("alive")) + 3)
    assert worker.silent_for() == ["call"]  # what it said before it fell silent is over
    sidecar.say({"event": "in_doubt", "sessions": ["call"], "may_speak": True})
    wait_until(lambda: worker.speaks_for() == ["call"], 10, "it says so again")
    sidecar.say({"event": "in_doubt", "sessions": ["call"], "may_speak": False})
    wait_until(lambda: worker.silent_for() == ["call"], 10, "it says the contrary")


@in_each_language
def test_without_a_sidecar_it_goes_on_for_a_while(pair: Pair) -> None:
    """Nothing answers: in doubt it speaks until the time is over that it was told for this case, and no longer."""
    sidecar, worker = pair.sidecar, pair.worker
    assert worker.ring("call") == 201
    sidecar.alone_ms = 3000
    sidecar.wait_for("alive", len(sidecar.of("alive")) + 3)
    sidecar.stand_still()
    worker.wait_for("in_doubt")
    assert worker.speaks_for() == ["call"]
    wait_until(lambda: worker.silent_for() == ["call"], 10, "that time is over")
    sidecar.go_on()
    agree(pair)


@in_each_language
def test_with_a_sidecar_that_refuses_it_does_not_go_on(pair: Pair) -> None:
    """The stream ended and is refused: there is a sidecar, which may judge; the time for having none does not count."""
    sidecar, worker = pair.sidecar, pair.worker
    assert worker.ring("call") == 201
    sidecar.alone_ms = 60_000
    sidecar.wait_for("alive", len(sidecar.of("alive")) + 3)
    for operation in ("sessions", "checkpoint"):  # it does not know the worker yet, as when it was just started
        sidecar.always(operation, reply(404 if operation == "sessions" else 401, PROBLEM))
    sidecar.always("stream", raw(b""))
    sidecar.end_stream()
    worker.wait_for("in_doubt")
    tried = [len(sidecar.of(operation)) for operation in ("sessions", "checkpoint")]
    sidecar.wait_for("sessions", tried[0] + 2)
    sidecar.wait_for("checkpoint", tried[1] + 2)
    assert worker.speaks_for() == ["call"]
    sidecar.always("stream", reply(503, PROBLEM))
    wait_until(lambda: worker.silent_for() == ["call"], 10, "it is silent")
    for operation in ("sessions", "checkpoint", "stream"):
        sidecar.always(operation, None)
    agree(pair)


@in_each_language
def test_while_it_drains_it_does_not_go_on_without_a_sidecar(pair: Pair) -> None:
    """A call that was on its way may have moved when the sidecar died."""
    sidecar, worker = pair.sidecar, pair.worker
    assert worker.ring("call") == 201
    sidecar.alone_ms = 60_000
    sidecar.wait_for("alive", len(sidecar.of("alive")) + 3)
    sidecar.say({"event": "drain", "timeout_ms": 1000})
    worker.wait_for("drain")
    sidecar.wait_for("alive", len(sidecar.of("alive")) + 3)
    sidecar.stand_still()
    wait_until(lambda: worker.silent_for() == ["call"], 10, "it is silent")
    sidecar.go_on()
    agree(pair)


@in_each_language
def test_a_worker_that_stood_still_relies_on_nothing(pair: Pair) -> None:
    """It was told that it may be trusted for a minute, and stood still for a second: it speaks only after a newer answer."""
    sidecar, worker = pair.sidecar, pair.worker
    assert worker.ring("call") == 201
    sidecar.trust_ms = sidecar.alone_ms = 60_000
    sidecar.wait_for("alive", len(sidecar.of("alive")) + 3)
    sidecar.beating = False
    wait_until(lambda: time.time() > sidecar.of("alive")[-1].at + 0.3, 10, "no ping is answered any more")
    worker.send(signal.SIGSTOP)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() > began + 1, 10, "it stands still")
    worker.send(signal.SIGCONT)
    worker.wait_for("in_doubt")
    assert worker.silent_for() == ["call"]
    sidecar.beating = True
    agree(pair)


@in_each_language
def test_an_older_list_does_not_bring_a_lost_call_back(pair: Pair) -> None:
    """The call is lost while a list, on which it still is, is on its way: it is not served again."""
    sidecar, worker = pair.sidecar, pair.worker
    assert worker.ring("call") == 201
    listed = len(sidecar.of("sessions"))
    stale = reply(200, {"instance": "", "sessions": [sidecar.session("call")]})
    sidecar.answer("sessions", slow(stale, 0.5))
    sidecar.say({"event": "overflow"})
    sidecar.wait_for("sessions", listed + 1)
    del sidecar.owned["call"]
    sidecar.say({"event": "lost", "session": "call", "epoch": 1000, "reason": "handed over to somebody"})
    worker.wait_for("lost")
    sidecar.wait_for("sessions", listed + 3)
    assert worker.speaks_for() == []
    assert len(worker.told("lost")) == 1


@in_each_language
def test_an_older_adoption_does_not_bring_a_lost_call_back(pair: Pair) -> None:
    """The call is adopted and lost at once, and the loss is heard first: it is not served."""
    sidecar, worker = pair.sidecar, pair.worker
    sidecar.owned["call"] = (2000, {"call_sid": "call", "sequence": 1})
    sidecar.answer("adopt", slow(reply(200, sidecar.session("call")), 0.5))
    sidecar.say({"event": "offer", "session": "call", "epoch": 2000})
    sidecar.wait_for("adopt")
    del sidecar.owned["call"]
    sidecar.say({"event": "lost", "session": "call", "epoch": 2000, "reason": "handed over to somebody"})
    listed = len(sidecar.of("sessions"))
    sidecar.wait_for("sessions", listed + 2)
    assert worker.speaks_for() == []
    assert worker.told("adopted") == []


@in_each_language
def test_whatever_is_doubtful_is_compared(pair: Pair) -> None:
    """Long after its attachment, when it asks no more by itself: after a loss, or a request without an answer, it asks what it has."""
    sidecar, worker = pair.sidecar, pair.worker
    assert worker.ring("call") == 201

    def asks_no_more() -> bool:
        return bool(sidecar.of("sessions")) and time.time() > sidecar.of("sessions")[-1].at + 2.5

    wait_until(asks_no_more, 40, "it asks no more")
    sidecar.say({"event": "lost", "session": "call", "epoch": 1000, "reason": "which the list contradicts"})
    worker.wait_for("lost")
    agree(pair)
    wait_until(asks_no_more, 40, "it asks no more")
    sidecar.owned["taken"] = (2000, {"call_sid": "taken", "sequence": 1})
    sidecar.answer("adopt", raw(b""))
    sidecar.say({"event": "offer", "session": "taken", "epoch": 2000})
    agree(pair)
    assert worker.speaks_for() == ["call", "taken"]


@in_each_language
def test_a_call_that_ends_while_the_sidecar_is_away(pair: Pair) -> None:
    """It is closed as soon as the sidecar takes that, and never served again, though the sidecar says that it is the worker's."""
    sidecar, worker = pair.sidecar, pair.worker
    assert worker.ring("call") == 201
    sidecar.answer("close", reply(503, PROBLEM), raw(b""), reply(401), reply(500))
    assert worker.hang_up("call") == 200
    listed = len(sidecar.of("sessions"))
    sidecar.say({"event": "overflow"})
    sidecar.wait_for("sessions", listed + 1)
    assert (worker.speaks_for(), worker.silent_for()) == ([], [])
    worker.wait_for("closed")
    assert sidecar.owned == {}
    assert worker.ring("call") == 201  # the same number calls again


@in_each_language
def test_a_call_that_ended_is_closed_under_the_next_instance(pair: Pair) -> None:
    """The instance is over before the sidecar knows of the end: the orphan is adopted in order to be closed."""
    sidecar, worker = pair.sidecar, pair.worker
    assert worker.ring("call") == 201
    sidecar.always("close", reply(503, PROBLEM))
    worker.hang_up("call")
    before = sidecar.of("stream")[-1].path.split("/")[3]
    sidecar.say({"event": "ended", "reason": "it was declared dead"})
    worker.wait_for("attached", 2)
    sidecar.previous_owners["call"] = before
    sidecar.always("close", None)
    worker.wait_for("closed")
    assert sidecar.of("close", "call")[-1].epoch == 2000
    assert sidecar.owned == {}
    assert worker.told("adopted") == []


@in_each_language
def test_another_call_with_the_id_of_one_that_ended(pair: Pair) -> None:
    """The id was given to another call meanwhile: that one is served, not closed."""
    sidecar, worker = pair.sidecar, pair.worker
    assert worker.ring("call") == 201
    sidecar.always("close", reply(503, PROBLEM))
    worker.hang_up("call")
    sidecar.say({"event": "ended", "reason": "it was declared dead"})
    worker.wait_for("attached", 2)
    sidecar.previous_owners["call"] = "another~1"
    sidecar.say({"event": "offer", "session": "call", "epoch": 2000})
    worker.wait_for("adopted")
    sidecar.always("close", None)
    agree(pair)
    assert list(sidecar.owned) == ["call"]


@in_each_language
def test_a_call_that_cannot_be_served_is_released(pair: Pair) -> None:
    """Its data cannot be read, or its media not be reached: it is released as soon as the sidecar takes that; the others go on."""
    sidecar, worker = pair.sidecar, pair.worker
    assert worker.ring("call") == 201
    bad = {
        "bytes": b"?",
        "nothing": {},
        "text": {"sequence": "x"},
        "nowhere": {"sequence": 1, "media": "nowhere"},
        "number": {"sequence": 1, "media": 5},
    }
    sidecar.answer("release", reply(503, PROBLEM), raw(b""), reply(500))
    for session, data in bad.items():
        sidecar.owned[session] = (2000, data)
        sidecar.say({"event": "offer", "session": session, "epoch": 2000})
    worker.wait_for("released", len(bad))
    assert {line["session"] for line in worker.told("released")} == set(bad)
    agree(pair)
    assert list(sidecar.owned) == ["call"]


@in_each_language
def test_the_newest_data_is_written(pair: Pair) -> None:
    """Checkpoints that wait are not sent one after the other: when the sidecar is back the first that comes is the newest."""
    sidecar, worker = pair.sidecar, pair.worker
    assert worker.ring("call") == 201
    sidecar.always("checkpoint", reply(503, PROBLEM))
    tried = sidecar.wait_for("checkpoint", len(sidecar.of("checkpoint")) + 3)[-1].body["sequence"]
    sidecar.always("checkpoint", None)
    after = sidecar.wait_for("checkpoint", len(sidecar.of("checkpoint")) + 2)[-2:]
    assert [
        r.body["sequence"] > tried and r.body["recovery_data"]["sequence"] == r.body["sequence"] for r in after
    ] == [True, True]
    assert worker.told("lost") == []


@in_each_language
def test_letting_go(pair: Pair) -> None:
    """When the heir may speak, this worker does not any more, and its newest data went along; if no heir comes it speaks again."""
    sidecar, worker = pair.sidecar, pair.worker
    assert worker.ring("call") == 201
    sidecar.wait_for("checkpoint", session="call")
    spoken: list[list[str]] = []

    def look_first(connection: socket.socket, request: Request) -> None:
        spoken.append(worker.speaks_for())
        reply(204)(connection, request)

    sidecar.answer("let_go", look_first)
    sidecar.say({"event": "letting_go", "session": "call", "epoch": 1000, "heir": "heir~1"})
    [asked] = sidecar.wait_for("let_go")
    assert asked.epoch == 1000
    assert asked.body["recovery_data"]["sequence"] >= sidecar.of("checkpoint", "call")[-1].body["sequence"]
    wait_until(lambda: spoken, 10, "it lets go")
    assert spoken == [[]]
    agree(pair)  # the sidecar says all the while that it is this worker's
    assert worker.speaks_for() == ["call"]


@in_each_language
def test_renewed(pair: Pair) -> None:
    """A new epoch is used from then on."""
    assert pair.worker.ring("call") == 201
    pair.sidecar.wait_for("checkpoint")
    pair.sidecar.say({"event": "renewed", "session": "call", "epoch": 5000})
    wait_until(lambda: pair.sidecar.of("checkpoint")[-1].epoch == 5000, 10, "it writes under the new one")


@in_each_language
def test_over(pair: Pair) -> None:
    """Its instance is over: its calls are lost, it registers anew, and what was asked before counts no more."""
    sidecar, worker = pair.sidecar, pair.worker
    assert worker.ring("call") == 201
    late = {"session": "late", "epoch": 2000, "may_speak": True, "recovery_data": {"sequence": 1}}
    sidecar.answer("adopt", slow(reply(200, late), 0.5))
    sidecar.say(
        {"event": "offer", "session": "late", "epoch": 2000}, {"event": "ended", "reason": "it was declared dead"}
    )
    assert [line["session"] for line in worker.wait_for("lost")] == ["call"]
    worker.wait_for("attached", 2)
    assert worker.told("over")[0]["reason"] == "it was declared dead"
    listed = len(sidecar.of("sessions"))
    sidecar.wait_for("sessions", listed + 3)
    assert worker.speaks_for() == []


@in_each_language
def test_a_wrong_token(pair: Pair) -> None:
    """401 when it attaches again: it starts over as another instance; its calls are lost for it."""
    assert pair.worker.ring("call") == 201
    pair.sidecar.answer("stream", reply(401, PROBLEM))
    pair.sidecar.end_stream()
    pair.worker.wait_for("attached", 2)
    assert [line["session"] for line in pair.worker.told("lost")] == ["call"]
    assert pair.sidecar.of("stream")[-1].headers["worker-token"] == "token-2"


def test_nothing_is_asked_without_a_token() -> None:
    """A call comes in before the worker is registered: it is not opened for whichever worker the sidecar knows."""

    def body(pair: Pair) -> None:
        ringing = threading.Thread(target=pair.worker.ring, args=("early",))
        ringing.start()
        pair.sidecar.wait_for("register", 3)
        pair.sidecar.always("register", None)
        ringing.join()
        agree(pair)
        assert pair.sidecar.of("open")
        assert all("worker-token" in r.headers for r in pair.sidecar.of("open"))

    in_all_languages(body, refuse="register")


@in_each_language
def test_a_sidecar_that_flaps(pair: Pair) -> None:
    """Its stream ends as soon as it is open, again and again: a few lines a second at most, and as many attempts."""
    assert pair.worker.ring("call") == 201
    hello = b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"event": "hello", "trust_ms": 600, "sessions": ["call"]}\n'
    pair.sidecar.always("stream", raw(hello))
    pair.sidecar.end_stream()
    before, began = len(pair.worker.output()), time.monotonic()
    pair.sidecar.wait_for("stream", 12)
    seconds = time.monotonic() - began
    assert len(pair.worker.output()) - before <= 8 + 6 * seconds
    pair.sidecar.always("stream", None)
    agree(pair)
