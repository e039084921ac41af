"""The death of a sidecar is not that of its workers: it is started again, and they go on."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from coordinator.settings import load
from coordinator.sidecar.hosting import Hosting, addresses_of
from coordinator.sidecar.left_behind import LeftBehind
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.proof import ProcessEndedError, ProcessMark, ProcessWatch
from coordinator.sidecar.registry import Registry
from coordinator.sidecar.schemas import Health, Register
from coordinator.sidecar.sidecar import Sidecar as Program
from coordinator.store.keys import Keys
from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.sidecar.test_callers import OtherUser
from tests.waiting import wait_until

KEYS = Keys("recovery", 0)
SECOND = 1000


class Place:
    """Where one sidecar after another is started."""

    def __init__(self, server: RedisServer, *flags: str) -> None:
        self.server, self._flags = server, flags
        self._all = [Sidecar(server, *flags)]
        self._clients: list[Client] = []

    @property
    def sidecar(self) -> Sidecar:
        """The newest."""
        return self._all[-1]

    def kill(self) -> None:
        """SIGKILL of the sidecar, and of nothing else."""
        process = self.sidecar.process
        process.send(signal.SIGKILL)
        wait_until(lambda: not process.alive)

    def start(self) -> None:
        """Another one in its place."""
        self._all.append(Sidecar(self.server, *self._flags, path=self.sidecar.path))

    def worker(self, name: str, **fields: Any) -> Client:
        """A worker behind it, whichever lives."""
        self._clients.append(Client(self.sidecar.path))
        assert self._clients[-1].register(name, **fields).status_code == 201
        return self._clients[-1]

    def streaming(self, name: str, **fields: Any) -> Client:
        """A worker whose stream is open, so that it need not hurry."""
        client = self.worker(name, **fields)
        client.stream().wait_for("hello")
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for one in reversed(self._all):
            one.close()


@pytest.fixture
def place(server: RedisServer, sidecar: Sidecar) -> Iterator[Callable[..., Place]]:
    """Makes places; another sidecar coordinates."""
    made: list[Place] = []

    def make(*flags: str) -> Place:
        made.append(Place(server, *flags))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody's worker."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as made:
        yield made
        made.kill()


def record(server: RedisServer, key: str) -> dict[str, str]:
    """A hash of the store."""
    found: Any = server.client().hgetall(key)
    return {name.decode(): value.decode() for name, value in found.items()}


def events(server: RedisServer, kind: str, **fields: str) -> list[dict[str, str]]:
    """What happened, by its kind and some of its fields."""
    rows: Any = server.client().xrange(KEYS.events)
    found = [{k.decode(): v.decode() for k, v in row.items()} for _, row in rows]
    return [one for one in found if one["type"] == kind and one.items() >= fields.items()]


def beat_age_ms(server: RedisServer, instance: str) -> int:
    """Age of its last beat."""
    client: Any = server.client()
    seconds, micros = client.time()
    deadline = client.zscore(KEYS.instances, instance)
    return int(seconds * 1000 + micros // 1000 - deadline + int(client.hget(KEYS.instance(instance), "dead_after_ms")))


def beats(server: RedisServer, instance: str) -> None:
    """Returns as soon as it does."""
    wait_until(lambda: beat_age_ms(server, instance) < SECOND, description=f"{instance} beats")


def ended(server: RedisServer, instance: str) -> dict[str, str]:
    """Its record, as soon as it is dead."""
    wait_until(lambda: record(server, KEYS.instance(instance))["state"] == "dead", 20, f"{instance} is dead")
    return record(server, KEYS.instance(instance))


# -- workers that have a stream ----------------------------------------------------------------------------------------


def test_a_killed_sidecar_moves_no_call_twice_in_a_row(place: Callable[..., Place], server: RedisServer) -> None:
    """It is back after two seconds, and the second time after ten, as on Kubernetes: 20 workers go on under their ids and epochs."""
    here = place()
    workers = [here.streaming(f"twice-{n}", pool="twice") for n in range(20)]
    epochs = {client.instance: client.open(f"twice-{n}", {"n": 0}) for n, client in enumerate(workers)}

    def crash(number: int, pause_ms: int) -> None:
        here.kill()
        wait_until(lambda: beat_age_ms(server, workers[-1].instance) > pause_ms, 15)
        here.start()
        for n, client in enumerate(workers):
            [hello] = client.stream().wait_for("hello")
            assert hello["sessions"] == [f"twice-{n}"]
            written = client(
                "PUT", f"/v1/sessions/twice-{n}/checkpoint", {"recovery_data": {"n": number}},
                If_Match=f'"{epochs[client.instance]}"',
            )  # fmt: skip
            assert written.status_code == 204
            beats(server, client.instance)

    crash(1, 2 * SECOND)
    crash(2, 10 * SECOND)
    for n, client in enumerate(workers):
        stored = record(server, KEYS.session(f"twice-{n}"))
        assert (stored["state"], stored["owner"], stored["data"]) == ("active", client.instance, '{"n":2}')
        assert int(stored["epoch"]) == epochs[client.instance]
        assert events(server, "died", instance=client.instance) == []
    assert events(server, "hold", reason="breaker") == []


def test_a_worker_that_dies_with_its_sidecar_is_found_after_the_time_of_a_restart(
    place: Callable[..., Place], server: RedisServer
) -> None:
    """Not before, as a restarted sidecar would have had its chance; with 20 workers of one sidecar all of them."""
    here = place("--sidecar-restart", "3s")
    workers = [here.streaming(f"both-{n}", pool="both") for n in range(20)]
    for n, client in enumerate(workers):
        client.newest.wait_for("ping")
        client.open(f"both-{n}", {})
    here.kill()
    for client in workers:
        dead = ended(server, client.instance)
        assert dead["cause"] in ("silence", "lost_connection")
        assert int(dead["ended_at"]) - int(dead["served_until"]) >= 2750  # less the safety margin
    assert {record(server, KEYS.session(f"both-{n}"))["state"] for n in range(20)} == {"offered"}


def test_nobody_has_its_calls_as_long_as_it_was_told(place: Callable[..., Place], server: RedisServer) -> None:
    """`alone_ms` of the answer to a ping, of hello and of pings is over before its death is declared, and longer than `trust_ms`."""
    here = place("--sidecar-restart", "3s")
    client = here.worker("told-1")
    stream = client.stream()
    client.open("told", {})
    [hello] = stream.wait_for("hello")
    assert 2000 < hello["alone_ms"] <= 2750
    assert hello["trust_ms"] <= 750
    ping = stream.wait_for("ping")[-1]
    assert 2000 < ping["alone_ms"] <= 2750
    began_ms = time.time_ns() // 1_000_000
    told_ms = int(client("POST", f"/v1/workers/{client.instance}/alive").headers["alone-ms"])
    assert 2000 < told_ms <= 2750
    here.kill()
    assert int(ended(server, client.instance)["ended_at"]) >= began_ms + told_ms


def test_a_request_is_served_before_the_stream_is_back(place: Callable[..., Place], server: RedisServer) -> None:
    """All at once, as after a restart: each is the worker's own, none is refused because another is under way."""
    here = place()
    client = here.worker("hurry-1")
    client.stream().wait_for("hello")
    epochs = [client.open(f"hurry-{n}", {"n": 0}) for n in range(20)]
    here.kill()
    here.start()

    def write(n: int) -> int:
        path = f"/v1/sessions/hurry-{n}/checkpoint"
        with contextlib.closing(Client(here.sidecar.path)) as own:
            own.token = client.token
            return own("PUT", path, {"recovery_data": {"n": 1}}, If_Match=f'"{epochs[n]}"').status_code

    wait_until(lambda: "workers_left_behind" in here.sidecar.log.read_text())
    with ThreadPoolExecutor(20) as threads:
        assert set(threads.map(write, range(20))) == {204}
    owned = client("GET", f"/v1/workers/{client.instance}/sessions").json()
    assert len(owned["sessions"]) == 20
    with contextlib.closing(Client(here.sidecar.path)) as stranger:
        stranger.token = "another"
        assert stranger("GET", "/v1/offers").status_code == 401


