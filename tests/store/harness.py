"""Scripts run straight on a server, without the executor: what a test of one script needs and no more."""

from __future__ import annotations

from typing import Any

import redis

from coordinator.store import calls
from coordinator.store.keys import Keys
from coordinator.store.past import Past
from coordinator.store.replies import Reply
from coordinator.store.scripts import SERVER, ScriptCall
from tests.store.answers import Answer

DEAD_AFTER, DEAD_AFTER_MS = 60.0, 60_000
TRUST, TRUST_MS = 0.75, 750
LEASE, LEASE_MS = 60.0, 60_000
LIMITS: Any = {"max_recoveries": 3, "recovery_window": 600}


class Bench:
    """One partition on a real server, driven script by script.

    Attributes:
        twice: run every call a second time and insist on the same answer where the script promises it.
        server_id: what the connection says its server is; change it to play a failover.
    """

    def __init__(self, client: redis.Redis, prefix: str = "recovery") -> None:
        self.client: Any = client
        self.keys = Keys(prefix, 0)
        self.server_id = client.info("server")["run_id"]
        self._requests = 0

    def run(self, call: ScriptCall[Reply]) -> Answer:
        """Runs a call and parses what it answers."""
        raw = self.client.execute_command(*[self.server_id if a is SERVER else a for a in call.eval()])
        answer = Answer(call.parse(raw))
        listed = call.script.header.replies[answer.word]
        assert tuple(name.decode() for name in raw[1::2]) == listed == tuple(answer.fields), (
            f"{call.script.name}.lua answered other fields than its header lists"
        )
        return answer

    def request(self) -> str:
        """A new request id."""
        self._requests += 1
        return f"request-{self._requests:08d}"

    def init(self, hold_ms: int = 2000) -> Answer:
        return self.run(
            calls.init(self.keys, partitions=1, protocol=1, lineage="lineage-1", hold=hold_ms / 1000, previous="")
        )

    def wipe(self, lineage: str = "lineage-2") -> None:
        """Everything goes, and in the same moment a stranger makes the partition anew, who knows nothing of a past."""
        call = calls.init(self.keys, partitions=1, protocol=1, lineage=lineage, hold=2, previous="")
        with self.client.pipeline(transaction=True) as both:
            both.flushdb()
            both.execute_command(*[self.server_id if a is SERVER else a for a in call.eval()])
            both.execute()

    def join(
        self,
        instance: str,
        pool: str = "default",
        dead_after_ms: int = DEAD_AFTER_MS,
        predecessor: str = "",
        trust_ms: int = TRUST_MS,
        hosting: str = "",
        past: Past | None = None,
    ) -> Answer:
        """Registers, and names the predecessor when asked to."""
        answer = self.run(
            calls.join(
                self.keys,
                instance=instance,
                name=instance.split("~", maxsplit=1)[0],
                pool=pool,
                capacity=10,
                labels="{}",
                address=f"{instance}:5060",
                dead_after=dead_after_ms / 1000,
                trust=trust_ms / 1000,
                predecessor=predecessor,
                hosting=hosting,
                past=past or Past(),
            )
        )
        if answer.word == "AGAIN":
            return self.join(instance, pool, dead_after_ms, answer.text("predecessor"), trust_ms, hosting, past)
        return answer

    def beat(
        self,
        instance: str,
        roll: str = "",
        lineage: str = "lineage-1",
        seen: str | None = None,
        past: Past | None = None,
    ) -> Answer:
        return self.run(
            calls.beat(
                self.keys,
                instance=instance,
                dead_after=DEAD_AFTER,
                seen_server=self.server_id if seen is None else seen,
                past=past or Past(lineage),
                roll=roll,
                loop_lag=0,
            )
        )

    def open(
        self,
        session: str,
        instance: str,
        data: bytes = b"opened",
        request: str = "",
        pool: str = "default",
        letter_epoch: str = "",
    ) -> Answer:
        return self.run(
            calls.open(
                self.keys,
                session=session,
                instance=instance,
                request=request or self.request(),
                floor=0,
                pool=pool,
                tenant="",
                requires="",
                data=data,
                letter_epoch=letter_epoch,
            )
        )

    def checkpoint(self, session: str, instance: str, epoch: int, sequence: int, data: bytes) -> Answer:
        return self.run(
            calls.checkpoint(self.keys, session=session, instance=instance, epoch=epoch, sequence=sequence, data=data)
        )

    def close(self, session: str, instance: str, epoch: int) -> Answer:
        return self.run(
            calls.close(self.keys, session=session, instance=instance, epoch=epoch, pool="default", closed_ttl=60)
        )

    def release(self, session: str, instance: str, epoch: int, request: str = "") -> Answer:
        return self.run(
            calls.release(
                self.keys,
                session=session,
                instance=instance,
                epoch=epoch,
                request=request or self.request(),
                pool="default",
                reason="cannot serve",
                cause="released",
                lease=LEASE,
                **LIMITS,
            )
        )

    def certify(self, instance: str, cause: str = "exited") -> Answer:
        return self.run(calls.certify(self.keys, instance=instance, cause=cause, by="test", reason="told so"))

    def claim(self, grave: str, sessions: list[str], max_recoveries: int = 3, pool: str = "default") -> Answer:
        return self.run(
            calls.claim(
                self.keys,
                grave=grave,
                sessions=sessions,
                pool=pool,
                lease=LEASE,
                max_recoveries=max_recoveries,
                recovery_window=600,
            )
        )

    def adopt(self, session: str, instance: str, epoch: int | None, request: str = "", floor: int = 0) -> Answer:
        return self.run(
            calls.adopt(
                self.keys,
                session=session,
                instance=instance,
                request=request or self.request(),
                epoch=epoch,
                pool="default",
                floor=floor,
            )
        )

    def decline(
        self,
        session: str,
        instance: str,
        epoch: int,
        *,
        counts: bool = True,
        max_offers: int = 5,
        give_up_after_ms: int = 600_000,
    ) -> Answer:
        return self.run(
            calls.decline(
                self.keys,
                session=session,
                instance=instance,
                epoch=epoch,
                pool="default",
                reason="no",
                counts=counts,
                max_offers=max_offers,
                lease=LEASE,
                give_up_after=give_up_after_ms / 1000,
            )
        )

    def expire(
        self,
        session: str,
        max_offers: int = 5,
        give_up_after_ms: int = 600_000,
        *,
        entry_of_dead: str = "",
        alone: bool = True,
    ) -> Answer:
        return self.run(
            calls.expire(
                self.keys,
                session=session,
                pool="default",
                lease=LEASE,
                max_offers=max_offers,
                give_up_after=give_up_after_ms / 1000,
                entry_of_dead=entry_of_dead,
                alone=alone,
            )
        )

    def reassert(
        self, session: str, instance: str, epoch: int, sequence: int = 0, data: bytes = b"", rival: str = ""
    ) -> Answer:
        return self.run(
            calls.reassert(
                self.keys,
                session=session,
                instance=instance,
                epoch=epoch,
                sequence=sequence,
                data=data,
                pool="default",
                tenant="",
                requires="",
                opened_at_ms=1,
                rival=rival,
            )
        )

    def end_lease(self, session: str) -> None:
        """The lease of a session ends now."""
        self.client.zadd(self.keys.leases, {session: 1}, xx=True)

    def end_hold(self) -> None:
        """The hold ends now."""
        if self.client.exists(self.keys.detector):
            self.client.hset(self.keys.detector, mapping={"hold_until_ms": 1, "transfers_held_until_ms": 1})

    def read_offers(self, instance: str, pool: str = "default") -> list[tuple[str, int]]:
        """What the instance's reader gets: (session, epoch) of each new entry."""
        stream = self.keys.offers(pool)
        try:
            self.client.xgroup_create(stream, "workers", id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        got = self.client.xreadgroup("workers", instance, {stream: ">"})
        return [(e[b"session"].decode(), int(e[b"epoch"])) for _, entries in got for _, e in entries]

    def record(self, session: str) -> dict[str, str]:
        """The session record, data as latin-1 text."""
        return {k.decode(): v.decode("latin-1") for k, v in self.client.hgetall(self.keys.session(session)).items()}

    def roll(self, instance: str) -> int:
        """The roll that the store keeps of an instance."""
        return int(self.client.hget(self.keys.instance(instance), "roll") or 0)

    def called(self, instance: str) -> str:
        """The roll call of an instance that agrees with the store."""
        return f"{self.client.scard(self.keys.owned(instance))} {self.roll(instance)}"

    def owned(self, instance: str) -> set[str]:
        return {m.decode() for m in self.client.smembers(self.keys.owned(instance))}

    def members(self, key: str) -> set[str]:
        return {m.decode() for m in self.client.zrange(key, 0, -1)}
