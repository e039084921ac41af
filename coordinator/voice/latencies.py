"""How long the parts of a turn took: of one turn, and of all turns of a call."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator import clock
from coordinator.bounds import check_seconds
from coordinator.errors import InvalidDataError
from coordinator.printable import named

__all__ = ["PARTS", "LatencyTotals", "PartTotal", "TurnLatencies"]

PARTS = ("stt", "agent", "tts", "e2e")
"""The parts of a turn, in the order in which they come; a closed list."""
_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TurnLatencies:
    """How long one turn of the agent took, in seconds. None, the default, stands for what is not known.

    Attributes:
        stt: from the end of the caller's speech to its transcript.
        agent: from the transcript to the first words of the answer.
        tts: from the first words to the first audio of the answer.
        e2e: from the end of the caller's speech to the first audio: what the caller waits. It is measured by itself, and need
            not be the sum of the others.

    Raises:
        InvalidValueError: a time is not a number of seconds from 0.
    """

    stt: float | None = None
    agent: float | None = None
    tts: float | None = None
    e2e: float | None = None

    def __post_init__(self) -> None:
        for name, seconds in self:
            check_seconds(f"{name} latency", seconds)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """The parts that are known, each with its seconds."""
        for name in PARTS:
            if (seconds := getattr(self, name)) is not None:
                yield name, seconds

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return any(True for _ in self)

    @property
    def whole(self) -> float:
        """Seconds from the end of the caller's speech to the first audio: `e2e`, or what is known of its parts in its place."""
        return sum(seconds for _, seconds in self) if self.e2e is None else self.e2e


@dataclass(frozen=True, slots=True)
class PartTotal:
    """What one part of all turns took.

    Attributes:
        count: turns for which it is known.
        total_ms, longest_ms: of these turns, in whole milliseconds.
    """

    count: int = 0
    total_ms: int = 0
    longest_ms: int = 0

    @property
    def average_ms(self) -> int:
        """Rounded to whole milliseconds; 0 without a turn."""
        return round(self.total_ms / self.count) if self.count else 0

    def and_one_of(self, seconds: float) -> PartTotal:
        """The total with one turn more."""
        took_ms = clock.in_ms(seconds)
        return PartTotal(self.count + 1, self.total_ms + took_ms, max(self.longest_ms, took_ms))


@dataclass(slots=True)
class LatencyTotals:
    """What the parts of a call's turns took, over all its workers: `stt`, `agent`, `tts` and `e2e` as in `TurnLatencies`."""

    stt: PartTotal = field(default_factory=PartTotal)
    agent: PartTotal = field(default_factory=PartTotal)
    tts: PartTotal = field(default_factory=PartTotal)
    e2e: PartTotal = field(default_factory=PartTotal)

    def __bool__(self) -> bool:
        """Whether any turn was counted."""
        return any(getattr(self, name).count for name in PARTS)

    def add(self, latencies: TurnLatencies) -> None:
        """Counts one turn more; parts that are not known change nothing."""
        for name, seconds in latencies:
            setattr(self, name, getattr(self, name).and_one_of(seconds))

    def to_data(self) -> dict[str, dict[str, int]]:
        """The totals as a JSON-able mapping, without the parts that are not known."""
        return {name: dataclasses.asdict(getattr(self, name)) for name in PARTS if getattr(self, name).count}

    @classmethod
    def from_data(cls, data: object) -> LatencyTotals:
        """The totals from what `to_data` made. Fields that this program does not know are left out.

        Raises:
            InvalidDataError: these are no totals.
        """
        if not isinstance(data, Mapping):
            raise InvalidDataError(f"totals of latencies are a mapping, not {type(data).__name__}")
        return cls(**{name: _total(name, data[name]) for name in PARTS if name in data})


def _total(name: str, data: Any) -> PartTotal:
    if not isinstance(data, Mapping):
        raise InvalidDataError(f"the total of the {name} latency is a mapping, not {type(data).__name__}")
    values: dict[str, int] = {}
    for one in dataclasses.fields(PartTotal):
        value = data.get(one.name)
        if type(value) is not int or not 0 <= value <= _MOST:
            raise InvalidDataError(f"{name} {one.name}: {named(value)} is not a whole number from 0 of 64 bits")
        values[one.name] = value
    return PartTotal(**values)
