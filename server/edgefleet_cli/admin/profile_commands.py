"""`edgectl profile`: what each kind of hardware can."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli.core import completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.release.render import EXAMPLES, cost_fields
from edgefleet_cli.render.format import flat_fields, text
from edgefleet_cli.render.output import Column, Json, Sheet

app = typer.Typer(help="Hardware profiles: what a board with a runtime can take.", no_args_is_help=True)

Shipped = Annotated[bool, typer.Option("--shipped", help="Those that this edgectl brings, without a server.")]


def _runtime(profile: Json) -> str:
    runtime = profile.get("runtime")
    if isinstance(runtime, dict):
        return f"{runtime.get('name')} {runtime.get('version')}"
    return text(runtime)


def _offer(profile: Json) -> str:
    """Return what a publication for the profile gives: a bundle, a prepared model, or nothing."""
    backend = profile.get("backend") or {}
    return {"prepare": "prepared", "refuse": "refused"}.get(str(backend.get("mode")), "bundle")


SHEET = Sheet(
    "profiles",
    [
        Column("name", lambda p: text(p.get("name")), keep=True),
        Column("arch", lambda p: text(p.get("arch"))),
        Column("runtime", _runtime),
        Column("gives", _offer),
        Column("title", lambda p: text(p.get("title"))),
    ],
    lambda p: text(p.get("name")),
)

FINDINGS = Sheet(
    "findings",
    [
        Column("line", lambda f: text(f.get("line")), right=True),
        Column("key", lambda f: text(f.get("key")), keep=True),
        Column("finding", lambda f: text(f.get("message"))),
        Column("next", lambda f: text(f.get("next"))),
    ],
    lambda f: text(f.get("key")),
)


@app.command("list")
def list_profiles(ctx: typer.Context, shipped: Shipped = False) -> None:
    """List the profiles the server knows, or with --shipped those that come with edgefleet."""
    session = Session.of(ctx)
    session.out.items({"items": _shipped()} if shipped else session.api.pages("/profiles"), SHEET)


@app.command("show")
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.profiles)],
    shipped: Shipped = False,
) -> None:
    """Show a profile with all its facts; `-o yaml` gives a file for `publish --profile FILE`."""
    from edgefleet_cli.core.api_client import part

    session = Session.of(ctx)
    profile = _shipped_one(name) if shipped else session.api.get(f"/profiles/{part(name)}")

    def for_eyes(entry: Json) -> None:
        session.out.fields(flat_fields(entry))
        if not shipped:
            session.out.fields(cost_fields(session.api.get(f"/profiles/{part(name)}/cost")))

    session.out.one(profile, SHEET, for_eyes)


@app.command("cost")
def cost(
    ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.profiles)]
) -> None:
    """Show what the cost model of a profile rests on: models that devices reported on, and how far off it is."""
    from edgefleet_cli.core.api_client import part

    session = Session.of(ctx)
    state = session.api.get(f"/profiles/{part(name)}/cost")
    if session.out.is_for_eyes:
        session.out.fields(cost_fields(state))
    session.out.rows(state, state["examples"], EXAMPLES)


@app.command("validate")
def validate(ctx: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML or JSON.")]) -> None:
    """Check a profile file, here. Exit 2 names the key and line that are wrong; facts without evidence are findings, exit 0."""
    import yaml

    from edgefleet_profiles import parse, read_file
    from edgefleet_profiles.findings import findings
    from edgefleet_profiles.yaml_lines import line_of

    session = Session.of(ctx)
    source = read_file(file)
    profile = parse(source, origin=str(file))
    rows: list[Json] = [
        {"key": found.key, "line": line_of(source, found.key), "message": found.message, "next": found.next_step}
        for found in findings(profile, yaml.safe_load(source))
    ]
    document = {"file": str(file), "name": profile.name, "ok": True, "findings": rows}
    session.out.rows(document, rows, FINDINGS)
    session.out.note(f"{profile.name} is a valid profile")


@app.command("schema")
def schema(ctx: typer.Context) -> None:
    """Print the JSON schema of profile files, for editors and other programs."""
    import json

    from edgefleet_protocol.profile import profile_schema

    session = Session.of(ctx)
    document = profile_schema()
    session.out.document(document, lambda: session.out.line(json.dumps(document, indent=2)))


def _shipped() -> list[Json]:
    from edgefleet_profiles import names

    return [_shipped_one(name) for name in names()]


def _shipped_one(name: str) -> dict[str, Any]:
    from edgefleet_profiles import load
    from edgefleet_protocol.profile import profile_to_dict

    return profile_to_dict(load(name))
