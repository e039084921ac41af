"""A shard of a Cluster that is down is the matter of its own partitions."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

from coordinator.ids import partition_of
from tests.faults.deployment import Deployment
from tests.faults.places import ClusterPlace, keys_of
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.waiting import wait_until


def test_the_dead_of_other_shards_are_found_meanwhile() -> None:
    """Two servers are away for as long as it takes: elsewhere a worker's calls are adopted, without a hold; then those here, too.

    Nobody is taken out of service for it: coordinators and sidecars stay ready.
    """
    place = ClusterPlace(6, coverage=False)
    with (
        Deployment(place=place, calls=12) as d,
        contextlib.closing(Sidecar(place.url("worker"), "--partitions", "6")) as sidecar,
        contextlib.closing(Client(sidecar.path)) as client,
    ):
        primary = place.primary()
        down = [primary, *place.replicas(primary)]
        there = {n for n in range(6) if place.primary(n) is primary}
        elsewhere = [call for call in d.calls[0] if partition_of(call, 6) not in there]
        here = [call for call in d.calls[0] if call not in elsewhere]
        assert here
        assert elsewhere
        for node in down:
            node.close()
        d.kill(0)

        def adopted(calls: list[str]) -> bool:
            found = d.records(calls, "state", "owner").values()
            return all(state == "active" and owner not in d.ids[0] for state, owner in found)

        wait_until(lambda: adopted(elsewhere), 20, "the calls of other shards are adopted")
        assert not any(node.answers for node in down)
        wait_until(lambda: sidecar.log.read_text().count('"store_unavailable"') == len(there), 20, "the sidecar tells")
        assert client("GET", "/readyz").status_code == 200
        for partition in {*range(6)} - there:
            held = [fields[b"reason"] for _, fields in place.client(partition).xrange(keys_of(partition).events)
                    if fields[b"type"] == b"hold"]  # fmt: skip
            assert held == [b"start"]
        told = subprocess.run(
            [sys.executable, "-m", "coordinator", "status", "--json", "--partitions", "6", "--redis-url", place.url("reader")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        shown = json.loads(told.stdout)
        assert told.returncode == 3
        assert {row["partition"] for row in shown["partitions"]} == {*range(6)} - there
        assert {int(partition) for partition in shown["unavailable"]} == there
        for node in down:
            node.start()
        wait_until(place.is_well, 60, "the cluster is well")
        wait_until(d.stated_again, 60, "every call is served")
        assert adopted(here)
        assert d.finish() == []
