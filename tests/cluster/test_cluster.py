"""The charts on a real Kubernetes: API server, controllers, kubelet, containers, and pods that die.

Each test goes on where the one before it ended, as an operator would; a network namespace of its own holds all of it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coordinator.version import VERSION
from tests.cluster import images
from tests.cluster.cluster import BINARIES, Cluster, CommandError, missing_means
from tests.kubernetes.chart_docs import CHART, ROOT
from tests.kubernetes.rendering import helm_program

pytestmark = pytest.mark.timeout(400)

WORKER = ROOT / "examples/kubernetes"
TOKEN = "only-for-these-tests-of-the-hook"
CALLS = 30


class Site:
    """A cluster with our charts in it."""

    def __init__(self, cluster: Cluster, helm: str) -> None:
        self.cluster, self._helm = cluster, helm

    def helm(self, *arguments: object) -> str:
        """Its output."""
        return self.cluster.inside(self._helm, *arguments)

    def install(self, verb: str, *more: str) -> str:
        """Installs or upgrades the coordinators, and waits until they are ready."""
        return self.helm(
            *verb.split(), "recovery-coordinator", CHART, "--wait", "--timeout", "120s", "--set", "redis.tryOut.enabled=true",
            "--set", f"redis.tryOut.image={images.REDIS}", "--set", "image.repository=localhost/recovery-coordinator",
            "--set", "podEvents.enabled=true,podEvents.deletionCost=true,podEvents.selector=app in (voice\\,plain)", *more,
        )  # fmt: skip

    def pods(self, selector: str) -> list[Any]:
        """Those that are not going."""
        found = self.cluster.get("pods", "-l", selector)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("podIP")]

    def workers(self) -> dict[str, list[str]]:
        """Which calls live in which pod, as the workers say."""
        found = {}
        for pod in self.pods("app=voice"):
            said = json.loads(self.cluster.fetch(f"http://{pod['status']['podIP']}:8080/calls"))
            found[said["worker"]] = said["calls"]
        return found

    def calls(self) -> list[str]:
        """All calls that some worker speaks for; one that two speak for is there twice."""
        return sorted(call for served in self.workers().values() for call in served)

    def coordinator(self, *arguments: str) -> str:
        """Runs our command where a coordinator runs."""
        return self.cluster.kubectl("exec", "deploy/recovery-coordinator", "--", "coordinator", *arguments)

    def wait_for_calls(self, seconds: float = 60) -> None:
        """Until each call is served once."""
        wanted = sorted(f"call-{n}" for n in range(CALLS))
        self.cluster.wait("each call is served by one worker", lambda: self.calls() == wanted, seconds)

    def events(self, kind: str) -> list[dict[str, str]]:
        """What the store's log of events says."""
        script = (
            "import json, os, redis; r = redis.Redis.from_url(os.environ['COORDINATOR_REDIS_URL'], decode_responses=True);"
            "print(json.dumps([f for _, f in r.xrange('{recovery:0}:events')]))"
        )
        said = self.cluster.kubectl(
            "exec", "deploy/recovery-coordinator", "--", "/opt/coordinator/bin/python", "-c", script
        )
        return [event for event in json.loads(said) if event["type"] == kind]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Coordinators, a Redis to try out, and three workers with calls."""
    missing = missing_means()
    if missing:
        pytest.skip(f"this machine cannot run a cluster; it lacks {', '.join(missing)}")
    helm = helm_program()
    with tempfile.TemporaryDirectory(prefix="cluster-") as name:
        root = Path(name) / "node"
        root.mkdir()
        wanted = (images.pause(BINARIES / "pause"), images.build(), images.build_redis(), images.BASE)
        archives = [images.save(image, Path(name)) for image in wanted]
        with Cluster(root) as cluster:
            for archive in archives:
                cluster.load(archive)
                archive.unlink()
            found = Site(cluster, helm)
            try:
                yield found
            finally:
                logs = ROOT / "build/cluster-logs"
                shutil.rmtree(logs, ignore_errors=True)
                shutil.copytree(root / "logs", logs)
                shutil.copytree(root / "pods", logs / "pods", symlinks=True)


def test_install(site: Site) -> None:
    """helm install brings two ready coordinators; helm test passes; the notes name the next step."""
    said = site.install("install")
    assert "helm test recovery-coordinator" in said
    assert len(site.pods("app.kubernetes.io/component=coordinator")) == 2
    tested = site.helm("test", "recovery-coordinator", "--timeout", "60s")
    assert "Phase:          Succeeded" in tested
    assert "alive" in site.coordinator("instances", "--json") or site.coordinator("status")


def test_workers(site: Site) -> None:
    """The example's workers start behind their sidecars, register, and take calls."""
    subprocess.run(
        [site._helm, "dependency", "build", str(WORKER)], check=True, capture_output=True, env=site.cluster.env
    )
    site.helm(
        "install", "voice", WORKER, "--wait", "--timeout", "120s", "--set", f"image={images.BASE}", "--set",
        f"recovery.image.repository=localhost/recovery-coordinator,recovery.image.tag={VERSION}", "--set",
        "recovery.redis.existingSecret=,recovery.redis.url=redis://recovery-coordinator-redis:6379/0", "--set",
        f"recovery.drainToken={TOKEN}", "--set", "recovery.drainTimeoutSeconds=20",
    )  # fmt: skip
    doors = [pod["status"]["podIP"] for pod in site.pods("app=voice")]
    for n in range(CALLS):
        site.cluster.inside("curl", "-sS", "-X", "POST", f"http://{doors[n % 3]}:8080/calls/call-{n}")
    site.wait_for_calls()
    metrics = site.cluster.fetch(f"http://{doors[0]}:9410/metrics")
    assert "recovery_sidecar_workers 1.0" in metrics


