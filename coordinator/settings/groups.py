"""What belongs to each setting beside its rule: its group, and the programs that use it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import StrEnum
from typing import Any

from pydantic import Field
from pydantic.fields import FieldInfo

from coordinator.settings.units import parse_duration, parse_size

__all__ = [
    "DAEMON",
    "EVERY",
    "OWNERS",
    "SERVERS",
    "SIDECAR",
    "WORKER",
    "Group",
    "Program",
    "grouped",
    "setting",
    "shown",
]


class Group(StrEnum):
    """Settings that belong together, by their title; in this order."""

    STORE = "Store"
    PROCESS = "Process"
    WORKER = "Worker"
    TIMING = "Timing"
    OFFERS = "Offers and recoveries"
    BREAKER = "Mass breaker"
    DRAIN = "Drain"
    DATA = "Recovery data"
    RECORDS = "Records"
    HTTP = "HTTP"
    PODS = "Kubernetes pods"


class Program(StrEnum):
    """The programs that a setting may be for."""

    DAEMON = "daemon"
    SIDECAR = "sidecar"
    WORKER = "worker"


DAEMON, SIDECAR, WORKER = ((program,) for program in Program)
SERVERS = (*DAEMON, *SIDECAR)
OWNERS = (*SIDECAR, *WORKER)
"""The programs that own sessions: a worker, and a sidecar for its workers."""
EVERY = tuple(Program)


def setting(group: Group, by: Collection[Program], default: Any, description: str, **rules: Any) -> Any:
    """A field of the settings.

    Args:
        group: where documents and ``--help`` show it.
        by: the programs that use it; every program accepts it, since a deployment sets variables for all of them at once.
        default: the default, as the program uses it.
        description: a phrase for people, without the default.
        rules: as pydantic's ``Field`` takes them.
    """
    about: dict[str, Any] = {"group": group, "by": [*by]}
    return Field(default, description=description, json_schema_extra=about, **rules)


def grouped(fields: dict[str, FieldInfo], by: Program | None = None) -> Iterator[tuple[Group, dict[str, FieldInfo]]]:
    """Settings group by group, each group with its settings in the order of their declaration.

    Args:
        fields: of the settings' class.
        by: only the settings that this program uses; default: all.
    """
    for group in Group:
        inside = {name: field for name, field in fields.items() if group_of(field) == group and is_used(field, by)}
        if inside:
            yield group, inside


def group_of(field: FieldInfo) -> Group:
    """The group that a field was declared in."""
    return Group(_about(field)["group"])


def programs_of(field: FieldInfo) -> tuple[Program, ...]:
    """The programs that use it."""
    return tuple(Program(one) for one in _about(field)["by"])


def is_used(field: FieldInfo, by: Program | None) -> bool:
    """Whether a program uses it; whether any does, for None."""
    return by is None or by in programs_of(field)


def _about(field: FieldInfo) -> dict[str, Any]:
    about = field.json_schema_extra
    assert isinstance(about, dict)  # noqa: S101 - every field is made by `setting`
    return about


def shown(field: FieldInfo) -> str:
    """The default of a setting as a person would write it; '' where it has none, or its description names it."""
    value, parsers = field.default, [getattr(one, "func", None) for one in field.metadata]
    if value in (None, "", {}):
        return ""
    if parse_duration in parsers:
        for unit, seconds in (("d", 172800), ("h", 3600), ("m", 60), ("s", 1)):
            if value >= seconds and value % (86400 if unit == "d" else seconds) == 0:
                return f"{value / (86400 if unit == 'd' else seconds):g}{unit}"
        return f"{value * 1000:g}ms"
    if parse_size in parsers:
        return f"{value // 1024}KiB"
    return str(value).lower() if isinstance(value, bool) else str(value)
