"""What a pod of Kubernetes proves about the instances in it: decisions without input and output.

The proof of an exit is a statement of the kubelet, and nothing else: all containers that can run a worker are
``terminated``, and the pod is in a phase in which none of them is started again. That something is gone is not a proof:

- A pod that ends, is deleted with its grace, evicted or preempted, or whose node shuts down in order: its kubelet stops the
  containers, then writes the phase ``Succeeded`` or ``Failed`` with every container ``terminated``, and only then lets the
  object go (Kubernetes >= 1.27). The phase comes first, so ``DELETED`` adds nothing to it. Proof.
- A force-deleted pod (``--force --grace-period=0``) is gone at once while its containers run: the last status says
  ``running``. No proof. Between two starts of a container it may say ``terminated`` in the phase ``Running``, and the
  kubelet starts it again before it hears of the deletion. No proof either.
- A lost node: no component writes the status, or the control plane does. PodGC sets the phase ``Failed`` and deletes the
  object, and the containers stay as the kubelet last described them, in general ``running``. No proof, and where PodGC
  left its mark (``DeletionByPodGC``) never.
- A watch with a label selector says ``DELETED`` of a pod that lost its label. It runs. No proof.
- A container that is out of memory, crashes or fails its liveness probe is started again in the same pod, under the same
  uid: the pod does not end. The supervisor, a lost connection or silence tells of that instance.
- ``ContainerStatusUnknown``: the kubelet found no trace of the container, and saw no exit. No proof.
- A pod that is absent from a full list proves what its last status proved, and no more.

The order of time is a second guard: an instance that registered after the last container is said to have ended was not in
that container, whatever a status says. (It compares the clocks of the node and of the store. Where they differ, a
certificate may be missing, and the other evidence finds the death.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coordinator.clock import in_ms
from coordinator.states import InstanceState
from coordinator.store.reads import InstanceRow

__all__ = ["COST_ANNOTATION", "UID_LABEL", "Pod", "belongs", "certified", "deletion_costs", "end_of", "withheld"]

COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
"""A ReplicaSet that gets smaller deletes the pods with the lowest value first; 0 where it is absent."""
UID_LABEL = "pod_uid"
"""An instance's label that names the pod it runs in; from the downward API (``metadata.uid``)."""
HIGHEST_COST = 2**31 - 1
ENDED = ("Succeeded", "Failed")
NEVER_REUSED = {("apps", "ReplicaSet"), ("batch", "Job")}
"""Controllers that give each of their pods a name of its own; a StatefulSet or a person may give the same name again."""


@dataclass(frozen=True, slots=True)
class Pod:
    """The facts about a pod that count here.

    Attributes:
        version: its ``resourceVersion``, which changes with each write.
        ended_ms: when the last container ended by its node's clock, in ms since 1970; 0 as long as an end is not proven.
        doubt: why an end is not proven, '' when it is.
        once: no other pod will have this name.
        scaled: a ReplicaSet owns it, and may choose it when it gets smaller.
        leaving: it ended, or its deletion was asked for.
        cost: the annotation, 0 where it is absent or invalid.
    """

    uid: str
    name: str
    version: str
    phase: str
    ended_ms: int
    doubt: str
    once: bool
    scaled: bool
    leaving: bool
    cost: int

    @classmethod
    def parse(cls, pod: Mapping[str, Any]) -> Pod:
        """Reads a pod object of the API; what is odd in it makes doubt, never proof.

        Raises:
            ValueError: it has no name, uid or version.
        """
        about = _mapping(pod.get("metadata"))
        uid, name, version = (about.get(field) for field in ("uid", "name", "resourceVersion"))
        if not (isinstance(uid, str) and isinstance(name, str) and isinstance(version, str) and uid and name):
            raise ValueError("a pod without name, uid or version")
        ended_ms, doubt = end_of(pod)
        phase = _text(_mapping(pod.get("status")).get("phase"))
        owner = _controller(about)
        return cls(
            uid=uid,
            name=name,
            version=version,
            phase=phase,
            ended_ms=ended_ms,
            doubt=doubt,
            once=owner in NEVER_REUSED,
            scaled=owner == ("apps", "ReplicaSet"),
            leaving=bool(about.get("deletionTimestamp")) or phase in ENDED,
            cost=_number(_mapping(about.get("annotations")).get(COST_ANNOTATION)),
        )