def test_a_stranger_cannot_drain(site: Site) -> None:
    """The hook's port answers 401 without its token, and the sidecar's calls 401 from outside the pod."""
    address = site.pods("app=voice")[0]["status"]["podIP"]
    for port, path in ((9411, "/prestop"), (9410, "/v1/drain")):
        said = site.cluster.inside(
            "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"http://{address}:{port}{path}"
        )
        assert said == "401"


def test_deleting_a_pod_hands_its_calls_over(site: Site) -> None:
    """The preStop hook drains: every call moves while its owner still serves, none is ever an orphan."""
    pod, calls = max(site.workers().items(), key=lambda pair: len(pair[1]))
    assert calls
    before = len(site.events("orphaned"))
    site.cluster.kubectl("delete", "pod", pod, "--wait=true", "--timeout=60s")
    site.wait_for_calls()
    assert pod not in site.workers()
    assert len(site.events("orphaned")) == before


def test_a_rolling_restart_loses_no_call(site: Site) -> None:
    """kubectl rollout restart of the workers: all pods are new, and each call lives, without ever having been an orphan."""
    old, before = set(site.workers()), len(site.events("orphaned"))
    site.cluster.kubectl("rollout", "restart", "deploy/voice")
    site.cluster.kubectl("rollout", "status", "deploy/voice", "--timeout=180s")

    def names() -> set[str]:
        return {pod["metadata"]["name"] for pod in site.cluster.get("pods")["items"]}

    site.cluster.wait("the old pods are gone", lambda: not old & names(), 90)
    site.wait_for_calls()
    assert len(site.events("orphaned")) == before


def test_a_killed_worker(site: Site) -> None:
    """SIGKILL of a worker's process: the sidecar certifies, and the others adopt its calls."""
    pod, calls = max(site.workers().items(), key=lambda pair: len(pair[1]))
    [status] = next(p for p in site.pods("app=voice") if p["metadata"]["name"] == pod)["status"]["containerStatuses"]
    site.cluster.ctr("tasks", "kill", "--signal", "SIGKILL", status["containerID"].removeprefix("containerd://"))

    def adopted() -> set[str]:
        return {event["session"] for event in site.events("adopted")}

    site.cluster.wait("others have adopted its calls", lambda: adopted() >= set(calls), 30)
    site.wait_for_calls()


def test_a_killed_sidecar_twice_in_a_row(site: Site) -> None:
    """SIGKILL of the sidecar alone: the kubelet starts it again, the second time after a pause; its worker's calls stay."""
    pod, calls = max(site.workers().items(), key=lambda pair: len(pair[1]))
    assert calls

    def owners() -> dict[str, tuple[str, int]]:
        rows = json.loads(site.coordinator("sessions", "--json"))["sessions"]
        return {row["id"]: (row["owner"], row["epoch"]) for row in rows if row["id"] in calls}

    owned = owners()
    assert set(owned) == set(calls)
    before = {kind: len(site.events(kind)) for kind in ("died", "orphaned")}

    def sidecar() -> Any:
        found = next(p for p in site.pods("app=voice") if p["metadata"]["name"] == pod)
        [status] = [one for one in found["status"]["initContainerStatuses"] if one["name"] == "recovery-sidecar"]
        return status

    def stands_for_it_again(restarts: int) -> bool:
        if sidecar()["restartCount"] != restarts:
            return False
        [address] = [p["status"]["podIP"] for p in site.pods("app=voice") if p["metadata"]["name"] == pod]
        return "recovery_sidecar_workers 1.0" in site.cluster.fetch(f"http://{address}:9410/metrics")

    for _ in range(2):
        status = sidecar()
        site.cluster.ctr("tasks", "kill", "--signal", "SIGKILL", status["containerID"].removeprefix("containerd://"))
        site.cluster.wait(
            "it stands for its worker again", partial(stands_for_it_again, status["restartCount"] + 1), 60
        )
        site.wait_for_calls()
        assert set(site.workers()[pod]) == set(calls)
    assert {kind: len(site.events(kind)) for kind in before} == before
    assert owners() == owned


