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

__all__ = ["FAILED", "INTERRUPTED", "NEGATIVE", "OK", "STORE_AWAY", "WRONG_USE", "command_errors", "with_settings"]

OK = 0
NEGATIVE = 1
"""The answer is no: not found, unfit, not recovered."""
WRONG_USE = 2
"""Wrong usage or settings."""
STORE_AWAY = 3
"""The store cannot be reached, or refuses."""
FAILED = 1
INTERRUPTED = 130

P = ParamSpec("P")

STORE = ("redis_url", "prefix", "partitions", "store_timeout")
"""Settings that every command shows in its help; it takes the others all the same."""


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _status_of(error: BaseException) -> int | None:
    """The exit status of an error, after one readable line a fault; None for an error that is a defect."""
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


def setting_options(shown: tuple[str, ...]) -> list[inspect.Parameter]:
    """One optional text option for each setting; its parsing and checking is the business of `Settings`."""
    parameters = []
    for name, field in Settings.model_fields.items():
        option = typer.Option(
            _flag(name),
            help=field.description,
            metavar="VALUE",
            hidden=bool(shown) and name not in shown,
            rich_help_panel="Settings",
            show_default=False,
        )
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
            )
        )
    return parameters


def with_settings(*shown: str, everything: bool = False) -> Callable[[Callable[..., int]], Callable[..., None]]:
    """Gives a command an option for each setting, and the loaded settings as its first argument.

    Args:
        shown: settings that its help lists beside those of the store; all are accepted.
        everything: the help lists all.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., None]:
        names = tuple(Settings.model_fields)
        listed = () if everything else (*STORE, *shown)

        def run(*args: Any, **kwargs: Any) -> int:
            given = {name: value for name in names if (value := kwargs.pop(name, None)) is not None}
            return command(load(**given), *args, **kwargs)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        parameters = sorted([*own, *setting_options(listed)], key=lambda p: p.kind)

        def wrapped(*args: Any, **kwargs: Any) -> None:
            command_errors(run)(*args, **kwargs)

        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return wrapped

    return decorate
