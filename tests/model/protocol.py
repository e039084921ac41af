"""Every step that can happen in a world. Each rule of the protocol can be taken away, to see what it is for.

That a re-asserted session gets a new epoch before its next write is not among the rules: with numbered checkpoints no
scenario here needs it. It stays in the protocol because it is cheap and tells the two histories apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.world import FAULTS, Process, Record, Scenario, Store, World, holds, may_go_wrong, put, spend

RULES = {
    "hold": "after a change of server nothing changes hands until owners have stated again what they held",
    "doubt": "what is to be stated again is not held until it is renewed, and a beat during the hold restores no trust",
    "contest": "of two re-assertions the higher epoch wins",
    "too_late": "after the hold a re-assertion counts only where nothing, or an older epoch of the same owner, is stored",
    "behind": "a write above the stored epoch is answered RESYNC, not FENCED",
    "roll_call": "a beat compares what the instance believes to own with what the store says",
    "restate": "coordinators state the deaths that they know of again during a hold",
    "start_over": "an instance that was silent for as long as the store may have forgotten its death takes a new id",
    "floor": "a new server or lineage lifts the epochs above all that the old clock can have given out",
    "trust": "before the trust window has ended only proof of exit makes an instance dead",
    "sequence": "checkpoints are numbered within their epoch, and an older one is refused",
    "epoch": "a write with another epoch than the stored one is refused",
    "fence": "a dead instance is refused",
    "two_steps": "an heir accepts first; ownership moves when the owner lets go",
    "quiet": "an owner stops holding a session before it sends that it lets go or releases it",
    "heir_lives": "letting go to an heir that is dead is refused",
    "time_out": "a handover that nobody finishes goes back to its owner",
    "rewrite": "an offer whose stream entry is gone is written anew",
    "sweep": "a slow walk over the records repairs lost index entries",
}


class Step(NamedTuple):
    """One thing that can happen next, and the promise that it breaks ('' for none)."""

    label: str
    world: World
    broken: str = ""
    fault: bool = False


NAMES = "ABCD"


@dataclass(frozen=True)
class Protocol:
    """The steps of a scenario under a set of rules."""

    scenario: Scenario
    rules: frozenset[str]

    def steps(self, w: World) -> Iterator[Step]:
        """All that can happen next."""
        for i in range(self.scenario.instances):
            if w.processes[i].run == "up" and not w.processes[i].over:
                yield from self._worker(w, i)
            yield from self._process_faults(w, i)
        yield from self._coordinators(w)
        yield from self._leases(w)
        yield from self._store_faults(w)

    # -- small changes -------------------------------------------------------------------------------------------------

    @staticmethod
    def _process(w: World, i: int, **changes: object) -> World:
        return w._replace(processes=put(w.processes, i, w.processes[i]._replace(**changes)))  # type: ignore[arg-type]

    @staticmethod
    def _store(w: World, **changes: object) -> World:
        return w._replace(store=w.store._replace(**changes))  # type: ignore[arg-type]

    def _record(self, w: World, s: int, r: Record, entry: tuple[int, int, int] | None = None) -> World:
        """Stores a record; its old entries go; the owner's index entry follows the owner."""
        stream = frozenset(e for e in w.store.stream if e[0] != s) | ({entry} if entry else frozenset())
        owned = frozenset(o for o in w.store.owned if o[1] != s)
        if r.state in ("active", "handing_over") and r.owner is not None:
            owned |= {(r.owner, s)}
        return self._store(w, records=put(w.store.records, s, r), stream=stream, owned=owned)

    def _forget(self, w: World, i: int, s: int) -> World:
        x = w.processes[i]
        return self._process(w, i, memory=put(x.memory, s, None), unsure=x.unsure - {s}, stated=x.stated - {s})

    def _over(self, w: World, i: int) -> World:
        x = w.processes[i]
        return self._process(
            w, i, over=True, trust=False, pulse=False, memory=(None,) * len(x.memory), offer=None, unsure=frozenset()
        )

    def believes(self, x: Process, s: int) -> bool:
        """What ``session.held`` says."""
        return holds(x, s, doubt="doubt" in self.rules)

    def _grant(self, w: World, s: int, seen: int = 0) -> tuple[World, int, str]:
        r, st = w.store.records[s], w.store
        clock = 0 if self.scenario.slow_clock and st.server else w.top[s]
        floor = st.floor[s] if "floor" in self.rules else 0
        epoch = max(r.epoch if r else 0, seen, clock, floor) + 1
        broken = "G3" if epoch <= w.top[s] else ""
        return w._replace(top=put(w.top, s, max(epoch, w.top[s]))), epoch, broken

    def _offer(self, w: World, s: int, r: Record, tries: int) -> tuple[World, str]:
        w, epoch, broken = self._grant(w, s, r.epoch)
        return self._record(
            w, s, Record("offered", None, epoch, r.data, tries, last_owner=r.owner), (s, epoch, -1)
        ), broken

    def _stale(self, w: World, i: int, s: int, epoch: int) -> str:
        """Whether accepting a write of ``epoch`` breaks G1."""
        rival = any(
            j != i and self.believes(x, s) and (m := x.memory[s]) is not None and m[0] > epoch
            for j, x in enumerate(w.processes)
        )
        return "G1" if rival or (not w.lost and epoch < w.top[s]) else ""

    def _old_data(self, w: World, i: int, s: int, data: int) -> str:
        keeper = any(
            j != i and x.run == "up" and self.believes(x, s) and (m := x.memory[s]) is not None and m[1] > data
            for j, x in enumerate(w.processes)
        )
        return "G7" if data < w.acknowledged[s] and (keeper or not w.lost) else ""

    @staticmethod
    def _worse(w: World, i: int, s: int, data: int) -> str:
        """Whether somebody stated newer data than that which won."""
        others = [x.memory[s] for j, x in enumerate(w.processes) if j != i and x.run == "up" and s in x.stated]
        return "G7" if any(m is not None and m[1] > data for m in others) else ""

    @staticmethod
    def _revived(w: World, i: int) -> str:
        """Whether accepting what an instance does undoes its death."""
        return "DEATH" if i in w.deaths else ""

    def _dead(self, st: Store, i: int) -> bool:
        return "fence" in self.rules and st.known[i] == "dead"

    # -- workers -------------------------------------------------------------------------------------------------------

    def _worker(self, w: World, i: int) -> Iterator[Step]:
        x, st, name = w.processes[i], w.store, NAMES[i]
        yield from self._beat(w, i)
        for s in x.unsure:
            yield from self._state_again(w, i, s)
        for s in range(self.scenario.sessions):
            mine = x.memory[s]
            if i == 0 and not w.top[s] and not st.held and st.known[i] == "alive":
                w2, epoch, broken = self._grant(w, s)
                w2 = self._record(w2, s, Record("active", i, epoch, 1))
                w2 = self._process(w2, i, memory=put(x.memory, s, (epoch, 1)))
                yield Step(f"{name} opens s{s}", w2._replace(acknowledged=put(w.acknowledged, s, 1)), broken)
            if mine and s not in x.unsure:
                yield from self._write(w, i, s)
            if mine and s in x.unsure and s not in x.stated:
                yield from self._let_go(w, i, s)
            r = st.records[s]
            if r and not mine and r.owner not in (None, i) and r.state == "active" and may_go_wrong(w, "handover"):
                yield from self._ask(spend(w, "handover"), i, s, r)
            if r and not mine and r.owner not in (None, i) and r.state == "handing_over" and r.heir is None:
                yield from self._ask(w, i, s, r)
            if (
                r
                and mine
                and r.state == "active"
                and may_go_wrong(w, "handover")
                and self._accepts(st, i, r, mine[0]) == "OK"
            ):
                offered = self._record(spend(w, "handover"), s, r._replace(state="handing_over", heir=None))
                yield Step(f"{name} looks for an heir of s{s}", offered)
            if (
                r
                and r.owner == i
                and r.state == "active"
                and not mine
                and not st.held
                and not self._dead(st, i)
                and w.budget[FAULTS.index("handover")] < self.scenario.budget.get("handover", 0)
            ):
                w2 = self._process(w, i, memory=put(x.memory, s, (r.epoch, r.data)))
                yield Step(f"{name} learns that it owns s{s}", w2, self._old_data(w, i, s, r.data))
        if x.offer is None:
            for entry in st.stream:
                if entry[2] == -1:
                    w2 = self._store(w, stream=st.stream - {entry} | {(entry[0], entry[1], i)})
                    yield Step(f"{name} reads the offer of s{entry[0]}", self._process(w2, i, offer=entry[:2]))
        else:
            yield from self._adopt(w, i)

    def _beat(self, w: World, i: int) -> Iterator[Step]:
        x, st, name = w.processes[i], w.store, NAMES[i]
        ours = frozenset(s for s, m in enumerate(x.memory) if m)
        if self._dead(st, i):
            yield Step(f"{name} beats: FENCED", self._over(w, i))
            return
        if st.known[i] != "alive":
            w2 = self._store(w, known=put(st.known, i, "alive"))
            yield Step(
                f"{name} beats: UNKNOWN, joins again",
                self._process(w2, i, seen=st.server, pulse=True, unsure=ours, stated=frozenset(), trust=False),
            )
            return
        if "hold" in self.rules and x.seen != st.server:
            yield Step(
                f"{name} beats: RESYNC",
                self._process(
                    w,
                    i,
                    seen=st.server,
                    pulse=True,
                    unsure=ours,
                    stated=frozenset(),
                    trust=x.trust and "doubt" not in self.rules,
                ),
            )
            return
        repaired, broken = self._roll(w, i) if "roll_call" in self.rules and not st.held and not x.unsure else (w, "")
        if repaired != w:
            yield Step(f"{name} beats: RESYNC, calls the roll", repaired, broken)
        elif not x.pulse or not x.trust:
            restores = not (st.held and "doubt" in self.rules)
            if not x.pulse or restores:
                yield Step(
                    f"{name} beats: {'OK' if restores else 'RESYNC'}",
                    self._process(w, i, pulse=True, trust=x.trust or restores),
                )

    def _roll(self, w: World, i: int) -> tuple[World, str]:
        """One repair of the roll call."""
        x, st = w.processes[i], w.store
        for s in range(self.scenario.sessions):
            r, mine, listed = st.records[s], x.memory[s], (i, s) in st.owned
            if mine and (not listed or r is None or r.owner != i):
                return self._process(w, i, unsure=x.unsure | {s}, stated=x.stated), ""
            if listed and not mine and r and r.owner == i and not (x.offer and x.offer[0] == s):
                if s in x.closed:
                    return self._record(w, s, r._replace(state="closed", owner=None)), ""
                return self._offer(w, s, r, r.tries)
        return w, ""

    def _state_again(self, w: World, i: int, s: int) -> Iterator[Step]:
        x, st, name = w.processes[i], w.store, NAMES[i]
        r, mine = st.records[s], x.memory[s]
        if mine is None or st.known[i] == "-":
            return
        epoch, data = mine
        if self._dead(st, i):
            yield Step(f"{name} re-asserts s{s}: FENCED", self._over(w, i))
        elif s not in x.stated:
            w2 = self._process(w, i, stated=x.stated | {s})
            same = r is not None and r.owner == i and r.epoch == epoch and r.state in ("active", "handing_over")
            higher = r is None or r.epoch < epoch or "contest" not in self.rules
            older = r is not None and r.owner == i and r.epoch < epoch and r.state in ("active", "handing_over")
            wins = r is None or older or (higher and (st.held or "too_late" not in self.rules))
            if same and r:
                w2 = self._record(w2, s, r._replace(anew=True, data=max(data, r.data)))
                yield Step(f"{name} re-asserts s{s} ({epoch})", w2)
            elif wins:
                w2 = self._record(w2, s, Record("active", i, epoch, data, anew=True))
                yield Step(f"{name} re-asserts s{s} ({epoch})", w2)
            else:
                yield Step(f"{name} re-asserts s{s} ({epoch}): GONE", self._forget(w, i, s))
        elif not st.held:
            w2 = self._process(w, i, unsure=x.unsure - {s}, stated=x.stated - {s})
            if r and r.owner == i and r.epoch == epoch and r.state in ("active", "handing_over"):
                broken = ""
                if r.anew:
                    w2, epoch, broken = self._grant(w2, s, epoch)
                    w2 = self._record(w2, s, r._replace(epoch=epoch, anew=False))
                w2 = self._process(w2, i, memory=put(x.memory, s, (epoch, r.data)))
                yield Step(
                    f"{name} renews s{s} ({epoch})", w2, broken or self._revived(w, i) or self._worse(w, i, s, data)
                )
            else:
                yield Step(f"{name} renews s{s}: GONE", self._forget(w, i, s))

    def _accepts(self, st: Store, i: int, r: Record | None, epoch: int) -> str:
        """What a write is answered."""
        if self._dead(st, i):
            return "FENCED"
        if st.known[i] == "-" or (st.held and "hold" in self.rules):
            return "RESYNC"
        if r is None or r.epoch < epoch:
            return "RESYNC" if "behind" in self.rules else "GONE"
        if r.owner != i or (r.epoch != epoch and "epoch" in self.rules) or r.state not in ("active", "handing_over"):
            return "GONE"
        return "RESYNC" if r.anew else "OK"

    def _write(self, w: World, i: int, s: int) -> Iterator[Step]:
        x, st, name = w.processes[i], w.store, NAMES[i]
        mine, r = x.memory[s], st.records[s]
        assert mine is not None
        epoch, data = mine
        answer = self._accepts(st, i, r, epoch)
        for verb in ("checkpoint", "close"):
            if not may_go_wrong(w, verb):
                continue
            w1 = spend(w, verb)
            if answer == "OK" and r and verb == "checkpoint":
                w2 = self._store(w1, records=put(st.records, s, r._replace(data=data + 1)))
                w2 = self._process(w2, i, memory=put(x.memory, s, (epoch, data + 1)))
                yield Step(
                    f"{name} checkpoints s{s} ({epoch}, data {data + 1})",
                    w2._replace(acknowledged=put(w.acknowledged, s, data + 1)),
                    self._stale(w, i, s, epoch) or self._revived(w, i),
                )
            elif answer == "OK" and r:
                w2 = self._record(w1, s, Record("closed", None, epoch, data))
                w2 = self._process(w2, i, closed=x.closed | {s})
                yield Step(f"{name} closes s{s}", self._forget(w2, i, s), self._stale(w, i, s, epoch))
            elif answer == "FENCED":
                yield Step(f"{name} writes s{s}: FENCED", self._over(w1, i))
            elif answer == "GONE":
                dropped = "G2" if r is None else ""  # nobody has it any more, and its owner lives
                yield Step(f"{name} writes s{s} ({epoch}): GONE", self._forget(w1, i, s), dropped)
            else:
                yield Step(f"{name} writes s{s}: RESYNC", self._process(w1, i, unsure=x.unsure | {s}))
        if answer == "OK" and may_go_wrong(w, "late"):
            late = spend(w, "late")._replace(network=w.network | {(i, s, epoch, data)})
            yield Step(f"a copy of {name}'s checkpoint (data {data}) is late", late, fault=True)
        if answer == "OK" and r and r.state == "handing_over" and r.heir is not None:
            if "quiet" in self.rules:
                yield Step(f"{name} is about to let s{s} go", self._process(w, i, unsure=x.unsure | {s}))
            else:
                yield from self._let_go(w, i, s)

    def _is_newer(self, r: Record, epoch: int, data: int) -> bool:
        """Numbers begin anew with each epoch, so those of two epochs say nothing to each other."""
        return "sequence" not in self.rules or data > r.data or epoch != r.epoch

    def _let_go(self, w: World, i: int, s: int) -> Iterator[Step]:
        x, st, name = w.processes[i], w.store, NAMES[i]
        r, mine = st.records[s], x.memory[s]
        if not r or not mine or r.state != "handing_over" or r.heir is None or self._accepts(st, i, r, mine[0]) != "OK":
            return
        if "heir_lives" in self.rules and st.known[r.heir] != "alive":
            return
        w2, epoch, broken = self._grant(w, s, r.epoch)
        w2 = self._record(w2, s, Record("active", r.heir, epoch, mine[1]))
        yield Step(f"{name} lets s{s} go to {NAMES[r.heir]} ({epoch})", self._forget(w2, i, s), broken)
        if may_go_wrong(w, "lost_reply"):
            yield Step(f"{name} lets s{s} go; the reply is lost", spend(w2, "lost_reply"), broken, fault=True)

    def _ask(self, w: World, i: int, s: int, r: Record) -> Iterator[Step]:
        st, name = w.store, NAMES[i]
        if st.held or st.known[i] != "alive" or r.owner is None or self._dead(st, r.owner):
            return
        if "two_steps" in self.rules:
            yield Step(
                f"{name} accepts the handover of s{s}", self._record(w, s, r._replace(state="handing_over", heir=i))
            )
        else:
            w2, epoch, broken = self._grant(w, s, r.epoch)
            w2 = self._record(w2, s, Record("active", i, epoch, r.data))
            yield Step(
                f"{name} takes s{s} over",
                self._process(w2, i, memory=put(w.processes[i].memory, s, (epoch, r.data))),
                broken,
            )

    def _adopt(self, w: World, i: int) -> Iterator[Step]:
        x, st, name = w.processes[i], w.store, NAMES[i]
        assert x.offer is not None
        s, offered = x.offer
        r = st.records[s]
        if self._dead(st, i):
            yield Step(f"{name} adopts s{s}: FENCED", self._over(w, i))
        elif st.known[i] == "-" or (st.held and "hold" in self.rules):
            return
        elif r and r.state == "offered" and r.epoch == offered:
            w2, epoch, broken = self._grant(w, s, offered)
            w2 = self._process(self._record(w2, s, Record("active", i, epoch, r.data, r.tries)), i, offer=None)
            if may_go_wrong(w, "lost_reply"):
                yield Step(f"{name} adopts s{s} ({epoch}); the reply is lost", spend(w2, "lost_reply"), fault=True)
            took = self._process(w2, i, memory=put(x.memory, s, (epoch, r.data)))
            yield Step(f"{name} adopts s{s} ({epoch})", took, broken or self._old_data(w, i, s, r.data))
        else:
            yield Step(f"{name} adopts s{s}: GONE", self._process(w, i, offer=None))

    # -- coordinators --------------------------------------------------------------------------------------------------

    def _coordinators(self, w: World) -> Iterator[Step]:
        st = w.store
        for i in range(self.scenario.instances):
            x = w.processes[i]
            silent = x.run == "gone" or not x.pulse or (x.run == "cut" and "trust" not in self.rules)
            if st.known[i] == "alive" and not st.held and silent:
                w2 = self._store(w, known=put(st.known, i, "dead"), graves=st.graves | {i})
                yield Step(f"{NAMES[i]} is declared dead", w2._replace(deaths=w.deaths | {i}))
            if "restate" in self.rules and st.held and i in w.deaths and st.known[i] != "dead":
                w2 = self._store(w, known=put(st.known, i, "dead"), graves=st.graves | {i})
                yield Step(f"{NAMES[i]} is stated dead again", w2)
        if st.held:
            if self._hold_may_end(w):
                yield Step("the hold ends", self._store(w, held=False))
            return
        for i in st.graves:
            for owner, s in st.owned:
                r = st.records[s]
                if owner != i or r is None:
                    continue
                if r.owner == i and r.state in ("active", "handing_over"):
                    w2, broken = self._offer(w, s, r, r.tries)
                    yield Step(f"s{s} of {NAMES[i]} is claimed and offered", w2, broken)
            if not any(o == i for o, _ in st.owned):
                yield Step(f"the grave of {NAMES[i]} ends", self._store(w, graves=st.graves - {i}))
        if "sweep" in self.rules:
            yield from self._sweep(w)

    def _hold_may_end(self, w: World) -> bool:
        """It lasts longer than a living worker needs to beat and to state again what it held."""

        def quiet(x: Process) -> bool:
            done = x.seen == w.store.server and x.unsure <= x.stated
            return x.over or x.run == "gone" or (done if x.run == "up" else not x.pulse)

        told = "restate" not in self.rules or all(w.store.known[i] == "dead" for i in w.deaths)
        return told and all(map(quiet, w.processes))

    def _sweep(self, w: World) -> Iterator[Step]:
        st = w.store
        for s, r in enumerate(st.records):
            if r is None or r.owner is None or r.state not in ("active", "handing_over"):
                continue
            i = r.owner
            if (i, s) not in st.owned:
                yield Step(f"the sweep lists s{s} again", self._store(w, owned=st.owned | {(i, s)}))
            if st.known[i] == "-" and (w.processes[i].run == "gone" or w.processes[i].over):
                w2 = self._store(w, known=put(st.known, i, "dead"), graves=st.graves | {i})
                yield Step(f"the sweep finds that nobody knows {NAMES[i]}", w2)
            if st.known[i] == "dead" and i not in st.graves:
                yield Step(f"the sweep makes the grave of {NAMES[i]} again", self._store(w, graves=st.graves | {i}))

    def _leases(self, w: World) -> Iterator[Step]:
        st = w.store
        for s, r in enumerate(st.records):
            if r is None or st.held:
                continue
            if r.state == "handing_over" and "time_out" in self.rules:
                yield Step(f"the handover of s{s} times out", self._record(w, s, r._replace(state="active", heir=None)))
            elif r.state == "offered":
                readers = [e[2] for e in st.stream if e[:2] == (s, r.epoch)]
                if readers and readers[0] != -1 and r.tries:
                    yield Step(f"s{s} becomes a dead letter", self._record(w, s, r._replace(state="dead_lettered")))
                elif readers and readers[0] != -1:
                    w2, broken = self._offer(w, s, r, 1)
                    yield Step(f"the lease of s{s} ends, it is offered again", w2, broken)
                elif not readers and "rewrite" in self.rules:
                    yield Step(f"the entry of s{s} is written anew", self._record(w, s, r, (s, r.epoch, -1)))
        for i, s, epoch, data in w.network:
            r, w2, broken = st.records[s], w._replace(network=w.network - {(i, s, epoch, data)}), ""
            if self._accepts(st, i, r, epoch) == "OK" and r and self._is_newer(r, epoch, data):
                w2 = self._store(w2, records=put(st.records, s, r._replace(data=data)))
                broken = self._stale(w, i, s, epoch)
            yield Step(f"the late copy of {NAMES[i]}'s checkpoint (data {data}) arrives", w2, broken)

    # -- faults --------------------------------------------------------------------------------------------------------

    def _process_faults(self, w: World, i: int) -> Iterator[Step]:
        x, name = w.processes[i], NAMES[i]
        if x.run in ("frozen", "cut"):
            yield Step(
                f"{name} {'continues' if x.run == 'frozen' else 'has its network again'}", self._process(w, i, run="up")
            )
            if x.pulse:
                yield Step(
                    f"{name}'s trust window, then its deadline pass", self._process(w, i, pulse=False, trust=False)
                )
        if i == self.scenario.instances - 1 or x.run == "gone":
            return
        if may_go_wrong(w, "crash"):
            gone = Process((None,) * len(x.memory), "gone", pulse=False, trust=False)
            yield Step(f"{name} crashes", spend(w._replace(processes=put(w.processes, i, gone)), "crash"), fault=True)
        for fault, run in (("freeze", "frozen"), ("cut", "cut")):
            if x.run == "up" and not x.over and may_go_wrong(w, fault):
                yield Step(f"{name} is {run}", self._process(spend(w, fault), i, run=run), fault=True)

    def _store_faults(self, w: World) -> Iterator[Step]:
        st = w.store
        if w.snapshot is None and may_go_wrong(w, "rollback"):
            yield Step("the replica lags from here", spend(w, "rollback")._replace(snapshot=st), fault=True)
        elif w.snapshot is not None and w.snapshot != st:
            back = w.snapshot._replace(server=st.server + 1, held="hold" in self.rules, floor=w.top)
            yield Step("failover to the lagging replica", w._replace(store=back, snapshot=None, lost=True), fault=True)
        if may_go_wrong(w, "wipe"):
            nobody, nothing = ("-",) * len(st.known), (None,) * len(st.records)
            empty = Store(nobody, nothing, server=st.server + 1, held="hold" in self.rules, floor=w.top)
            yield Step("the store is wiped", spend(w, "wipe")._replace(store=empty, lost=True), fault=True)
        forgotten = [i for i, k in enumerate(st.known) if k == "dead" and i not in st.graves]
        if forgotten and may_go_wrong(w, "forget"):
            known = tuple("-" if i in forgotten else k for i, k in enumerate(st.known))
            w2 = self._store(spend(w, "forget"), known=known)
            for i in forgotten if "start_over" in self.rules else ():
                if w.processes[i].run != "gone":
                    w2 = self._over(w2, i)
            yield Step("the dead are forgotten", w2, fault=True)
        if may_go_wrong(w, "lose_entry"):
            for entry in st.stream:
                yield Step(
                    f"the entry of s{entry[0]} is lost",
                    self._store(spend(w, "lose_entry"), stream=st.stream - {entry}),
                    fault=True,
                )
        if may_go_wrong(w, "lose_index"):
            for listed in st.owned:
                yield Step(
                    f"s{listed[1]} is lost from the index",
                    self._store(spend(w, "lose_index"), owned=st.owned - {listed}),
                    fault=True,
                )
            for grave in st.graves:
                yield Step(
                    f"the grave of {NAMES[grave]} is lost",
                    self._store(spend(w, "lose_index"), graves=st.graves - {grave}),
                    fault=True,
                )
