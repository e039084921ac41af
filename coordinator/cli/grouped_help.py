"""``--help`` with the settings in their groups."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

__all__ = ["GroupedCommand"]

OPTIONS = "Options"
"""The heading of a command's own options, which come first."""
FIRST_COLUMN = 26
"""Most characters of a flag with its value that stand beside its help; a longer one stands above."""


class GroupedCommand(TyperCommand):
    """A command whose options are listed under the panels that they name."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes arguments, then the command's own options, then each panel in the order of its options."""
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], OPTIONS: []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or OPTIONS
                panels.setdefault(panel, []).append(record)
        flags = [flag for records in panels.values() for flag, _ in records if len(flag) <= FIRST_COLUMN]
        width = max(map(len, flags), default=0)  # so that the second columns of all panels stand in one line
        for title, records in panels.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl([(flag.ljust(width), what) for flag, what in records], col_max=width)