def test_a_worker_that_wrote_once_has_time_to_open_its_stream(place: Callable[..., Place], server: RedisServer) -> None:
    """It knows only that its sidecar was away, and trusts itself for that long: it is not ended before, and then it is."""
    here = place("--sidecar-restart", "10s")
    client = here.worker("slow-1")
    client.stream().wait_for("hello")
    client.open("slow", {})
    here.kill()
    here.start()
    wait_until(lambda: "workers_left_behind" in here.sidecar.log.read_text())
    seconds, micros = server.client().time()
    assert client("POST", "/v1/sessions/slow/resumed").status_code == 204
    dead = ended(server, client.instance)
    assert (dead["cause"], dead["reason"]) == ("exited", "it never opened its stream")
    assert int(dead["ended_at"]) >= seconds * 1000 + micros // 1000 + 9750


def test_a_worker_without_a_stream_polls_on(place: Callable[..., Place], server: RedisServer) -> None:
    """Its next poll takes it up: it needs no id and no stream."""
    here = place()
    client = here.worker("polls-1", pool="polls")
    client.open("polls", {})
    assert client("GET", "/v1/offers?wait=100ms").status_code == 200
    here.kill()
    here.start()
    wait_until(lambda: client("GET", "/v1/offers?wait=100ms").status_code == 200)
    wait_until(
        lambda: client("GET", "/v1/offers?wait=1s").status_code == 200 and beat_age_ms(server, client.instance) < 900
    )
    assert record(server, KEYS.session("polls"))["owner"] == client.instance


