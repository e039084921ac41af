"""What a session may say: the bounds of the session store, the same for every kind of store."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.bounds import MOST_STATE_BYTES
from coordinator.errors import ConfigurationError
from coordinator.sessions import Alias, InvalidStateError, MemoryStore, SessionNotFoundError, SessionState
from coordinator.sessions.keys import SessionKeys
from coordinator.sessions.wire import decode, encode
from tests.hostile import EVIL, HIDDEN_CHARACTERS, hidden_in
from tests.sessions.conftest import MakeStore


def nested(depth: int) -> Any:
    data: Any = 1
    for number in range(depth):
        data = {"a": data} if number % 2 else [data]
    return {"a": data}


def with_extra(data: Any, where: str) -> SessionState:
    """A state with something in one of the places that take anything."""
    state = SessionState("s1")
    state.add_turn("user", "hello", 1)
    {"recovery_data": state, "extra": state, "metrics": state.metrics, "turn": state.history[0]}[where].__setattr__(
        "recovery_data" if where == "recovery_data" else "extra", {"x": data} if where != "recovery_data" else data
    )
    return state


PLACES = ["recovery_data", "extra", "metrics", "turn"]


@pytest.mark.parametrize("where", PLACES)
async def test_nesting_has_a_limit_in_every_place(make_store: MakeStore, where: str) -> None:
    """What fits is given back; what is deeper is refused with the rule, however deep it is, and nothing is stored."""
    store = make_store()
    for depth in (64, 500, 963, 20_000):
        with pytest.raises(InvalidStateError, match="nested more than 64 deep"):
            await store.save(with_extra(nested(depth), where))
        with pytest.raises(InvalidStateError, match="nested more than 64 deep"):
            await store.create(with_extra(nested(depth), where))
    with pytest.raises(SessionNotFoundError):
        await store.load("s1")
    fits = with_extra(nested(61), where)
    await store.save(fits)
    assert (await store.load("s1")).detached() == fits


def test_a_copy_of_what_is_too_deep_is_refused() -> None:
    """No end of a stack is reached by the program that made it."""
    with pytest.raises(InvalidStateError, match="too deep"):
        SessionState("s1", recovery_data=nested(20_000)).detached()


def test_what_contains_itself_is_nested_endlessly() -> None:
    """A list within itself: refused like any other that is too deep."""
    data: dict[str, Any] = {}
    data["a"] = [data]
    with pytest.raises(InvalidStateError, match="nested more than 64 deep"):
        encode(SessionState("s1", recovery_data=data))


@pytest.mark.parametrize("number", [10**309, -(10**309), float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", PLACES)
async def test_numbers_that_no_go_program_reads(make_store: MakeStore, number: float, where: str) -> None:
    """Beyond what a float64 holds, or none at all: refused, and the message does not show it."""
    store = make_store()
    with pytest.raises(InvalidStateError) as refused:
        await store.save(with_extra({"n": number}, where))
    assert "000000" not in str(refused.value)


def test_a_number_that_was_read_and_is_none_is_not_written() -> None:
    """Somebody stored more than a float64 holds: it is read, and saving it says that it cannot be."""
    state = decode("s1", b'{"id":"s1","recovery_data":{"n":1e999}}')
    with pytest.raises(InvalidStateError):
        encode(state)


async def test_whole_numbers_are_kept_as_they_are(make_store: MakeStore) -> None:
    """Ids of 64 bits and more stay whole, as they always were in this store."""
    store, state = make_store(), SessionState("s1", recovery_data={"id": 2**64 + 1, "most": 10**308})
    await store.save(state)
    assert (await store.load("s1")).recovery_data == state.recovery_data


async def test_a_session_has_a_greatest_size() -> None:
    """Above it one sentence with both figures."""
    store, state = MemoryStore(), SessionState("s1")
    state.add_turn("user", "x" * MOST_STATE_BYTES, 1)
    with pytest.raises(InvalidStateError, match=f"above the limit of {MOST_STATE_BYTES} bytes"):
        await store.save(state)


@pytest.mark.parametrize("session_id", ["", "a\x00", "a\x1b[2J", "a\n", "a\u202e", "a\ud800", "x" * 513, None, 5, [[]]])
async def test_ids_that_are_none(make_store: MakeStore, session_id: Any) -> None:
    """By every method that takes one, in one printable line."""
    store = make_store()
    state = SessionState("s1")
    state.id = session_id
    alias = Alias.phone("+1555123")
    for doing in (
        store.save(state), store.create(state), store.load(session_id), store.delete(session_id), store.update_heartbeat(session_id),
        store.bind(alias, session_id),
    ):  # fmt: skip
        with pytest.raises(InvalidStateError) as refused:
            await doing
        assert not hidden_in(str(refused.value), lines="")
        assert len(str(refused.value)) < 200


@pytest.mark.parametrize("name", [*(f"a{c}" for c in HIDDEN_CHARACTERS), "a\ud800", "x" * 1025, "", None, 5])
def test_names_that_are_none(name: Any) -> None:
    """Of a user, a call and a number; no message says the name."""
    for user, call in ((name, "call"), ("user", name)):
        with pytest.raises(InvalidStateError) as refused:
            Alias.user_call(user, call)
        assert not hidden_in(str(refused.value), lines="")
    if not isinstance(name, str) or len(name) > 1000:
        with pytest.raises(InvalidStateError):
            Alias.phone(name)


def test_a_number_with_marks_of_direction_is_the_number() -> None:
    """As telephones copy it: only digits and a plus count."""
    assert Alias.phone("+1 \u202a555\u202c 123") == Alias.phone("+1555123")


@pytest.mark.parametrize("text", ["a\x1b", "a\u202e:", "x" * 513, "\ud800"])
def test_prefixes_and_tenants_that_are_none(text: str) -> None:
    """They are parts of keys."""
    for arguments in ({"prefix": text}, {"tenant": text}):
        with pytest.raises(ConfigurationError):
            SessionKeys(**arguments)


async def test_what_was_said_may_be_anything(make_store: MakeStore) -> None:
    """A conversation is kept character by character, whatever it would do to a terminal."""
    store, state = make_store(), SessionState("s1", recovery_data={EVIL: EVIL})
    state.add_turn("user", EVIL, 1)
    await store.save(state)
    loaded = await store.load("s1")
    assert (loaded.history[0].content, loaded.recovery_data) == (EVIL, {EVIL: EVIL})


def test_a_number_longer_than_python_writes_is_refused_alike() -> None:
    """More digits than its conversion takes."""
    with pytest.raises(InvalidStateError):
        encode(SessionState("s1", recovery_data={"n": 10**5000}))
