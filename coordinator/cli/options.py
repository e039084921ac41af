"""Options made from the settings, and errors turned into exit statuses, for all commands alike."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ParamSpec

import typer

from coordinator.cli.processes import StartError
from coordinator.cli.tables import complain
from coordinator.errors import (
    ConfigurationError,
    CoordinatorError,
    InvalidIdError,
    InvalidValueError,
    StoreUnavailableError,
)
from coordinator.masking import masked
from coordinator.settings import Settings, load
from coordinator.settings.groups import Program, grouped, is_used, shown

__all__ = ["FAILED", "INTERRUPTED", "NEGATIVE", "OK", "STORE_AWAY", "WRONG_USE", "command_errors", "with_settings"]

OK = 0
NEGATIVE = 1
"""Exit status when the answer is no: not found, unfit, not recovered."""
WRONG_USE = 2
"""Exit status of wrong usage or settings."""
STORE_AWAY = 3
"""Exit status when the store cannot be reached, or refuses."""
FAILED = 1
INTERRUPTED = 130

P = ParamSpec("P")

STORE = ("redis_url", "prefix", "partitions", "store_timeout")
"""Settings that the help of every command shows; a command accepts all others too."""


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _status_of(error: BaseException) -> int | None:
    """The exit status of an error, after one readable line for each fault; None for a defect."""
    match error:
        case ConfigurationError() | InvalidIdError() | InvalidValueError():
            return _tell(str(error), WRONG_USE)
        case StoreUnavailableError(kind="permission"):
            more = "what each user of Redis needs is told by: coordinator doctor --acl"
            return _tell(f"the store is not available (permission): {error.detail}; {more}", STORE_AWAY)
        case StoreUnavailableError():
            return _tell(f"the store is not available ({error.kind}): {error.detail}", STORE_AWAY)
        case CoordinatorError() | StartError():
            return _tell(str(error), FAILED)
        case KeyboardInterrupt():
            return INTERRUPTED
        case _:
            return None


def _tell(lines: str, status: int) -> int:
    for line in lines.split("\n"):
        complain(masked(line))
    return status


def command_errors(command: Callable[P, int]) -> Callable[P, None]:
    """A command that returns its exit status: expected errors become one line each on standard error and a status."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            status = command(*args, **kwargs)
        except (CoordinatorError, StartError, KeyboardInterrupt, BaseExceptionGroup) as error:
            statuses = [_status_of(leaf) for leaf in _leaves(error)]
            known = [one for one in statuses if one is not None]
            if not known:
                raise
            status = max(known)
        raise typer.Exit(status)

    return run


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def setting_options(is_listed: Callable[[str], bool]) -> list[inspect.Parameter]:
    """One optional text option for each setting, group by group; `Settings` parses and checks them.

    Args:
        is_listed: whether the help lists a setting.
    """
    parameters = []
    for group, fields in grouped(Settings.model_fields):
        for name, field in fields.items():
            default = shown(field)
            option = typer.Option(
                _flag(name),
                help=f"{field.description} [default: {default}]" if default else field.description,
                metavar="VALUE",
                hidden=not is_listed(name),
                rich_help_panel=group.value,
                show_default=False,
            )
            annotation = Annotated[str | None, option]
            parameters.append(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            )
    return parameters


def with_settings(*listed: str, of: Program | None = None) -> Callable[[Callable[..., int]], Callable[..., None]]:
    """Gives a command an option for each setting, and the loaded settings as its first argument.

    Args:
        listed: settings that its help lists beside those of the store.
        of: the program that it runs: the help lists what that one uses.

    All settings are accepted, listed or not: a deployment may give the same ones to every program.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., None]:
        fields = Settings.model_fields

        def is_listed(name: str) -> bool:
            return name in (*STORE, *listed) if of is None else is_used(fields[name], of)

        def run(*args: Any, **kwargs: Any) -> int:
            given = {name: value for name in fields if (value := kwargs.pop(name, None)) is not None}
            return command(load(**given), *args, **kwargs)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        parameters = sorted([*own, *setting_options(is_listed)], key=lambda p: p.kind)

        def wrapped(*args: Any, **kwargs: Any) -> None:
            command_errors(run)(*args, **kwargs)

        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return wrapped

    return decorate
