"""All settings, one home: environment ``COORDINATOR_*``, flags, a TOML file; checked together at start.

Durations are seconds inside the program; from outside they take ``2s``, ``250ms``, ``5m``, ``24h`` or a number of
seconds. Each default stands with its reason where there is one.
"""

from coordinator.settings.loading import from_file, load
from coordinator.settings.model import Settings
from coordinator.settings.names import CONFIG_FILE, ENV_PREFIX, SECRETS
from coordinator.settings.profiles import PROFILES
from coordinator.settings.units import parse_duration, parse_labels, parse_size

__all__ = [
    "CONFIG_FILE", "ENV_PREFIX", "PROFILES", "SECRETS", "Settings", "from_file", "load", "parse_duration", "parse_labels",
    "parse_size",
]  # fmt: skip
