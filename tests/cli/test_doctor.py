"""What `doctor` finds in real servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

import pytest
import redis
from typer.testing import CliRunner

from coordinator.cli.app import app
from coordinator.cli.doctor import examine
from coordinator.cli.doctor_checks import Server, coverage, replication, version
from coordinator.cli.tables import Writer
from coordinator.settings import load
from coordinator.store import PROTOCOL
from coordinator.store.keys import Keys
from tests.deployments import MovingSlot, Node, cluster
from tests.waiting import eventually


def doctor(url: str, *args: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Runs it; exit status and findings by name."""
    run = CliRunner().invoke(app, ["doctor", "--redis-url", url, "--json", *args])
    assert run.exception is None or isinstance(run.exception, SystemExit), run.exception
    return run.exit_code, {f["check"]: f for f in json.loads(run.stdout)["findings"]} if run.stdout else {}


@pytest.fixture
def server(url: str) -> Iterator[Any]:
    """A client of the server that `url` names; its settings and users are as before afterwards."""
    client: Any = redis.Redis.from_url(url)
    kept = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy")}
    yield client
    for name, value in kept.items():
        client.config_set(name, value)
    client.acl_deluser("voice")
    client.close()


def as_user(server: Any, url: str, *rules: str) -> str:
    """The URL for a new user with these rights."""
    server.execute_command(
        "ACL", "SETUSER", "voice", "on", ">secret", "~{recovery:*", "resetchannels", "&{recovery:*", *rules
    )
    return url.replace("unix://", "unix://voice:secret@", 1)


def test_a_plain_server_is_fit(url: str, server: Any) -> None:
    """A server with nothing wrong but persistence and memory limits is fit, and says what to do about those."""
    status, findings = doctor(url)

    assert status == 0
    assert {f["level"] for f in findings.values()} <= {"ok", "warn"}
    assert findings["persistence"]["level"] == "warn"
    assert "appendonly" in findings["persistence"]["advice"]
    assert findings["clock"]["level"] == "ok"
    assert findings["latency"]["found"].startswith("round trip p50")


def test_nothing_is_left_in_the_store(url: str, server: Any) -> None:
    """The rights are tried out without leaving a key."""
    doctor(url)

    assert server.dbsize() == 0


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_an_evicting_server_is_not_fit(url: str, server: Any, policy: Any) -> None:
    """Any policy that evicts fails."""
    server.config_set("maxmemory-policy", policy)
    status, findings = doctor(url)

    assert status == 1
    assert findings["eviction"]["level"] == "fail"


def test_little_memory_left_is_a_warning(url: str, server: Any) -> None:
    """Less than a fifth of maxmemory free is worth a warning."""
    server.config_set("maxmemory", int(server.info("memory")["used_memory"] * 1.1))
    _, findings = doctor(url)

    assert findings["memory"]["level"] == "warn"


def test_missing_rights_are_named(url: str, server: Any) -> None:
    """A user that may not run scripts or publish is told so, with the rule to add."""
    status, findings = doctor(as_user(server, url, "+@all", "-eval", "-publish"))

    assert status == 1
    for program in ("worker", "coordinator", "operator"):
        found = findings[f"rights: {program}"]
        assert (found["level"], found["advice"]) == ("fail", "ACL SETUSER voice +eval +publish")
    assert findings["rights: reader"]["level"] == "ok"


def test_a_line_that_gives_a_right_can_be_copied(url: str, server: Any) -> None:
    """It stands whole below the table, however narrow that is, and the advice of other findings stays in it."""
    told = CliRunner().invoke(app, ["doctor", "--redis-url", as_user(server, url, "+@all", "-eval", "-publish")])

    assert told.stdout.splitlines().count("ACL SETUSER voice +eval +publish") == 1


def test_a_refused_config_is_unknown_and_no_failure(url: str, server: Any) -> None:
    """Managed services refuse CONFIG GET: what follows from it is unknown, and the server may be fit."""
    status, findings = doctor(as_user(server, url, "+@all", "-config"))

    assert status == 0
    assert findings["persistence"]["level"] == "unknown"


def test_what_info_would_tell_is_unknown_without_it(url: str, server: Any) -> None:
    """No figure is made up when INFO is refused."""
    _, findings = doctor(as_user(server, url, "+@all", "-info"))

    assert findings["INFO"]["level"] == "fail"
    assert {findings[name]["level"] for name in ("version", "role", "persistence", "memory")} == {"unknown"}
    assert "0 MB" not in json.dumps(findings)


def test_other_partitions_than_stored_are_a_failure(url: str, server: Any) -> None:
    """A number of partitions that differs from the stored one is found before a start runs into it."""
    values = {"partitions": "4", "protocol": str(PROTOCOL), "lineage": "ab" * 16}
    server.hset(Keys("recovery", 0).meta, mapping=values)
    status, findings = doctor(url, "--partitions", "2")

    assert status == 1
    assert findings["stored"]["level"] == "fail"
    assert "set it to 4" in findings["stored"]["advice"]


def test_an_unreachable_server_has_its_own_status(tmp_path: Path) -> None:
    """No server there: one finding, and exit status 3."""
    status, findings = doctor(f"unix://{tmp_path}/nobody.sock")

    assert status == 3
    assert findings["reachable"]["level"] == "fail"


