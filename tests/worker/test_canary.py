"""The canary: with keys on, what recovery data says is nowhere but in the programs that serve the call."""

from __future__ import annotations

import ast
import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from coordinator import CoordinatorError, Session, Worker
from coordinator.daemon.partition_loop import PartitionLoop
from coordinator.keyring import KeyRing
from coordinator.store.keys import Keys
from coordinator.store.scripts import SCRIPTS, ScriptCall
from tests import inside
from tests.coordinating import coordinating
from tests.inside import instance_of
from tests.redis_server import RedisServer
from tests.sources import package_nodes
from tests.waiting import eventually
from tests.worker.test_worker import first_offer

KEYS = Keys("recovery", 0)
RING = KeyRing.generate("k1")
PASSWORD = "pass-canary-8271"
NUMBER = "+15550174915"


class Calls:
    """A worker with its child and its heir; each operation says its own canary."""

    def __init__(self, url: str, client: Any, **settings: Any) -> None:
        self._url, self._settings, self.client = url, settings, client
        self.said: list[str] = []
        self.told: list[str] = []
        self.owner: Worker
        self.heir: Worker
        self.child: Worker

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for name in ("child", "heir", "owner"):
                setattr(self, name, await stack.enter_async_context(Worker(self._url, name=name, **self._settings)))
            yield
            instance_of(self.heir).abandon()
            instance_of(self.owner).abandon()

    def canary(self) -> dict[str, Any]:
        self.said.append(f"canary-{len(self.said)}-end")
        return {"said": self.said[-1], "from": NUMBER}

    async def open(self, call: str) -> Session:
        return await self.owner.open(call, self.canary(), tenant="acme")

    async def refused(self, attempt: Awaitable[Any]) -> None:
        with pytest.raises(CoordinatorError) as error:
            await attempt
        self.told += [str(error.value), repr(error.value)]


def staged(session: Session, data: dict[str, Any]) -> None:
    """Not written yet as the session goes away."""
    inside.set_staged(session, str(data).encode())


async def _open(c: Calls) -> None:
    await c.open("opened")


async def _checkpoint(c: Calls) -> None:
    session = await c.open("written")
    await session.checkpoint(c.canary())
    child = await c.child.attach("written", session.epoch)
    await child.checkpoint(c.canary())
    session.stage(c.canary())
    await eventually(lambda: not session.has_staged)
    await c.refused(session.checkpoint({**c.canary(), "pad": "x" * 70_000}))
    await c.refused(session.checkpoint({**c.canary(), "half": "\ud800"}))
    del c.said[-2:]  # never sent


async def _release(c: Calls) -> None:
    session = await c.open("released")
    staged(session, c.canary())
    await session.release("no media")
    offer = await first_offer(c.heir)
    await offer.decline("not now")
    taken = await (await first_offer(c.heir)).adopt()
    assert taken is not None
    await c.refused(session.checkpoint(c.canary()))
    del c.said[-1:]


async def _let_go(c: Calls) -> None:
    session = await c.open("handed-over")
    staged(session, c.canary())
    assert await c.heir.adopt("handed-over", wait=8) is not None


async def _reassert(c: Calls) -> None:
    session = await c.open("restated")
    c.client.flushall()
    c.said.append(c.said[-1])
    await eventually(lambda: c.client.hget(KEYS.session("restated"), "owner") == c.owner.id.encode(), 20)
    await eventually(lambda: session.held, 20)


ROWS: dict[str, Callable[[Calls], Awaitable[None]]] = {
    "open": _open, "checkpoint": _checkpoint, "release": _release, "let_go": _let_go, "reassert": _reassert,
}  # fmt: skip


def test_each_script_that_takes_recovery_data_has_a_row() -> None:
    """A new one without a row here fails."""
    assert {name for name, script in SCRIPTS.items() if "data" in script.header.args} == set(ROWS)


def test_nothing_takes_recovery_data_but_by_the_sealer() -> None:
    """Wherever the package calls one of them, data and encoding come as what `seal` returned, or not at all."""
    found = 0
    for path, nodes in package_nodes(r"\bcalls\.(" + "|".join(ROWS) + r")\b").items():
        for node in nodes:
            name = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            if name not in ROWS or not isinstance(node, ast.Call) or ast.unparse(node.func) != f"calls.{name}":
                continue
            if path == "cli/bench_store.py":  # measures scripts with data of its own
                continue
            found += 1
            assert not {"data", "encoding"} & {keyword.arg for keyword in node.keywords}, f"{path}:{node.lineno}"
            spread = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg is None]
            assert all(".seal(" in one or ".written(" in one for one in spread), f"{path}:{node.lineno}"
    assert found >= len(ROWS)


def everything(
    server: RedisServer, client: Any, loop: PartitionLoop, logs: Any, plain_logs: str, told: list[str]
) -> bytes:
    """All that was ever written into Redis, and all that programs say of themselves."""
    client.save()
    files = [path.read_bytes() for path in Path(server.directory).rglob("*") if path.is_file()]
    slow = repr(client.execute_command("SLOWLOG", "GET", "-1")).encode()
    processes = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _readable(path)]
    said = "\n".join([repr(logs), plain_logs, *told]).encode()
    return b"\n".join([*files, slow, *processes, said, generate_latest(loop.metrics.registry)])


def _readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:  # it has ended
        return False


@pytest.mark.parametrize("sealed", [True, False])
async def test_no_canary_is_ever_seen(sealed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With keys on Redis has been told no recovery data, ever, nor has anybody else; without keys this test finds all of it."""
    sent: dict[str, set[str]] = {}
    evalsha = ScriptCall.evalsha

    def spy(self: ScriptCall[Any]) -> Any:
        args: dict[str, Any] = dict(zip(self.script.header.args, self.args, strict=False))
        if args.get("data"):
            sent.setdefault(self.script.name, set()).add(args["encoding"].split(":")[0])
        return evalsha(self)

    monkeypatch.setattr(ScriptCall, "evalsha", spy)
    options = "--appendonly yes --rdbcompression no --slowlog-log-slower-than 0 --slowlog-max-len 100000"
    server = RedisServer(*options.split(), "--dbfilename", "all.rdb")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    try:
        server.client().config_set("requirepass", PASSWORD)
        client: Any = redis.Redis(unix_socket_path=server.path, password=PASSWORD)
        url = f"unix://:{PASSWORD}@{server.path}"
        c = Calls(url, client, encryption_keys=RING if sealed else None)
        with capture_logs() as logs:
            async with coordinating(url) as loop, c.running():
                for row in ROWS.values():
                    await row(c)
                if sealed:
                    async with Worker(url, name="poor") as poor:
                        await c.refused(poor.adopt("restated", wait=8))
                seen = everything(server, client, loop, logs, stream.getvalue(), c.told)
        assert sent == {name: {"sealed"} if sealed else {"json", "bytes"} & sent[name] for name in ROWS}
        assert [one for one in c.said if one.encode() in seen] == ([] if sealed else c.said)
        assert (NUMBER.encode() in seen) != sealed
        assert PASSWORD.encode() not in seen
        assert RING.partition(":")[2].encode() not in seen
    finally:
        logging.getLogger().removeHandler(handler)
        server.close()
