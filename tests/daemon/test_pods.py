"""Pod events against an API server that misbehaves, a real Redis and real workers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import redis
import structlog
from prometheus_client import CollectorRegistry

from coordinator import ConfigurationError, StoreUnavailableError, Worker
from coordinator.daemon.daemon import Daemon
from coordinator.daemon.pod_api import LONGEST_LINE, PodApi
from coordinator.daemon.pod_evidence import COST_ANNOTATION, Pod
from coordinator.daemon.pods import Certifier, DeletionCosts, PodPauses, PodWatch
from coordinator.errors import POD_API_ERROR_KINDS, PodApiError
from coordinator.metrics import Metrics
from coordinator.settings import load
from coordinator.store import reads
from coordinator.store.connect import Connector
from coordinator.store.executor import StorePartition
from coordinator.store.keys import Keys
from tests import inside
from tests.daemon.fake_api_server import (
    NAMESPACE,
    OF_STATEFUL_SET,
    FakeApiServer,
    ended,
    fake_api_server,
    pod_object,
    terminated,
)
from tests.redis_server import RedisServer
from tests.store.harness import Bench
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)
USUAL_PAUSES = PodPauses()


@pytest.fixture
async def fake() -> AsyncIterator[FakeApiServer]:
    async with fake_api_server() as server:
        yield server


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A service account's directory."""
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "namespace").write_text(f"{NAMESPACE}\n")
    return tmp_path


class Watching:
    """A watch to be stepped by hand, and what it told."""

    def __init__(self, api: PodApi, pauses: PodPauses) -> None:
        self.metrics = Metrics(CollectorRegistry(), "test")
        self.metrics.export_pods()
        self.told: list[str] = []
        self.watch = PodWatch(api, self.metrics, lambda pod: self.told.append(pod.uid), pauses=pauses)

    def has_told(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.told) == count

    def sees(self, pod: str, cost: int) -> Callable[[], bool]:
        return lambda: self.watch.pods[f"uid-of-{pod}"].cost == cost

    def errors(self, kind: str) -> float:
        return self.metrics.registry.get_sample_value("recovery_pod_watch_errors_total", {"kind": kind}) or 0

    @property
    def up(self) -> float | None:
        return self.metrics.registry.get_sample_value("recovery_pod_watch_up")


@asynccontextmanager
async def watching(
    url: str, account: Path, selector: str = "", pauses: PodPauses = USUAL_PAUSES
) -> AsyncIterator[Watching]:
    api = PodApi(url, NAMESPACE, selector, account)
    try:
        yield Watching(api, pauses)
    finally:
        await api.aclose()


@asynccontextmanager
async def in_the_background(step: Callable[[], Any]) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(step)
        yield
        tasks.cancel_scope.cancel()


def settings(fake: FakeApiServer, account: Path, url: str, **more: Any) -> Any:
    return load(redis_url=url, http_port=0, pod_events=True, pod_api=fake.url, pod_credentials=str(account), **more)


@asynccontextmanager
async def coordinating(
    fake: FakeApiServer, account: Path, url: str, pauses: PodPauses = USUAL_PAUSES, **more: Any
) -> AsyncIterator[Daemon]:
    """A coordinator with pod events, as ``coordinator run`` would make it; its watch stands."""
    daemon = Daemon(settings(fake, account, url, **more))
    if daemon.pods is not None and daemon.pods.costs is not None:
        daemon.pods.costs.pauses = pauses
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(daemon.coordinate)
            await eventually(lambda: not daemon.not_ready() and daemon.pods is not None and daemon.pods.watch.up)
            yield daemon
            tasks.cancel_scope.cancel()
    finally:
        await daemon.aclose()


def cause(client: redis.Redis, instance: str) -> bytes | None:
    found: Any = client.hget(KEYS.instance(instance), "cause")
    return bytes(found) if found is not None else None


@asynccontextmanager
async def a_beating_worker(url: str, name: str, **more: Any) -> AsyncIterator[tuple[str, str]]:
    """A worker with a call that goes on beating, so that no evidence but a certificate can tell of its end."""
    with contextlib.suppress(_Over):
        async with Worker(url, name=name, **more) as worker:
            session = await worker.open(f"call-of-{name}", {"sequence": 7})
            yield worker.id, session.id
            raise _Over  # a worker that was declared dead has nothing to drain


