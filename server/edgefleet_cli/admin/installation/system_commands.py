"""`edgectl version` and `edgectl completion`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.version import facts

_SHELLS = ("bash", "zsh", "fish")


def version(ctx: typer.Context) -> None:
    """Show the version of edgectl, of Python and the platform."""
    session = Session.of(ctx)
    known = facts()
    session.out.facts(dict(known), lambda: session.out.fields(known.items()))


def completion(
    ctx: typer.Context,
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")] = "bash",
) -> None:
    """Print the completion script of a shell, e.g. `eval "$(edgectl completion bash)"`."""
    from typer._completion_shared import get_completion_script

    if shell not in _SHELLS:
        raise UsageError(
            f"no completion for {shell!r}",
            why=f"known shells: {', '.join(_SHELLS)}",
            next_step="`edgectl completion bash`",
        )
    script = get_completion_script(prog_name="edgectl", complete_var="_EDGECTL_COMPLETE", shell=shell)
    Session.of(ctx).out.line(script)
