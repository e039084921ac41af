"""Epochs over any number of losses: what is given to anybody is above all that anyone who has spoken since remembers."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from typing import ClassVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from coordinator.store import calls
from coordinator.store.past import Past
from coordinator.store.scripts import SCRIPTS
from tests.property import planted
from tests.store.answers import Answer
from tests.store.harness import LEASE, Bench

SESSIONS = ("a", "b")
WORKERS = ("w1", "w2")
HOUR_MS = 3_600_000
HOUR = HOUR_MS / 1000
HOLD_MS = 5
HOLD = HOLD_MS / 1000
"""A hold ends when the clock says so: that is what keeps epochs from running ahead of it."""


class EpochMachine(RuleBasedStateMachine):
    """Workers, a coordinator and strangers at a store that loses its data, or part of them, again and again.

    With ``clock_behind`` epochs are far above the clock, so that only memory keeps them rising; else they rise in any case.
    """

    client: redis.Redis
    clock_behind: ClassVar[bool]

    @initialize()
    def start(self) -> None:
        self.client.flushdb()
        self.bench = Bench(self.client)
        self.server_id = self.bench.server_id
        self.lineages = self.servers = self.births = 0
        self.given: dict[str, list[int]] = defaultdict(list)
        self.stored: dict[str, list[int]] = defaultdict(list)  # of those that were given: what the data know of
        self.vouched = 0  # the highest of those, or what one who has spoken since remembers
        self.spoken = 0  # the latter alone: no session is given this, or less
        self.pasts = {name: Past() for name in (*WORKERS, "coordinator")}
        self.ids = {name: f"{name}~1" for name in WORKERS}
        self.snapshot: dict[bytes, bytes] | None = None
        self.snapshot_known: tuple[dict[str, list[int]], int, int] = ({}, 0, 0)
        self.lifted = 0
        self.changes = self.holds = 0
        self.held_until = b"0"
        self._make(Past())
        for name in WORKERS:
            self._join(name)
        self.look()
        self._lift()

    # -- what the machine counts ---------------------------------------------------------------------------------------

    def _now(self) -> int:
        seconds, microseconds = self.bench.client.time()
        return int(seconds * 1000 + microseconds // 1000)

    def _lift(self) -> None:
        if self.clock_behind:  # two lifts within a millisecond would be one clock that stood still
            self.lifted = max(self._now() + HOUR_MS, self.lifted + 1000)
            self.bench.client.hset(self.bench.keys.meta, "epoch_floor", self.lifted)

    def _let_the_clock_pass(self) -> None:
        """A call that changed hands several times within a millisecond is some ahead of it, never more."""
        highest = max((e for given in self.given.values() for e in given), default=0)
        if not self.clock_behind:
            assert highest < self._now() + 2 * HOLD_MS + 40, "epochs run ahead of the clock"
            self._wait_until(highest + 1)

    def _wait_until(self, ms: int) -> None:
        while self._now() < ms:
            time.sleep(0.001)

    def _count_holds(self) -> None:
        until = self.bench.client.hget(self.bench.keys.detector, "transfers_held_until_ms") or b"0"
        if until != self.held_until and until not in (b"0", b"1"):
            self.holds += 1
        self.held_until = until

    def _gave(self, session: str, epoch: int) -> None:
        """It was given anew."""
        known = [
            e for e in self.given[session] if e <= self.spoken or e in self.stored[session] or not self.clock_behind
        ]
        assert epoch > max(known, default=0), (
            f"{session}: {epoch} after {self.given[session]}; stored {self.stored[session]}, spoken of up to {self.spoken}"
        )
        self.given[session].append(epoch)
        self.stored[session].append(epoch)
        self.vouched = max(self.vouched, epoch)

    def _spoke(self, past: Past) -> None:
        self.spoken = max(self.spoken, past.epoch)
        self.vouched = max(self.vouched, past.epoch)

    def _took(self, name: str, session: str, answer: Answer) -> None:
        if answer.word == "OK" and not answer.int("existing"):
            self._gave(session, answer.int("epoch"))
            self.pasts[name].saw(answer.int("epoch"))

    # -- programs ------------------------------------------------------------------------------------------------------

    def _make(self, past: Past) -> None:
        self.lineages += 1
        call = calls.init(
            self.bench.keys,
            partitions=1,
            protocol=1,
            lineage=f"lineage-{self.lineages}",
            hold=HOLD,
            previous=past.lineage,
        )
        self.bench.run(call)
        self._count_holds()

    def _join(self, name: str) -> Answer:
        past = self.pasts[name]
        answer = self.bench.join(self.ids[name], past=past)
        if answer.word == "UNKNOWN":
            self._make(past)
            answer = self.bench.join(self.ids[name], past=past)
        self._spoke(past)
        self._count_holds()
        assert answer.word == "OK"
        past.agree(answer.text("lineage"), answer.int("now_ms"))
        return answer

    @rule(name=st.sampled_from(WORKERS))
    def beat(self, name: str) -> None:
        """Only that: what a worker remembers is told by its beats."""
        past = self.pasts[name]
        answer = self.bench.beat(self.ids[name], past=past)
        self._count_holds()
        if answer.word != "UNKNOWN" or answer.text("lineage"):
            self._spoke(past)
        if answer.word == "OK":
            past.now_ms = answer.int("now_ms")

    @rule(name=st.sampled_from(WORKERS))
    def join(self, name: str) -> None:
        self._join(name)

    @rule()
    def look(self) -> None:
        """A coordinator looks; it makes the partition where there is none."""
        past = self.pasts["coordinator"]
        call = calls.scan(self.bench.keys, max_scan_gap=HOUR, hold=HOLD, horizon=0, past=past)
        answer = self.bench.run(call)
        if answer.word == "UNKNOWN":
            self._make(past)
            answer = self.bench.run(call)
        self._count_holds()
        self._spoke(past)
        assert answer.int("highest_epoch") >= self.vouched or not self.clock_behind
        past.agree(answer.text("lineage"), answer.int("now_ms"))
        past.saw(answer.int("highest_epoch"))

    @rule(name=st.sampled_from(WORKERS))
    def restart(self, name: str) -> None:
        """A worker process ends, and another begins that remembers nothing."""
        self.births += 1
        self.bench.certify(self.ids[name])
        self._count_holds()
        self.ids[name], self.pasts[name] = f"{name}-{self.births}~1", Past()
        self._join(name)

    @rule()
    def the_coordinator_restarts(self) -> None:
        self.pasts["coordinator"] = Past()

    # -- calls ---------------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(WORKERS), session=st.sampled_from(SESSIONS))
    def open(self, name: str, session: str) -> None:
        """A worker opens; one that the store does not know joins first, as the library does."""
        for _ in range(2):
            answer = self.bench.open(session, self.ids[name])
            self._count_holds()
            if answer.word == "AGAIN":
                letter = answer.text("letter_epoch")
                answer = self.bench.open(session, self.ids[name], letter_epoch=letter)
            if answer.word != "UNKNOWN":
                break
            self._join(name)
        self._took(name, session, answer)

    @rule(name=st.sampled_from(WORKERS), session=st.sampled_from(SESSIONS), recoveries=st.sampled_from([0, 9]))
    def release(self, name: str, session: str, recoveries: int) -> None:
        record = self.bench.record(session)
        if record.get("owner") != self.ids[name] or record["state"] != "active":
            return
        answer = self.bench.run(
            calls.release(
                self.bench.keys, session=session, instance=self.ids[name], epoch=int(record["epoch"]),
                request=self.bench.request(), pool="default", reason="no", cause="released", lease=LEASE,
                max_recoveries=recoveries, recovery_window=600,
            )
        )  # fmt: skip
        self._count_holds()
        if answer.word == "OK":
            self._gave(session, answer.int("epoch"))

    @rule(name=st.sampled_from(WORKERS), session=st.sampled_from(SESSIONS))
    def adopt(self, name: str, session: str) -> None:
        answer = self.bench.adopt(session, self.ids[name], None, floor=self.pasts[name].epoch)
        self._count_holds()
        self._took(name, session, answer)

    @rule(session=st.sampled_from(SESSIONS))
    def close(self, session: str) -> None:
        record = self.bench.record(session)
        if record.get("state") == "active":
            self.bench.close(session, record["owner"], int(record["epoch"]))
            self._count_holds()

    @rule(name=st.sampled_from(WORKERS), session=st.sampled_from(SESSIONS))
    def state_again(self, name: str, session: str) -> None:
        """A worker states what it was given last, and has it renewed."""
        epoch = self.pasts[name].epoch
        if epoch not in self.given[session]:
            return
        owner = self.bench.record(session).get("owner", "")
        self.bench.reassert(session, self.ids[name], epoch, 1, b"x", rival=owner)
        self._count_holds()
        before = self.bench.record(session).get("epoch")
        answer = self.bench.run(calls.renew(self.bench.keys, session=session, instance=self.ids[name], epoch=epoch))
        if answer.word == "OK" and answer.text("epoch") != before:
            self._gave(session, answer.int("epoch"))
            self.pasts[name].saw(answer.int("epoch"))

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    @rule(session=st.sampled_from(SESSIONS))
    def a_record_expires(self, session: str) -> None:
        if self.bench.record(session).get("state") in ("closed", "dead_lettered"):
            self.bench.client.delete(self.bench.keys.session(session))

    @rule()
    def a_hold_ends(self) -> None:
        """Time passes until it has."""
        self._wait_until(int(self.bench.client.hget(self.bench.keys.detector, "transfers_held_until_ms") or 0))

    @rule()
    def take_snapshot(self) -> None:
        self.snapshot = {key: self.bench.client.dump(key) for key in self.bench.client.scan_iter()}
        self.snapshot_known = ({s: [*e] for s, e in self.stored.items()}, self.spoken, self.vouched)

    @rule(what=st.sampled_from(["failover", "wipe", "wipe", "restore", "restore", "nobody remembers"]), data=st.data())
    def the_store_changes(self, what: str, data: st.DataObject) -> None:
        """One change: from now on only what is stored, and who speaks, vouches for what was given."""
        self._let_the_clock_pass()
        self.changes += 1
        if what == "wipe":
            self._wipe(restarted=data.draw(st.booleans()), by_a_stranger=data.draw(st.booleans()))
        elif what == "nobody remembers":
            self._wipe(restarted=True, by_a_stranger=True)
            self.pasts["coordinator"] = Past()
            for name in WORKERS:
                self.restart(name)
            self._lift()
        else:
            if what == "restore" and self.snapshot is not None:
                self.bench.client.flushdb()
                for key, value in self.snapshot.items():
                    self.bench.client.restore(key, 0, value)
                stored, self.spoken, self.vouched = self.snapshot_known
                self.stored = defaultdict(list, {s: [*e] for s, e in stored.items()})
                self.held_until = self.bench.client.hget(self.bench.keys.detector, "transfers_held_until_ms") or b"0"
            self._another_server()

    def _another_server(self) -> None:
        self.servers += 1
        self.bench.server_id = f"server {self.servers}"

    def _wipe(self, *, restarted: bool, by_a_stranger: bool) -> None:
        """All is gone; one who knows nothing of it makes the partition, or the next who comes."""
        self.bench.client.flushdb()
        self.stored.clear()
        self.spoken = self.vouched = 0
        self.held_until = b"0"
        if restarted:
            self._another_server()
        if by_a_stranger:
            self._make(Past())

    @invariant()
    def one_hold_for_each_change(self) -> None:
        assert self.holds <= self.changes, f"{self.holds} holds for {self.changes} changes"


class ClockAgrees(EpochMachine):
    """Epochs are those of the clock."""

    clock_behind = False


class ClockBehind(EpochMachine):
    """Epochs are far above the clock, as with a server whose clock is an hour behind that of the last."""

    clock_behind = True


STEPS = 40


@pytest.fixture(autouse=True)
def server(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the test."""
    monkeypatch.setattr(EpochMachine, "client", redis_client, raising=False)


