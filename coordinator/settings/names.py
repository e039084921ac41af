"""Names of settings: the known ones, and the one that was probably meant."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable

__all__ = ["CONFIG_FILE", "ENV_PREFIX", "SECRETS", "unknown", "unknown_variables", "variable_of"]

ENV_PREFIX = "COORDINATOR_"
CONFIG_FILE = "COORDINATOR_CONFIG"
SECRETS = ("redis_url", "api_token", "drain_token", "encryption_keys")
_OTHER_VARIABLES = {CONFIG_FILE, "COORDINATOR_FAIL_POINT"}
_SERVICE_LINK = re.compile(
    r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)=.*|\w+_PORT=\w+://.*"
)
"""What Kubernetes puts into the environment of every pod beside a Service whose name begins with ``coordinator``."""


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return f"{ENV_PREFIX}{name.upper()}"


def unknown(names: Iterable[str], known: Iterable[str], prefix: str = "") -> list[str]:
    """One line for each name that is not a setting, with the setting that was probably meant.

    Args:
        names: in lower case.
        known: names of settings.
        prefix: with it the names are shown as environment variables.
    """
    known, faults = tuple(known), []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            said = f"; did you mean {prefix}{near[0].upper() if prefix else near[0]}?" if near else ""
            faults.append(f"{prefix}{name.upper() if prefix else name} is not a setting{said}")
    return faults


def unknown_variables(known: Iterable[str]) -> list[str]:
    """The same for the environment: variables of settings, of secrets in files, and of Kubernetes are known."""
    ours = {name: value for name, value in os.environ.items() if name.startswith(ENV_PREFIX)}
    names = {n for n, value in ours.items() if not _SERVICE_LINK.fullmatch(f"{n}={value}")} - _OTHER_VARIABLES
    plain = {name.removeprefix(ENV_PREFIX).lower() for name in names}
    return unknown(sorted(name for name in plain if name.removesuffix("_file") not in SECRETS), known, ENV_PREFIX)