def test_an_offer_of_the_sidecar_before_is_told_again(place: Callable[..., Place], server: RedisServer) -> None:
    """It was told and not answered: the worker hears of it from the next sidecar, and adopts."""
    here = place("--lease", "30s")
    giver, taker = here.worker("gives-1", pool="giver"), here.worker("takes-1", pool="taker")
    giver.stream().wait_for("hello")
    stream = taker.stream()
    stream.wait_for("hello")
    assert giver("PUT", "/v1/sessions/given", {"recovery_data": {"n": 1}, "pool": "taker"}).status_code == 201
    assert giver("POST", "/v1/sessions/given/release").status_code == 204
    stream.wait_for("offer")
    here.kill()
    here.start()
    again = taker.stream()
    [offer] = again.wait_for("offer")
    assert (offer["session"], offer["recovery_data"]) == ("given", {"n": 1})
    assert taker("POST", "/v1/sessions/given/adopt").status_code == 200


# -- workers whose proof of life is another ----------------------------------------------------------------------------


def test_a_worker_known_by_its_process_goes_on_by_itself(
    place: Callable[..., Place], server: RedisServer, process: subprocess.Popen[bytes]
) -> None:
    """It asks for nothing: the next sidecar beats for it as soon as it is there, and sees its end."""
    here = place()
    client = here.worker("pid-again-1", pid=process.pid)
    epoch = client.open("pid-again", {})
    here.kill()
    wait_until(lambda: beat_age_ms(server, client.instance) > 2 * SECOND)
    here.start()
    beats(server, client.instance)
    assert int(record(server, KEYS.session("pid-again"))["epoch"]) == epoch
    client.stream().wait_for("hello")
    client.close()  # a stream that comes and goes is not its proof of life
    here.kill()
    here.start()
    beats(server, client.instance)
    process.send_signal(signal.SIGKILL)
    assert ended(server, client.instance)["reason"] == f"process {process.pid} ended"


def test_a_process_that_ends_while_its_sidecar_is_away_is_certified_at_the_restart(
    place: Callable[..., Place], server: RedisServer, process: subprocess.Popen[bytes]
) -> None:
    """Nobody waits for the time that a restart is given."""
    here = place()
    client = here.worker("pid-gone-1", pid=process.pid)
    client.open("pid-gone", {})
    here.kill()
    process.kill()
    process.wait()
    here.start()
    dead = ended(server, client.instance)
    assert (dead["cause"], dead["reason"]) == (
        "exited",
        f"process {process.pid} has ended, while its sidecar was away",
    )
    wait_until(lambda: record(server, KEYS.session("pid-gone"))["state"] == "offered")
    assert client("GET", f"/v1/workers/{client.instance}/sessions").status_code == 410


class _Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


def test_a_worker_known_by_its_health_goes_on_by_itself(place: Callable[..., Place], server: RedisServer) -> None:
    """The next sidecar asks its URL as the one before did, and sees when it fails."""
    health = http.server.HTTPServer(("127.0.0.1", 0), _Health)
    health.status = 200  # type: ignore[attr-defined]
    thread = threading.Thread(target=health.serve_forever, daemon=True)
    thread.start()
    try:
        here = place()
        url = f"http://127.0.0.1:{health.server_port}/healthz"
        client = here.worker("well-again-1", health={"url": url, "interval_ms": 50, "failures": 3})
        client.open("well-again", {})
        here.kill()
        wait_until(lambda: beat_age_ms(server, client.instance) > 2 * SECOND)
        here.start()
        beats(server, client.instance)
        health.status = 500  # type: ignore[attr-defined]
        assert ended(server, client.instance)["reason"] == "3 health checks failed in a row"
    finally:
        health.shutdown()
        thread.join()
        health.server_close()


