"""Requests without an answer: each may be applied at once, later, or never, and whoever sent it goes on without knowing."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.base import NAMES, Base, Step
from tests.model.world import Record, Request, World, may_go_wrong, put, spend

__all__ = ["Requests"]

WORDS = {"let_go": "letting go", "leave": "certificate", "give_up": "giving up"}


class Requests(Base):
    """What the store does with a request whenever it comes."""

    def _unknown(self, w: World, operation: str) -> bool:
        """Whether that operation's outcome may be unknown here."""
        return operation in self.scenario.unknown and may_go_wrong(w, "unknown")

    @staticmethod
    def _sent(w: World, request: Request) -> World:
        """It is on its way, and there will be no answer."""
        return spend(w, "unknown")._replace(network=w.network | {request})

    def _arrivals(self, w: World) -> Iterator[Step]:
        for request in w.network:
            w2, broken = self._applied(w._replace(network=w.network - {request}), request)
            what = WORDS.get(request.operation, request.operation)
            yield Step(f"{NAMES[request.instance]}'s {what} of s{request.session} arrives late", w2, broken)

    def _applied(self, w: World, q: Request) -> tuple[World, str]:
        """What a request does, and the promise that it breaks."""
        st, r, i, s = w.store, w.store.records[q.session], q.instance, q.session
        fit = st.known[i] == "alive" and not st.held
        accepted = self._accepts(st, i, r, q.epoch) == "OK"
        match q.operation:
            case "open" if fit and (r is None or r.state == "closed"):
                w, epoch, broken = self._grant(w, s)
                return self._record(w, s, Record("active", i, epoch, 1)), broken
            case "adopt" if fit and r and r.state == "offered" and r.epoch == q.epoch:
                w, epoch, broken = self._grant(w, s, q.epoch)
                return self._record(w, s, Record("active", i, epoch, r.data, r.tries)), broken
            case "checkpoint" if accepted and r and self._is_newer(r, q.epoch, q.data):
                return self._store(w, records=put(st.records, s, r._replace(data=q.data))), self._stale(
                    w, i, s, q.epoch
                )
            case "close" if accepted and r:
                return self._record(w, s, Record("closed", None, r.epoch, r.data)), self._stale(w, i, s, q.epoch)
            case "release" if accepted and fit and r:
                return self._offer(w, s, r, r.tries)
            case "let_go" if accepted and fit and r and r.state == "handing_over" and r.heir == q.data:
                return self._moves_to_heir(w, s, r, r.data)
            case "reassert":
                return self._reasserted(w, i, s, (q.epoch, q.data))[0], ""
            case "renew" if fit:
                w, _, broken = self._renewed(w, i, s, q.epoch)
                return w, broken
            case "leave" if st.known[i] == "alive":
                return self._buried(w, i), ""
            case "give_up" | "end":
                return self._given_up(w, i, s, q.epoch, ended=q.operation == "end", ended_here=bool(q.data))
        return w, ""

    def _moves_to_heir(self, w: World, s: int, r: Record, data: int) -> tuple[World, str]:
        """The owner let go."""
        if r.heir is None or ("heir_lives" in self.rules and w.store.known[r.heir] != "alive"):
            return w, ""
        w, epoch, broken = self._grant(w, s, r.epoch)
        return self._record(w, s, Record("active", r.heir, epoch, data)), broken

    def _buried(self, w: World, i: int) -> World:
        w = self._store(w, known=put(w.store.known, i, "dead"), graves=w.store.graves | {i})
        return w._replace(deaths=w.deaths | {i})

    def _given_up(self, w: World, i: int, s: int, seen: int, *, ended: bool, ended_here: bool) -> tuple[World, str]:
        """What the store names and its owner does not: closed again where it ended there, else offered to others.

        Args:
            ended_here: whether it did, under the epoch seen: the promise breaks when another one is closed.
        """
        st, r = w.store, w.store.records[s]
        if r is None or r.owner != i or r.state not in ("active", "handing_over") or r.anew:
            return w, ""
        if st.held or st.known[i] != "alive" or ("seen_epoch" in self.rules and r.epoch != seen):
            return w, ""
        if not ended:
            return self._offer(w, s, r, r.tries)
        lives = not ended_here or r.epoch != seen
        return self._record(w, s, Record("closed", None, r.epoch, r.data)), "G2" if lives else ""

    @staticmethod
    def _ended_here(w: World, i: int, s: int, epoch: int) -> bool:
        """Whether the instance closed the session under that epoch, or a later one."""
        return any(t == s and epoch <= known for t, known in w.processes[i].closed)

    def _reasserted(self, w: World, i: int, s: int, mine: tuple[int, int]) -> tuple[World, bool]:
        """What the store makes of a statement, and whether it counts."""
        st, r, (epoch, data) = w.store, w.store.records[s], mine
        if st.known[i] != "alive":
            return w, False
        serves = r is not None and r.owner == i and r.state in ("active", "handing_over")
        if serves and r and r.epoch == epoch:
            return self._record(w, s, r._replace(anew=True, data=max(data, r.data))), True
        higher = r is None or r.epoch < epoch or "contest" not in self.rules
        older = serves and r is not None and r.epoch < epoch
        if r is None or older or (higher and (st.held or "too_late" not in self.rules)):
            return self._record(w, s, Record("active", i, epoch, data, anew=True)), True
        return w, False

    def _renewed(self, w: World, i: int, s: int, epoch: int) -> tuple[World, int, str]:
        """The epoch after a renewal, 0 when somebody else has the session."""
        r = w.store.records[s]
        if r is None or r.owner != i or r.state not in ("active", "handing_over"):
            return w, 0, ""
        if r.before == epoch:
            return w, r.epoch, ""
        if r.epoch != epoch:
            return w, 0, ""
        if not r.anew:
            return w, epoch, ""
        broken, before = "", r.before
        if "renew" in self.rules:
            w, epoch, broken = self._grant(w, s, epoch)
            before = r.epoch if "renew" in self.scenario.unknown else -1
        return self._record(w, s, r._replace(epoch=epoch, anew=False, before=before)), epoch, broken
