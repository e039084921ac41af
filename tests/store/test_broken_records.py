"""What does not parse: each script with each field of each record broken, and each key of another type."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from coordinator.store.keys import kind_of
from coordinator.store.mending import RECORDS, mend
from coordinator.store.scripts import ScriptCall
from coordinator.store.shapes import faults, shaped_fields
from tests.store.answers import Answer
from tests.store.harness import Bench
from tests.store.test_twice import CASES

GARBAGE = b"\xffnone of ours\n{"


def run(bench: Bench, call: ScriptCall[Any]) -> Answer | redis.ResponseError:
    """The answer, or what the script ended with."""
    try:
        return bench.run(call)
    except redis.ResponseError as error:
        return error


def mended(bench: Bench, call: ScriptCall[Any]) -> bool:
    """What an executor does after a script that ended with an error; whether something was set aside."""
    mending = mend(call)
    step = next(mending)
    while True:
        answers: list[Any] = []
        for one in step:
            if isinstance(one, ScriptCall):
                answers.append(run(bench, one))
                continue
            try:
                answers.append(bench.client.execute_command(*one))
            except redis.ResponseError as error:
                answers.append(error)
        try:
            step = mending.send(answers)
        except StopIteration as end:
            return bool(end.value)


def dump(bench: Bench) -> dict[bytes, bytes]:
    """Everything that is stored."""
    return {key: bench.client.dump(key) for key in bench.client.keys("*")}


def made(bench: Bench, name: str) -> ScriptCall[Any]:
    """The call of a script, in a store that is new."""
    bench.client.flushall()
    prepare, make = CASES[name]
    return make(bench, prepare(bench))


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"allowed", "correct", "set_aside", "set_aside_member"}))
def test_a_broken_field_stops_no_script(bench: Bench, name: str) -> None:
    """It ends before it has written anything, what is broken is set aside, and then it runs."""
    records = [key for key in dict.fromkeys(made(bench, name).keys) if key.startswith("{") and kind_of(key) in RECORDS]
    for key in records:
        made(bench, name)
        there = bench.client.hgetall(key)
        for field in shaped_fields(RECORDS[kind_of(key)]):
            if field.encode() not in there:
                continue
            call = made(bench, name)
            bench.client.hset(key, field, GARBAGE)
            before = dump(bench)
            first = run(bench, call)
            if isinstance(first, Answer):
                continue  # it does not look at it
            assert "BROKEN" in str(first), f"{field}: {first}"
            assert dump(bench) == before, f"{field}: half a step was taken"
            assert mended(bench, call), f"{field} was not found"
            again = run(bench, call)
            assert isinstance(again, Answer), f"{field}: {again}"
            assert not faults(RECORDS[kind_of(key)], {k.decode(): v for k, v in bench.client.hgetall(key).items()})
            [member] = bench.client.zrange(bench.keys.quarantine, 0, -1)
            assert bench.client.hget(bench.keys.set_aside(member.decode()), f"raw:{field}") == GARBAGE


@pytest.mark.parametrize(
    "name", sorted(CASES.keys() - {"allowed", "correct", "set_aside", "set_aside_member", "prune", "trim", "forget"})
)
def test_a_key_of_another_type_stops_no_script(bench: Bench, name: str) -> None:
    """It is moved away as it was, and the script runs, as after the loss of that key."""
    call = made(bench, name)
    for key, wanted in dict(zip(call.keys, call.types, strict=True)).items():
        if wanted in ("any", "various", "channel"):
            continue
        call = made(bench, name)
        bench.client.delete(key)
        bench.client.rpush(key, "x") if wanted != "list" else bench.client.set(key, "x")
        if isinstance(run(bench, call), Answer):
            continue  # it does not look at it
        assert mended(bench, call), f"{key} was not found"
        again = run(bench, call)
        assert isinstance(again, Answer), f"{key}: {again}"
        assert bench.client.zcard(bench.keys.quarantine) == 1


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"allowed", "correct", "set_aside", "set_aside_member"}))
def test_a_missing_field_stops_no_script(bench: Bench, name: str) -> None:
    """Whatever is taken out of a record, a script has an answer, if need be after it was set aside."""
    records = [key for key in dict.fromkeys(made(bench, name).keys) if key.startswith("{") and kind_of(key) in RECORDS]
    for key in records:
        made(bench, name)
        for field in bench.client.hkeys(key):
            call = made(bench, name)
            bench.client.hdel(key, field)
            answer = run(bench, call)
            if not isinstance(answer, Answer):
                assert mended(bench, call), f"{field}: {answer}"
                assert isinstance(run(bench, call), Answer), field


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"allowed", "correct", "set_aside", "set_aside_member"}))
def test_two_missing_fields_stop_no_script(bench: Bench, name: str) -> None:
    """An offer that has no entry takes other ways through the scripts, and whatever else is missing they have an answer."""
    records = [
        key for key in dict.fromkeys(made(bench, name).keys) if key.startswith("{") and kind_of(key) == "session"
    ]
    for key in records:
        made(bench, name)
        for field in bench.client.hkeys(key):
            call = made(bench, name)
            bench.client.hdel(key, field, "offer_id")
            answer = run(bench, call)
            if not isinstance(answer, Answer):
                assert mended(bench, call), f"{field}: {answer}"
                assert isinstance(run(bench, call), Answer), field