def test_the_workers_of_another_sidecar_are_left_alone(
    place: Callable[..., Place], server: RedisServer, process: subprocess.Popen[bytes]
) -> None:
    """A second sidecar on the same machine, with the same name and the same store, takes up nobody of a living one."""
    here = place()
    client = here.worker("alone-1", pid=process.pid)
    client.open("alone", {})
    there = place()
    wait_until(lambda: "sidecar_started" in there.sidecar.log.read_text())
    other = there.worker("beside-1", pid=os.getpid())
    assert "workers_left_behind" not in there.sidecar.log.read_text()
    assert other("GET", f"/v1/workers/{client.instance}/sessions").status_code == 404


# -- what goes with it -------------------------------------------------------------------------------------------------


def test_a_successor_waits_for_what_its_predecessor_was_promised(
    place: Callable[..., Place], server: RedisServer
) -> None:
    """The same name behind another sidecar, as in a pod of a StatefulSet: refused to nobody, but served no earlier."""
    here = place("--sidecar-restart", "12s")
    client = here.worker("stateful-0")
    client.stream().wait_for("ping")
    client.open("stateful", {})
    here.kill()
    there = place()
    next_one = there.worker("stateful-0")
    dead = ended(server, client.instance)
    assert dead["cause"] == "succession"
    assert int(dead["ended_at"]) - int(dead["served_until"]) >= 11750
    assert next_one.instance != client.instance


def test_who_gives_up_waiting_for_a_name_leaves_no_instance_behind(
    place: Callable[..., Place], server: RedisServer
) -> None:
    """Its request is carried out when nobody waits for the answer any more: the next one need not wait for what came of it."""
    here = place("--sidecar-restart", "3s")
    client = here.worker("impatient-1")
    client.stream().wait_for("ping")
    here.kill()
    here.start()
    body = b'{"name": "impatient-1"}'
    head = f"POST /v1/workers HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(here.sidecar.path)
            link.sendall(head + body)
    names: Any = server.client()
    wait_until(lambda: names.hget(KEYS.names, "impatient-1") != client.instance.encode())
    with contextlib.closing(Client(here.sidecar.path)) as patient:
        wait_until(lambda: patient.register("impatient-1").status_code == 201)
        alive = [one for one in names.zrange(KEYS.instances, 0, -1) if one.startswith(b"impatient-1~")]
        assert alive == [patient.instance.encode()]
    assert here.sidecar.log.read_text().count("never opened its stream") == 0


def test_a_sidecar_that_stood_still_kills_nobody(place: Callable[..., Place], server: RedisServer) -> None:
    """Stopped for longer than WEDGED_AFTER and continued: its workers were not wedged, and go on."""
    here = place("--wedged-after", "1s")
    client = here.worker("still-1")
    stream = client.stream()
    stream.wait_for("ping")
    epoch = client.open("still", {})
    here.sidecar.process.send(signal.SIGSTOP)
    wait_until(lambda: beat_age_ms(server, client.instance) > 3 * SECOND)
    here.sidecar.process.send(signal.SIGCONT)
    beats(server, client.instance)
    stream.wait_for("ping", len(stream.told("ping")) + 3)
    assert stream.told("ended") == []
    stored = record(server, KEYS.session("still"))
    assert (stored["state"], int(stored["epoch"])) == ("active", epoch)


async def test_a_sidecar_that_fails_takes_no_call_along(server: RedisServer, tmp_path: Path) -> None:
    """An error that nobody meant ends it: that is stated of none of its workers, and none is told that it is over."""
    program = Program(load(redis_url=server.url, http_port=0, http_socket=str(tmp_path / "s.sock"), name="fails"))

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as failed:
        async with anyio.create_task_group() as tasks:
            await tasks.start(program.run_api)
            hosted = await program.registry.register(Register(name="fails-1", pid=os.getpid()))  # type: ignore[call-arg]
            await hosted.worker.open("fails", {})
            tasks.start_soon(fail)
    assert failed.group_contains(ZeroDivisionError)
    assert record(server, KEYS.instance(hosted.handle))["state"] == "alive"
    assert record(server, KEYS.session("fails"))["owner"] == hosted.handle
    assert {event["event"] for event in hosted.queue.take()} <= {"held"}  # it may have been in doubt for a moment


