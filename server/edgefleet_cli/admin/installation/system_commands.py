"""`edgectl doctor`, `edgectl options`, `edgectl version` and `edgectl completion`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK, UsageError
from edgefleet_cli.core.options import global_params, value_word
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import reply_of
from edgefleet_cli.core.version import facts

_SHELLS = ("bash", "zsh", "fish")


def doctor(ctx: typer.Context) -> None:
    """Check this machine: contexts, address, TLS, token, versions, clocks, completion.

    Exit code 1 if a check fails.

    `edgectl server check` checks a server, `edge-agent doctor` a device.
    """
    from edgefleet_cli.admin.installation.doctor import FAIL, FINDINGS, examine

    session = Session.of(ctx)
    found = list(examine(session))
    failed = sum(finding.status == FAIL for finding in found)
    session.out.rows({"ok": not failed, "items": [reply_of(one).raw for one in found]}, found, FINDINGS)
    raise typer.Exit(EXIT_FAILED if failed else EXIT_OK)


def options(ctx: typer.Context) -> None:
    """List the global options, which every command takes."""
    out = Session.of(ctx).out
    for param in global_params():
        shown = ", ".join(sorted(param.opts, key=len)) + (
            f" {word}" if (word := param.metavar or value_word(param)) else ""
        )
        out.line(f"  {shown:<48}{param.help}")
    out.line("")
    out.line("A flag wins over the environment (EDGECTL_CONTEXT, EDGECTL_SERVER, …), and that over the context.")


def version(ctx: typer.Context) -> None:
    """Show the version of edgectl, of Python and the platform."""
    session = Session.of(ctx)
    known = facts()
    session.out.facts(dict(known), lambda: session.out.fields(known.items()))


def completion(
    ctx: typer.Context, shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")] = "bash"
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
