"""`edgectl sim`: a rollout in virtual time, with faults, by the rules that the server and the agent ship with."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Annotated, Any

import typer

from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK, CliError, UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import Struct, field
from edgefleet_cli.core.subprocesses import python_module, require
from edgefleet_cli.core.transport.reply import Document, Reply
from edgefleet_cli.render.format import duration, text
from edgefleet_cli.render.output import Column, Sheet
from edgefleet_cli.rollout.simulation.fleet_commands import sim_fleet
from edgefleet_cli.rollout.spec import read_document


class Problem(Struct, frozen=True):
    """A promise that a drawn scenario broke. again: the command that repeats it."""

    seed: int
    problems: tuple[str, ...]
    again: str


class Answer(Struct, frozen=True):
    """What a simulation says, of one scenario or of many. Each figure is there only where it is known."""

    state: str | None = None
    reason: str | None = None
    took_s: float | None = None
    runs: Any = None
    ended: Any = None
    devices: Any = None
    stages: Any = None
    exposed: Any = None
    commits: Any = None
    crashes: Any = None
    device_crashes: Any = None
    broken: tuple[Problem | str, ...] = ()
    transcript: tuple[str, ...] = ()
    again: str | None = None
    shrunk_again: str | None = None
    bad_pct: int = 0
    curves: dict[str, tuple[float, ...]] = field(default_factory=dict)
    medians: dict[str, int | None] = field(default_factory=dict)


STAGES: Sheet[tuple[str, str]] = Sheet(
    "stages",
    [Column("stage", lambda s: text(s[0]), keep=True), Column("state", lambda s: text(s[1]))],
    lambda s: text(s[0]),
)


class SimulationError(CliError):
    """The simulation ended without an answer."""

    code = "cli.simulation"


def sim(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed; the same seed gives the same run.")] = 0,
    devices: Annotated[int, typer.Option("--devices", metavar="N", min=1, max=20_000, help="Number of devices.")] = 8,
    profiles: Annotated[int, typer.Option("--profiles", metavar="N", min=1, max=20, help="Number of profiles.")] = 1,
    file: Annotated[str | None, typer.Option("--file", "-f", metavar="F", help="Spec; - is stdin.")] = None,
    loss: Annotated[float, typer.Option("--loss", min=0, max=0.9, help="Chance of a lost message.")] = 0.0,
    duplicate: Annotated[float, typer.Option("--duplicate", min=0, max=1, help="Chance of a duplicate message.")] = 0.0,
    reorder: Annotated[float, typer.Option("--reorder", min=0, max=1, help="Chance of a late message.")] = 0.0,
    replicas: Annotated[int, typer.Option("--replicas", metavar="N", min=1, max=9, help="Number of servers.")] = 3,
    replica_crash: Annotated[
        float, typer.Option("--replica-crash", min=0, max=0.9, help="Crash chance in a tick.")
    ] = 0.0,
    device_crash: Annotated[
        float, typer.Option("--device-crash", min=0, max=100, help="Crashes a day and device.")
    ] = 0.0,
    skew: Annotated[float, typer.Option("--skew", metavar="S", min=0, help="Maximum clock error.")] = 0.0,
    bad: Annotated[float, typer.Option("--bad", min=0, max=1, help="Share of devices on which it fails.")] = 0.0,
    slow: Annotated[float, typer.Option("--slow", min=0, max=1, help="Share of devices that miss deadlines.")] = 0.0,
    dead: Annotated[float, typer.Option("--dead", min=0, max=1, help="Share of devices that die at the switch.")] = 0.0,
    away: Annotated[float, typer.Option("--away", min=0, max=1, help="Share of devices offline for a while.")] = 0.0,
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=0, help="Number of random scenarios.")] = 0,
    drawn: Annotated[int | None, typer.Option("--drawn", metavar="N", help="The random scenario of this seed.")] = None,
    whole: Annotated[str | None, typer.Option("--scenario", metavar="F", help="Scenario in JSON; - is stdin.")] = None,
    story: Annotated[bool, typer.Option("--story", help="Print every transition.")] = False,
    shrink: Annotated[bool, typer.Option("--shrink", help="Reduce a failing scenario.")] = False,
) -> None:
    """Simulate a rollout in virtual time, with faults, without a server.

    Exit codes: 0 every invariant held, 1 one was violated. Then it prints the command that reproduces the run.
    """
    if ctx.invoked_subcommand is not None:
        return
    session = Session.of(ctx)
    _refuse_ignored(ctx)
    faults = {"bad": bad, "slow": slow, "dead": dead, "away": away}
    scenario = {
        "seed": seed,
        "devices": _fleet(devices, profiles),
        "spec": _spec(file),
        "loss": loss,
        "duplicate": duplicate,
        "reorder": reorder,
        "replicas": replicas,
        "replica_crash": replica_crash,
        "device_crash": device_crash,
        "skew_s": skew,
        **faults,
    }
    has_story = story or session.out.is_for_eyes
    request: dict[str, Any] = {"story": has_story, "shrink": shrink}
    if runs:
        request = {"runs": runs, "seed": seed}
    elif drawn is not None:
        request["drawn"] = drawn
    else:
        request["scenario"] = scenario if whole is None else _scenario(whole)
    answer = run(request)
    _show_answer(session, answer, is_story=story)
    raise typer.Exit(EXIT_FAILED if answer.value.broken else EXIT_OK)


def _fleet(devices: int, profiles: int) -> dict[str, int]:
    """Return how many devices have which profile: all as many, but for those that are over."""
    shares = {f"profile-{place}": devices // profiles + (place < devices % profiles) for place in range(profiles)}
    return {name: count for name, count in shares.items() if count}


def _show_answer(session: Session, answer: Reply[Answer], *, is_story: bool) -> None:
    if session.out.is_for_eyes:
        _show(session, answer.value, with_transcript=is_story)
        return
    session.out.rows(answer.raw, (answer.value.stages or {}).items(), STAGES)


_ONE = frozenset({"story", "shrink"})
_INSTEAD: dict[str, frozenset[str]] = {"runs": frozenset({"seed"}), "drawn": _ONE, "whole": _ONE}
"""Flags that say themselves what is simulated, and which others go with them."""


def _refuse_ignored(ctx: typer.Context) -> None:
    """Raise UsageError when a flag was given that another one, which is there too, pays no attention to."""
    given = {
        param.name: param.opts[0]
        for param in ctx.command.params
        if param.expose_value
        and param.name is not None
        and getattr(ctx.get_parameter_source(param.name), "name", "") == "COMMANDLINE"
    }
    for name, others in _INSTEAD.items():
        ignored = [flag for other, flag in given.items() if other != name and other not in others]
        if name in given and ignored:
            raise UsageError(
                f"{given[name]} does not go with {', '.join(ignored)}",
                why="it brings its own fleet, faults and spec",
                next_step="`--drawn SEED --story --shrink` looks at one of many; leave it out to simulate what the other flags say",
            )


def _scenario(file: str) -> Document:
    """Return the scenario in a file: alone, or in what `-o json` printed, there the smaller one if there is one."""
    document = read_document(file)
    for name in ("shrunk", "scenario"):
        if isinstance(document.get(name), dict):
            return dict(document[name])
    return document


def run(request: Document) -> Reply[Answer]:
    """Run the simulation as a child process and return its answer. Raises UsageError, SimulationError."""
    require("sqlmodel", "server")
    done = subprocess.run(
        python_module("edgefleet_sim"), input=json.dumps(request).encode(), stdout=subprocess.PIPE, check=False
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise SimulationError(
            "the simulation ended without a result",
            why=f"its process ended with code {done.returncode}",
            next_step="run it again with --debug and report what it prints",
        ) from None
    if "error" in answer:
        error = answer["error"]
        raise UsageError(str(error["message"]), why=str(error["why"]), next_step=str(error["next"]))
    return Reply(answer, Answer)


def _spec(file: str | None) -> Document:
    """Return the fields of a spec that a file holds, alone or as a whole document."""
    if file is None:
        return {}

    document = read_document(file)
    inner = document.get("spec")
    return inner if isinstance(inner, dict) else document


def _show(session: Session, answer: Answer, *, with_transcript: bool) -> None:
    out = session.out
    if with_transcript:
        for line in answer.transcript:
            out.line(line)
    pairs = [("state", text(answer.state)), ("reason", text(answer.reason))] if answer.state else []
    if answer.took_s:
        pairs.append(("virtual time", duration(answer.took_s)))
    figures = {
        "runs": answer.runs,
        "ended": answer.ended,
        "devices": answer.devices,
        "stages": answer.stages,
        "exposed": answer.exposed,
        "commits": answer.commits,
        "crashes": answer.crashes,
        "device crashes": answer.device_crashes,
    }
    for name, value in figures.items():
        if value:
            shown = ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else text(value)
            pairs.append((name, shown))
    out.fields(pairs)
    for problem in answer.broken:
        if isinstance(problem, Problem):
            out.note(f"violated: seed {problem.seed}: {'; '.join(problem.problems)}; reproduce: {problem.again}")
        else:
            out.note(f"violated: {problem}")
    if answer.again:
        out.note(f"reproduce: {answer.again}")
    if answer.shrunk_again:
        out.note(f"smaller, with the same failure: {answer.shrunk_again}")
    sys.stdout.flush()


app = typer.Typer(invoke_without_command=True)
app.callback()(sim)
app.command("fleet")(sim_fleet)