class _Over(Exception):  # noqa: N818 - an end, and no error
    pass


async def test_a_pod_that_ended_is_a_certificate_and_its_call_goes_on(
    url: str, redis_client: redis.Redis, fake: FakeApiServer, account: Path
) -> None:
    """A worker that beats is declared dead at once when its pod has ended, and another adopts its call with its data."""
    pod = fake.put(pod_object("voice-1"))
    async with (
        coordinating(fake, account, url),
        Worker(url, name="voice-2") as heir,
        a_beating_worker(url, "voice-1") as (instance, session_id),
    ):
        fake.put(ended(pod))
        fake.delete("voice-1")
        with within(5):
            async for offer in heir.offers():
                assert (offer.session_id, offer.cause, offer.previous_owner) == (session_id, "exited", instance)
                adopted = await offer.adopt()
                break
        assert adopted is not None
        assert adopted.recovery_data == {"sequence": 7}
        assert cause(redis_client, instance) == b"exited"
        assert redis_client.hget(KEYS.instance(instance), "reason") == b"pod voice-1 Failed"


async def test_a_force_deleted_pod_is_no_certificate(
    url: str, redis_client: redis.Redis, fake: FakeApiServer, account: Path
) -> None:
    """A pod that is gone while its containers were last said to run is told of in the log, and nobody is declared."""
    fake.put(pod_object("voice-1"))
    with structlog.testing.capture_logs() as logs:
        async with coordinating(fake, account, url) as daemon, a_beating_worker(url, "voice-1") as (instance, _):
            fake.delete("voice-1")
            fake.put(ended(pod_object("another")))
            assert daemon.pods is not None
            watch, certifier = daemon.pods.watch, daemon.pods.certifiers[0]
            await eventually(lambda: "uid-of-another" in watch.pods and not certifier.waiting)
            assert cause(redis_client, instance) in (None, b"")
    [said] = [entry for entry in logs if entry["event"] == "pod_gone_without_proof"]
    assert (said["pod"], said["reason"]) == ("voice-1", "its phase is Running")


async def test_a_pod_between_two_starts_is_no_certificate(fake: FakeApiServer, account: Path) -> None:
    """A container that ended in a pod that goes on is told to nobody, not even when the pod is force-deleted then."""
    async with watching(fake.url, account) as seen, in_the_background(seen.watch.run):
        await eventually(lambda: seen.watch.up)
        pod = fake.put(pod_object("voice-1"))
        pod["status"]["containerStatuses"][0]["state"] = terminated()
        fake.put(pod)
        fake.delete("voice-1")
        fake.put(ended(pod_object("last")))
        await eventually(lambda: seen.told)
        assert seen.told == ["uid-of-last"]


async def test_the_next_pod_of_a_stateful_set_keeps_its_instance(
    url: str, redis_client: redis.Redis, fake: FakeApiServer, account: Path
) -> None:
    """The end of a pod certifies the instance with its uid, and not the newer one in a new pod of the same name."""
    before = fake.put(pod_object("voice-0", "u1", OF_STATEFUL_SET))
    async with (
        coordinating(fake, account, url),
        a_beating_worker(url, "older", labels={"pod_uid": "u1"}) as (older, _),
        a_beating_worker(url, "voice-0", labels={"pod_uid": "u2"}) as (newer, _),
    ):
        fake.put(ended(before))
        fake.delete("voice-0")
        fake.put(pod_object("voice-0", "u2", OF_STATEFUL_SET))
        await eventually(lambda: cause(redis_client, older) == b"exited")
        assert cause(redis_client, newer) in (None, b"")


async def test_all_partitions_are_told(url: str, redis_client: redis.Redis, fake: FakeApiServer, account: Path) -> None:
    """An instance is a member of each partition under its name, and is certified in each."""
    pod = fake.put(pod_object("voice-1"))
    async with coordinating(fake, account, url, partitions=3), a_beating_worker(url, "voice-1", partitions=3):
        fake.put(ended(pod))

        async def dead() -> int:
            keys: Any = redis_client.keys("*:instance:voice-1~*")
            return sum(redis_client.hget(key, "cause") == b"exited" for key in keys)

        async def in_all() -> bool:
            return await dead() == 3

        await eventually(in_all)


