"""What the parts of ``bench`` share: a partition of their own, instances and sessions made by the hundred."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.ids import new_instance_id, new_lineage, new_request_id
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.executor import Executor
from coordinator.store.keys import Keys
from coordinator.store.scripts import R, ScriptCall

__all__ = ["BATCH", "LONG", "Bench"]

BATCH = 100
LONG = 3600.0
"""An instance with such a deadline lives as long as the measurement, without a heartbeat."""


@dataclass(slots=True)
class Bench:
    """One partition to measure in."""

    keys: Keys
    executor: Executor
    settings: Settings
    data: bytes
    """Recovery data of every session."""

    @classmethod
    async def make(cls, executor: Executor, prefix: str, settings: Settings, data_bytes: int, protocol: int) -> Bench:
        """A new partition under a prefix of its own."""
        bench = cls(Keys(prefix, 0), executor, settings, os.urandom(data_bytes // 2).hex().encode())

        await executor.run(
            calls.init(bench.keys, partitions=1, protocol=protocol, lineage=new_lineage(), hold=settings.dead_after)
        )
        return bench

    async def join(self, names: Sequence[str], dead_after: float = LONG, capacity: int = 1_000_000) -> list[str]:
        """Registers an instance for each name, and returns their ids. ``capacity``: 0 for an instance that reads no offers."""
        ids = [new_instance_id(name) for name in names]
        await self.all_ok(
            [
                calls.join(
                    self.keys, instance=id_, name=name, pool="default", capacity=capacity, labels="{}", address="",
                    dead_after=dead_after, trust=0,
                )
                for name, id_ in zip(names, ids, strict=True)
            ]
        )  # fmt: skip
        return ids

    def open_call(self, session: str, instance: str) -> ScriptCall[calls.OpenReply]:
        """The call that opens a session."""
        return calls.open(
            self.keys, session=session, instance=instance, request=new_request_id(), floor=0, pool="default", tenant="",
            requires="[]", data=self.data,
        )  # fmt: skip

    def checkpoint_call(self, session: str, instance: str, epoch: int) -> ScriptCall[calls.CheckpointReply]:
        """The call that writes its first checkpoint."""
        return calls.checkpoint(self.keys, session=session, instance=instance, epoch=epoch, sequence=1, data=self.data)

    async def open_many(self, sessions: Sequence[str], instance: str) -> None:
        """Opens sessions in batches."""
        for i in range(0, len(sessions), BATCH):
            await self.all_ok([self.open_call(session, instance) for session in sessions[i : i + BATCH]])

    async def all_ok(self, wanted: Sequence[ScriptCall[R]]) -> list[R]:
        """Runs calls that must all answer OK.

        Raises:
            RuntimeError: one answered something else, so that what is measured is not what is meant.
        """
        answers = await self.executor.run_many(list(wanted))
        for call, answer in zip(wanted, answers, strict=True):
            if not isinstance(answer, calls.Ok):
                raise RuntimeError(f"{call.script.name} answered {answer} in the benchmark")
        return answers

    async def info(self, *sections: str) -> dict[str, str]:
        """Fields of INFO."""
        raw: bytes = await self.executor.command("INFO", *sections)
        return dict(line.split(":", 1) for line in raw.decode().splitlines() if ":" in line)

    async def cpu_ms(self) -> float:
        """Processor time that the server has used, in ms."""
        info = await self.info("cpu")
        return (float(info["used_cpu_user"]) + float(info["used_cpu_sys"])) * 1000
