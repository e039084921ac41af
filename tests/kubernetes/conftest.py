"""What a coordinator, a sidecar and the exporter really export."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.store.keys import Keys
from tests.acceptance.processes import Process
from tests.deployments import free_port
from tests.kubernetes.monitoring import MISSING, Monitored, answers, fetch
from tests.store.harness import Bench
from tests.waiting import wait_until

Exported = dict[str, dict[str, set[str]]]
"""Sample names, as in PromQL, to their labels and the values that were seen."""


def take(text: str, found: Exported) -> None:
    """Adds the samples of an exposition."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)


@pytest.fixture(scope="session")
def exported() -> Iterator[Exported]:
    """Of started processes, while a hold is on and while there is an orphan, so that no series is absent."""
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)}")
    found: Exported = {}
    made = Monitored()
    port = free_port()
    sidecar = Process(
        "coordinator", "sidecar", "--redis-url", made.server.url, "--http-port", str(port), COORDINATOR_DRAIN_PORT="0"
    )
    client = made.server.client()

    def seen(name: str, *ports: int) -> bool:
        for each in ports:
            take(fetch(each, "/metrics"), found)
        return name in found

    def hold() -> bool:
        """The one of the start may be over before the gauges are set for the first time."""
        soon_ms = client.time()[0] * 1000 + 3000
        client.hset(Keys("recovery", 0).detector, mapping={"hold_until_ms": soon_ms, "hold_reason": "start"})
        return True

    try:
        made.start_coordinators()
        wait_until(lambda: hold() and seen("recovery_hold_active", *made.ports), 20, "a hold is exported")
        bench = Bench(client)
        for instance in ("a~1", "b~1"):
            bench.join(instance)
        bench.open("call-1", "a~1")
        bench.certify("a~1")
        wait_until(lambda: seen("recovery_oldest_orphan_timestamp_seconds", *made.ports), 20, "an orphan is exported")
        wait_until(lambda: seen("recovery_free_slots", *made.ports), 20, "free slots are exported")
        wait_until(answers(port, "/healthz"), 20, "the sidecar answers")
        wait_until(lambda: seen("recovery_sidecar_workers", port), 20, "the sidecar exports its workers")
        wait_until(lambda: seen("redis_script_values", made.exporter_port), 20, "the exporter's script answers")
        yield found
    finally:
        client.close()
        sidecar.close()
        made.close()