def test_without_time_for_a_restart_a_lost_connection_counts(place: Callable[..., Place], server: RedisServer) -> None:
    """SIDECAR_RESTART=0: the death of the sidecar is its workers', as soon as that of a worker with the library."""
    here = place("--sidecar-restart", "0")
    client = here.worker("hasty-1")
    client.stream().wait_for("ping")
    client.open("hasty", {})
    here.kill()
    assert ended(server, client.instance)["cause"] == "lost_connection"


# -- its pieces --------------------------------------------------------------------------------------------------------


def test_an_address_is_that_of_one_process(tmp_path: Path) -> None:
    """The same socket or port is the same address, another is another; any free port is none."""
    one = load(http_socket=str(tmp_path / "a.sock"), http_port=9410)
    assert addresses_of(one) == addresses_of(one)
    assert len(set(addresses_of(one))) == 2
    beside = load(http_socket=str(tmp_path / "b.sock"), http_port=9411)
    assert not set(addresses_of(one)) & set(addresses_of(beside))
    assert addresses_of(load(http_port=0)) == ()
    assert addresses_of(load(http_port=0, http_socket=str(tmp_path / "no" / "a.sock"))) == ()


def test_how_a_worker_is_found_again_is_read_as_it_was_written() -> None:
    """What nobody can read counts as not said."""
    full = Hosting(("a", "b"), ProcessMark(1, 2, "pid:[3]"), Health(url="http://127.0.0.1:80/"), True, "exit")  # type: ignore[call-arg]
    assert Hosting.parse(full.text()) == full
    assert Hosting.parse(Hosting().text()) == Hosting()
    for text in ("", "null", "[]", "{", '{"process": {"pid": "x"}}', '{"health": {"url": "file:///"}}', "[" * 2000):
        assert Hosting.parse(text) == Hosting()
    assert not full.is_proof_here or full.seen_from_here().process is None


def test_a_number_that_is_used_again_is_another_process(process: subprocess.Popen[bytes]) -> None:
    """A process is known by its start, too; a zombie has ended."""
    mark = ProcessMark.of(process.pid)
    assert mark is not None
    with ProcessWatch(process.pid, mark=mark) as watch:
        assert not watch.has_ended
    with pytest.raises(ProcessEndedError):
        ProcessWatch(process.pid, mark=ProcessMark(mark.pid, mark.started - 1, mark.namespace))
    process.kill()
    wait_until(lambda: ProcessMark.of(process.pid) is None)
    with pytest.raises(ProcessEndedError):
        ProcessWatch(process.pid, mark=mark)


@pytest.mark.parametrize("answers", [True, False])
async def test_until_it_has_looked_back_nobody_is_a_stranger(answers: bool) -> None:
    """503, to be asked again, until the sidecar knows whom the one before stood for; 401 and 404 after that, even if it failed."""
    part: Any = SimpleNamespace(executor=SimpleNamespace(), keys=KEYS)

    async def command(*_: Any) -> list[bytes]:
        if not answers:
            raise ValueError("a defect")
        return []

    async def commands(_: Any) -> list[Any]:
        return []

    part.executor.command, part.executor.commands = command, commands
    failures = Counter("failures", "of this test", ["operation"], registry=CollectorRegistry())
    runtime: Any = SimpleNamespace(runtime=[])
    tasks: Any = None
    registry = Registry(load(), runtime, tasks, failures, ("here",))

    async def asked(token: str | None) -> int:
        with pytest.raises(Problem) as caught:
            await registry.by_token(token)
        return caught.value.status

    def named() -> int:
        with pytest.raises(Problem) as caught:
            registry.by_handle("w~1", "token")
        return caught.value.status

    assert (await asked("token"), await asked(None), named()) == (503, 503, 503)
    await LeftBehind(registry, [part], ("here",), "test", failures).take_up()
    assert (await asked("token"), await asked(None), named()) == (401, 401, 404)


# -- what comes in the moment of the restart ----------------------------------------------------------------------------


