"""The command ``coordinator`` and its subcommands."""

from __future__ import annotations

import io
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from coordinator.cli import (
    bench,
    certify,
    dead_letters,
    demo,
    doctor,
    drain,
    quarantine,
    run,
    sidecar,
    status,
    supervise,
)
from coordinator.cli.grouped_help import GroupedCommand
from coordinator.cli.options import FAILED
from coordinator.cli.tables import complain, console, print_lines
from coordinator.masking import masked, without_arguments

__all__ = ["app", "main"]

_UsageError: Any = typer.BadParameter.__base__


class _Commands(TyperGroup):
    """Says what is wrong with a command line without repeating it: an argument in the wrong place may be a URL with a password."""

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        given = list(args)
        try:
            context = super().make_context(info_name, args, parent, **extra)
        except _UsageError as error:
            error.message = without_arguments(error.message, given)
            raise
        context.meta[__name__] = given
        return context

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            error.message = without_arguments(error.message, ctx.meta[__name__])
            raise


app = typer.Typer(
    cls=_Commands,
    name="coordinator",
    help="Hands the live calls of a worker that died to a worker that is alive.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from coordinator.version import VERSION

        console().print(f"coordinator {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hands the live calls of a worker that died to a worker that is alive."""


app.command("run", cls=GroupedCommand)(run.run)
app.command("sidecar", cls=GroupedCommand)(sidecar.sidecar)
app.command("supervise", cls=GroupedCommand)(supervise.supervise)
app.command("demo", cls=GroupedCommand)(demo.demo)
app.command("status", cls=GroupedCommand)(status.status)
app.command("instances", cls=GroupedCommand)(status.instances)
app.command("sessions", cls=GroupedCommand)(status.sessions)
app.command("session", cls=GroupedCommand)(status.session)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(quarantine.app, name="quarantine")
app.command("drain", cls=GroupedCommand)(drain.drain)
app.command("certify", cls=GroupedCommand)(certify.certify)
app.command("doctor", cls=GroupedCommand)(doctor.doctor)
app.command("bench", cls=GroupedCommand)(bench.bench)


def main() -> None:
    """Runs the command named in the arguments, and exits; its output never controls a terminal, not even when it crashes."""
    try:
        status = app(standalone_mode=False)
    except typer.Abort:
        complain("aborted")
        status = FAILED
    except Exception as error:  # noqa: BLE001 - the last place that can report it
        status = _told_of(error)
    sys.exit(status)


def _told_of(error: Exception) -> int:
    """Reports an error that no command handled: wrong usage, as Typer words it, or a defect."""
    if not hasattr(error, "exit_code"):
        print_lines(masked("".join(traceback.format_exception(error))))
        return FAILED
    with io.StringIO() as said:
        if hasattr(error, "show"):
            error.show(file=said)
        print_lines(masked(said.getvalue()))
    return int(error.exit_code)
