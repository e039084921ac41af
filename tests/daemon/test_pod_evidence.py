"""What a pod proves: only what its kubelet said of every container, and only of instances that were there before."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.daemon.pod_evidence import COST_ANNOTATION, Pod, certified, deletion_costs, end_of, withheld
from coordinator.store.reads import InstanceRow
from tests.daemon.fake_api_server import OF_REPLICA_SET, OF_STATEFUL_SET, RUNNING, ended, pod_object, terminated

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
NOON_MS = round(NOON.timestamp() * 1000)
OF_JOB = {"apiVersion": "batch/v1", "kind": "Job", "name": "dial", "uid": "job", "controller": True}
OF_SOMEBODY = {
    "apiVersion": "apps.kruise.io/v1alpha1",
    "kind": "ReplicaSet",
    "name": "x",
    "uid": "x",
    "controller": True,
}


def row(
    name: str, started_ms: int = NOON_MS - 60_000, state: str = "alive", owned: int = 0, **labels: str
) -> InstanceRow:
    return InstanceRow(
        f"{name}~1", name, 0, state, "default", 10, owned, "", 0, 0, 0, started_ms, 0, "", 750, 2000, 0, labels
    )  # fmt: skip


def over(pod: dict[str, Any], phase: str = "Failed") -> dict[str, Any]:
    return ended(pod, phase, NOON)


def ids(pod: dict[str, Any], *rows: InstanceRow) -> list[str]:
    return list(certified([Pod.parse(pod)], rows))


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_ended_certifies(phase: str) -> None:
    """A phase that is an end, with every container terminated, is proof of the exit."""
    assert ids(over(pod_object("voice-1"), phase), row("voice-1"), row("voice-2")) == ["voice-1~1"]


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown", "", None, "Evicted", 7])
def test_another_phase_is_no_end(phase: Any) -> None:
    """A container that ended in a pod that goes on is started again: no proof, however the pod went."""
    assert ids(over(pod_object("voice-1"), phase), row("voice-1")) == []


def test_a_container_that_runs_is_no_end() -> None:
    """PodGC and a forced deletion leave containers as they were last seen; one that ran may run."""
    pod = over(pod_object("voice-1", worker=RUNNING, helper=RUNNING))
    pod["status"]["containerStatuses"][1]["state"] = RUNNING
    assert ids(pod, row("voice-1")) == []
    assert end_of(pod) == (0, "container helper is said to be running")


@pytest.mark.parametrize("kind", ["initContainerStatuses", "ephemeralContainerStatuses"])
def test_a_container_of_another_kind_that_runs_is_no_end(kind: str) -> None:
    """An init container that runs comes before another start of the worker, and one for debugging means that the pod lives."""
    pod = over(pod_object("voice-1"))
    pod["status"][kind] = [{"name": "other", "state": RUNNING}]
    assert ids(pod, row("voice-1")) == []


def test_a_native_sidecar_must_have_ended_too() -> None:
    """An init container that restarts always is one of those that run a worker; an ordinary one is not asked for."""
    pod = over(pod_object("voice-1"))
    pod["spec"]["initContainers"] = [{"name": "setup"}, {"name": "recovery", "restartPolicy": "Always"}]
    assert end_of(pod) == (0, "container recovery was not seen to end")
    pod["status"]["initContainerStatuses"] = [{"name": "recovery", "state": terminated(NOON)}]
    assert ids(pod, row("voice-1")) == ["voice-1~1"]


@pytest.mark.parametrize(
    "state", [{}, {"waiting": {"reason": "CrashLoopBackOff"}}, terminated(NOON, "ContainerStatusUnknown"), {"terminated": {}}, None]
)  # fmt: skip
def test_a_container_that_nobody_saw_end_is_no_end(state: Any) -> None:
    """Waiting, lost or without a time of its end: the kubelet did not see it exit."""
    pod = over(pod_object("voice-1"))
    pod["status"]["containerStatuses"][0]["state"] = state
    assert ids(pod, row("voice-1")) == []


def test_a_pod_without_statuses_proves_nothing() -> None:
    """Kubelets of old told an eviction without statuses, and PodGC knows none of a node that is gone."""
    pod = over(pod_object("voice-1"))
    pod["status"]["containerStatuses"] = []
    assert ids(pod, row("voice-1")) == []
    pod["spec"]["containers"] = []
    assert end_of(pod) == (0, "it has no containers")


def test_what_the_control_plane_ended_without_the_node_is_no_proof() -> None:
    """PodGC writes Failed for a node that is gone; a container that was between two starts may run there."""
    pod = over(pod_object("voice-1"))
    pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}]
    assert ids(pod, row("voice-1")) == []
    pod["status"]["conditions"][0]["reason"] = "TerminationByKubelet"
    assert ids(pod, row("voice-1")) == ["voice-1~1"]


def test_an_instance_that_came_later_was_not_in_it() -> None:
    """Who registered after the last container ended runs in something else, whatever its name."""
    pod = over(pod_object("voice-1"))
    assert ids(pod, row("voice-1", NOON_MS + 999)) == ["voice-1~1"], "times of containers are whole seconds"
    assert ids(pod, row("voice-1", NOON_MS + 1000)) == []
    assert ids(pod, row("voice-1", 0)) == [], "unknown"
    late = [row("voice-1", NOON_MS + 1000), row("voice-2", NOON_MS + 1000), row("voice-1", state="dead")]
    assert list(withheld([Pod.parse(pod)], late)) == ["voice-1~1"]
    assert withheld([Pod.parse(pod)], [row("voice-1")]) == {}


@pytest.mark.parametrize("owner", [OF_STATEFUL_SET, OF_SOMEBODY, None, {**OF_REPLICA_SET, "controller": False}])
def test_names_that_come_again_need_the_uid(owner: dict[str, Any] | None) -> None:
    """A StatefulSet, a stranger or a person may give the same name again: the name alone proves nothing, the uid does."""
    pod = over(pod_object("voice-0", "u1", owner))
    assert ids(pod, row("voice-0")) == []
    assert ids(pod, row("voice-0", pod_uid="u1")) == ["voice-0~1"]


@pytest.mark.parametrize("owner", [OF_REPLICA_SET, OF_JOB])
def test_the_uid_counts_where_there_is_one(owner: dict[str, Any]) -> None:
    """With the label the uid must be equal, though the name is; an empty label is none."""
    pod = over(pod_object("voice-1", "u1", owner))
    assert ids(pod, row("voice-1", pod_uid="u2")) == []
    assert ids(pod, row("voice-1", pod_uid="")) == ["voice-1~1"]
    assert ids(pod, row("another", pod_uid="u1")) == ["another~1"], "several instances of one pod have other names"


def test_the_newer_pod_of_the_same_name_keeps_its_instance() -> None:
    """The end of the pod before does not touch the instance in the next, though both are of one StatefulSet."""
    before, after = (pod_object("voice-0", uid, OF_STATEFUL_SET) for uid in ("u1", "u2"))
    pods = [Pod.parse(over(before)), Pod.parse(after)]
    rows = [row("voice-0", pod_uid="u2"), row("voice-0x", pod_uid="u1")]
    assert list(certified(pods, rows)) == ["voice-0x~1"]


def test_the_dead_are_not_certified_again() -> None:
    """Whoever is dead already is left alone; one that drains is not."""
    pod = over(pod_object("voice-1"))
    assert ids(pod, row("voice-1", state="dead")) == []
    assert ids(pod, row("voice-1", state="draining")) == ["voice-1~1"]


def test_what_a_pod_costs() -> None:
    """The sessions of its living instances in all partitions; nothing of pods that leave, or that no ReplicaSet scales."""
    pods = [
        pod_object("voice-1"),
        pod_object("voice-2"),
        pod_object("voice-0", owner=OF_STATEFUL_SET),
        pod_object("web"),
    ]
    leaving = pod_object("voice-3")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    rows = [
        row("voice-1", owned=3),
        row("voice-1", owned=4),
        row("voice-2"),
        row("voice-3", owned=9),
        row("voice-0", owned=9),
    ]
    rows.append(row("voice-2", state="dead", owned=7))
    assert deletion_costs(map(Pod.parse, [*pods, leaving, over(pod_object("voice-4"))]), rows) == {
        "uid-of-voice-1": 7,
        "uid-of-voice-2": 0,
    }
    assert deletion_costs([Pod.parse(pods[0])], [row("voice-1", owned=2**40)]) == {"uid-of-voice-1": 2**31 - 1}


def test_the_annotation_is_read() -> None:
    """An annotation that is absent or no number counts as 0, as for Kubernetes."""
    pod = pod_object("voice-1")
    assert Pod.parse(pod).cost == 0
    for text, cost in (("12", 12), ("-3", -3), ("many", 0), (5, 0)):
        pod["metadata"]["annotations"] = {COST_ANNOTATION: text}
        assert Pod.parse(pod).cost == cost


@pytest.mark.parametrize("field", ["name", "uid", "resourceVersion"])
def test_what_is_no_pod_is_refused(field: str) -> None:
    """An object without name, uid or version is not taken for a pod."""
    pod = pod_object("voice-1")
    del pod["metadata"][field]
    with pytest.raises(ValueError, match="a pod without name, uid or version"):
        Pod.parse(pod)


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
KEYS = st.sampled_from(["name", "state", "terminated", "kind", "controller", "reason", "status", ""])
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)
PLACES = (
    "spec", "spec.containers", "spec.initContainers", "status", "status.conditions", "status.containerStatuses",
    "status.initContainerStatuses", "metadata.ownerReferences", "metadata.annotations",
)  # fmt: skip


@given(path=st.sampled_from(PLACES), junk=JSON)
def test_nonsense_raises_nothing_and_never_adds_proof(path: str, junk: Any) -> None:
    """Whatever stands in a field, a pod that runs certifies nobody, and one that ended is read without an error."""
    for pod in (pod_object("voice-1"), over(pod_object("voice-1"))):
        runs = pod["status"]["phase"] == "Running"
        at = pod
        *before, last = path.split(".")
        for step in before:
            at = at[step]
        at[last] = junk
        found = certified([Pod.parse(pod)], [row("voice-1")])
        assert not (runs and found)


CONTAINER = st.sampled_from(
    [RUNNING, {"waiting": {}}, {}, terminated(NOON), terminated(NOON, "ContainerStatusUnknown")]
)


@given(
    phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    states=st.lists(CONTAINER, min_size=1, max_size=4),
    owner=st.sampled_from([OF_REPLICA_SET, OF_STATEFUL_SET, OF_JOB, None]),
    label=st.sampled_from([{}, {"pod_uid": "u1"}, {"pod_uid": "u2"}]),
    name=st.sampled_from(["voice-1", "voice-2"]),
    late=st.integers(min_value=-100_000, max_value=100_000),
)
def test_a_certificate_has_every_reason(
    phase: str, states: list[dict[str, Any]], owner: dict[str, Any] | None, label: dict[str, str], name: str, late: int
) -> None:
    """An instance is certified exactly when all rules hold: the phase, every container, whose it is, and when it came."""
    pod = pod_object("voice-1", "u1", owner, phase, **{f"c{n}": copy.deepcopy(s) for n, s in enumerate(states)})
    ended_all = all(s.get("terminated", {}).get("reason") == "Error" for s in states)
    mine = label["pod_uid"] == "u1" if label else name == "voice-1" and owner in (OF_REPLICA_SET, OF_JOB)
    expected = phase in ("Succeeded", "Failed") and ended_all and mine and late < 1000
    assert bool(ids(pod, row(name, NOON_MS + late, "alive", 0, **label))) == expected


@given(st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)), st.integers(0, 5))
def test_the_last_container_counts(at: datetime, seconds: int) -> None:
    """A pod ended when its last container did."""
    at = at.replace(tzinfo=UTC, microsecond=0)
    later = at + timedelta(seconds=seconds)
    pod = over(pod_object("voice-1", a=terminated(at), b=terminated(later)))
    pod["status"]["containerStatuses"] = [
        {"name": "a", "state": terminated(at)},
        {"name": "b", "state": terminated(later)},
    ]
    assert end_of(pod) == (round(later.timestamp() * 1000), "")
