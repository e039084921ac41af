"""What a supervised process finds in its environment: everything but the supervisor's own secrets."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from coordinator.errors import ConfigurationError
from coordinator.settings import CONFIG_FILE, ENV_PREFIX, SECRETS, from_file
from coordinator.store.url import parse_url

__all__ = ["for_child", "secret_variables"]

_URL = f"{ENV_PREFIX}REDIS_URL"


def secret_variables(environment: Mapping[str, str]) -> set[str]:
    """Variables that hold a secret of the supervisor's, or name the file that holds one.

    The store's URL is a secret as soon as it holds a user or a password.

    Raises:
        ConfigurationError: the file of COORDINATOR_CONFIG cannot be read.
    """
    names = {f"{ENV_PREFIX}{secret.upper()}{ending}" for secret in SECRETS for ending in ("", "_FILE")}
    if _is_plain(environment.get(_URL, "")):
        names.discard(_URL)
    if not from_file().keys().isdisjoint(SECRETS):
        names.add(CONFIG_FILE)
    return names & environment.keys()


def _is_plain(url: str) -> bool:
    try:
        return not parse_url(url).has_secret
    except ConfigurationError:  # another one counts, given as a flag
        return False


def for_child(passed: Collection[str] = ()) -> tuple[dict[str, str], list[str]]:
    """The child's environment, and the variables that it does not get.

    Args:
        passed: variables that it gets although they hold a secret.

    Raises:
        ConfigurationError: a variable is not set.
    """
    if missing := [name for name in passed if name not in os.environ]:
        raise ConfigurationError(f"--pass-env {missing[0]}: this variable is not set")
    withheld = secret_variables(os.environ) - set(passed)
    left_out = {*withheld, "RECOVERY_SESSIONS"}  # this process's own, under another supervisor
    return {name: value for name, value in os.environ.items() if name not in left_out}, sorted(withheld)