async def test_what_ended_while_nobody_watched_is_found_by_the_first_list(
    url: str, redis_client: redis.Redis, fake: FakeApiServer, account: Path
) -> None:
    """A pod that ended before the coordinator started, and still exists, certifies; one that does not exist proves nothing."""
    async with a_beating_worker(url, "voice-1") as (ended_one, _), a_beating_worker(url, "voice-2") as (unknown, _):
        fake.put(ended(pod_object("voice-1")))
        async with coordinating(fake, account, url):
            await eventually(lambda: cause(redis_client, ended_one) == b"exited")
            assert cause(redis_client, unknown) in (None, b"")


async def test_a_list_comes_in_pages(fake: FakeApiServer, account: Path) -> None:
    """More pods than a page holds are all seen, and the watch goes on from there."""
    fake.page = 2
    for n in range(5):
        fake.put(pod_object(f"voice-{n}"))
    async with watching(fake.url, account, "app=voice") as seen:
        await seen.watch.step()
        assert len(seen.watch.pods) == 5
        assert fake.lists == 3
        assert seen.watch.version == str(fake.version)
        assert fake.selectors == ["app=voice"] * 3


async def test_a_watch_that_ends_goes_on_from_where_it_was(fake: FakeApiServer, account: Path) -> None:
    """The server ends a watch: no error, no new list, and what happened in between is seen, once."""
    async with watching(fake.url, account) as seen, in_the_background(seen.watch.run):
        await eventually(lambda: fake.open_watches)
        fake.put(pod_object("voice-1"))
        await eventually(lambda: seen.watch.version == str(fake.version))
        assert list(seen.watch.pods) == ["uid-of-voice-1"]
        fake.end_watches()
        await eventually(lambda: not fake.open_watches or fake.watches > 1)
        fake.put(ended(pod_object("voice-1")))
        await eventually(lambda: seen.told == ["uid-of-voice-1"])
        assert (fake.lists, seen.errors("closed")) == (1, 0)
        fake.delete("voice-1")
        await eventually(lambda: not seen.watch.pods)
        assert seen.told == ["uid-of-voice-1"]


async def test_bookmarks_carry_the_watch_on(fake: FakeApiServer, account: Path) -> None:
    """A bookmark is a version to go on from, and no pod."""
    async with watching(fake.url, account) as seen, in_the_background(seen.watch.run):
        await eventually(lambda: fake.open_watches)
        fake.bookmark()
        await eventually(lambda: seen.watch.version == str(fake.version))
        assert seen.watch.pods == {}


async def test_a_version_that_is_gone_means_a_new_list(fake: FakeApiServer, account: Path) -> None:
    """410 Gone: all is listed anew. Who is absent now proves what its last status proved: nothing when it ran."""
    fake.put(pod_object("runs"))
    fake.put(pod_object("ends"))
    with structlog.testing.capture_logs() as logs:
        async with watching(fake.url, account) as seen:
            await seen.watch.step()
            fake.delete("runs")
            fake.put(ended(pod_object("ends")))
            fake.forget()
            with pytest.raises(PodApiError) as gone:
                await seen.watch.step()
            assert gone.value.kind == "gone"
            seen.watch.failed(gone.value)
            assert (seen.told, seen.errors("gone"), seen.up) == ([], 1, 0)
            await seen.watch.step()
            assert seen.told == ["uid-of-ends"]
    assert [e["pod"] for e in logs if e["event"] == "pod_gone_without_proof"] == ["runs"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "unauthorized"), (403, "forbidden"), (404, "not_found"), (410, "gone"), (429, "server"), (503, "server"), (400, "refused")],
)  # fmt: skip
async def test_a_refusal_is_counted_and_said_once_and_ends_by_itself(
    fake: FakeApiServer, account: Path, status: int, kind: str
) -> None:
    """However often it comes, a refusal is said once, and once that it is over; the gauge follows."""
    pauses = PodPauses(least=0.01, longest=0.05)
    fake.refuse = status
    with structlog.testing.capture_logs() as logs:
        async with watching(fake.url, account, pauses=pauses) as seen, in_the_background(seen.watch.run):
            await eventually(lambda: seen.errors(kind) >= 3)
            assert seen.up == 0
            fake.refuse = 0
            await eventually(lambda: seen.up == 1)
            fake.put(pod_object("voice-1"))
            await eventually(lambda: seen.watch.pods)
    assert [e["event"] for e in logs] == ["pod_watch_failed", "pod_watch_back"]
    assert logs[0]["kind"] == kind
    assert str(status) in logs[0]["detail"]


