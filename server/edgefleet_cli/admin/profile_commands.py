"""`edgectl profile`: what each kind of hardware can."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.transport.reply import Page, Reply, reply_of
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.release.render import EXAMPLES, cost_fields
from edgefleet_cli.render.format import flat_fields, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Show hardware profiles: what a board and its runtime support.", no_args_is_help=True)
Shipped = Annotated[bool, typer.Option("--shipped", help="Profiles shipped with edgectl; needs no server.")]


class Runtime(Struct, frozen=True):
    """What runs models on a board."""

    name: str = ""
    version: str = ""


class Backend(Struct, frozen=True):
    """How models are made for a board."""

    mode: str = ""


class Profile(Struct, frozen=True):
    """What is read here of a profile; all of it is printed. The API gives profiles as they are, without a schema."""

    name: str = ""
    arch: str = ""
    title: str = ""
    runtime: Runtime | str | None = None
    backend: Backend | None = None
    delegates: tuple[str, ...] = ()


class Finding(Struct, frozen=True):
    """A fact of a profile file that lacks evidence."""

    key: str
    line: int | None
    message: str
    next: str


def _runtime(profile: Profile) -> str:
    runtime = profile.runtime
    return f"{runtime.name} {runtime.version}" if isinstance(runtime, Runtime) else text(runtime)


def _offer(profile: Profile) -> str:
    """Return what a publication for the profile gives: a bundle, a prepared model, or nothing."""
    mode = profile.backend.mode if profile.backend else ""
    return {"prepare": "prepared", "refuse": "refused"}.get(mode, "bundle")


def _runs_on(profile: Profile) -> str:
    """Return what runs its models: the CPU, also where the profile names an accelerator; on a microcontroller no agent runs."""
    if profile.backend is not None and profile.backend.mode == "refuse":
        return "-"
    if isinstance(profile.runtime, Runtime) and profile.runtime.name == "tflm":
        return "your firmware"
    return f"CPU, not {', '.join(profile.delegates)}" if profile.delegates else "CPU"


SHEET: Sheet[Profile] = Sheet(
    "profiles",
    [
        Column("name", lambda p: text(p.name), keep=True),
        Column("arch", lambda p: text(p.arch)),
        Column("runtime", _runtime),
        Column("gives", _offer),
        Column("runs on", _runs_on),
        Column("title", lambda p: text(p.title)),
    ],
    lambda p: text(p.name),
)

FINDINGS: Sheet[Finding] = Sheet(
    "findings",
    [
        Column("line", lambda f: text(f.line), right=True),
        Column("key", lambda f: text(f.key), keep=True),
        Column("finding", lambda f: text(f.message), fold=True),
        Column("next", lambda f: text(f.next), fold=True),
    ],
    lambda f: text(f.key),
)


@app.command("list")
def list_profiles(ctx: typer.Context, shipped: Shipped = False) -> None:
    """List the profiles of the server, or with --shipped those of edgectl."""
    session = Session.of(ctx)
    session.out.items(_shipped() if shipped else session.api.pages("/profiles", Profile), SHEET)


@app.command("show")
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.profiles)],
    shipped: Shipped = False,
) -> None:
    """Show a profile with all its facts; `-o yaml` gives a file for `publish --profile FILE`."""
    session = Session.of(ctx)
    profile = Reply(_shipped_one(name), Profile) if shipped else session.api.get(f"/profiles/{part(name)}", Profile)

    def for_eyes(_: Profile) -> None:
        session.out.fields(flat_fields(profile.raw))
        if not shipped:
            session.out.fields(cost_fields(session.api.get(f"/profiles/{part(name)}/cost", api.cost.CostState).value))

    session.out.one(profile, SHEET, for_eyes)


@app.command("cost")
def cost(
    ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.profiles)]
) -> None:
    """Show the data behind a profile's cost model, and its error."""
    session = Session.of(ctx)
    state = session.api.get(f"/profiles/{part(name)}/cost", api.cost.CostState)
    if session.out.is_for_eyes:
        session.out.fields(cost_fields(state.value))
    session.out.rows(state.raw, state.value.examples, EXAMPLES)


@app.command("validate")
def validate(ctx: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML or JSON.")]) -> None:
    """Validate a profile file, without a server.

    Exit code 2 for a wrong key, with its line; missing evidence is a finding, exit code 0.
    """
    import yaml

    from edgefleet_profiles import parse, read_file
    from edgefleet_profiles.evidence_gaps import findings
    from edgefleet_profiles.yaml_lines import line_of

    session = Session.of(ctx)
    source = read_file(file)
    profile = parse(source, origin=str(file))
    rows = [
        Finding(found.key, line_of(source, found.key), found.message, found.next_step)
        for found in findings(profile, yaml.safe_load(source))
    ]
    documents = [reply_of(row).raw for row in rows]
    document = {"file": str(file), "name": profile.name, "ok": True, "findings": documents}
    session.out.rows(document, rows, FINDINGS)
    session.out.note(f"{profile.name} is a valid profile")


@app.command("schema")
def schema(ctx: typer.Context) -> None:
    """Print the JSON schema of profile files."""
    import json

    from edgefleet_profiles.profile import profile_schema

    session = Session.of(ctx)
    document = profile_schema()
    session.out.document(document, lambda: session.out.line(json.dumps(document, indent=2)))


def _shipped() -> Page[Profile]:
    from edgefleet_profiles import names

    return Page({"items": [_shipped_one(name) for name in names()]}, Profile)


def _shipped_one(name: str) -> dict[str, Any]:
    from edgefleet_profiles import load
    from edgefleet_profiles.profile import profile_to_dict

    return profile_to_dict(load(name))
