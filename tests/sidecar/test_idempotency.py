"""What is kept of answers for requests that are sent again."""

from __future__ import annotations

from http import HTTPStatus

import anyio
import pytest

from coordinator.sidecar.idempotency import ENTRY_BYTES, Answered
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.routing import HttpReply


class Requests:
    """Sends requests, and knows which were carried out."""

    def __init__(self, answered: Answered) -> None:
        self.answered, self.done = answered, list[str]()

    async def send(self, who: str, key: str, size: int = 10, problem: HTTPStatus | None = None) -> HttpReply:
        async def run() -> HttpReply:
            self.done.append(key)
            if problem is not None:
                raise Problem(problem, "no")
            return HttpReply(body=b"x" * size)

        return await self.answered.once(who, key, b"the same", run)


async def test_answers_are_bounded_in_bytes() -> None:
    """However large each is, what is kept has a bound; the newest are kept."""
    answered = Answered(most_bytes=1_000_000)
    requests = Requests(answered)
    for n in range(200):
        await requests.send("w", f"{n}", 65_000)
        assert answered.size <= 1_000_000
    assert len(answered) == 1_000_000 // (65_000 + ENTRY_BYTES)
    assert (await requests.send("w", "199")).body == b"x" * 65_000
    assert requests.done.count("199") == 1


async def test_one_that_is_larger_than_all_is_answered_and_not_kept() -> None:
    """The bound holds for a single answer, too."""
    answered = Answered(most_bytes=1000)
    assert (await Requests(answered).send("w", "k", 5000)).body == b"x" * 5000
    assert (len(answered), answered.size) == (0, 0)


async def test_answers_are_bounded_in_number() -> None:
    """Small ones cost memory as well."""
    answered = Answered(most=10)
    requests = Requests(answered)
    for n in range(50):
        await requests.send("w", f"{n}")
    assert len(answered) == 10


async def test_a_worker_with_many_keys_pushes_out_its_own() -> None:
    """Of the worker that has most the oldest goes: the others' requests stay safe to repeat."""
    requests = Requests(Answered(most_bytes=20 * (1000 + ENTRY_BYTES)))
    await requests.send("quiet", "mine", 1000)
    for n in range(100):
        await requests.send("loud", f"{n}", 1000)
    await requests.send("quiet", "mine", 1000)
    assert requests.done.count("mine") == 1


async def test_who_is_not_known_takes_no_room() -> None:
    """401 and 403 are not kept: a thousand made-up tokens push nobody's answers out; a conflict is answered the same again."""
    answered = Answered(most=10)
    requests = Requests(answered)
    await requests.send("w", "mine")
    for n in range(1000):
        with pytest.raises(Problem):
            await requests.send(f"made up {n}", "k", problem=HTTPStatus.UNAUTHORIZED)
    assert len(answered) == 1
    for _ in range(2):
        with pytest.raises(Problem) as caught:
            await requests.send("w", "taken", problem=HTTPStatus.CONFLICT)
        assert caught.value.status == HTTPStatus.CONFLICT
    assert requests.done.count("taken") == 1


async def test_what_is_under_way_is_never_pushed_out() -> None:
    """A repetition waits for the first, however many others come meanwhile."""
    answered, go = Answered(most=2), anyio.Event()
    runs = []

    async def slow() -> HttpReply:
        runs.append(1)
        await go.wait()
        return HttpReply(body=b"done")

    async def ask() -> None:
        assert (await answered.once("w", "slow", b"f", slow)).body == b"done"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        requests = Requests(answered)
        for n in range(10):
            await requests.send("w", f"{n}")
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert len(runs) == 1


async def test_answers_have_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten minutes the key is free for another request."""
    now = [1000.0]
    monkeypatch.setattr("coordinator.clock.now", lambda: now[0])
    answered = Answered()
    requests = Requests(answered)
    await requests.send("w", "k")
    now[0] += 599
    await requests.send("w", "k")
    assert requests.done == ["k"]
    now[0] += 2
    await requests.send("w", "k")
    assert requests.done == ["k", "k"]
    assert len(answered) == 1
