"""Where settings come from: the environment, files with secrets, the TOML file, the profile; each a source of pydantic-settings."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)

from coordinator.errors import ConfigurationError
from coordinator.settings.names import CONFIG_FILE, SECRETS, unknown, variable_of
from coordinator.settings.profiles import PROFILES
from coordinator.settings.secret_files import secret_in

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = ["ConfigFile", "Environment", "Profile", "SecretFiles", "secret_path"]


class Environment(EnvSettingsSource):
    """``COORDINATOR_*``, in capitals only.

    The class that it extends takes a variable in the case of its field, or in any. Then ``coordinator_api_token`` would be a
    secret too, and a supervisor that keeps its secrets from its child would need to know every spelling.
    """

    def __init__(self, settings: type[BaseSettings]) -> None:
        super().__init__(settings, case_sensitive=True)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The variable's text; None when it is unset or empty."""
        return self.env_vars.get(variable_of(field_name)), field_name, False


class SecretFiles(PydanticBaseSettingsSource):
    """Secrets in files that ``COORDINATOR_*_FILE`` names, where the variable without ``_FILE`` is unset.

    Raises:
        ConfigurationError: a file cannot be read, or is empty.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The file's text; None when no file is named."""
        if (path := secret_path(field_name)) is None:
            return None, field_name, False
        try:
            return secret_in(path), field_name, False
        except ConfigurationError as error:
            raise ConfigurationError(f"{variable_of(field_name)}_FILE: {error}") from None

    def __call__(self) -> dict[str, Any]:
        """Each secret that a file holds."""
        fields = self.settings_cls.model_fields
        found = {name: self.get_field_value(fields[name], name)[0] for name in SECRETS}
        return {name: value for name, value in found.items() if value is not None}


def secret_path(name: str) -> Path | None:
    """The file that the environment names for a secret; None when it names none, or holds the secret itself."""
    path = os.environ.get(f"{variable_of(name)}_FILE")
    return Path(path) if path and name in SECRETS and not os.environ.get(variable_of(name)) else None


class ConfigFile(TomlConfigSettingsSource):
    """The TOML file of COORDINATOR_CONFIG. A source that comes before it replaces a table in it, and is not merged with it.

    The class that it extends ignores a path without a file, and its errors may repeat values.

    Raises:
        ConfigurationError: the file cannot be read, or sets something that is not a setting; no value is repeated.
    """

    def __init__(self, settings: type[BaseSettings]) -> None:
        path = os.environ.get(CONFIG_FILE) or None
        unreadable = f"{CONFIG_FILE}: {path!r} cannot be read"
        try:
            super().__init__(settings, toml_file=path)
            if path and not Path(path).is_file():  # a pipe, or nothing: the class ignored it
                self.init_kwargs = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"{unreadable}: {error.strerror}") from None
        except tomllib.TOMLDecodeError as error:  # its text may repeat a part of a value
            where = re.search(r"\(at [^()]*\)", str(error))
            raise ConfigurationError(f"{unreadable}: invalid TOML {where[0] if where else ''}") from None
        except (ValueError, RecursionError):
            raise ConfigurationError(f"{unreadable}: it is not UTF-8") from None
        if faults := unknown(self.init_kwargs, settings.model_fields):
            raise ConfigurationError("\n".join(f"{path}: {fault}" for fault in faults))

    def __call__(self) -> dict[str, Any]:
        """The settings of the file that no source before it sets."""
        return {name: value for name, value in super().__call__().items() if name not in self.current_state}


class Profile(PydanticBaseSettingsSource):
    """The timing settings of the profile that the sources before it name."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The profile's value; None where the profile has none."""
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """The profile's values; none for an unknown profile, which the settings refuse."""
        return dict(PROFILES.get(str(self.current_state.get("profile", "default")), {}))
