"""Says what to install where the packages of the extra ``sessions`` are missing."""

from __future__ import annotations

try:
    import cryptography
    import opentelemetry.trace
    import stamina
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"coordinator.sessions needs the package {error.name!r}: install this package with its extra sessions",
        name=error.name,
    ) from error

__all__ = ["cryptography", "opentelemetry", "stamina"]
