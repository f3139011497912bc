"""`edgectl sim fleet`: simulated devices that speak the real protocol to this server, and what breaks first."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK, UsageError
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.output import Column, Sheet
from edgefleet_cli.rollout.simulation.fleet_verdict import Limits, Step, Verdict, broken, verdict

LABEL: Final = "sim"
ONE_USE: Final = 3_600
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


class LoadProfile(StrEnum):
    """How the devices behave."""

    STEADY = "steady"
    FLAKY = "flaky"
    SLOW = "slow"
    DRIFT = "drift"
    STORM = "storm"
    MIXED = "mixed"


STEPS: Sheet[Step] = Sheet(
    "steps",
    [
        Column("devices", lambda s: str(s.devices), right=True, keep=True),
        Column("online", lambda s: str(s.connected), right=True, keep=True),
        Column("msg/s", lambda s: f"{s.messages_per_s:g}", right=True),
        Column("p50 ms", lambda s: _ms(s.ack_p50_s), right=True),
        Column("p99 ms", lambda s: _ms(s.ack_p99_s), right=True),
        Column("api ms", lambda s: _ms(s.api_p95_s), right=True),
        Column("cores", lambda s: _cores(s.server_cores), right=True),
        Column("sim cores", lambda s: _cores(s.simulator_cores), right=True),
        Column("lost", lambda s: str(s.dropped + s.given_up), right=True),
        Column("mb", lambda s: f"{s.server_rss_mb:.0f}" if s.server_rss_mb >= 0 else "-", right=True),
    ],
    lambda s: str(s.devices),
)


def sim_fleet(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    devices: Annotated[int, typer.Option("--devices", metavar="N", min=1, help="Number of connected devices.")] = 100,
    profile: Annotated[LoadProfile, typer.Option("--profile", help="How the devices behave.")] = LoadProfile.STEADY,
    length: Annotated[str, typer.Option("--duration", metavar="T", help="How long each step lasts.")] = "60s",
    live: Annotated[bool, typer.Option("--live", help="A telemetry window a minute, as watched devices send.")] = False,
    interval: Annotated[str | None, typer.Option("--interval", metavar="T", help="Length of a window.")] = None,
    ramp: Annotated[
        bool, typer.Option("--ramp", help="Begin with an eighth and double until something breaks.")
    ] = False,
    registered: Annotated[int, typer.Option("--registered", metavar="N", min=0, help="Enrol N in all.")] = 0,
    rate: Annotated[float, typer.Option("--rate", min=0.1, help="Enrolments a second.")] = 20.0,
    connect_rate: Annotated[float, typer.Option("--connect-rate", min=1, help="Connections a second.")] = 100.0,
    hardware: Annotated[
        str, typer.Option("--hardware", metavar="PROFILE", help="Hardware profile.", autocompletion=completion.profiles)
    ] = "generic-x86_64-ort",
    name: Annotated[str, typer.Option("--label", metavar="NAME", help="Label sim=NAME of the devices.")] = "load",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed repeats the same choices.")] = 0,
    cleanup: Annotated[
        bool, typer.Option("--cleanup", help="Revoke the devices of this label, and do nothing else.")
    ] = False,
) -> None:
    """Load this server with simulated devices that speak the real protocol; say what breaks first.

    Exit codes: 0 nothing broke, 1 a limit was passed. The devices stay enrolled, offline, until --cleanup.
    """
    session = Session.of(ctx)
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"{name!r} cannot be a label", why="expected letters, digits and -", next_step="--label load")
    if cleanup:
        _clean_up(session, name)
        return
    length_s, interval_s = parse_duration_s(length), parse_duration_s(interval or ("60s" if live else "15m"))
    if interval_s < 1 or length_s < 1:
        raise UsageError("a second is the least", why=f"{interval or length} is shorter", next_step="--duration 60s")
    _warn(session, name)
    folder = _folder(session, name)
    _refuse_other(folder, hardware)
    _enrol(session, folder, name, hardware, max(devices, registered), rate)
    plan = {"profile": profile.value, "interval_s": interval_s, "seed": seed}
    steps, unacked, workers = _run(session, folder, _sizes(devices, ramp=ramp), plan, connect_rate, length_s)
    found = verdict(steps, Limits(), workers)
    _show(session, steps, found, unacked)
    raise typer.Exit(EXIT_FAILED if found.first or unacked else EXIT_OK)


def _sizes(devices: int, *, ramp: bool) -> list[int]:
    return sorted({max(1, devices >> shift) for shift in (3, 2, 1, 0)}) if ramp else [devices]


def _run(
    session: Session, folder: Path, sizes: list[int], plan: dict[str, Any], per_s: float, length_s: float
) -> tuple[list[Step], int, int]:
    """Return the steps until one breaks, what was not acknowledged in the end, and how many processes there were."""
    import httpx

    from edgefleet_cli.core.transport.api_client import verification
    from edgefleet_cli.rollout.simulation.fleet_processes import FleetProcesses, parts_of
    from edgefleet_cli.rollout.simulation.fleet_run import LoadRun
    from edgefleet_cli.rollout.simulation.load_screen import screen

    fleet = FleetProcesses(folder, parts_of(sizes[-1], os.cpu_count() or 1), plan)
    client = httpx.Client(base_url=session.server, timeout=10, verify=verification(session.server, session.ca_file))
    steps: list[Step] = []
    try:
        with screen(session.out, len(fleet)) as show:
            run = LoadRun(fleet, session.api, client, plan["profile"] == LoadProfile.STORM)
            for size in sizes:
                steps.append(run.step(size, per_s, length_s, show))
                if broken(steps[-1], Limits(), len(fleet)):
                    break
            unacked = run.settle()
    finally:
        fleet.close()
        client.close()
    return steps, unacked, len(fleet)


def _warn(session: Session, name: str) -> None:
    """Ask before a server with devices of its own is loaded."""
    total = _count(session, None)
    others = total - _count(session, f"{LABEL}={name}")
    if others:
        session.confirm(
            f"{session.server} has {others} devices that are not simulated. They share its processor, broker and database with the "
            "load. Go on?"
        )


def _count(session: Session, selector: str | None) -> int:
    page = session.api.page("/devices", api.device.Device, limit=1, selector=selector)
    return int(page.raw.get("total") or 0)


def _folder(session: Session, name: str) -> Path:
    import platformdirs

    where = re.sub(r"[^a-z0-9.-]+", "-", session.server.lower()).strip("-")
    folder = Path(platformdirs.user_state_path("edgefleet")) / "sim-fleet" / where / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _refuse_other(folder: Path, hardware: str) -> None:
    """Raise UsageError when the folder's devices were enrolled for another hardware profile."""
    try:
        known = str(json.loads((folder / "fleet.json").read_bytes())["profile"])
    except FileNotFoundError:
        return
    if known != hardware:
        raise UsageError(
            f"the simulated devices in {folder} have the hardware profile {known}, not {hardware}",
            why="a device keeps the profile that it was enrolled with",
            next_step=f"use --hardware {known}, or another --label",
        )


