"""`edgectl deploy`: set a release on devices, all at once or stage by stage."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from edgefleet_cli.core import completion
from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK, EXIT_TIMEOUT, UsageError
from edgefleet_cli.core.selection import no_match
from edgefleet_cli.core.session import Session
from edgefleet_cli.release.commands import Ref
from edgefleet_cli.release.deployment import candidate_deployment
from edgefleet_cli.release.deployment.render import OUTCOME, SET, note_skipped
from edgefleet_cli.release.downgrade import ask_or_warn
from edgefleet_cli.render.format import counted
from edgefleet_cli.rollout.spec import ALL, parse_strategy, strategy_document


class Until(StrEnum):
    """When a device counts as done."""

    COMMITTED = "committed"
    SERVING = "serving"


def deploy(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    ref: Ref,
    to: Annotated[str | None, completion.selector_option("Devices to deploy to")] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="ID", help="One device.", autocompletion=completion.devices)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every device reports how it went.")] = False,
    until: Annotated[
        Until, typer.Option("--until", help="What --wait waits for: committed, or serving (still on probation).")
    ] = Until.COMMITTED,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which devices it would go to.")] = False,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy", metavar="S", help="all (at once), or a rollout: canary, rolling, blue-green, shadow, ab."
        ),
    ] = ALL,
    shadow: Annotated[
        bool,
        typer.Option("--shadow", help="Run it as a shadow: on copies of the inputs, its answers are discarded."),
    ] = False,
    split: Annotated[
        int | None,
        typer.Option("--split", metavar="PCT", min=0, max=100, help="Let it answer this percentage of requests."),
    ] = None,
    salt: Annotated[
        str, typer.Option("--salt", help="With --split: decides which keys it answers; default: from its name.")
    ] = "",
    end: Annotated[bool, typer.Option("--end", help="End its shadow or split; the active version stays.")] = False,
) -> None:
    """Deploy a release.

    Exit codes with --wait: 0 done, 1 a device failed, 7 a rollout failed, 8 timed out.
    """
    session = Session.of(ctx)
    if (to is None) == (device is None):
        raise UsageError(
            "no devices are chosen",
            why="exactly one of --to and --device is needed",
            next_step=f"`edgectl deploy {ref} --to 'site=berlin'`; all devices: --to ''",
        )
    mode = candidate_deployment.parse(shadow=shadow, split=split, salt=salt, end=end, wait=wait, strategy=strategy)
    if mode is not None:
        raise typer.Exit(candidate_deployment.run(session, ref, to, device, mode, dry_run=dry_run))
    if parse_strategy(strategy) != ALL:
        if until is Until.SERVING:
            raise UsageError(
                f"--until serving does not go with --strategy {strategy}",
                why="a stage waits until devices have committed the release",
                next_step="leave --until out",
            )
        selector = to if device is None else f"id={device}"
        raise typer.Exit(roll_out(session, ref, str(selector), strategy, wait=wait, dry_run=dry_run))
    raise typer.Exit(_deploy(session, ref, to, device, until=until if wait else None, dry_run=dry_run))


def _deploy(
    session: Session, ref: str, to: str | None, device: str | None, *, until: Until | None, dry_run: bool
) -> int:
    from edgefleet_cli.release.deployment.deployer import DEFAULT_WAIT_S, DONE, SERVING, Deployer, exit_code

    deployer = Deployer(session.api, session.out, session.clock)
    if not dry_run:
        ask_or_warn(session, ref, deployer.deploy(ref, selector=to, device=device, dry_run=True).value.warning)
    answer = deployer.deploy(ref, selector=to, device=device, dry_run=dry_run)
    if dry_run and answer.value.warning:
        session.out.note(f"warning: {answer.value.warning}")
    chosen = answer.value.set
    note_skipped(session, answer.value)
    if not chosen:
        if not session.out.is_for_eyes:
            session.out.rows(answer.raw, [], SET)
        session.out.note(f"no device gets {ref}" if device or answer.value.skipped else no_match(session.api, to))
        return EXIT_OK if dry_run else EXIT_FAILED
    if dry_run or until is None:
        session.out.rows(answer.raw, chosen, SET)
        session.out.note(
            f"{counted(len(chosen), 'device')} {'would get' if dry_run else 'will get'} {ref}{'' if dry_run else _watch(ref)}"
        )
        return EXIT_OK
    good = DONE if until is Until.COMMITTED else SERVING
    wait_s = session.options.timeout_s or DEFAULT_WAIT_S
    outcomes = deployer.wait(ref, answer.value, selector=to, wait_s=wait_s, good=good)
    rows = [outcome.as_json() for outcome in outcomes]
    session.out.rows({**answer.raw, "devices": rows}, outcomes, OUTCOME)
    code = exit_code(outcomes, good)
    if code == EXIT_TIMEOUT:
        session.out.note(f"timed out; the devices continue{_watch(ref)}")
    return code


def roll_out(
    session: Session, ref: str, selector: str, strategy: str, *, wait: bool = False, dry_run: bool = False
) -> int:
    """Start (or only plan) a rollout by a named strategy, show id and watch line; return the exit code."""
    from edgefleet_cli.rollout import start

    document = strategy_document(ref, selector, strategy)
    return start.dry_run(session, document) if dry_run else start.start(session, document, wait=wait)


def _watch(ref: str) -> str:
    return f": `edgectl release devices {ref}`"
