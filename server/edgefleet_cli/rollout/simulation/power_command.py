"""`edgectl rollout simulate`: how soon a rollout would stop a bad release."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session


def simulate(
    ctx: typer.Context,
    rollout_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Rollout id.", autocompletion=completion.rollouts)
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", metavar="F", help="Spec in YAML or JSON; - is stdin.")
    ] = None,
    bad: Annotated[
        int, typer.Option("--bad", metavar="PERCENT", min=1, max=100, help="On how many percent of devices it fails.")
    ] = 5,
) -> None:
    """Show how soon a rollout or a spec stops a bad release: the chance after each device, by profile.

    The chances are exact, for the devices that match now, at most 500 of a profile. A failure of a class that stops at
    once would stop it sooner. `edgectl sim` plays one rollout with faults.
    """
    from edgefleet_cli.render.chart_text import show_chart
    from edgefleet_cli.render.format import counted
    from edgefleet_cli.rollout.simulation.power_curve import SHEET, curve_chart, populations, sentences, stage_chances
    from edgefleet_cli.rollout.simulation.sim_commands import run
    from edgefleet_cli.rollout.spec import read_document
    from edgefleet_cli.rollout.start import rollouts_of

    if (rollout_id is None) == (file is None):
        raise UsageError(
            "a rollout or a spec is needed",
            why="exactly one of ID and --file is needed",
            next_step="`edgectl rollout simulate ID`, or `edgectl rollout simulate -f spec.yaml`",
        )
    session = Session.of(ctx)
    rollouts, out = rollouts_of(session), session.out
    plan = (rollouts.plan_of(str(rollout_id)) if file is None else rollouts.plan(read_document(file))).value
    devices = populations(plan)
    if not devices:
        raise UsageError(
            "the rollout has no devices",
            why=f"{counted(plan.matched, 'device')} match, and none gets the release",
            next_step="`edgectl rollout plan` says why",
        )
    answer = run({"power": {"spec": plan.spec, "devices": devices, "bad_pct": bad}})
    curves, medians = answer.value.curves, answer.value.medians
    rows = stage_chances(plan, curves)
    if not out.is_for_eyes:
        out.rows(answer.raw, rows, SHEET)
        return
    for sentence in sentences(medians, curves, bad):
        out.prose(sentence)
    out.line("")
    show_chart(out, curve_chart(plan, curves, medians, bad))
    out.line("")
    out.table(rows, SHEET.columns)
