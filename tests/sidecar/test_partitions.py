"""A sidecar whose number of partitions is not the store's."""

from __future__ import annotations

import contextlib

from coordinator.store.keys import Keys
from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.waiting import wait_until


def test_a_wrong_number_is_the_sidecars_own_fault(server: RedisServer) -> None:
    """It is not ready and says why, a worker is told 503, and nothing is left behind; once the number is right it is ready."""
    redis, meta = server.client(), Keys("recovery", 0).meta
    with contextlib.closing(Sidecar(server)) as right, contextlib.closing(Client(right.path)) as client:
        assert client.register("first-1").status_code == 201  # the partition is made
        wrong = Sidecar(server, "--partitions", "3", ready=False)
        with contextlib.closing(wrong), contextlib.closing(Client(wrong.path)) as caller:
            wait_until(lambda: "made with 1" in caller("GET", "/readyz").text)
            assert caller("GET", "/readyz").status_code == 503
            refused = caller.register("second-1")
            assert (refused.status_code, "made with 1" in refused.text) == (503, True)
            assert "partitions_differ" in wrong.log.read_text()
            assert list(redis.scan_iter("{recovery:*}:meta")) == [meta.encode()]
        redis.hset(meta, "partitions", "3")
        wait_until(lambda: "made with 3" in client("GET", "/readyz").text)
        redis.hset(meta, "partitions", "1")
        wait_until(lambda: client("GET", "/readyz").status_code == 200)
