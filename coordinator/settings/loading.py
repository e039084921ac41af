"""Settings from all sources, or one readable line for each fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from coordinator.errors import ConfigurationError
from coordinator.masking import masked
from coordinator.printable import named
from coordinator.settings.model import Settings
from coordinator.settings.names import SECRETS, unknown, unknown_variables
from coordinator.settings.rules import IN_WORDS
from coordinator.settings.sources import ConfigFile

__all__ = ["from_file", "load"]


def load(**overrides: Any) -> Settings:
    """Settings from ``overrides`` (flags; None means not given), then the environment, then the file.

    Raises:
        ConfigurationError: one readable line for each fault.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    known = Settings.model_fields
    faults = [*unknown(given, known), *unknown_variables(known)]
    try:
        settings = Settings(**{name: value for name, value in given.items() if name in known})
        settings.reads_again(given)
    except ValidationError as error:
        for fault in error.errors():
            name = ".".join(str(part) for part in fault["loc"])
            for line in _said(name, fault).split("\n"):
                faults.append(line if not name or line.startswith(name) else f"{name}: {line}")
    except ConfigurationError as error:
        faults.append(str(error))
    if faults:
        raise ConfigurationError("\n".join(map(masked, faults)))
    return settings


def _said(name: str, fault: Mapping[str, Any]) -> str:
    """The message for one wrong value: the value, unless it is a secret, and the rule."""
    said = str(fault["msg"])
    if fault["type"] == "value_error":  # our own validators name the value where that does no harm
        return said.removeprefix("Value error, ")
    if name in SECRETS:
        return said
    rule = IN_WORDS.get(fault.get("ctx", {}).get("pattern"))
    return f"{named(fault['input'])} is not {rule}" if rule else f"{said}, not {named(fault['input'])}"


def from_file() -> dict[str, Any]:
    """What the TOML file of COORDINATOR_CONFIG sets, {} without one.

    Raises:
        ConfigurationError: the file cannot be read, or sets something that is not a setting; no value is repeated.
    """
    return ConfigFile(Settings)()
