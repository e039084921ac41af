"""What every store does, in plain text and sealed: omnivoice-core's own cases, then those that it lacks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import anyio
import pytest

from coordinator.sessions import (
    InvalidStateError,
    SessionConflictError,
    SessionEndedError,
    SessionExistsError,
    SessionLimitError,
    SessionNotFoundError,
    SessionState,
    SessionStore,
    StoreClosedError,
    TenantError,
    Timestamp,
    Turn,
)

Make = Callable[..., SessionStore]


async def test_save_and_load(store: SessionStore) -> None:
    """What was saved is loaded."""
    state = SessionState(
        "s1", provider="twilio", direction="inbound", from_="+15551234567", to="+15559876543", status="active"
    )
    await store.save(state)
    assert await store.load("s1") == state


async def test_load_not_found(store: SessionStore) -> None:
    """A session that was never saved is not found."""
    with pytest.raises(SessionNotFoundError):
        await store.load("nonexistent-session")


async def test_delete(store: SessionStore) -> None:
    """A deleted session is not found any more."""
    await store.save(SessionState("s1"))
    await store.delete("s1")
    with pytest.raises(SessionNotFoundError):
        await store.load("s1")
    assert await store.list_active() == []


async def test_delete_not_found(store: SessionStore) -> None:
    """What is not there cannot be deleted."""
    with pytest.raises(SessionNotFoundError):
        await store.delete("nonexistent-session")


async def test_list_active(store: SessionStore) -> None:
    """Sessions that have not ended are listed, those that have are not."""
    for status in ("active", "pending", "connecting", "on_hold", "transferring", "ended", "failed", "anything"):
        await store.save(SessionState(f"s-{status}", status=status))
    under_way = {"s-active", "s-pending", "s-connecting", "s-on_hold", "s-transferring", "s-anything"}
    assert set(await store.list_active()) == under_way
    assert await store.count() == 8


async def test_update_heartbeat(store: SessionStore) -> None:
    """A heartbeat moves the time of the last sign of life, and nothing else."""
    state = SessionState("s1")
    state.add_turn("user", "hello", 10)
    await store.save(state)
    before = await store.load("s1")
    await store.update_heartbeat("s1")
    after = await store.load("s1")
    assert after.updated_at > before.updated_at
    before.updated_at = after.updated_at
    assert after == before


async def test_update_heartbeat_not_found(store: SessionStore) -> None:
    """There is no heartbeat without a session."""
    with pytest.raises(SessionNotFoundError):
        await store.update_heartbeat("nonexistent-session")


async def test_save_nothing(store: SessionStore) -> None:
    """To save None does nothing, on a closed store too."""
    await store.save(None)
    await store.close()
    await store.save(None)


async def test_conversation_history(store: SessionStore) -> None:
    """Turns and their sums are kept."""
    state = SessionState("s1")
    state.add_turn("user", "Hello, I need help", 1500)
    state.add_turn("agent", "How can I help?", 2200)
    state.add_turn("user", "My order", 1800)
    await store.save(state)
    loaded = await store.load("s1")
    assert loaded.history == state.history
    assert loaded.metrics.turn_count == 3
    assert (loaded.metrics.user_speech_duration_ms, loaded.metrics.agent_speech_duration_ms) == (3300, 2200)


async def test_recovery_data(store: SessionStore) -> None:
    """Recovery data is kept, whole numbers of any size too."""
    data = {"call_sid": "CA123456", "stream_sid": "MZ789012", "sequence": 42, "big": 2**70 + 1, "ratio": 0.5}
    await store.save(SessionState("s1", recovery_data=data))
    loaded = (await store.load("s1")).recovery_data
    assert loaded == data
    assert type(loaded["sequence"]) is int


async def test_closed(make_store: Make) -> None:
    """A closed store says so to every call; to close it again does nothing."""
    store = make_store()
    await store.close()
    await store.close()
    state = SessionState("s1")
    for call in (
        store.save(state), store.create(state), store.load("s1"), store.delete("s1"), store.list_active(),
        store.update_heartbeat("s1"), store.count(), store.ping(),
    ):  # fmt: skip
        with pytest.raises(StoreClosedError):
            await call
    assert store.name in ("memory", "redis")


async def test_isolated_copies(store: SessionStore) -> None:
    """To change a state after its save, or a loaded one, changes nothing in the store."""
    state = SessionState("s1", recovery_data={"list": [1]})
    await store.save(state)
    state.recovery_data["list"].append(2)
    (await store.load("s1")).history.append(Turn("user"))
    loaded = await store.load("s1")
    assert (loaded.recovery_data, loaded.history) == ({"list": [1]}, [])


async def test_count(store: SessionStore) -> None:
    """Sessions are counted until they are deleted."""
    assert await store.count() == 0
    await store.save(SessionState("s1"))
    await store.save(SessionState("s2"))
    assert await store.count() == 2
    await store.delete("s1")
    assert await store.count() == 1


async def test_ping(store: SessionStore) -> None:
    """A store that answers, answers."""
    await store.ping()


async def test_a_loaded_state_that_somebody_changed_is_a_conflict(store: SessionStore) -> None:
    """Of two who loaded a session, the second to save is told, and nothing of the first is lost; force overwrites."""
    await store.save(SessionState("s1"))
    one, two = await store.load("s1"), await store.load("s1")
    one.add_turn("user", "from one", 1)
    await store.save(one)
    two.add_turn("user", "from two", 1)
    with pytest.raises(SessionConflictError, match="changed by another") as told:
        await store.save(two)
    assert not told.value.gone
    assert (await store.load("s1")).history[0].content == "from one"
    await store.save(two, force=True)
    assert (await store.load("s1")).history[0].content == "from two"


async def test_a_state_can_be_saved_again_and_again(store: SessionStore) -> None:
    """Its own saves, and heartbeats of anybody, are no conflict to whoever holds a state."""
    state = SessionState("s1")
    for turn in range(5):
        state.add_turn("user", str(turn), 1)
        await store.save(state)
        await store.update_heartbeat("s1")
    assert len((await store.load("s1")).history) == 5


async def test_only_one_of_many_savers_wins(store: SessionStore) -> None:
    """Of many that save what they loaded at the same time, one succeeds and all others have a conflict."""
    await store.save(SessionState("s1"))
    states = [await store.load("s1") for _ in range(10)]
    outcomes = []

    async def save(state: SessionState, number: int) -> None:
        state.add_turn("user", str(number), 1)
        try:
            await store.save(state)
            outcomes.append("saved")
        except SessionConflictError:
            outcomes.append("conflict")

    async with anyio.create_task_group() as group:
        for number, state in enumerate(states):
            group.start_soon(save, state, number)
    assert sorted(outcomes) == ["conflict"] * 9 + ["saved"]


async def test_concurrent_heartbeats_lose_no_save(store: SessionStore) -> None:
    """Saves and heartbeats at the same time lose neither a turn nor the session."""
    state = SessionState("s1")
    await store.save(state)

    async def beat() -> None:
        for _ in range(30):
            await store.update_heartbeat("s1")

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        for turn in range(30):
            state.add_turn("user", str(turn), 1)
            await store.save(state)
    assert [t.content for t in (await store.load("s1")).history] == [str(n) for n in range(30)]


async def test_a_late_heartbeat_does_not_revive_an_ended_session(store: SessionStore) -> None:
    """After the end a heartbeat is refused and changes nothing."""
    for status in ("ended", "failed"):
        state = SessionState("s1", status=status)
        await store.save(state, force=True)
        with pytest.raises(SessionEndedError, match=status):
            await store.update_heartbeat("s1")
        loaded = await store.load("s1")
        assert (loaded.status, loaded.updated_at) == (status, state.updated_at)
        assert await store.list_active() == []


async def test_neither_heartbeat_nor_save_revives_a_deleted_session(store: SessionStore) -> None:
    """After a deletion a heartbeat finds nothing, and a loaded state cannot be saved unless forced."""
    await store.save(SessionState("s1"))
    state = await store.load("s1")
    await store.delete("s1")
    with pytest.raises(SessionNotFoundError):
        await store.update_heartbeat("s1")
    with pytest.raises(SessionConflictError, match="deleted or expired") as told:
        await store.save(state)
    assert told.value.gone
    assert (await store.list_active(), await store.count()) == ([], 0)


async def test_saving_an_ended_session_again_does_not_lengthen_it(store: SessionStore) -> None:
    """The duration ends with the save that ended the session."""
    state = SessionState("s1")
    await store.save(state)
    state.status = "ended"
    await store.save(state)
    duration = state.duration
    state.recovery_data["note"] = "late"
    await store.save(state)
    again = await store.load("s1")
    await store.save(again)
    assert (await store.load("s1")).duration == duration


async def test_create_refuses_a_taken_id(store: SessionStore) -> None:
    """An id is created once, also when its session has ended; the repetition of a creation is no second one."""
    state = SessionState("s1")
    await store.create(state)
    await store.create(state)
    with pytest.raises(SessionExistsError, match="'s1' exists"):
        await store.create(SessionState("s1", status="ended"))
    state.status = "ended"
    await store.save(state)
    with pytest.raises(SessionExistsError):
        await store.create(SessionState("s1"))


async def test_create_keeps_to_the_limit(store: SessionStore) -> None:
    """No more sessions than allowed are under way; one that ends makes room."""
    first = SessionState("s1")
    await store.create(first, limit=2)
    await store.create(SessionState("s2"), limit=2)
    with pytest.raises(SessionLimitError, match="2 sessions"):
        await store.create(SessionState("s3"), limit=2)
    first.status = "ended"
    await store.save(first)
    await store.create(SessionState("s3"), limit=2)


@pytest.mark.parametrize("session_id", ["active", "", "a\nb", "x" * 513, None, "\ud800"])
async def test_ids_that_cannot_be_keys(store: SessionStore, session_id: str) -> None:
    """An id that would destroy the index, or cannot be written, is refused by every call; 'active' says why."""
    reason = "set of active sessions" if session_id == "active" else "1 to 512 printable"
    for call in (
        store.save(SessionState(session_id)), store.create(SessionState(session_id)), store.load(session_id),
        store.delete(session_id), store.update_heartbeat(session_id),
    ):  # fmt: skip
        with pytest.raises(InvalidStateError, match=reason):
            await call


@pytest.mark.parametrize("session_id", ["a b", "3c26700a@10.0.0.1", "{x}:active", "active:1", "späße", "a'\"%*[]?"])
async def test_ids_that_can(store: SessionStore, session_id: str) -> None:
    """Every other id can be saved, listed and deleted."""
    await store.save(SessionState(session_id))
    assert await store.list_active() == [session_id]
    assert (await store.load(session_id)).id == session_id
    await store.delete(session_id)


async def test_values_that_go_could_not_read(store: SessionStore) -> None:
    """A field of a wrong type or size is refused when it is saved, and nothing is written."""
    for state in (
        SessionState("s1", history=[Turn("user", "x", Timestamp.now(), 1.5)]),  # type: ignore[arg-type]
        SessionState("s1", history=[Turn("user", "x", Timestamp.now(), 2**63)]),
        SessionState("s1", history=[Turn("user", "x", Timestamp.now(), True)]),
        SessionState("s1", created_at=dt.datetime.now(dt.UTC)),  # type: ignore[arg-type]
        SessionState("s1", provider=None),  # type: ignore[arg-type]
        SessionState("s1", recovery_data={"x": float("nan")}),
        SessionState("s1", recovery_data={"x": object()}),
        SessionState("s1", recovery_data={1: 2}),  # type: ignore[dict-item]
        SessionState("s1", extra={"Status": "x"}),
    ):
        with pytest.raises(InvalidStateError):
            await store.save(state)
    with pytest.raises(SessionNotFoundError):
        await store.load("s1")


async def test_broken_text(store: SessionStore) -> None:
    """Halves of surrogate pairs are replaced as Go does, in each field, and the session can be read."""
    await store.save(SessionState("s1", status="\ud800", provider="a\udfffb", to="\ud83c\udfa7"))
    loaded = await store.load("s1")
    assert (loaded.status, loaded.provider, loaded.to) == ("\ufffd", "a\ufffdb", "\ufffd\ufffd")


async def test_replacing_what_shows_life(store: SessionStore) -> None:
    """A loaded session is replaced only if it had no heartbeat since."""
    await store.save(SessionState("s1"))
    found = await store.load("s1")
    await store.update_heartbeat("s1")
    assert await store.replace(found, SessionState("s1", status="ended")) == "changed"
    found = await store.load("s1")
    ended = SessionState("s1", status="ended")
    assert await store.replace(found, ended) == "written"
    assert (await store.load("s1")).status == "ended"
    assert await store.replace(found, SessionState("s1")) == "changed"


async def test_a_state_of_one_store_is_foreign_to_another_tenant(make_store: Make) -> None:
    """A tenant neither sees another's session nor takes its state."""
    mine, yours = make_store(tenant="acme"), make_store(tenant="globex")
    state = SessionState("s1")
    await mine.save(state)
    with pytest.raises(SessionNotFoundError):
        await yours.load("s1")
    with pytest.raises(TenantError):
        await yours.save(state)
    await yours.save(state.detached())
    assert await yours.list_active() == ["s1"]


async def test_unknown_fields_are_kept(store: SessionStore) -> None:
    """Fields of a later version survive at each level."""
    state = SessionState("s1", extra={"owner": "w1", "n": 2**80})
    state.history.append(Turn("user", extra={"confidence": 0.75}))
    state.metrics.extra["tokens"] = 12
    await store.save(state)
    loaded = await store.load("s1")
    assert loaded == state
    await store.save(loaded)
    assert await store.load("s1") == loaded
    assert loaded.extra == {"owner": "w1", "n": 2**80}


async def test_a_session_of_another_name_is_refused(store: SessionStore) -> None:
    """Replacing takes a loaded state of the same id."""
    await store.save(SessionState("s1"))
    with pytest.raises(InvalidStateError):
        await store.replace(await store.load("s1"), SessionState("s2"))
