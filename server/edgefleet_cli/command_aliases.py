"""Other words for commands: hidden in help, accepted and completed. Those of kubectl, docker and gh, and the words of older versions."""

from __future__ import annotations

import copy
from typing import Any, Final

import typer
from typer.core import TyperGroup

VERBS: Final[dict[str, tuple[str, ...]]] = {
    "list": ("ls",),
    "show": ("describe", "get"),
    "delete": ("rm", "remove"),
    "remove": ("rm", "delete"),
}
"""On every noun that has the command."""

NOUNS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "device": {"explain": ("why",), "revoke": ("decommission", "delete", "rm")},
    "token": {"revoke": ("delete", "rm")},
    "rollout": {"abort": ("cancel",)},
    "capture-key": {"create": ("new",)},
    "slo": {"set": ("apply",)},
}
"""On one noun."""

WORDS: Final = {"logs": "device.tasks.commands:logs"}
"""Of one word, each with its module below `edgefleet_cli` and its function."""


class AliasGroup(TyperGroup):
    """A group whose aliases are completed once they are begun; without a letter only the commands in help are offered."""

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Return what can be meant."""
        found = super().shell_complete(ctx, incomplete)
        if incomplete and not incomplete.startswith("-"):
            from typer._click.shell_completion import CompletionItem

            for name, command in self.commands.items():
                if command.hidden and name.startswith(incomplete):
                    found.append(CompletionItem(name, help=command.get_short_help_str()))
        return found


def with_aliases(app: typer.Typer, noun: str = "") -> typer.Typer:
    """Return a group with the aliases of its commands, and of the groups below it."""
    own = NOUNS.get(noun, {})
    taken = {one.name for one in app.registered_commands}
    made = copy.copy(app)
    made.registered_commands = list(app.registered_commands)
    for command in app.registered_commands:
        for word in (*VERBS.get(str(command.name), ()), *own.get(str(command.name), ())):
            if word not in taken:
                taken.add(word)
                alias = copy.copy(command)
                alias.name, alias.hidden = word, True
                made.registered_commands.append(alias)
    made.registered_groups = []
    for group in app.registered_groups:
        below = copy.copy(group)
        below.cls = AliasGroup
        if below.typer_instance is not None:
            below.typer_instance = with_aliases(below.typer_instance)
        made.registered_groups.append(below)
    return made
