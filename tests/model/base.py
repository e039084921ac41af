"""What a step changes in a world, and what the store accepts. Each rule of the protocol can be taken away, to see what it is for.

The roll call is one of pairs, session and epoch. That the epochs are in it is not among the rules: no scenario here leads to
an instance that believes in another epoch than the store has for it while the sessions are the same, and a write would tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tests.model.world import Process, Record, Scenario, Store, World, holds, put

RULES = {
    "hold": "after a change of server nothing changes hands until owners have stated again what they held",
    "doubt": "what is to be stated again is not held until it is renewed, and a beat during the hold restores no trust",
    "contest": "of two re-assertions the higher epoch wins",
    "too_late": "after the hold a re-assertion counts only where nothing, or an older epoch of the same owner, is stored",
    "behind": "a write above the stored epoch is answered RESYNC, not FENCED",
    "roll_call": "a beat compares what the instance believes to own with what the store says",
    "names": "the roll call says which sessions: equal numbers are not enough",
    "looks_again": "what a comparison found to be given up is looked at again in the moment of acting",
    "seen_epoch": "a give-up acts only under the epoch that the comparison saw",
    "taken_again": "a session whose owner takes it again gets a new epoch, so that what it sent before is refused",
    "ended_epoch": "what an instance remembers of a session that ended there is its epoch",
    "restate": "coordinators state the deaths that they know of again during a hold",
    "start_over": "an instance that was silent for as long as the store may have forgotten its death takes a new id",
    "renew": "a re-asserted session gets a new epoch, so that what its owner sent before is refused",
    "floor": "a new server or lineage lifts the epochs above all that the store gave",
    "remembered": "the floor takes the highest epoch that one who joins remembers",
    "anew": "a wiped partition is held when one who remembers comes, whoever made it",
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
class Base:
    """A scenario under a set of rules."""

    scenario: Scenario
    rules: frozenset[str]

    # -- small changes -------------------------------------------------------------------------------------------------

    @staticmethod
    def _process(w: World, i: int, **changes: object) -> World:
        x = w.processes[i]._replace(**changes)  # type: ignore[arg-type]
        if x.past:
            x = x._replace(past=tuple(max(e, m[0] if m else 0) for e, m in zip(x.past, x.memory, strict=True)))
        return w._replace(processes=put(w.processes, i, x))

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
            w,
            i,
            over=True,
            trust=False,
            trust_window=False,
            memory=(None,) * len(x.memory),
            offer=None,
            unsure=frozenset(),
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

    def _is_newer(self, r: Record, epoch: int, data: int) -> bool:
        """Numbers begin anew with each epoch, so those of two epochs say nothing to each other."""
        return "sequence" not in self.rules or data > r.data or epoch != r.epoch
