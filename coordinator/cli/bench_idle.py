"""What idle sessions cost: memory in Redis, commands a second, memory of the daemon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import anyio

from coordinator import clock
from coordinator.cli.bench_store import Bench
from coordinator.cli.figures import rounded
from coordinator.cli.processes import CoordinatorProcess

__all__ = ["idle"]

OWNERS = 20
SETTLE = 4.0
"""Seconds that a new daemon gets before it is measured: its first hold and its first looks are over then."""


async def idle(
    bench: Bench, url: str, sizes: Sequence[int], seconds: float, step: Callable[[str], None]
) -> list[dict[str, object]]:
    """One row for each number of sessions; the daemon is started anew for each, in a process of its own.

    The owners send no heartbeats meanwhile (their deadlines lie an hour ahead): what is counted is the daemon's.
    """
    owners = await bench.join([f"owner-{i}" for i in range(OWNERS)])
    rows: list[dict[str, object]] = []
    at_start = int((await bench.info("memory"))["used_memory"])
    made = 0
    for size in sizes:
        step(f"idle: opening {size:,} sessions")
        while made < size:
            batch = range(made, min(size, made + 1000))
            await bench.open_many([f"idle-{i:07d}" for i in batch], owners[(made // 1000) % OWNERS])
            made = batch.stop
        used = int((await bench.info("memory"))["used_memory"])
        step(f"idle: watching {size:,} sessions for {seconds:.0f} s")
        async with CoordinatorProcess.run(
            f"bench-idle-{size}", url, bench.keys.prefix, "--log-level", "error"
        ) as coordinator:
            await coordinator.ready()
            await anyio.sleep(SETTLE)
            before, cpu, began = await bench.info("stats"), await bench.cpu_ms(), clock.now()
            await anyio.sleep(seconds)
            after, cpu_after, took = await bench.info("stats"), await bench.cpu_ms(), clock.now() - began
            own = 3  # this measurement's own INFOs between the two counts
            commands = int(after["total_commands_processed"]) - int(before["total_commands_processed"]) - own
            rows.append(
                {
                    "sessions": size,
                    "redis_bytes_per_session": rounded((used - at_start) / size, 0),
                    "redis_commands_per_second": rounded(commands / took, 1),
                    "redis_cpu_ms_per_second": rounded((cpu_after - cpu) / took, 2),
                    "daemon_resident_mb": rounded(resident_mb(coordinator.child.pid), 1),
                }
            )
    return rows


def resident_mb(pid: int) -> float | None:
    """Resident memory of a process; None where the system does not tell it through /proc."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:")), None)
    return None if kilobytes is None else int(kilobytes) / 1024
