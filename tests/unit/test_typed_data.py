"""What a type checker knows of recovery data: what the program states of it, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator import Offer, Session, Worker
from tests.typed import ROOT, faults_in

STATED = """
from typing import Any, TypedDict, assert_type
from coordinator import Offer, Session, Worker

class Call(TypedDict):
    call_sid: str
    sequence: int

async def plain(session: Session) -> None:
    session.stage({**session.recovery_data, "sequence": session.recovery_data["sequence"] + 1})

async def mapped(session: Session[dict[str, Any]]) -> None:
    assert_type(session.recovery_data, dict[str, Any])
    session.recovery_data.get("call_sid")

async def stated(session: Session[Call]) -> None:
    assert_type(session.recovery_data["sequence"], int)
    session.stage({"call_sid": "CA1", "sequence": 43})

async def raw(session: Session[bytes]) -> None:
    assert_type(session.recovery_data, bytes)
    await session.checkpoint(session.recovery_data[:8])

async def main() -> None:
    async with Worker("redis://h") as worker:
        await worker.open("call", {"a": 1})
        await worker.open("call", b"data")
        await worker.serve(plain)
    async with Worker[Call]("redis://h") as calls:
        assert_type(await calls.open("call", {"call_sid": "CA1", "sequence": 42}), Session[Call])
        assert_type(await calls.adopt("call"), Session[Call] | None)
        await calls.open("none yet")
        await calls.serve(stated)
    async with Worker[bytes]("redis://h", name="b") as pipes:
        async for offer in pipes.offers():
            assert_type(offer, Offer[bytes])
            assert_type(await offer.adopt(), Session[bytes] | None)
        await pipes.serve(raw)
"""
WRONG = """
async def wrong(calls: Worker[Call], pipes: Worker[bytes], session: Session[Call]) -> None:
    await calls.open("call", b"data")
    await calls.open("call", {"call_sid": "CA1"})
    await pipes.open("call", {"call_sid": "CA1"})
    await pipes.serve(stated)
    session.stage({"call_sid": "CA1", "sequence": "43"})
    await session.checkpoint(b"data")
    session.recovery_data["stream_sid"]
    Worker[int]("redis://h")
"""


def test_what_is_stated_is_known() -> None:
    """For dictionaries, typed dictionaries and bytes; nothing needs to be stated, and nothing to be asserted."""
    assert faults_in(STATED) == []


def test_what_contradicts_it_is_a_fault() -> None:
    """Other data than stated, and a handler for other data, each on its line."""
    found = faults_in(STATED + WRONG)
    first = len(STATED.splitlines()) + 3
    assert {line for line, _ in found} == {*range(first, first + len(WRONG.splitlines()) - 2)}


def test_the_example_worker_is_typed() -> None:
    """It passes the strictest checks as it stands in the README, without an assertion on its data."""
    example = (ROOT / "examples/python/worker.py").read_text()
    assert faults_in(example) == []
    assert "assert" not in example
    assert "isinstance" not in example


@pytest.mark.parametrize("stated", [bytes, dict[str, Any]])
def test_at_run_time_nothing_follows_from_it(stated: Any) -> None:
    """A worker with a statement is a worker like any other."""
    worker = Worker[stated]("redis://h", name="a")
    assert (type(worker), worker.name) == (Worker, "a")
    assert (Session[stated].__origin__, Offer[stated].__origin__) == (Session, Offer)  # type: ignore[attr-defined]