@pytest.mark.parametrize("machine", [ClockAgrees, ClockBehind])
def test_epochs_only_rise(machine: type[EpochMachine]) -> None:
    """Whatever is lost, an epoch is above those before it; with a clock behind, above what anyone remembers who has spoken since."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "50")),
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


MUTATIONS = {
    "nobody's memory counts": (ClockBehind, "    raise_floor(meta, m, epoch)", ""),
    "what expires is forgotten": (ClockBehind, "raise_floor(meta, m, r.epoch)", ""),
    "what is above the clock is not remembered": (ClockBehind, "  note_epoch(meta, m, epoch, now)", ""),
    "a look tells less": (ClockBehind, "'highest_epoch', int(highest_given(m, now))", "'highest_epoch', int(now)"),
    "a change of server forgets the floor": (
        ClockBehind,
        "int(math.max(highest_given(m, now), now + hold_ms))",
        "int(now + hold_ms)",
    ),
    "a change of server lifts far above the clock": (
        ClockAgrees,
        "int(math.max(highest_given(m, now), now + hold_ms))",
        "int(math.max(highest_given(m, now), now + 3600000))",
    ),
    "each who tells of a change holds": (ClockAgrees, "(lost_at == 0 or since > lost_at) and not held", "not held"),
}
"""A rule taken out of all scripts: where it shows, the text, and what stands in its place."""


FOUND = {
    "nobody's memory counts": 3,
    "what expires is forgotten": 18,
    "what is above the clock is not remembered": 1,
    "a look tells less": 1,
    "a change of server forgets the floor": 9,
    "a change of server lifts far above the clock": 4,
    "each who tells of a change holds": 1,
}
"""A seed that finds each at once. When the machine or a rule changes, others find it, and it takes seconds."""


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_rule_taken_out_is_noticed(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it epochs fall, or one change is held again and again."""
    machine, old, new = MUTATIONS[mutation]
    changes = {name: (old, new) for name, script in SCRIPTS.items() if old.encode() in script.source}
    assert changes, "the mutation names text that is in no script"
    planted.plant(monkeypatch, changes)
    with pytest.raises((AssertionError, ExceptionGroup, Flaky)):  # the real clock: no run is quite like another
        planted.run(machine, STEPS, [FOUND[mutation], *range(planted.SEEDS)])


@pytest.mark.parametrize("machine", [ClockAgrees, ClockBehind])
def test_without_that_nothing_is_noticed(machine: type[EpochMachine]) -> None:
    """What finds them finds nothing in the scripts as they are."""
    planted.run(machine, STEPS, sorted({FOUND[m] for m, (its, _, _) in MUTATIONS.items() if its is machine}))