@pytest.mark.parametrize(
    "line",
    [
        b"<html>502</html>", b"{}", b"[]", b'{"type": "ADDED"}', b'{"type": "ADDED", "object": {}}', b'{"type": 1, "object": {}}',
        b'{"type": "MODIFIED", "object": {"metadata": {"name": "x"}}}', b"\xff\xfe",
        b'{"type": "RENAMED", "object": {"metadata": {"name": "x", "uid": "x", "resourceVersion": "1"}}}',
        b'{"type": "BOOKMARK", "object": {"metadata": 5}}',
    ],
)  # fmt: skip
async def test_nonsense_in_the_watch_is_an_error_and_then_a_list(
    fake: FakeApiServer, account: Path, line: bytes
) -> None:
    """What is no event ends the watch, with an error of a kind that is on the list, and all is listed anew."""
    async with watching(fake.url, account) as seen, in_the_background(seen.watch.run):
        await eventually(lambda: fake.open_watches)
        fake.send_raw(line)
        await eventually(lambda: seen.errors("malformed") == 1)
        fake.forget()
        fake.put(ended(pod_object("voice-1")))
        await eventually(lambda: seen.told)
        assert fake.lists >= 2


async def test_nonsense_that_goes_on_is_said_once(fake: FakeApiServer, account: Path) -> None:
    """A watch that opens well each time and then makes no sense is one trouble, and waits longer each time."""
    pauses = PodPauses(least=0.01)
    fake.greeting = b"<html>\n"
    with structlog.testing.capture_logs() as logs:
        async with watching(fake.url, account, pauses=pauses) as seen, in_the_background(seen.watch.run):
            await eventually(lambda: seen.errors("malformed") >= 4)
            assert inside.failures_of(seen.watch) >= 4
            fake.greeting = b""
            fake.put(pod_object("voice-1"))
            await eventually(lambda: fake.open_watches and seen.up)
            fake.bookmark()
            await eventually(lambda: inside.failures_of(seen.watch) == 0)
    assert [e["event"] for e in logs] == ["pod_watch_failed", "pod_watch_back"]


async def test_a_line_without_an_end_is_bounded(fake: FakeApiServer, account: Path) -> None:
    """A stream that never ends its line is given up instead of kept in memory."""
    async with watching(fake.url, account) as seen:
        await seen.watch.step()
        async with anyio.create_task_group() as tasks:

            async def flood() -> None:
                await eventually(lambda: fake.open_watches)
                fake._history.append((fake.version, b"x" * (LONGEST_LINE + 1)))
                fake._wake()

            tasks.start_soon(flood)
            with pytest.raises(PodApiError, match="an event of more than"):
                await seen.watch.step()


async def test_other_line_ends_are_part_of_an_event(fake: FakeApiServer, account: Path) -> None:
    """Only LF ends an event: an annotation may hold what Unicode calls a line end."""
    pod = pod_object("voice-1")
    pod["metadata"]["annotations"] = {"note": "a\x85b\u2028c"}
    async with watching(fake.url, account) as seen, in_the_background(seen.watch.run):
        await eventually(lambda: fake.open_watches)
        fake.put(pod)
        await eventually(lambda: seen.watch.pods)
        assert seen.errors("malformed") == 0


async def test_a_list_that_is_nonsense_is_an_error(fake: FakeApiServer, account: Path) -> None:
    """A list with something that is no pod raises, and nothing is known."""
    fake.pods["odd"] = {"metadata": {"name": "odd"}}
    async with watching(fake.url, account) as seen:
        with pytest.raises(PodApiError, match="malformed"):
            await seen.watch.step()
        assert seen.watch.version == ""


async def test_a_server_that_is_away_is_waited_for(account: Path) -> None:
    """Unreachable at first, then there, then gone in mid-watch, then there again: the watch stands each time."""
    pauses = PodPauses(longest=0.05)
    async with fake_api_server() as first:
        url, port = first.url, int(first.url.rsplit(":", 1)[1])
    async with watching(url, account, pauses=pauses) as seen, in_the_background(seen.watch.run):
        await eventually(lambda: seen.errors("unreachable") >= 2)
        for n in (1, 2):
            async with fake_api_server(port) as fake:
                fake.version = 1000 * n
                await eventually(lambda: seen.up == 1)
                fake.put(ended(pod_object(f"voice-{n}")))
                await eventually(seen.has_told(n))
            await eventually(lambda: seen.up == 0)


