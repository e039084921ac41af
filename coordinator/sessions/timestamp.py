"""Times as omnivoice-core writes them: RFC 3339 with up to nine digits after the point, and any offset."""

from __future__ import annotations

import datetime as dt
import functools
import re
import time

__all__ = ["ZERO", "Timestamp"]

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII
)  # fmt: skip
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_SECOND = 1_000_000_000


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


@functools.lru_cache(1024)
def _days_since_1970(date: str) -> int:
    """Days of the proleptic Gregorian calendar; year 0 counts, which `datetime` does not know."""
    year, month, day = int(date[:4]), int(date[5:7]), int(date[8:])
    if not 1 <= month <= 12 or not 1 <= day <= _DAYS[month - 1] + (month == 2 and _leap(year)):
        raise ValueError(f"{date!r} is a day that no calendar has")
    before = year - 1
    leaps = before // 4 - before // 100 + before // 400
    days = 365 * year + leaps + sum(_DAYS[: month - 1]) + (month > 2 and _leap(year)) + day - 1
    return days - 719527


@functools.total_ordering
class Timestamp:
    """A moment in nanoseconds, with the text that says it: what was read is written again unchanged.

    Two are equal when they are the same moment, whatever their offsets.

    Args:
        text: RFC 3339 with an offset, as Go's ``time.Time`` reads it from JSON: capital ``T`` and ``Z``, years 0000 to
            9999, no leap second; digits after the ninth do not count.

    Raises:
        ValueError: it is something else.
    """

    __slots__ = ("ns", "text")

    def __init__(self, text: str) -> None:
        match = _RFC3339.fullmatch(text)
        if not match:
            raise ValueError(f"{text!r} is not a time as in 2026-07-19T12:00:00.123456789Z")
        date, hour, minute, second, fraction, sign, offset_hour, offset_minute = match.groups()
        offset = 0
        if sign is not None:
            if int(offset_hour) > 23 or int(offset_minute) > 59:
                raise ValueError(f"{text!r} has an offset that no clock has")
            offset = (int(offset_hour) * 60 + int(offset_minute)) * (-60 if sign == "-" else 60)
        if hour > "23" or minute > "59" or second > "59":
            raise ValueError(f"{text!r} has an hour, minute or second that no clock has")
        seconds = _days_since_1970(date) * 86400 + int(hour) * 3600 + int(minute) * 60 + int(second) - offset
        self.text = text
        """As it was read, or as it will be written."""
        self.ns = seconds * _SECOND + (int(fraction[:9].ljust(9, "0")) if fraction else 0)
        """Nanoseconds since 1970 UTC."""

    @classmethod
    def from_ns(cls, ns: int) -> Timestamp:
        """The moment ``ns`` nanoseconds after 1970, in UTC.

        Raises:
            ValueError: its year is not 1 to 9999.
        """
        seconds, fraction = divmod(ns, _SECOND)
        try:
            moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
        except OverflowError as error:
            raise ValueError(f"{ns} ns is outside the years 1 to 9999") from error
        digits = f".{fraction:09d}".rstrip("0") if fraction else ""
        return cls(f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + digits + "Z")

    @classmethod
    def from_datetime(cls, moment: dt.datetime) -> Timestamp:
        """The moment of an aware ``datetime``, with its offset.

        Raises:
            ValueError: it has no offset, which Go could not read.
        """
        if moment.tzinfo is None:
            raise ValueError(f"{moment!r} has no time zone, so its moment is unknown")
        return cls(moment.isoformat().replace("+00:00", "Z"))

    @classmethod
    def now(cls) -> Timestamp:
        """This moment by this machine's clock, in UTC."""
        return cls.from_ns(time.time_ns())

    def datetime(self) -> dt.datetime:
        """The moment in UTC, cut to microseconds.

        Raises:
            OverflowError: its year is not 1 to 9999.
        """
        return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=self.ns // 1000)

    @property
    def is_zero(self) -> bool:
        """Whether it is Go's zero time, which stands for "never set"."""
        return self.ns == ZERO.ns

    def __eq__(self, other: object) -> bool:
        return self.ns == other.ns if isinstance(other, Timestamp) else NotImplemented

    def __lt__(self, other: Timestamp) -> bool:
        return self.ns < other.ns

    def __hash__(self) -> int:
        return hash(self.ns)

    def __repr__(self) -> str:
        return f"Timestamp({self.text!r})"

    def __str__(self) -> str:
        return self.text


ZERO = Timestamp("0001-01-01T00:00:00Z")
"""Go's zero time."""