def _enrol(session: Session, folder: Path, name: str, hardware: str, count: int, rate: float) -> None:
    from edgefleet_cli.render.progress import count_bar
    from edgefleet_cli.rollout.simulation.fleet_processes import enrol

    known = folder / "devices.jsonl"
    had = len(known.read_text("ascii").splitlines()) if known.exists() else 0
    if had >= count:
        return
    body = api.enrollment.EnrollmentIn(
        uses=count - had,
        profile=hardware,
        labels={LABEL: name},
        name_prefix="sim",
        approval=False,
        ttl_s=ONE_USE + int(count / rate),
    )
    claim = session.api.post("/enrollments", body, api.enrollment.ClaimTokens).value.tokens[0]
    session.out.note(f"enrolling {count - had} simulated devices; their keys are in {folder}")
    with count_bar(session.out, "enrolling", count - had) as advance:
        seen = had

        def done(total: int) -> None:
            nonlocal seen
            advance(total - seen)
            seen = total

        enrol(folder, claim.token, count, rate, done)


def _clean_up(session: Session, name: str) -> None:
    """Revoke all devices of the label and forget their keys."""
    import shutil

    from edgefleet_cli.render.progress import count_bar

    selector = f"{LABEL}={name},status!=revoked"
    total = _count(session, selector)
    if total:
        session.confirm(f"revoke {total} simulated devices of {session.server} with the label {LABEL}={name}?")
    removed = 0
    with count_bar(session.out, "revoking", total) as advance:
        for device in session.api.pages("/devices", api.device.Device, selector=selector):
            session.api.delete(f"/devices/{part(device.id)}")
            removed += 1
            advance(1)
    shutil.rmtree(_folder(session, name), ignore_errors=True)
    session.out.facts(
        {"revoked": removed, "label": name}, lambda: session.out.note(f"revoked {removed} simulated devices")
    )


def _show(session: Session, steps: list[Step], found: Verdict, unacked: int) -> None:
    document = {"steps": [asdict(one) for one in steps], "verdict": asdict(found), "unacked": unacked}
    session.out.rows(document, steps, STEPS)
    if not session.out.is_for_eyes:
        return
    out = session.out
    if found.first:
        out.prose(f"Breaks first: {found.first}, at {found.at} devices. All limits held with {found.held}.")
    else:
        end = "; twice what was measured is the most that is said" if found.is_bounded else ""
        out.prose(
            f"Nothing broke with {found.held} devices. By the server's processor there is room for {found.room}{end}. "
            f"Nearest limit: {found.nearest}, {found.nearest_ratio:.0%} used."
        )
    if unacked:
        out.prose(f"{unacked} messages were not acknowledged in the end.")
    out.note("the devices stay enrolled; `edgectl sim fleet --cleanup` with the same --label revokes them")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}" if seconds >= 0 else "-"


def _cores(cores: float) -> str:
    return f"{cores:.2f}" if cores >= 0 else "-"