async def test_a_watch_that_ends_at_once_is_an_error(fake: FakeApiServer, account: Path) -> None:
    """A proxy that closes each watch is not asked again without a pause."""
    async with watching(fake.url, account) as seen:
        await seen.watch.step()
        async with in_the_background(lambda: ends_all(fake)):
            with pytest.raises(PodApiError, match="the watch ended at once"):
                await seen.watch.step()


async def ends_all(fake: FakeApiServer) -> None:
    await eventually(lambda: fake.open_watches)
    fake.end_watches()


async def test_the_token_is_read_again(fake: FakeApiServer, account: Path) -> None:
    """A token that was replaced is used by the next request; while it is missing, the last one."""
    async with watching(fake.url, account) as seen:
        await seen.watch.step()
        (account / "token").write_text("second")
        seen.watch.version = ""
        await seen.watch.step()
        (account / "token").unlink()
        seen.watch.version = ""
        await seen.watch.step()
        assert fake.tokens == ["Bearer first", "Bearer second", "Bearer second"]


async def test_an_authority_that_is_no_certificate_is_said(fake: FakeApiServer, account: Path) -> None:
    """A broken ca.crt makes the API server unreachable, with the file's name; when it is whole, it is taken up."""
    (account / "ca.crt").write_text("not a certificate")
    async with watching(fake.url, account) as seen:
        with pytest.raises(PodApiError, match=r"ca\.crt"):
            await seen.watch.step()
        (account / "ca.crt").unlink()
        await seen.watch.step()
        assert seen.watch.version


async def test_pods_wait_for_a_store_that_is_away(account: Path) -> None:
    """A certificate that the store could not take is given when it answers again."""
    server = RedisServer()
    client = server.client()
    connector = Connector(server.url, store_timeout=0.5)
    try:
        bench = Bench(client)
        bench.init()
        bench.join("voice-1~1")
        metrics = Metrics(CollectorRegistry(), "test")
        certifier = Certifier(StorePartition(KEYS, connector.executor(KEYS.tag)), metrics, "coordinator~1")
        assert await certifier.step() == []
        server.pause()
        certifier.add(Pod.parse(ended(pod_object("voice-1"), at=datetime.now(UTC) + timedelta(seconds=60))))
        with pytest.raises(StoreUnavailableError):
            await certifier.step()
        async with in_the_background(certifier.run):
            failed = {"kind": "timeout"}
            await eventually(lambda: metrics.registry.get_sample_value("recovery_store_errors_total", failed))
            server.resume()
            await eventually(lambda: cause(client, "voice-1~1") == b"exited")
            await eventually(lambda: not certifier.waiting)
        certifier.add(Pod.parse(ended(pod_object("voice-1"), at=datetime.now(UTC) + timedelta(seconds=60))))
        assert await certifier.step() == [], "the dead are not certified again"
    finally:
        await connector.aclose()
        client.close()
        server.close()


async def test_detection_goes_on_without_an_api_server(
    url: str, redis_client: redis.Redis, fake: FakeApiServer, account: Path
) -> None:
    """With an API server that refuses everything the coordinator is ready, and silence is found as ever."""
    fake.refuse = 500
    daemon = Daemon(settings(fake, account, url))
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(daemon.coordinate)
            await eventually(lambda: not daemon.not_ready())
            bench = Bench(redis_client)
            bench.init()
            bench.join("voice-1~1", dead_after_ms=300)
            await eventually(lambda: cause(redis_client, "voice-1~1") == b"silence")
            assert not daemon.not_ready()
            tasks.cancel_scope.cancel()
    finally:
        await daemon.aclose()


async def test_a_fault_of_this_program_does_not_end_the_watch(fake: FakeApiServer, account: Path) -> None:
    """An exception that nobody foresaw is counted as other, and the watch begins again with a list."""
    async with watching(fake.url, account) as seen:
        real, broken = seen.watch.ended, [True]

        def ended_once(pod: Pod) -> None:
            if broken.pop() if broken else False:
                raise ZeroDivisionError
            real(pod)

        seen.watch.ended = ended_once
        fake.put(ended(pod_object("voice-1")))
        async with in_the_background(seen.watch.run):
            await eventually(lambda: seen.told == ["uid-of-voice-1"])
            assert seen.errors("other") == 1
    assert "other" in POD_API_ERROR_KINDS