def test_a_password_is_never_shown(url: str, server: Any) -> None:
    """The findings show the URL without its password."""
    _, findings = doctor(as_user(server, url, "+@all"))

    assert "secret" not in json.dumps(findings)


def test_what_is_accepted_does_not_fail(url: str, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """INFO is forbidden, and WITHOUT_INFO says that this is known: programs start, so it is a warning."""
    monkeypatch.setenv("COORDINATOR_WITHOUT_INFO", "true")
    _, findings = doctor(as_user(server, url, "+@all", "-info"))

    assert findings["INFO"]["level"] == "warn"
    assert "WITHOUT_INFO" in findings["INFO"]["found"]


def test_every_line_fits_a_terminal_of_80_columns(url: str, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to do stands below what was found, and nothing is cut off."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("coordinator.cli.doctor.console", lambda **options: Writer(width=80, highlight=False))
    said = CliRunner().invoke(app, ["doctor", "--redis-url", url]).stdout

    assert max(map(len, said.splitlines())) <= 80
    assert "-> switch on AOF" in said
    assert "keeps only what living workers state again" in " ".join(said.split())


@pytest.mark.anyio
async def test_each_server_of_a_cluster_is_looked_at() -> None:
    """One of three evicts, and one is no better known: the gravest is told, and of which partitions' server it is."""
    with cluster() as (url, nodes):
        owner = MovingSlot(nodes, Keys("recovery", 2).tag).source
        owner.client.config_set("maxmemory-policy", "allkeys-lru")
        found = {one.check: one for one in await examine(load(redis_url=url, partitions=3))}
        assert (found["eviction"].level, "(the server of partition" in found["eviction"].found) == ("fail", True)
        assert "2" in found["eviction"].found.partition("partition")[2]
        for node in nodes:
            node.client.config_set("cluster-require-full-coverage", "no")
        owner.close()
        await eventually(lambda: others_see_it_gone(nodes, owner), 30)
        away = await examine(load(redis_url=url, partitions=3))
        assert [one.found for one in away if one.level == "fail"] == [
            one.found for one in away if one.check == "reachable"
        ]
        assert all("partition" in one.found for one in away if one.check == "reachable")
        assert "eviction" in {one.check for one in away}, "the others are looked at all the same"


def others_see_it_gone(nodes: list[Node], gone: Node) -> bool:
    """Its neighbours have taken it for failed."""
    told = [node.client.execute_command("CLUSTER NODES") for node in nodes if node is not gone]
    return all("fail" in str(rows) and "fail?" not in str(rows) for rows in told)


def test_what_the_server_refuses_is_advised_by_its_kind(url: str, server: Any) -> None:
    """A primary without the replicas that it needs is no matter of the network or the password."""
    server.config_set("min-replicas-to-write", 1)
    try:
        status, findings = doctor(url)
    finally:
        server.config_set("min-replicas-to-write", 0)

    assert status == 3
    assert "min-replicas-to-write" in findings["reachable"]["advice"]


async def never(*words: Any) -> Never:
    """A server that is not to be asked."""
    raise AssertionError(f"asks nothing, not {words}")


@pytest.mark.anyio
async def test_a_replicated_primary_that_writes_alone_is_a_warning() -> None:
    """What it acknowledges may be lost by the next failover; where writes need a replica, or there is none, all is well."""
    server = Server(never, Keys("recovery", 0), 1, PROTOCOL)
    for more, level in (
        ({"connected_slaves": "2"}, "warn"),
        ({"connected_slaves": "2", "min_slaves_good_slaves": "2"}, "ok"),
        ({"connected_slaves": "0", "min_slaves_good_slaves": "0"}, "ok"),
        ({"connected_slaves": "0"}, "ok"),
        ({"role": "slave"}, "unknown"),
    ):
        server.info = {"role": "master", **more}
        assert (await replication(server)).level == level, more
    waits = Server(never, Keys("recovery", 0), 1, PROTOCOL, wanted=2)
    for count, level in (("1", "warn"), ("2", "ok")):
        waits.info = {"role": "master", "connected_slaves": count, "min_slaves_good_slaves": count}
        assert (await replication(waits)).level == level, count


@pytest.mark.anyio
@pytest.mark.parametrize(("setting", "level"), [("yes", "warn"), ("no", "ok"), (None, "unknown")])
async def test_a_cluster_that_stops_as_a_whole_is_a_warning(setting: str | None, level: str) -> None:
    """cluster-require-full-coverage, which is on by default; where it is not told, it is not known."""

    async def told(*words: Any) -> Any:
        assert words == ("CONFIG", "GET", "cluster-require-full-coverage")
        return [] if setting is None else [words[2].encode(), setting.encode()]

    server = Server(told, Keys("recovery", 0), 1, PROTOCOL)
    server.info = {"cluster_enabled": "1"}
    assert (await coverage(server)).level == level
    assert (await coverage(Server(never, Keys("recovery", 0), 1, PROTOCOL))).level == "ok"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({"redis_version": "6.0.16"}, "fail"),
        ({"redis_version": "6.2.0"}, "ok"),
        ({"redis_version": "8.0.1"}, "ok"),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.1"}, "ok"),
        ({}, "unknown"),
    ],
)
async def test_versions(info: Any, level: Any) -> None:
    """6.2 is the oldest Redis that will do; Valkey will."""
    server = Server(never, Keys("recovery", 0), 1, PROTOCOL)
    server.info = info

    assert (await version(server)).level == level