def test_drain_by_an_operator(site: Site) -> None:
    """coordinator drain --wait moves one worker's calls to the others; its pod lives on, empty."""
    pod, calls = max(site.workers().items(), key=lambda pair: len(pair[1]))
    assert calls
    said = site.coordinator("drain", pod, "--wait")
    assert pod in said
    site.cluster.wait("it is empty", lambda: site.workers()[pod] == [], 30)
    site.wait_for_calls()


def test_pod_events(site: Site) -> None:
    """The role suffices: pods are watched, and each one's number of calls stands in its annotation for scale-downs."""

    def up(pod: Any) -> bool:
        return "recovery_pod_watch_up 1.0" in site.cluster.fetch(f"http://{pod['status']['podIP']}:9410/metrics")

    for pod in site.pods("app.kubernetes.io/component=coordinator"):
        site.cluster.wait("the coordinator watches pods", partial(up, pod), 30)

    def agree() -> bool:
        costs = {
            pod["metadata"]["name"]: int(
                pod["metadata"].get("annotations", {}).get("controller.kubernetes.io/pod-deletion-cost", "0")
            )
            for pod in site.pods("app=voice")
        }
        return costs == {name: len(calls) for name, calls in site.workers().items()}

    site.cluster.wait("the annotations say how many calls live where", agree, 120)


PLAIN = """
import os, signal, anyio, redis
from coordinator import Worker
signal.signal(signal.SIGTERM, signal.SIG_IGN)
async def serve(session):
    await anyio.sleep_forever()
async def main():
    async with Worker(os.environ["REDIS_URL"], name=os.environ["NAME"], pool="plain", lost_connection_after=0) as worker:
        client = redis.Redis.from_url(os.environ["REDIS_URL"])
        if client.set("first", 1, nx=True, ex=60):
            await worker.open("plain-call", b"data")
        await worker.serve(serve)
anyio.run(main)
"""


def test_the_end_of_a_pod_is_a_certificate(site: Site) -> None:
    """Workers with the library, without a sidecar, where only silence would tell: the kubelet's word that a pod ended comes first."""
    name = {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    url = {"name": "REDIS_URL", "value": "redis://recovery-coordinator-redis:6379/0"}
    container = {
        "name": "worker", "image": images.IMAGE, "command": ["/opt/coordinator/bin/python", "-c", PLAIN], "env": [name, url],
    }  # fmt: skip
    template = {
        "metadata": {"labels": {"app": "plain"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    }  # fmt: skip
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "plain"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "plain"}}, "template": template},
    }  # fmt: skip
    site.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(deployment))
    site.cluster.kubectl("rollout", "status", "deploy/plain", "--timeout=60s")

    def owner() -> str:
        return str(json.loads(site.coordinator("session", "plain-call", "--json"))["owner"])

    site.cluster.wait("the call has an owner", lambda: bool(owner()), 30)
    first = owner()
    site.cluster.kubectl("delete", "pod", first.partition("~")[0], "--wait=false")
    site.cluster.wait("the other has the call", lambda: owner() not in ("", first), 30)
    [died] = [event for event in site.events("died") if event["instance"] == first]
    assert (died["cause"], died["reason"].startswith(f"pod {first.partition('~')[0]}")) == ("exited", True)
    site.cluster.kubectl("delete", "deployment", "plain")


def test_upgrade_and_rollback_of_the_coordinators(site: Site) -> None:
    """Other settings, then back: no call is lost or moved meanwhile; values that do not exist are refused."""
    before = site.workers()
    site.install("upgrade", "--set", "settings.dead_after=3s,settings.log_level=debug,replicaCount=3")
    assert len(site.pods("app.kubernetes.io/component=coordinator")) == 3
    site.helm("rollback", "recovery-coordinator", "1", "--wait", "--timeout", "120s")
    site.cluster.wait("two are left", lambda: len(site.pods("app.kubernetes.io/component=coordinator")) == 2, 60)
    assert site.workers() == before
    with pytest.raises(CommandError, match="dead_afer"):
        site.install("upgrade", "--set", "settings.dead_afer=3s")


def test_uninstall(site: Site) -> None:
    """Both charts go and leave nothing of theirs behind."""
    site.helm("uninstall", "voice", "--wait", "--timeout", "120s")
    site.helm("uninstall", "recovery-coordinator", "--wait", "--timeout", "120s")
    kinds = "deployments,services,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets"
    left = {item["metadata"]["name"] for item in site.cluster.get(kinds)["items"]}
    assert left <= {"kubernetes", "default", "kube-root-ca.crt"}
