"""The command ``coordinator`` and its subcommands."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli import bench, certify, dead_letters, demo, doctor, drain, run, sidecar, status, supervise

__all__ = ["app", "main"]

app = typer.Typer(
    name="coordinator",
    help="Hands the live calls of a worker that died to one that is alive.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from coordinator.version import VERSION

        typer.echo(f"coordinator {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hands the live calls of a worker that died to one that is alive."""


app.command("run")(run.run)
app.command("sidecar")(sidecar.sidecar)
app.command("supervise")(supervise.supervise)
app.command("demo")(demo.demo)
app.command("status")(status.status)
app.command("instances")(status.instances)
app.command("sessions")(status.sessions)
app.command("session")(status.session)
app.add_typer(dead_letters.app, name="dead-letters")
app.command("drain")(drain.drain)
app.command("certify")(certify.certify)
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)


def main() -> None:
    """Runs the command named in the arguments, and exits."""
    app()
