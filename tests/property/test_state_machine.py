"""The real scripts against a small model of the rules: states, owners, epochs, attempts, data and indexes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from coordinator.states import SessionState, allowed
from coordinator.store import calls
from coordinator.store.scripts import ScriptCall
from coordinator.worker.ledger import mark
from tests.store.answers import Answer
from tests.store.harness import LEASE, Bench

MAX_OFFERS = 3
MAX_RECOVERIES = 2
SESSIONS = ("a", "b")
NAMES = ("w1", "w2", "w3")


@dataclass
class Known:
    """What the model knows of one session."""

    state: str | None = None
    owner: str = ""
    epoch: int = 0
    data: bytes = b""
    sequence: int = 0
    offers: int = 0
    recoveries: int = 0
    heir: str = ""
    read: bool = False  # the present offer was delivered to somebody


class ProtocolMachine(RuleBasedStateMachine):
    """Every rule calls one script, twice where a second call must answer the same."""

    client: redis.Redis

    @initialize()
    def start(self) -> None:
        self.client.flushdb()
        self.bench = Bench(self.client)
        self.bench.init()
        self.calls = {s: Known() for s in SESSIONS}
        self.births = dict.fromkeys(NAMES, 0)
        self.live: dict[str, str] = {}
        self.dead: list[str] = []
        self.written = 0
        self.before: dict[str, str | None] = {}
        self.letters: dict[tuple[str, int], bytes] = {}
        for name in NAMES:
            self._born(name)

    def _born(self, name: str) -> None:
        self.births[name] += 1
        self.live[name] = f"{name}~{self.births[name]}"
        assert self.bench.join(self.live[name]).word == "OK"

    def _same(self, script: str, run: Any) -> Any:
        self.script = script
        first, second = run(), run()
        assert first.word == second.word, f"{script}: {first} then {second}"
        assert first.fields.get("epoch") == second.fields.get("epoch")
        return first

    def _moved(self, script: str, session: str) -> int:
        """The epoch now stored, which must be above the last."""
        record = self.bench.record(session)
        epoch = int(record["epoch"])
        assert epoch > self.calls[session].epoch, f"{script} did not raise the epoch of {session}"
        self.calls[session].epoch = epoch
        return epoch

    def _taken_again(self, script: str, session: str, answer: Answer) -> None:
        """Its owner did not know that it has it: a new epoch, and checkpoints count anew; unless it is being handed over."""
        if self.calls[session].state != "active":
            assert answer.int("epoch") == self.calls[session].epoch
            return
        self._moved(script, session)
        self.calls[session].sequence = 0
        assert (answer.int("epoch"), answer.int("checkpoint")) == (self.calls[session].epoch, 0)

    def _orphan(self, session: str) -> None:
        c = self.calls[session]
        c.recoveries += 1
        c.owner, c.heir, c.read = "", "", False
        if c.recoveries > MAX_RECOVERIES:
            c.state = "dead_lettered"
        else:
            c.state, c.offers = "offered", 1
            self._moved("claim", session)

    @rule(session=st.sampled_from(SESSIONS), name=st.sampled_from(NAMES))
    def open(self, session: str, name: str) -> None:
        c, me, request = self.calls[session], self.live[name], self.bench.request()
        self.written += 1
        data = b"open %d" % self.written
        letter = str(c.epoch) if c.state == "dead_lettered" else ""
        if letter:
            told = self._same("open", lambda: self.bench.open(session, me, data, request))
            assert (told.word, told.text("letter_epoch")) == ("AGAIN", letter)
            self.letters[session, c.epoch] = c.data
        answer = self._same("open", lambda: self.bench.open(session, me, data, request, letter_epoch=letter))
        if c.state in (None, "closed", "dead_lettered"):
            assert answer.word == "OK"
            assert not answer.int("existing")
            epoch = answer.int("epoch")
            assert epoch > c.epoch
            self.calls[session] = Known("active", me, epoch, data)
        elif c.owner == me:
            assert answer.word == "OK"
            self._taken_again("open", session, answer)
        else:
            assert answer.word == "OWNED"

    @rule(
        session=st.sampled_from(SESSIONS),
        name=st.sampled_from(NAMES),
        ahead=st.sampled_from([-1, 0, 1, 2]),
        stale=st.sampled_from([False, False, True]),
        mine=st.booleans(),
    )
    def checkpoint(self, session: str, name: str, ahead: int, stale: bool, mine: bool) -> None:
        c = self.calls[session]
        me = c.owner if mine and c.owner in self.live.values() else self.live[name]
        epoch = c.epoch - 1 if stale else c.epoch
        sequence = max(1, c.sequence + ahead)
        self.written += 1
        data = b"checkpoint %d" % self.written
        answer = self._same("checkpoint", lambda: self.bench.checkpoint(session, me, epoch, sequence, data))
        if c.state is None:
            assert answer.word == "RESYNC"
        elif c.owner == me and not stale and c.state in ("active", "handing_over"):
            assert answer.word == ("OLD" if sequence < c.sequence else "OK")
            if sequence > c.sequence:
                c.sequence, c.data = sequence, data
        else:
            assert answer.word == "FENCED"

    @rule(session=st.sampled_from(SESSIONS), name=st.sampled_from(NAMES))
    def close(self, session: str, name: str) -> None:
        c, me = self.calls[session], self.live[name]
        answer = self._same("close", lambda: self.bench.close(session, me, c.epoch))
        if c.state is None:
            assert answer.word == "RESYNC"
        elif c.owner == me:
            assert answer.word == "OK"
            c.state, c.heir, c.data = "closed", "", b""
        else:
            assert answer.word == "FENCED"

    @rule(session=st.sampled_from(SESSIONS), name=st.sampled_from(NAMES))
    def release(self, session: str, name: str) -> None:
        c, me, request = self.calls[session], self.live[name], self.bench.request()
        run: Callable[[], Answer] = lambda: self.bench.run(  # noqa: E731
            calls.release(
                self.bench.keys, session=session, instance=me, epoch=c.epoch, request=request, pool="default",
                reason="no", cause="released", lease=LEASE, max_recoveries=MAX_RECOVERIES,
                recovery_window=600,
            )
        )  # fmt: skip
        held = c.epoch
        answer = run()
        if c.owner == me and c.state in ("active", "handing_over"):
            c.epoch = held
            self._orphan(session)
            assert answer.word == ("OK" if c.state == "offered" else "DEAD_LETTERED")
        else:
            assert answer.word in ("FENCED", "RESYNC")
        c.epoch, now = held, c.epoch
        assert run().word == answer.word
        c.epoch = now

    @rule(name=st.sampled_from(NAMES))
    def die(self, name: str) -> None:
        me = self.live[name]
        assert self.bench.certify(me).word == "OK"
        assert self.bench.certify(me).word == "ALREADY"
        self.dead.append(me)
        self._born(name)

    @precondition(lambda self: self.dead)
    @rule(session=st.sampled_from(SESSIONS), data=st.data())
    def the_dead_are_refused(self, session: str, data: st.DataObject) -> None:
        me, c = data.draw(st.sampled_from(self.dead)), self.calls[session]
        assert self.bench.beat(me).word == "FENCED"
        assert self.bench.join(me).word == "FENCED"
        assert self.bench.open(session, me).word == "FENCED"
        assert self.bench.checkpoint(session, me, c.epoch, 99, b"from the grave").word == "FENCED"
        assert self.bench.adopt(session, me, None).word == "FENCED"
        assert self.bench.close(session, me, c.epoch).word == "FENCED"

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        grave = data.draw(st.sampled_from(self.dead))
        batch = sorted(data.draw(st.sets(st.sampled_from(SESSIONS))))
        took = [s for s in batch if self.calls[s].owner == grave and self.calls[s].state in ("active", "handing_over")]
        answer = self.bench.claim(grave, batch, MAX_RECOVERIES)
        assert answer.word == "OK"
        assert answer.int("offered") + answer.int("dead_lettered") == len(took)
        for session in took:
            self._orphan(session)
        again = self.bench.claim(grave, batch, MAX_RECOVERIES)
        assert again.int("offered") == again.int("dead_lettered") == 0
        settled = self.bench.run(calls.settle(self.bench.keys, grave=grave, fenced_ttl=60))
        left = [s for s, c in self.calls.items() if c.owner == grave and c.state in ("active", "handing_over")]
        assert (settled.word == "LEFT") == bool(left)

    @rule(name=st.sampled_from(NAMES))
    def read_offers(self, name: str) -> None:
        for session, epoch in self.bench.read_offers(self.live[name]):
            c = self.calls[session]
            assert c.epoch == epoch, "an entry that is not the present offer was left in the stream"
            assert c.state in ("offered", "handing_over")
            c.read = c.state == "offered"

    @rule(session=st.sampled_from(SESSIONS), name=st.sampled_from(NAMES), by_id=st.booleans(), stale=st.booleans())
    def adopt(self, session: str, name: str, by_id: bool, stale: bool) -> None:
        c, me, request = self.calls[session], self.live[name], self.bench.request()
        epoch = None if by_id else c.epoch - (1 if stale else 0)
        answer = self._same("adopt", lambda: self.bench.adopt(session, me, epoch, request))
        if c.state == "offered" and (by_id or not stale):
            assert answer.word == "OK"
            assert answer.bytes("data") == c.data
            self._moved("adopt", session)
            assert answer.int("epoch") == c.epoch
            c.state, c.owner, c.sequence, c.offers, c.read = "active", me, 0, 0, False
        elif by_id and c.state in ("active", "handing_over"):
            assert answer.word == ("OK" if c.owner == me else "OWNED")
            if c.owner == me:
                self._taken_again("adopt", session, answer)
        else:
            assert answer.word == "GONE"

    @rule(session=st.sampled_from(SESSIONS), name=st.sampled_from(NAMES), counts=st.booleans())
    def decline(self, session: str, name: str, counts: bool) -> None:
        c = self.calls[session]
        epoch = c.epoch
        answer = self.bench.decline(session, self.live[name], epoch, counts=counts, max_offers=MAX_OFFERS)
        if c.state == "handing_over" and not c.heir:
            assert (answer.word, answer.int("epoch")) == ("OK", epoch), "a handover's offer moves on, and nothing else"
            return
        if c.state != "offered":
            assert answer.word == "GONE"
            return
        if counts and c.offers >= MAX_OFFERS:
            assert answer.word == "DEAD_LETTERED"
            c.state = "dead_lettered"
        else:
            assert answer.word == "OK"
            c.offers += counts
            c.read = False
            self._moved("decline", session)
        again = self.bench.decline(session, self.live[name], epoch, counts=counts, max_offers=MAX_OFFERS)
        assert again.word == "GONE"

    @rule(session=st.sampled_from(SESSIONS), name=st.sampled_from(NAMES))
    def delegate(self, session: str, name: str) -> None:
        c = self.calls[session]
        answer = self._same(
            "delegate",
            lambda: self.bench.run(
                calls.delegate(
                    self.bench.keys,
                    session=session,
                    instance=self.live[name],
                    epoch=c.epoch,
                    pool="default",
                    lease=LEASE,
                )
            ),
        )
        assert answer.word == ("OK" if c.state == "offered" else "GONE")
        if c.state == "offered":
            c.read = False

    @rule(session=st.sampled_from(SESSIONS), name=st.sampled_from(NAMES))
    def ask(self, session: str, name: str) -> None:
        c, me, request = self.calls[session], self.live[name], self.bench.request()
        owner = c.owner or "nobody~0"
        answer = self._same(
            "ask",
            lambda: self.bench.run(
                calls.ask(self.bench.keys, session=session, instance=me, owner=owner, request=request, lease=LEASE)
            ),
        )
        if c.state not in ("active", "handing_over"):
            assert answer.word == "GONE"
        elif c.owner == me or (c.heir and c.heir != me):
            assert answer.word == "OWNED"
        elif c.owner in self.dead:
            assert answer.word == "ORPHAN"
        else:
            assert answer.word == "OK"
            c.state, c.heir = "handing_over", me

    @rule(session=st.sampled_from(SESSIONS))
    def hand_over(self, session: str) -> None:
        c = self.calls[session]
        if c.state not in ("active", "handing_over"):
            return
        owner, epoch = c.owner, c.epoch
        call = calls.hand_over(
            self.bench.keys, session=session, instance=owner, epoch=epoch, pool="default", lease=LEASE
        )
        answer = self._same("hand_over", lambda: self.bench.run(call))
        if owner in self.dead:
            assert answer.word == "FENCED"
            return
        assert answer.word == "OK"
        assert answer.text("heir") == c.heir
        c.state = "handing_over"

    @rule(session=st.sampled_from(SESSIONS))
    def let_go(self, session: str) -> None:
        c = self.calls[session]
        if not c.owner or c.state == "closed":
            return
        epoch, heir, c_owner = c.epoch, c.heir or "nobody~0", c.owner
        self.written += 1
        data, sequence = b"last words %d" % self.written, c.sequence + 1
        run: Callable[[], Answer] = lambda: self.bench.run(  # noqa: E731
            calls.let_go(
                self.bench.keys,
                session=session,
                instance=c_owner,
                heir=heir,
                epoch=epoch,
                pool="default",
                data=data,
                sequence=sequence,
            )
        )
        answer = run()
        if c.owner in self.dead:
            assert answer.word == "FENCED"
        elif c.state != "handing_over" or not c.heir or heir in self.dead:
            assert answer.word == "GONE"
        else:
            assert answer.word == "OK"
            self._moved("let_go", session)
            c.state, c.owner, c.heir, c.data, c.sequence = "active", heir, "", data, 0
            again = run()
            assert (again.word, again.int("epoch")) == ("OK", c.epoch)

    @rule(
        session=st.sampled_from(SESSIONS),
        lost_entry=st.booleans(),
        old=st.booleans(),
        reader_died=st.booleans(),
        alone=st.booleans(),
    )
    def expire(self, session: str, lost_entry: bool, old: bool, reader_died: bool, alone: bool) -> None:
        c = self.calls[session]
        failed = reader_died and c.read
        entry_of_dead = self.bench.record(session).get("offer_id", "") if failed else ""
        if not failed:
            self.bench.end_lease(session)
        if lost_entry and c.state == "offered" and not failed:
            entry = self.bench.record(session).get("offer_id")
            if entry:
                self.client.xdel(self.bench.keys.offers("default"), entry)
        answer = self.bench.expire(
            session, MAX_OFFERS, -1 if old else 600_000, entry_of_dead=entry_of_dead, alone=alone
        )
        if c.state == "handing_over":
            assert answer.word == "RETURNED"
            c.state, c.heir = "active", ""
        elif c.state != "offered":
            assert answer.word == "GONE"
        elif old:
            assert answer.text("reason") == "expired"
            c.state = "dead_lettered"
        elif not c.read:
            assert answer.word in ("EXTENDED", "REWRITTEN")
        elif failed and alone and c.offers >= MAX_OFFERS:
            assert answer.text("reason") == "max_offers"
            c.state = "dead_lettered"
        else:
            assert answer.word == "OFFERED"
            c.offers += failed
            c.read = False
            self._moved("expire", session)
        if c.state == "offered":
            assert self.bench.expire(session, MAX_OFFERS).word == "EARLY"

    @rule(session=st.sampled_from(SESSIONS))
    def replay(self, session: str) -> None:
        c = self.calls[session]
        answer = self.bench.run(calls.replay(self.bench.keys, session=session, pool="default", lease=LEASE))
        assert answer.word == ("OK" if c.state == "dead_lettered" else "GONE")
        if c.state == "dead_lettered":
            c.state, c.offers, c.recoveries, c.read = "offered", 1, 0, False
            self._moved("replay", session)

    @precondition(lambda self: self.letters)
    @rule(data=st.data(), purge=st.booleans())
    def a_letter_ends(self, data: st.DataObject, purge: bool) -> None:
        session, epoch = data.draw(st.sampled_from(sorted(self.letters)))
        c, kept = self.calls[session], self.letters[session, epoch]
        if purge:
            call: ScriptCall[Any] = calls.purge(
                self.bench.keys, session=session, closed_ttl=60, letter_epoch=str(epoch)
            )
        else:
            call = calls.replay(self.bench.keys, session=session, pool="default", lease=LEASE, letter_epoch=str(epoch))
        answer = self.bench.run(call)
        if not purge and c.state not in (None, "closed"):
            assert (answer.word, answer.text("state")) == ("OWNED", c.state)
            return
        assert answer.word == "OK"
        del self.letters[session, epoch]
        if not purge:
            self.before[session] = "dead_lettered"
            self.calls[session] = Known("offered", "", max(c.epoch, epoch), kept, offers=1)
            self._moved("replay", session)

    @rule(session=st.sampled_from(SESSIONS), name=st.sampled_from(NAMES), stale=st.booleans())
    def keep(self, session: str, name: str, stale: bool) -> None:
        c = self.calls[session]
        epoch = str(c.epoch - 1 if stale else c.epoch)
        call = calls.extend_leases(
            self.bench.keys, instance=self.live[name], sessions=[session], epochs=[epoch], lease=LEASE
        )
        stands = c.state == "offered" and not stale and self.bench.record(session)["offer_id"] != ""
        answer = self._same("extend_leases", lambda: self.bench.run(call))
        assert answer.items("kept") == ([session] if stands else [])

    @rule(session=st.sampled_from(SESSIONS), name=st.sampled_from(NAMES))
    def withdraw(self, session: str, name: str) -> None:
        c, me = self.calls[session], self.live[name]
        request = self.bench.record(session).get("heir_request", "")
        call = calls.withdraw(self.bench.keys, session=session, instance=me, request=request, pool="default")
        answer = self.bench.run(call)
        if c.state == "handing_over" and c.heir == me:
            assert answer.word == "OK"
            c.state, c.heir = "active", ""
            assert self.bench.run(call).word == "GONE"
        else:
            assert answer.word in ("GONE", "YOURS")

    @rule(session=st.sampled_from(SESSIONS))
    def purge(self, session: str) -> None:
        c = self.calls[session]
        answer = self.bench.run(calls.purge(self.bench.keys, session=session, closed_ttl=60))
        assert answer.word == ("OK" if c.state == "dead_lettered" else "GONE")
        if c.state == "dead_lettered":
            c.state, c.data = "closed", b""

    @rule(
        session=st.sampled_from(SESSIONS),
        index=st.sampled_from(["owned", "leases", "orphans", "dead_letters", "graves"]),
    )
    def an_index_entry_is_lost_and_found(self, session: str, index: str) -> None:
        c, keys = self.calls[session], self.bench.keys
        record = self.bench.record(session)
        owner = record.get("owner", "")
        if index == "owned":
            self.client.srem(keys.owned(owner), session)
        elif index == "graves":
            self.client.zrem(keys.graves, owner or "nobody")
        else:
            self.client.zrem(getattr(keys, index), session)
        answer = self._same(
            "repair", lambda: self.bench.run(calls.repair(keys, session=session, owner=owner, dead_after=60))
        )
        assert answer.word == ("GONE" if c.state in (None, "closed") else "OK")

    @invariant()
    def the_record_is_what_the_model_says(self) -> None:
        for session, c in self.calls.items():
            record = self.bench.record(session)
            state = record.get("state")
            assert state == c.state
            before = self.before.get(session)
            if state != before and state is not None:
                pairs = [(SessionState(before) if before else None, SessionState(state))]
                assert any(allowed(s, *pair) for pair in pairs for s in SCRIPTS_IN_RULES), (
                    f"{before} -> {state} is not listed"
                )
            self.before[session] = state
            if state is None:
                continue
            assert int(record["epoch"]) == c.epoch
            assert record.get("data", "").encode("latin-1") == c.data
            if state in ("active", "handing_over"):
                assert record["owner"] == c.owner
                assert session in self.bench.owned(c.owner)

    @invariant()
    def the_indexes_agree_with_the_records(self) -> None:
        keys, bench = self.bench.keys, self.bench
        states = {s: c.state for s, c in self.calls.items()}
        assert bench.members(keys.orphans) == {s for s, state in states.items() if state == "offered"}
        assert bench.members(keys.leases) == {s for s, state in states.items() if state in ("offered", "handing_over")}
        letters = {f"{session} {epoch}" for session, epoch in self.letters}
        given_up = {s for s, state in states.items() if state == "dead_lettered"}
        assert bench.members(keys.dead_letters) == given_up | letters
        for (session, epoch), data in self.letters.items():
            assert self.client.hget(keys.letter(session, epoch), "data") == data
        for me in (*self.live.values(), *self.dead):
            served = {s for s, c in self.calls.items() if c.owner == me and c.state in ("active", "handing_over")}
            assert bench.owned(me) == served
            if me not in self.dead:
                assert bench.roll(me) == sum(mark(s, int(bench.record(s)["epoch"])) for s in served)


SCRIPTS_IN_RULES = (
    "open",
    "claim",
    "release",
    "adopt",
    "expire",
    "decline",
    "ask",
    "hand_over",
    "let_go",
    "replay",
    "purge",
    "close",
    "withdraw",
    "extend_leases",
)


@pytest.mark.parametrize("machine", [ProtocolMachine])
def test_the_scripts_keep_the_rules(machine: type[ProtocolMachine], redis_client: redis.Redis) -> None:
    """Whatever order the scripts run in, records, owners, epochs, data and indexes are those of the rules."""
    machine.client = redis_client
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "50")),
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
