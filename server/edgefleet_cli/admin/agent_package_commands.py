"""`edgectl server agent-packages`: the packages of the agent that a server hands out to machines that become its devices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from edgefleet_cli.admin.data_folder import default_data, holds_server
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import server_answer
from edgefleet_cli.render.format import size, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Manage the agent packages that devices install from this server.", no_args_is_help=True)

MODULE: Final = "edgefleet_server.process.lifecycle.agent_package_intake"
KINDS: Final = {
    "edgefleet_agent-*-py3-none-any.whl": re.compile(r"edgefleet_agent-[0-9][0-9A-Za-z.+!]{0,63}-py3-none-any\.whl"),
    "edgefleet-agent_*_all.deb": re.compile(r"edgefleet-agent_[0-9][0-9A-Za-z.+~]{0,63}_all\.deb"),
}
"""Names of the wheel and of the Debian package: what is looked for, and which of these the server hands out."""
MAX_PACKAGE_BYTES: Final = 16 * 1024 * 1024
"""The server hands out nothing larger."""


@dataclass(frozen=True)
class Added:
    """A package that devices get from now on."""

    name: str
    bytes: int
    sha256: str


ADDED: Sheet[Added] = Sheet(
    "packages",
    [
        Column("name", lambda one: text(one.name), keep=True),
        Column("size", lambda one: size(one.bytes)),
        Column("sha256", lambda one: text(one.sha256)),
    ],
    lambda one: text(one.name),
)


@app.command("add")
def add(
    ctx: typer.Context,
    places: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Packages, or folders that hold them.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Data folder of the server; default: in the user's data folder."),
    ] = None,
) -> None:
    """Replace the wheel and the Debian package of the agent that new devices install, on all hosts. Works while servers run."""
    session = Session.of(ctx)
    folder = data or default_data()
    if not holds_server(folder):
        raise UsageError(
            f"{folder} is not the data folder of a server",
            why="it holds no keys",
            next_step="create one with `edgectl server up`",
        )
    chosen = {kind: _one(places, kind) for kind in KINDS}
    if not any(chosen.values()):
        raise UsageError(
            f"no agent package in {', '.join(map(str, places))}",
            why=f"looked for {' and '.join(KINDS)}",
            next_step="`./dev dist` in a clone builds them into dist/",
        )
    for source, served in zip(chosen.values(), KINDS.values(), strict=True):
        if source is not None:
            _check(source, served)
    files = [str(source.absolute()) for source in chosen.values() if source is not None]
    answer = server_answer(MODULE, "--data", str(folder), *files)
    added = [Added(**one) for one in answer["items"]]
    session.out.rows(answer, added, ADDED)
    session.out.note("next: `edgectl device enroll` prints the line that installs the agent on a machine")


def _one(places: list[Path], kind: str) -> Path | None:
    found = [
        path
        for place in places
        for path in (sorted(place.glob(kind)) if place.is_dir() else [place] if place.match(kind) else [])
    ]
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} packages of one kind", why=", ".join(map(str, found)), next_step="name the one to offer"
        )
    return found[0] if found else None


def _check(source: Path, served: re.Pattern[str]) -> None:
    """Raise UsageError for a package that the server would not hand out."""
    if not served.fullmatch(source.name):
        raise UsageError(
            f"{source.name} is not the name of a package of the agent",
            why="the server hands out only names with a version in them, such as edgefleet_agent-1.2.3-py3-none-any.whl",
            next_step="build it again: `./dev dist` in a clone makes the packages in dist/",
        )
    if not source.is_file():
        raise UsageError(f"{source} is not a file", next_step="name the package, or the folder that holds it")
    if (found := source.stat().st_size) > MAX_PACKAGE_BYTES:
        raise UsageError(
            f"{source.name} is too large",
            why=f"it has {found:,} bytes; the server hands out packages of at most {MAX_PACKAGE_BYTES:,}",
            next_step="build it again: `./dev dist` in a clone makes the packages in dist/",
        )
