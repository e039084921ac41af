"""Every step that can happen in a world, under the rules that `tests.model.base` lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.model.base import NAMES, RULES, Step
from tests.model.requests import Requests
from tests.model.world import FAULTS, Process, Record, Request, Store, World, may_go_wrong, put, spend

__all__ = ["RULES", "Protocol"]


@dataclass(frozen=True)
class Protocol(Requests):
    """The steps of a scenario under a set of rules."""

    def steps(self, w: World) -> Iterator[Step]:
        """All that can happen next."""
        for i in range(self.scenario.instances):
            if w.processes[i].run == "up" and not w.processes[i].over:
                yield from self._worker(w, i)
            yield from self._process_faults(w, i)
        yield from self._coordinators(w)
        yield from self._leases(w)
        yield from self._arrivals(w)
        yield from self._store_faults(w)

    # -- workers -------------------------------------------------------------------------------------------------------

    def _worker(self, w: World, i: int) -> Iterator[Step]:  # noqa: C901, PLR0912 - each branch is a step
        x, st, name = w.processes[i], w.store, NAMES[i]
        yield from self._beat(w, i)
        for s in x.unsure:
            yield from self._state_again(w, i, s)
        for s in range(self.scenario.sessions):
            mine = x.memory[s]
            if i == 0 and not st.held and st.known[i] == "alive" and not mine:
                yield from self._open(w, i, s)
            if mine and s not in x.unsure:
                yield from self._write(w, i, s)
            if mine and s in x.unsure and s not in x.stated:
                yield from self._let_go(w, i, s)
                yield from self._release(w, i, s)
            r = st.records[s]
            if r and r.owner == i and r.state == "active" and not mine and not r.anew:
                yield from self._take_again(w, i, s, r)
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
                and (s in x.waits or not self.scenario.unknown)
            ):
                w2 = self._process(w, i, memory=put(x.memory, s, (r.epoch, r.data)), waits=x.waits - {s})
                yield Step(f"{name} learns that it owns s{s}", w2, self._old_data(w, i, s, r.data))
        if x.offer is None:
            for entry in st.stream:
                if entry[2] == -1:
                    w2 = self._store(w, stream=st.stream - {entry} | {(entry[0], entry[1], i)})
                    yield Step(f"{name} reads the offer of s{entry[0]}", self._process(w2, i, offer=entry[:2]))
        else:
            yield from self._adopt(w, i)
        for s in x.waits:
            yield Step(f"{name} waits for s{s} no more", self._process(w, i, waits=x.waits - {s}))
        if x.doing is not None:
            yield from self._act(w, i, *x.doing)
        if "leave" in self.scenario.unknown and may_go_wrong(w, "leave") and st.known[i] == "alive":
            yield from self._leave(spend(w, "leave"), i)

    def _open(self, w: World, i: int, s: int) -> Iterator[Step]:
        r, name, w1 = w.store.records[s], NAMES[i], w
        if w.top[s] or (r and r.state == "closed"):  # the same caller calls again, when nobody serves it any more
            served = any(self.believes(x, s) for x in w.processes)
            if not may_go_wrong(w, "again") or served or (r and r.state != "closed"):
                return
            w1 = spend(w, "again")
        w2, epoch, broken = self._grant(w1, s)
        w2 = self._record(w2, s, Record("active", i, epoch, 1))
        w2 = self._process(w2, i, memory=put(w.processes[i].memory, s, (epoch, 1)))
        yield Step(f"{name} opens s{s} ({epoch})", w2._replace(acknowledged=put(w.acknowledged, s, 1)), broken)
        if self._unknown(w1, "open"):
            yield Step(f"{name} opens s{s}; no answer", self._sent(w1, Request("open", i, s, 0, 1)), fault=True)

    @staticmethod
    def _asks(x: Process, s: int) -> bool:
        """Whether a request for that session is still asked: its answer will be the same."""
        return s in x.waits or (x.offer is not None and x.offer[0] == s)

    def _take_again(self, w: World, i: int, s: int, r: Record) -> Iterator[Step]:
        """Its caller comes back here, and it finds that the call is its own."""
        asks = self._asks(w.processes[i], s)
        if (
            not self.scenario.unknown
            or may_go_wrong(w, "unknown")
            or w.store.held
            or w.store.known[i] != "alive"
            or asks
        ):
            return
        w2, epoch, broken = w, r.epoch, ""
        if "taken_again" in self.rules:
            w2, epoch, broken = self._grant(w, s, r.epoch)
            w2 = self._record(w2, s, r._replace(epoch=epoch))
        w2 = self._process(w2, i, memory=put(w.processes[i].memory, s, (epoch, r.data)))
        broken = broken or self._old_data(w, i, s, r.data)
        yield Step(f"{NAMES[i]} takes s{s} again ({epoch})", w2, broken, fault=True)  # nobody may rely on its caller

    def _act(self, w: World, i: int, what: str, s: int, seen: int) -> Iterator[Step]:
        """What a comparison found is given up, or ended again."""
        x, name, w1 = w.processes[i], NAMES[i], self._process(w, i, doing=None)
        if "looks_again" in self.rules and (x.memory[s] or self._asks(x, s)):
            yield Step(f"{name} looks again: s{s} is its own", w1)
            return
        here = self._ended_here(w, i, s, seen)
        w2, broken = self._given_up(w1, i, s, seen, ended=what == "end", ended_here=here)
        yield Step(f"{name} gives up s{s} ({seen})", w2, broken)
        if self._unknown(w1, "give_up"):
            w2 = self._sent(w1, Request(what, i, s, seen, int(here)))
            yield Step(f"{name} gives up s{s} ({seen}); no answer", w2, fault=True)

    def _leave(self, w: World, i: int) -> Iterator[Step]:
        x, name = w.processes[i], NAMES[i]
        w1 = w
        if "quiet" in self.rules:
            gone = Process((None,) * len(x.memory), "gone", trust_window=False, trust=False)
            w1 = w._replace(processes=put(w.processes, i, gone))
        yield Step(f"{name} leaves", self._over(self._buried(w1, i), i))
        if self._unknown(w, "leave"):
            yield Step(f"{name} leaves; no answer", self._sent(w1, Request("leave", i, 0, 0, 0)), fault=True)

    def _release(self, w: World, i: int, s: int) -> Iterator[Step]:
        x, st, r, name = w.processes[i], w.store, w.store.records[s], NAMES[i]
        mine = x.memory[s]
        if (
            not may_go_wrong(w, "release")
            or mine is None
            or self._accepts(st, i, r, mine[0]) != "OK"
            or r is None
            or st.held
        ):
            return
        w1 = spend(w, "release")
        w2, broken = self._offer(w1, s, r, r.tries)
        yield Step(f"{name} releases s{s}", self._forget(w2, i, s), broken)
        if self._unknown(w1, "release"):
            yield Step(
                f"{name} releases s{s}; no answer", self._sent(w1, Request("release", i, s, mine[0], 0)), fault=True
            )

    def _beat(self, w: World, i: int) -> Iterator[Step]:
        x, st, name = w.processes[i], w.store, NAMES[i]
        ours = frozenset(s for s, m in enumerate(x.memory) if m)
        if self._dead(st, i):
            yield Step(f"{name} beats: FENCED", self._over(w, i))
            return
        if st.known[i] != "alive":
            w2 = self._told(self._store(w, known=put(st.known, i, "alive")), i)
            yield Step(
                f"{name} beats: UNKNOWN, joins again",
                self._process(
                    w2,
                    i,
                    seen=w2.store.server,
                    trust_window=True,
                    unsure=ours,
                    stated=frozenset(),
                    trust=False,
                    doing=None,
                ),
            )
            return
        if "hold" in self.rules and x.seen != st.server:
            yield Step(
                f"{name} beats: RESYNC",
                self._process(
                    w,
                    i,
                    seen=st.server,
                    trust_window=True,
                    unsure=ours,
                    stated=frozenset(),
                    doing=None,
                    trust=x.trust and "doubt" not in self.rules,
                ),
            )
            return
        repaired, broken = self._roll(w, i) if "roll_call" in self.rules and not st.held and not x.unsure else (w, "")
        if repaired != w:
            yield Step(f"{name} beats: RESYNC, calls the roll", repaired, broken)
        elif not x.trust_window or not x.trust:
            restores = not (st.held and "doubt" in self.rules)
            if not x.trust_window or restores:
                yield Step(
                    f"{name} beats: {'OK' if restores else 'RESYNC'}",
                    self._process(w, i, trust_window=True, trust=x.trust or restores),
                )

    def _told(self, w: World, i: int) -> World:
        """It joins, and says what it remembers of a past that a stranger knew nothing of."""
        x, st = w.processes[i], w.store
        if st.untold and "anew" in self.rules:
            w = self._store(w, held="hold" in self.rules, server=st.server + 1, untold=False)
        if x.past:
            floor = tuple(map(max, st.floor, x.past)) if "remembered" in self.rules else st.floor
            w = self._store(w, floor=floor)._replace(top=tuple(map(max, w.top, x.past)))
        return w

    def _roll(self, w: World, i: int) -> tuple[World, str]:
        """One repair of the roll call."""
        x, st = w.processes[i], w.store
        if "names" not in self.rules and sum(m is not None for m in x.memory) == sum(o == i for o, _ in st.owned):
            return w, ""
        for s in range(self.scenario.sessions):
            r, mine, listed = st.records[s], x.memory[s], (i, s) in st.owned
            if mine and (not listed or r is None or r.owner != i):
                return self._process(w, i, unsure=x.unsure | {s}, stated=x.stated), ""
            adopting = x.offer is not None and x.offer[0] == s and not self.scenario.unknown
            if listed and not mine and r and r.owner == i and not adopting:
                ended = any(t == s and (r.epoch <= e or "ended_epoch" not in self.rules) for t, e in x.closed)
                if not self.scenario.unknown:
                    here = self._ended_here(w, i, s, r.epoch)
                    return self._given_up(w, i, s, r.epoch, ended=ended, ended_here=here)
                if x.doing is None:
                    return self._process(w, i, doing=("end" if ended else "give_up", s, r.epoch)), ""
        return w, ""

    def _state_again(self, w: World, i: int, s: int) -> Iterator[Step]:
        x, st, name = w.processes[i], w.store, NAMES[i]
        mine = x.memory[s]
        if mine is None or st.known[i] == "-":
            return
        epoch, data = mine
        if self._dead(st, i):
            yield Step(f"{name} re-asserts s{s}: FENCED", self._over(w, i))
        elif s not in x.stated:
            w2, counts = self._reasserted(w, i, s, mine)
            if counts:
                yield Step(f"{name} re-asserts s{s} ({epoch})", self._process(w2, i, stated=x.stated | {s}))
            else:
                yield Step(f"{name} re-asserts s{s} ({epoch}): GONE", self._forget(w2, i, s))
            if self._unknown(w, "reassert"):
                sent = self._sent(w, Request("reassert", i, s, epoch, data))
                yield Step(f"{name} re-asserts s{s} ({epoch}); no answer", sent, fault=True)
        elif not st.held:
            w2, renewed, broken = self._renewed(w, i, s, epoch)
            r = w2.store.records[s]
            if renewed and r:
                w2 = self._process(
                    w2, i, unsure=x.unsure - {s}, stated=x.stated - {s}, memory=put(x.memory, s, (renewed, r.data))
                )
                broken = broken or self._revived(w, i) or self._worse(w, i, s, data)
                yield Step(f"{name} renews s{s} ({renewed})", w2, broken)
            else:
                yield Step(f"{name} renews s{s}: GONE", self._forget(w, i, s))
            if self._unknown(w, "renew"):
                yield Step(
                    f"{name} renews s{s}; no answer", self._sent(w, Request("renew", i, s, epoch, 0)), fault=True
                )

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
                if self._unknown(w1, "checkpoint"):
                    w2 = self._process(w1, i, memory=put(x.memory, s, (epoch, data + 1)))
                    w2 = self._sent(w2, Request("checkpoint", i, s, epoch, data + 1))
                    yield Step(f"{name} checkpoints s{s} (data {data + 1}); no answer", w2, fault=True)
            elif answer == "OK" and r:
                w2 = self._record(w1, s, Record("closed", None, epoch, data))
                w2 = self._process(w2, i, closed=x.closed | {(s, epoch)})
                yield Step(f"{name} closes s{s}", self._forget(w2, i, s), self._stale(w, i, s, epoch))
                if self._unknown(w1, "close"):
                    w2 = self._forget(self._process(w1, i, closed=x.closed | {(s, epoch)}), i, s)
                    w2 = self._sent(w2, Request("close", i, s, epoch, 0))
                    yield Step(f"{name} closes s{s}; no answer", w2, fault=True)
            elif answer == "FENCED":
                yield Step(f"{name} writes s{s}: FENCED", self._over(w1, i))
            elif answer == "GONE":
                dropped = "G2" if r is None else ""  # nobody has it any more, and its owner lives
                yield Step(f"{name} writes s{s} ({epoch}): GONE", self._forget(w1, i, s), dropped)
            else:
                yield Step(f"{name} writes s{s}: RESYNC", self._process(w1, i, unsure=x.unsure | {s}))
        if answer == "OK" and may_go_wrong(w, "late"):
            late = spend(w, "late")._replace(network=w.network | {Request("checkpoint", i, s, epoch, data)})
            yield Step(f"a copy of {name}'s checkpoint (data {data}) is late", late, fault=True)
        if answer == "OK" and r and r.state == "handing_over" and r.heir is not None:
            if "quiet" in self.rules:
                yield Step(f"{name} is about to let s{s} go", self._process(w, i, unsure=x.unsure | {s}))
            else:
                yield from self._let_go(w, i, s)
        if answer == "OK" and may_go_wrong(w, "release"):
            if "quiet" in self.rules:
                yield Step(f"{name} is about to release s{s}", self._process(w, i, unsure=x.unsure | {s}))
            else:
                yield from self._release(w, i, s)

    def _let_go(self, w: World, i: int, s: int) -> Iterator[Step]:
        x, st, name = w.processes[i], w.store, NAMES[i]
        r, mine = st.records[s], x.memory[s]
        if not r or not mine or r.state != "handing_over" or r.heir is None or self._accepts(st, i, r, mine[0]) != "OK":
            return
        if "heir_lives" in self.rules and st.known[r.heir] != "alive":
            return
        w2, broken = self._moves_to_heir(w, s, r, mine[1])
        yield Step(f"{name} lets s{s} go to {NAMES[r.heir]}", self._forget(w2, i, s), broken)
        if self._unknown(w, "let_go"):
            sent = self._sent(w, Request("let_go", i, s, mine[0], r.heir))
            yield Step(f"{name} lets s{s} go; no answer", sent, fault=True)
        if may_go_wrong(w, "lost_reply"):
            yield Step(f"{name} lets s{s} go; the reply is lost", spend(w2, "lost_reply"), broken, fault=True)

    def _ask(self, w: World, i: int, s: int, r: Record) -> Iterator[Step]:
        st, name = w.store, NAMES[i]
        if st.held or st.known[i] != "alive" or r.owner is None or self._dead(st, r.owner):
            return
        if "two_steps" in self.rules:
            w2 = self._record(w, s, r._replace(state="handing_over", heir=i))
            if self.scenario.unknown:
                w2 = self._process(w2, i, waits=w.processes[i].waits | {s})
            yield Step(f"{name} accepts the handover of s{s}", w2)
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
            if self._unknown(w, "adopt"):
                yield Step(
                    f"{name} adopts s{s}; no answer", self._sent(w, Request("adopt", i, s, offered, 0)), fault=True
                )
        elif r and r.owner == i and r.state == "active" and r.epoch > offered and not x.memory[s]:  # by this request
            took = self._process(w, i, offer=None, memory=put(x.memory, s, (r.epoch, r.data)))
            yield Step(f"{name} adopts s{s} ({r.epoch}), asked again", took, self._old_data(w, i, s, r.data))
            yield Step(f"{name} asks for s{s} no more", self._process(w, i, offer=None))
        else:
            yield Step(f"{name} adopts s{s}: GONE", self._process(w, i, offer=None))

    # -- coordinators --------------------------------------------------------------------------------------------------

    def _coordinators(self, w: World) -> Iterator[Step]:
        st = w.store
        for i in range(self.scenario.instances):
            x = w.processes[i]
            silent = x.run == "gone" or not x.trust_window or (x.run == "cut" and "trust" not in self.rules)
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
            return x.over or x.run == "gone" or (done if x.run == "up" else not x.trust_window)

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

    # -- faults --------------------------------------------------------------------------------------------------------

    def _process_faults(self, w: World, i: int) -> Iterator[Step]:
        x, name = w.processes[i], NAMES[i]
        if x.run in ("frozen", "cut"):
            yield Step(
                f"{name} {'continues' if x.run == 'frozen' else 'has its network again'}", self._process(w, i, run="up")
            )
            if x.trust_window:
                yield Step(
                    f"{name}'s trust window, then its deadline pass",
                    self._process(w, i, trust_window=False, trust=False),
                )
        if i == self.scenario.instances - 1 or x.run == "gone":
            return
        if may_go_wrong(w, "crash"):
            gone = Process((None,) * len(x.memory), "gone", trust_window=False, trust=False)
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
        if may_go_wrong(w, "stranger"):
            nobody, nothing, zero = ("-",) * len(st.known), (None,) * len(st.records), (0,) * len(st.records)
            made = Store(nobody, nothing, server=st.server + 1, floor=zero, untold=True)
            w2 = spend(w, "stranger")._replace(store=made, lost=True, deaths=frozenset())
            if self.scenario.slow_clock:  # nobody has said yet what was given
                w2 = w2._replace(top=zero)
            yield Step("the store is wiped, and strangers make it anew", w2, fault=True)
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