def end_of(pod: Mapping[str, Any]) -> tuple[int, str]:
    """When a pod's last container ended, or why that is not known; the rule stands at the head of this module.

    Returns:
        Ms since 1970 by its node's clock and '', or 0 and the doubt.
    """
    spec, status = _mapping(pod.get("spec")), _mapping(pod.get("status"))
    phase = _text(status.get("phase"))
    if phase not in ENDED:
        return 0, f"its phase is {phase or 'not known'}"
    for condition in _mappings(status.get("conditions")):
        if condition.get("reason") == "DeletionByPodGC" and condition.get("status") == "True":
            return 0, "the control plane ended it without its node"
    kinds = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
    states: dict[tuple[str, str], Mapping[str, Any]] = {}
    for kind in kinds:
        for container in _mappings(status.get(kind)):
            name, state = _text(container.get("name")), _mapping(container.get("state"))
            if "running" in state:
                return 0, f"container {name} is said to be running"
            states[kind, name] = state
    needed = [("containerStatuses", _text(container.get("name"))) for container in _mappings(spec.get("containers"))]
    if not needed:
        return 0, "it has no containers"
    for container in _mappings(spec.get("initContainers")):
        if container.get("restartPolicy") == "Always":  # a native sidecar
            needed.append(("initContainerStatuses", _text(container.get("name"))))
    ends = []
    for kind, name in needed:
        last = _mapping(states.get((kind, name), {}).get("terminated"))
        ended_ms = _time_ms(last.get("finishedAt"))
        if not ended_ms or last.get("reason") == "ContainerStatusUnknown":
            return 0, f"container {name} was not seen to end"
        ends.append(ended_ms)
    return max(ends), ""


def belongs(pod: Pod, row: InstanceRow) -> bool:
    """Whether an instance runs, or ran, in this pod and in no other of its name.

    With the label ``pod_uid`` the uid must be equal. Without it the instance's name must be the pod's, and only pods
    whose names are never used again count: a new pod of a StatefulSet has the name of the one that ended.
    """
    if uid := row.labels.get(UID_LABEL):
        return uid == pod.uid
    return pod.once and row.name == pod.name


def certified(pods: Iterable[Pod], rows: Iterable[InstanceRow]) -> dict[str, Pod]:
    """The instances whose end is proven by the end of their pods.

    Args:
        pods: any pods; a pod whose end is not proven certifies no instance.
        rows: the instances of a partition.

    Returns:
        Id of the instance -> the pod that it ended with.
    """
    return {row.id: pod for row, pod in _of_the_ended(pods, rows) if _came_before(pod, row)}


def withheld(pods: Iterable[Pod], rows: Iterable[InstanceRow]) -> dict[str, Pod]:
    """The instances that would be certified, had they not registered after their pods ended; as `certified`."""
    return {row.id: pod for row, pod in _of_the_ended(pods, rows) if not _came_before(pod, row)}


def _of_the_ended(pods: Iterable[Pod], rows: Iterable[InstanceRow]) -> list[tuple[InstanceRow, Pod]]:
    find = _finder([pod for pod in pods if pod.ended_ms])
    return [(row, pod) for row in rows if row.state != InstanceState.DEAD and (pod := find(row)) is not None]


def _came_before(pod: Pod, row: InstanceRow) -> bool:
    return 0 < row.started_at <= pod.ended_ms + 999  # finishedAt is in whole seconds, rounded down


def deletion_costs(pods: Iterable[Pod], rows: Iterable[InstanceRow]) -> dict[str, int]:
    """What it would cost to delete each pod: the sessions that its living instances own.

    Args:
        pods: any pods; only pods of a ReplicaSet that are not leaving have a cost.
        rows: the instances of all partitions.

    Returns:
        Uid -> sessions, for pods in which an instance lives; other pods are left alone.
    """
    find = _finder([pod for pod in pods if pod.scaled and not pod.leaving])
    costs: dict[str, int] = {}
    for row in rows:
        pod = find(row)
        if pod is not None and row.state != InstanceState.DEAD:
            costs[pod.uid] = min(HIGHEST_COST, costs.get(pod.uid, 0) + row.owned)
    return costs


def _finder(pods: list[Pod]) -> Callable[[InstanceRow], Pod | None]:
    by_uid = {pod.uid: pod for pod in pods}
    by_name = {pod.name: pod for pod in pods}

    def find(row: InstanceRow) -> Pod | None:
        pod = by_uid.get(row.labels.get(UID_LABEL, "")) or by_name.get(row.name)
        return pod if pod is not None and belongs(pod, row) else None

    return find


def _controller(about: Mapping[str, Any]) -> tuple[str, str] | None:
    """Group and kind of the controller that made the pod."""
    for owner in _mappings(about.get("ownerReferences")):
        if owner.get("controller") is True:
            return _text(owner.get("apiVersion")).partition("/")[0], _text(owner.get("kind"))
    return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int:
    try:
        return int(value) if isinstance(value, str) else 0
    except ValueError:
        return 0


def _time_ms(value: object) -> int:
    """Ms since 1970 of a time like 2026-01-31T12:00:00Z, 0 if it is invalid."""
    try:
        at = datetime.fromisoformat(_text(value))
    except ValueError:
        return 0
    return max(0, in_ms(at.timestamp())) if at.tzinfo is not None else 0
