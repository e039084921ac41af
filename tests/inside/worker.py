"""Inside the worker: its instance, its memberships and its beats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from coordinator.worker.heart import Heart

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import anyio
    import pytest

    from coordinator.store.scripts import ScriptCall
    from coordinator.worker.heart import Beat
    from coordinator.worker.instance import Instance
    from coordinator.worker.membership import Membership
    from coordinator.worker.registration import Registration
    from coordinator.worker.roll_call import RollCall
    from coordinator.worker.sealer import Sealer
    from coordinator.worker.serving import Serving
    from coordinator.worker.worker import Worker
    from coordinator.worker.worker_task import WorkerTask
    from tests.inside.spots import Spot

__all__ = [
    "agreed",
    "beat_call",
    "beat_call_spot",
    "beat_taken_spot",
    "error_of",
    "has_interrupted",
    "hear",
    "hear_no_beats",
    "impatient",
    "instance_of",
    "member_of",
    "members_of",
    "partition_of",
    "sealer_of",
    "serving_of",
    "set_heart_answers",
    "set_right_patience",
    "set_sealer",
    "tick",
    "tick_spot",
    "turn_of",
]

W = TypeVar("W", bound="Worker[Any]")

# -- the worker and its memberships ------------------------------------------------------------------------------------


def instance_of(worker: Worker) -> Instance:
    """What a worker is inside, as a sidecar has it for a program that is another process."""
    return worker._instance


def members_of(worker: Worker) -> Sequence[Membership]:
    """A worker's part in each partition. A program has no use for it: it sees sessions and offers."""
    return worker._instance.members


def member_of(worker: Worker) -> Membership:
    """The same of a worker with one partition."""
    return worker._instance.members[0]


def serving_of(worker: Worker) -> Serving | None:
    """What hands calls to a handler, once `Worker.serve` does; a program only sees its handler being called."""
    return worker._instance.serving


def turn_of(serving: Serving) -> anyio.Lock:
    """What lets handlers begin one after the other: a test that has it keeps adopted calls without a handler, as a busy loop does."""
    return serving._turn


def impatient(worker: W, seconds: float) -> W:
    """The worker, not entered yet, which asks again for so long what the store does not answer, before it raises."""
    worker._instance.patience = seconds
    return worker


def set_right_patience(worker: Worker, seconds: float) -> None:
    """For how long a fenced write is asked for again; what is below zero is taken off the time that is added to it."""
    member_of(worker).writes.patience = seconds


def agreed(member: Membership) -> None:
    """A comparison with the store is done; here without one, which would take fifty beats for fifty of them."""
    member._agreed()


def error_of(task: WorkerTask) -> BaseException | None:
    """What ended a worker's own task, before whoever leaves the worker gets it."""
    return task._error


def has_interrupted(task: WorkerTask) -> bool:
    """Whether the task that entered the worker was cancelled for that error."""
    return task._interrupted


def partition_of(registration: Registration) -> int:
    """In which partition it registers: those of one worker are alike otherwise."""
    return registration._part.keys.partition


def sealer_of(worker: Worker) -> Sealer:
    """What seals for a worker that is not entered."""
    return worker._instance._sealer


def set_sealer(worker: Worker, sealer: Sealer) -> Sealer:
    """Another process goes on as this instance, with other keys; returns what sealed before."""
    member = member_of(worker)
    before = member.sealer
    member.sealer = member.owned.sealer = sealer
    return before


# -- beats -------------------------------------------------------------------------------------------------------------


def hear(member: Membership, beat: Beat) -> None:
    """What became of a beat, as its thread tells it: of one that no store was asked for."""
    member._hear(beat)


def hear_no_beats(patch: pytest.MonkeyPatch, member: Membership) -> None:
    """From now on answers of beats say nothing to a worker; it beats on."""
    patch.setattr(member, "_hear", lambda beat: None)
    member._beating.heard = lambda beat: None


def tick(heart: Heart) -> None:
    """What the thread that beats does each moment while it waits."""
    heart._tick()


def tick_spot() -> Spot:
    """The same, of every heart: a defect there is to be heard."""
    return Heart, "_tick"


def beat_call(heart: Heart, roll: RollCall) -> ScriptCall[Any]:
    """What the next beat for one instance says, without sending it."""
    return heart._call(roll)


def beat_call_spot() -> Spot:
    """Makes the beat for each instance: who stands before it sees which ones are beaten for."""
    return Heart, "_call"


def beat_taken_spot() -> Spot:
    """Takes the answer to a beat: who stands before it says what the store has never said."""
    return Heart, "_take"


def set_heart_answers(heart: Heart, run_many: Callable[[Sequence[ScriptCall[Any]]], Any]) -> None:
    """What a heart sends goes there and not to a store."""
    heart._executor.run_many = run_many  # type: ignore[method-assign,assignment]