# -- the cost of a deletion --------------------------------------------------------------------------------------------


def instance(name: str, owned: int, **more: Any) -> reads.InstanceRow:
    return reads.InstanceRow(
        f"{name}~1", name, 0, "alive", "default", 10, owned, "", 0, 0, 0, 1, 0, "", 750, 2000, 0, more
    )


@asynccontextmanager
async def two_costing(
    fake: FakeApiServer, account: Path, rows: list[reads.InstanceRow], every: float
) -> AsyncIterator[tuple[DeletionCosts, DeletionCosts, Watching, Watching]]:
    """Two coordinators that watch the same pods and see the same instances."""
    async with (
        watching(fake.url, account) as one,
        watching(fake.url, account) as two,
        in_the_background(one.watch.run),
        in_the_background(two.watch.run),
    ):
        await eventually(lambda: one.watch.up and two.watch.up)
        yield (
            DeletionCosts(one.watch, lambda: rows, one.metrics, every),
            DeletionCosts(two.watch, lambda: rows, two.metrics, every),
            one,
            two,
        )


def annotation(fake: FakeApiServer, name: str) -> str | None:
    value: str | None = fake.pods[name]["metadata"].get("annotations", {}).get(COST_ANNOTATION)
    return value


async def test_pods_are_annotated_with_their_calls(fake: FakeApiServer, account: Path) -> None:
    """Each pod of a ReplicaSet in which an instance lives gets the number of its sessions; 0 needs no annotation."""
    for pod in (
        pod_object("voice-1"),
        pod_object("voice-2"),
        pod_object("web"),
        pod_object("voice-0", owner=OF_STATEFUL_SET),
    ):
        fake.put(pod)
    rows = [instance("voice-1", 3), instance("voice-2", 0), instance("voice-0", 5)]
    async with two_costing(fake, account, rows, 0.0) as (costs, _, seen, _):
        assert await costs.step() == 1
        assert fake.patched == ["voice-1"]
        assert annotation(fake, "voice-1") == "3"
        await eventually(seen.sees("voice-1", 3))
        assert await costs.step() == 0, "it is as it should be"
        rows[0] = instance("voice-1", 0)
        assert await costs.step() == 1
        assert annotation(fake, "voice-1") == "0"


async def test_a_pod_is_annotated_only_so_often_whoever_does_it(fake: FakeApiServer, account: Path) -> None:
    """After a change of the annotation, one's own or another's, a pod is left alone for a while."""
    fake.put(pod_object("voice-1"))
    rows = [instance("voice-1", 3)]
    async with two_costing(fake, account, rows, 60.0) as (mine, theirs, seen, other):
        assert await theirs.step() == 1
        for each in (seen, other):
            await eventually(each.sees("voice-1", 3))
        rows[0] = instance("voice-1", 4)
        assert await theirs.step() == 0
        inside.wrote_cost(mine, "uid-of-voice-1", 0)  # it had looked before, a while ago
        assert await mine.step() == 0
        assert fake.patched == ["voice-1"]
        inside.wrote_cost(mine, "uid-of-voice-1", 3)
        assert await mine.step() == 1
        assert annotation(fake, "voice-1") == "4"


async def test_of_two_that_annotate_at_once_one_does(fake: FakeApiServer, account: Path) -> None:
    """The patch holds only for the pod as it was seen: whoever comes second is refused, and that is no error."""
    fake.put(pod_object("voice-1"))
    rows = [instance("voice-1", 3)]
    async with two_costing(fake, account, rows, 60.0) as (mine, theirs, seen, other):
        pods = dict(other.watch.pods)
        assert await mine.step() == 1
        other.watch.pods = pods  # its watch is slow
        assert await theirs.step() == 0
        assert fake.patched == ["voice-1"]
        assert (
            other.metrics.registry.get_sample_value("recovery_pod_deletion_costs_total", {"outcome": "conflict"}) == 1
        )
        assert seen.metrics.registry.get_sample_value("recovery_pod_deletion_costs_total", {"outcome": "written"}) == 1


