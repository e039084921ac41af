"""Claims, adoptions, checkpoints and heartbeats a second, beside what the same server does with plain writes."""

from __future__ import annotations

import time

from coordinator.cli.bench_store import BATCH, LONG, Bench
from coordinator.cli.figures import rounded
from coordinator.ids import new_request_id
from coordinator.store import calls
from coordinator.store.past import Past

__all__ = ["heartbeats", "rates"]


async def rates(bench: Bench, sessions: int) -> dict[str, object]:
    """Takes ``sessions`` sessions of one dead instance, offers, adopts and checkpoints them; then plain writes.

    No daemon runs meanwhile. Claims go 100 to a script, one script after another; adoptions, checkpoints and plain
    writes go in pipelines of the same client library. The plain writes of a session are one HSET and one XADD with the
    bytes that its claim writes, and one ZADD.
    """
    keys, settings = bench.keys, bench.settings
    dead, heir = await bench.join(["rates-dead", "rates-heir"])
    names = [f"rates-{i:07d}" for i in range(sessions)]
    await bench.open_many(names, dead)
    await bench.all_ok([calls.certify(keys, instance=dead, cause="exited", by="bench", reason="bench")])

    began = time.perf_counter()
    for i in range(0, sessions, BATCH):
        await bench.all_ok(
            [
                calls.claim(
                    keys, grave=dead, sessions=names[i : i + BATCH], pool="default", lease=LONG,
                    max_recoveries=settings.max_recoveries, recovery_window=settings.recovery_window,
                )
            ]
        )  # fmt: skip
    claiming = time.perf_counter() - began

    entries = await bench.executor.command("XRANGE", keys.offers("default"), "-", "+")
    offers = [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]
    plain = await _plain_writes(bench, dead, offers)

    epochs: list[int] = []
    began = time.perf_counter()
    for i in range(0, sessions, BATCH):
        adopted = await bench.all_ok(
            [
                calls.adopt(
                    keys, session=offer[b"session"].decode(), instance=heir, request=new_request_id(),
                    epoch=int(offer[b"epoch"]), pool="default", floor=0,
                )
                for offer in offers[i : i + BATCH]
            ]
        )  # fmt: skip
        epochs += [answer.epoch for answer in adopted if isinstance(answer, calls.AdoptOk)]
    adopting = time.perf_counter() - began

    held = [(offer[b"session"].decode(), epoch) for offer, epoch in zip(offers, epochs, strict=True)]
    began = time.perf_counter()
    for i in range(0, sessions, BATCH):
        await bench.all_ok([bench.checkpoint_call(session, heir, epoch) for session, epoch in held[i : i + BATCH]])
    writing = time.perf_counter() - began
    return {
        "sessions": sessions,
        "data_bytes": len(bench.data),
        "claims_per_second": rounded(sessions / claiming, 0),
        "adoptions_per_second": rounded(sessions / adopting, 0),
        "checkpoints_per_second": rounded(sessions / writing, 0),
        "plain_sessions_per_second": rounded(sessions / plain, 0),
        "claims_to_plain": rounded(plain / claiming, 2),
        "adoptions_to_plain": rounded(plain / adopting, 2),
    }


async def _plain_writes(bench: Bench, dead: str, offers: list[dict[bytes, bytes]]) -> float:
    """Seconds for one HSET, XADD and ZADD for each offer, under other keys."""
    tag = f"{bench.keys.tag}:plain"
    batches = []
    for i in range(0, len(offers), BATCH):
        batch: list[tuple[bytes | str | int, ...]] = []
        for offer in offers[i : i + BATCH]:
            session, at = offer[b"session"].decode(), offer[b"orphaned_at"]
            record = (
                "state", "offered", "owner", "", "epoch", offer[b"epoch"], "offers", "1", "cause", "exited",
                "previous_owner", dead, "orphaned_at", at, "offer_id", "1700000000000-0", "heir", "",
                "lease_holder", "", "lease_until", at, "orphanings", at, "recoveries", "1", "served_until", at,
                "evidence_at", at, "held_before_ms", "0", "planned", "0", "request", "",
            )  # fmt: skip
            batch.append(("HSET", f"{tag}:{session}", *record))
            batch.append(("XADD", f"{tag}-stream", "*", *(part for pair in offer.items() for part in pair)))
            batch.append(("ZADD", f"{tag}-zset", at, session))
        batches.append(batch)
    began = time.perf_counter()
    for batch in batches:
        await bench.executor.commands(batch)
    return time.perf_counter() - began


async def heartbeats(bench: Bench, beats: int) -> dict[str, object]:
    """What heartbeats cost the server: one after another, each its own round trip, as workers send them."""
    [instance] = await bench.join(["beats"])
    meta = await bench.executor.command("HMGET", bench.keys.meta, "server", "lineage")
    server, lineage = (value.decode() for value in meta)
    beat = calls.beat(
        bench.keys,
        instance=instance,
        dead_after=LONG,
        seen_server=server,
        past=Past(lineage),
        roll="0 0",
        loop_lag=0,
    )
    await bench.all_ok([beat])
    before, began = await bench.cpu_ms(), time.perf_counter()
    for _ in range(beats):
        await bench.executor.run(beat)
    took, after = time.perf_counter() - began, await bench.cpu_ms()
    return {
        "beats": beats,
        "redis_cpu_ms_per_1000": rounded((after - before) / beats * 1000, 2),
        "round_trip_ms": rounded(took / beats * 1000, 3),
    }