def test_a_drain_right_after_the_restart_is_of_all(
    place: Callable[..., Place], server: RedisServer, sidecar: Sidecar
) -> None:
    """It is asked for before the workers are back: it waits for them, and each of their calls is handed over."""
    here = place()
    client = here.worker("early-1", pool="early")
    stream = client.stream()
    for n in range(3):
        client.open(f"early-{n}", {"n": n})
    heir = Client(sidecar.path)
    try:
        heir.register("early-2", pool="early")
        offered = heir.stream()
        here.kill()
        wait_until(lambda: stream.over)
        here.start()
        assert client("POST", "/v1/drain", {"reason": "rollout"}).status_code == 202
        client.stream()
        offered.wait_for("offer", 3)
        for n in range(3):
            adopted = heir("POST", f"/v1/sessions/early-{n}/adopt")
            assert (adopted.status_code, adopted.json()["planned"]) == (200, True)
        done = client("POST", "/v1/drain?wait=1").json()
        assert [set(row["handed_over"]) for row in done["workers"]] == [{"early-0", "early-1", "early-2"}]
    finally:
        heir.close()


@pytest.mark.parametrize("again", [True, False], ids=["the next sidecar", "the same one"])
def test_a_process_whose_registration_had_no_answer_registers_again(
    place: Callable[..., Place], server: RedisServer, process: subprocess.Popen[bytes], again: bool
) -> None:
    """It asks again, as nobody has its token: its name is its own, under a new id."""
    here = place()
    lost = here.worker("unheard-1", pool="unheard", pid=process.pid)  # the answer comes to nobody's eyes
    if again:
        here.kill()
        here.start()
        beats(server, lost.instance)
    second = here.worker("unheard-1", pool="unheard", pid=process.pid)
    assert second.instance != lost.instance
    assert ended(server, lost.instance)["cause"] == "left"


def test_only_its_own_user_registers_a_process_again(
    place: Callable[..., Place], process: subprocess.Popen[bytes]
) -> None:
    """Name and pid of a worker that is idle are no secrets: over TCP, and as another user, they throw out nobody."""
    here = place()
    first = here.worker("quiet-1", pool="quiet", pid=process.pid)
    asked = {"name": "quiet-1", "pool": "quiet", "pid": process.pid}
    with httpx.Client(base_url=f"http://127.0.0.1:{here.sidecar.http_port}") as stranger:
        assert stranger.post("/v1/workers", json=asked).status_code == 409
    if os.geteuid() == 0:
        Path(here.sidecar.path).parent.chmod(0o711)
        Path(here.sidecar.path).chmod(0o777)
        link = OtherUser(here.sidecar.path)
        link.request("POST", "/v1/workers", json.dumps(asked), {"Content-Type": "application/json"})
        assert link.getresponse().status == 409
        link.close()
    first.open("quiet", {})


def test_a_registration_without_an_answer_is_asked_for_again_by_its_key(
    place: Callable[..., Place], process: subprocess.Popen[bytes]
) -> None:
    """Over TCP, where nobody sees who asks: the same key brings the same worker and token."""
    here = place()
    asked = {"name": "keyed-1", "pool": "keyed", "pid": process.pid}
    with httpx.Client(base_url=f"http://127.0.0.1:{here.sidecar.http_port}") as worker:
        answers = [worker.post("/v1/workers", json=asked, headers={"Idempotency-Key": "one"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()


def test_a_process_that_has_its_token_keeps_its_name(
    place: Callable[..., Place], process: subprocess.Popen[bytes]
) -> None:
    """Somebody else says that he is that process: refused, and the worker goes on."""
    here = place()
    client = here.worker("heard-1", pool="heard", pid=process.pid)
    client.open("heard", {})
    with contextlib.closing(Client(here.sidecar.path)) as other:
        assert other.register("heard-1", pool="heard", pid=process.pid).status_code == 409
    assert client("GET", "/v1/sessions/heard").status_code == 200


def test_a_process_that_asked_for_offers_has_its_token(
    place: Callable[..., Place], process: subprocess.Popen[bytes]
) -> None:
    """It has no calls yet and no stream: whoever says that he is that process is refused all the same."""
    here = place()
    client = here.worker("asked-1", pool="asked", pid=process.pid)
    assert client("GET", "/v1/offers").status_code == 200
    with contextlib.closing(Client(here.sidecar.path)) as other:
        assert other.register("asked-1", pool="asked", pid=process.pid).status_code == 409