async def test_nothing_is_annotated_by_guess(fake: FakeApiServer, account: Path) -> None:
    """While the store cannot be seen, the watch does not stand, or the pod is gone, nothing is written."""
    fake.put(pod_object("voice-1"))
    rows = [instance("voice-1", 3)]
    async with two_costing(fake, account, rows, 0.0) as (costs, _, seen, _):
        costs.rows = lambda: None
        assert await costs.step() == 0
        costs.rows = lambda: rows
        seen.watch.up = False
        assert await costs.step() == 0
        seen.watch.up = True
        pods = dict(seen.watch.pods)
        fake.delete("voice-1")
        await eventually(lambda: not seen.watch.pods)
        seen.watch.pods = pods
        assert await costs.step() == 0
        assert fake.patched == []


async def test_a_patch_that_is_forbidden_is_said_once(fake: FakeApiServer, account: Path) -> None:
    """Without the right to patch, the log says so once, and the watch goes on."""
    fake.put(pod_object("voice-1"))
    with structlog.testing.capture_logs() as logs:
        async with two_costing(fake, account, [instance("voice-1", 3)], 0.0) as (costs, _, seen, _):
            fake.refuse = 403
            costs.pauses = PodPauses(longest=0.01, look=0.01)
            async with in_the_background(costs.run):
                await eventually(lambda: seen.errors("forbidden") >= 3)
                assert seen.watch.up
                fake.refuse = 0
                await eventually(lambda: annotation(fake, "voice-1") == "3")
    assert [e["event"] for e in logs if e["log_level"] != "debug"] == ["pod_deletion_cost_failed"]


async def test_a_coordinator_annotates_what_its_workers_own(url: str, fake: FakeApiServer, account: Path) -> None:
    """With POD_DELETION_COST a pod carries the number of calls that its instance owns in all partitions."""
    fake.put(pod_object("voice-1"))
    async with (
        coordinating(fake, account, url, PodPauses(look=0.05), partitions=2, pod_deletion_cost=True),
        a_beating_worker(url, "voice-1", partitions=2),
    ):
        await eventually(lambda: annotation(fake, "voice-1") == "1")


# -- settings and start ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"pod_deletion_cost": True}, "pod_deletion_cost needs pod_events"),
        ({"pod_api": "http://10.0.0.1:8001"}, "would send the token in clear"),
        ({"pod_api": "kubernetes.default"}, "is not a URL"),
        ({"pod_namespace": "No Such"}, "pod_namespace: "),
    ],
)
def test_wrong_settings_are_one_line(values: dict[str, Any], said: str) -> None:
    """What does not fit together stops the start with one line that names it."""
    with pytest.raises(ConfigurationError, match=said) as refused:
        load(**values)
    assert len(str(refused.value).splitlines()) == 1


def test_outside_a_cluster_it_says_what_is_missing(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster, no token or no namespace: each is said, with what to set."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    made = load(pod_events=True, pod_credentials=str(account))
    with pytest.raises(ConfigurationError, match="KUBERNETES_SERVICE_HOST is not set"):
        PodApi.from_settings(made)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    assert (PodApi.from_settings(made).url, PodApi.from_settings(made).namespace) == (
        "https://[fd00::1]:6443",
        NAMESPACE,
    )
    (account / "namespace").unlink()
    with pytest.raises(ConfigurationError, match="pod_namespace is not set"):
        PodApi.from_settings(made)
    (account / "token").unlink()
    with pytest.raises(ConfigurationError, match="there is no token in"):
        PodApi.from_settings(made)


def test_without_the_extra_it_says_what_to_install(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that is missing is named, and the daemon without pod events does not need it."""
    monkeypatch.setitem(__import__("sys").modules, "httpx2", None)
    monkeypatch.delitem(__import__("sys").modules, "coordinator.daemon.pod_api", raising=False)
    Daemon(load(redis_url="redis://127.0.0.1:1"))
    with pytest.raises(ConfigurationError, match=r"httpx2 is missing: install this package with its extra kubernetes"):
        Daemon(load(redis_url="redis://127.0.0.1:1", pod_events=True, pod_api="http://127.0.0.1:1", pod_namespace="x"))


async def test_metrics_of_pods_are_exported_with_pod_events_only(url: str, fake: FakeApiServer, account: Path) -> None:
    """A gauge that says down where nobody watches pods would raise alarms: without pod events there is none."""
    for daemon, expected in ((Daemon(load(redis_url=url)), None), (Daemon(settings(fake, account, url)), 0.0)):
        assert daemon.metrics.registry.get_sample_value("recovery_pod_watch_up") == expected
        await daemon.aclose()
