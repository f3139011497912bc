"""`edgectl cost`: what models and groups cost; `edgectl prices`: what a unit of each costs."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import written

if TYPE_CHECKING:
    from edgefleet_cli.core.transport.reply import Reply

app = typer.Typer(help="Set what bytes, hours, energy and storage cost.", no_args_is_help=True)


class CostBy(StrEnum):
    """By what lines are told apart."""

    MODEL = "model"
    GROUP = "group"


def cost(  # one parameter an option
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", autocompletion=completion.models)] = None,
    since: Annotated[str, typer.Option("--since", metavar="T", help="From then on: 24h, 7d, or RFC 3339.")] = "30d",
    until: Annotated[
        str | None, typer.Option("--until", metavar="T", help="Up to then: 1h (ago), or RFC 3339.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="G", help="Only devices in this group.", autocompletion=completion.groups),
    ] = None,
    by: Annotated[CostBy, typer.Option("--by", help="A line for each of these.")] = CostBy.MODEL,
    prices: Annotated[
        str | None,
        typer.Option(
            "--prices", metavar="FILE", help="Price file (YAML or JSON); default: the prices set on the server."
        ),
    ] = None,
) -> None:
    """Show what models or groups cost: bytes, device-hours, energy, conversions, storage, money, and what would save."""
    from edgefleet_cli.core.options import time_of
    from edgefleet_cli.costs.render import SHEET, show_cost

    session = Session.of(ctx)
    now = session.clock.now()
    asked: dict[str, Any] = {
        "model": model,
        "group": group,
        "by": by.value,
        "since": time_of(since, now).isoformat(),
        "until": None if until is None else time_of(until, now).isoformat(),
    }
    found: Reply[Any]
    if prices is None:
        found = session.api.get("/cost", api.cost.CostReport, **asked)
    else:
        from edgefleet_cli.costs.price_file import read_price_file

        body = {name: value for name, value in asked.items() if value is not None}
        body["prices"] = read_price_file(prices)
        found = session.api.post("/cost:price", written(body), api.cost.CostReport)
    if session.out.is_for_eyes:
        show_cost(session.out, found.value)
    else:
        session.out.rows(found.raw, found.value.lines, SHEET)


@app.command("set")
def set_prices(
    ctx: typer.Context,
    file: Annotated[
        str, typer.Option("--file", "-f", metavar="FILE", help="Price file (YAML or JSON); `-`: standard input.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the file.")] = False,
) -> None:
    """Set the prices of a file, for everyone who looks at costs."""
    from edgefleet_cli.costs.price_file import read_price_file

    session = Session.of(ctx)
    document = written(read_price_file(file))
    _show(session, session.api.put(f"/prices{'?dry_run=true' if dry_run else ''}", document, api.cost.KnownPrices))


@app.command("show")
def show_prices(ctx: typer.Context) -> None:
    """Show the prices that are set."""
    session = Session.of(ctx)
    _show(session, session.api.get("/prices", api.cost.KnownPrices))


@app.command("remove")
def remove_prices(ctx: typer.Context) -> None:
    """Remove the prices: costs are shown in units alone."""
    session = Session.of(ctx)
    session.confirm("Remove the prices?")
    session.api.delete("/prices")
    session.out.note("removed the prices")


def _show(session: Session, found: Reply[api.cost.KnownPrices]) -> None:
    from edgefleet_cli.costs.render import price_rows
    from edgefleet_cli.render.format import moment

    session.out.facts(
        found.raw,
        lambda: session.out.fields(
            [*price_rows(found.value), ("set", f"{moment(found.value.set_at)} by {found.value.set_by}")]
        ),
    )
