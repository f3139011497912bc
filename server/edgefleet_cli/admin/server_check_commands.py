"""`edgectl server check` and `seal`: what a server would use, the list of its secrets, and changing the key that seals them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli.admin.data_folder import default_data
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import child_flags, server_answer
from edgefleet_cli.render.format import duration, flat_fields
from edgefleet_cli.render.output import Column

_SECRETS: list[Column[dict[str, Any]]] = [
    Column("secret", lambda s: s["what"], keep=True),
    Column("where", lambda s: s["where"]),
    Column("kept", lambda s: s["kept"]),
    Column("mode", lambda s: s["mode"] or "-"),
    Column("age", lambda s: "-" if s["age_s"] is None else duration(s["age_s"]), right=True),
    Column("key", lambda s: s["key"] or "-", wide=True),
]
_WAITING: list[Column[dict[str, Any]]] = [
    Column("waits for a person", lambda w: w["what"], keep=True),
    Column("id", lambda w: w["id"]),
    Column("age", lambda w: duration(w["age_s"]), right=True),
    Column("next", lambda w: w["next"]),
]
_CAS: list[Column[dict[str, Any]]] = [
    Column("sha256", lambda s: s["sha256"][:12], keep=True),
    Column("age", lambda s: duration(s["age_s"]), right=True),
    Column("until", lambda s: s["until"]),
    Column("problem", lambda s: s["problem"] or "-"),
]
_PACKAGES: list[Column[dict[str, Any]]] = [
    Column("package", lambda p: p["name"], keep=True),
    Column("sha256", lambda p: p["sha256"][:12]),
    Column("added", lambda p: p["added_at"][:10]),
    Column("bytes", lambda p: "see below" if p["problem"] else "as added"),
]
_PROBLEMS: list[Column[dict[str, Any]]] = [
    Column("secret", lambda s: s["what"], keep=True),
    Column("where", lambda s: s["where"]),
    Column("problem", lambda s: s["problem"], keep=True),
]

_LOST: list[Column[dict[str, Any]]] = [
    Column("secret", lambda s: s["what"], keep=True),
    Column("where", lambda s: s["where"]),
    Column("key", lambda s: s["key"]),
]
_AFTERWARDS = {
    "signing secret of a webhook": "nothing is sent to it until `edgectl webhook rotate ID` makes a new one",
    "URL of a contact point": "it gets no alerts until `edgectl alert contact set ID --url -` says it again",
    "fleet key of sealed models": "publish sealed models again under a new version; devices keep what they have",
    "secret of sign-in codes": "their people sign in by the password alone until they set codes up again",
}
_SETTINGS: list[Column[dict[str, Any]]] = [
    Column("setting", lambda s: s["name"], keep=True),
    Column("value", lambda s: _value(s["value"])),
    Column("from", lambda s: s["where"] or s["source"], keep=True),
    Column("in force", lambda s: s["in_force"] or "-", wide=True),
]
_DOUBTS: list[Column[dict[str, Any]]] = [
    Column("setting", lambda s: s["name"], keep=True),
    Column("look at it again", lambda s: s["doubt"], keep=True),
]
_TABLES = frozenset({"secrets", "waiting", "device_cas", "agent_packages"})

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Data folder of the server; default: in the user's data folder."),
]
Broker = Annotated[
    str | None, typer.Option("--broker", metavar="B", help="auto, embedded, mosquitto or mqtts://host:port.")
]
Rotate = Annotated[bool, typer.Option("--rotate", help="Make a new key first; the old ones still open.")]
DropLost = Annotated[
    bool, typer.Option("--drop-lost", help="Delete the secrets whose key is lost; lists them and asks first.")
]
ForgetOld = Annotated[bool, typer.Option("--forget-old", help="Then remove the old keys from the key file.")]


Settings = Annotated[
    bool,
    typer.Option("--settings", help="Show only the settings that are not at their default, and where each comes from."),
]
All = Annotated[bool, typer.Option("--all", help="With --settings: those at their default, too.")]


def check(
    ctx: typer.Context,
    data: Data = None,
    broker: Broker = None,
    settings: Settings = False,
    show_all: All = False,
) -> None:
    """Check settings, database, blobs, broker, keys and secrets; show which are used. Exit code 1: one has a problem."""
    if ctx.invoked_subcommand is not None:
        return
    session = Session.of(ctx)
    if settings or show_all:
        _show_settings(session, str(data or default_data()), broker, show_all=show_all)
        return
    facts = server_answer(
        "edgefleet_server.main", "--data", str(data or default_data()), "--check", *child_flags(broker=broker)
    )
    secrets: list[dict[str, Any]] = facts["secrets"]
    shown = [{**one, "where": one["where"].removeprefix(f"{facts['data_dir']}/")} for one in secrets]
    wrong = [one for one in shown if one["problem"]]

    def show() -> None:
        session.out.fields(flat_fields({name: value for name, value in facts.items() if name not in _TABLES}))
        if facts["waiting"]:
            session.out.heading("Waiting")
            session.out.table(facts["waiting"], _WAITING)
        session.out.heading("Device CAs")
        session.out.table(facts["device_cas"], _CAS)
        if facts["agent_packages"]:
            session.out.heading("Packages of the agent")
            session.out.table(facts["agent_packages"], _PACKAGES)
            for one in facts["agent_packages"]:
                if one["problem"]:
                    session.out.note(f"{one['problem']}; add it again: edgectl server agent-packages add dist")
        session.out.heading("Secrets")
        session.out.table(shown, _SECRETS)
        if wrong:
            session.out.heading("Problems")
            session.out.table(wrong, _PROBLEMS)

    session.out.facts(facts, show)
    if wrong or facts["blobs"]["problem"] or any(one["problem"] for one in facts["agent_packages"]):
        raise typer.Exit(1)


def _show_settings(session: Session, data: str, broker: str | None, *, show_all: bool) -> None:
    flags = child_flags(broker=broker)
    found = server_answer("edgefleet_server.process.setting_check", "--data", data, *flags)
    entries: list[dict[str, Any]] = found["settings"]
    doubtful = [one for one in entries if one["doubt"]]

    def show() -> None:
        session.out.table([one for one in entries if show_all or not one["is_default"]], _SETTINGS)
        if doubtful:
            session.out.heading("Doubtful")
            session.out.table(doubtful, _DOUBTS)

    session.out.facts(found, show)


def _value(value: object) -> str:
    """Return a value as it is written: a list with commas."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return ",".join(one if isinstance(one, str) else str(one.get("name", "?")) for one in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def seal(
    ctx: typer.Context,
    data: Data = None,
    rotate: Rotate = False,
    forget_old: ForgetOld = False,
    drop_lost: DropLost = False,
) -> None:
    """Seal the secrets of the database with the newest sealing key; with --rotate make that key, with --forget-old keep no other."""
    if drop_lost and not (rotate or forget_old):
        _drop_lost(Session.of(ctx), str(data or default_data()))
        return
    if drop_lost:
        raise UsageError(
            "--drop-lost goes alone", why="it deletes", next_step="run it first; then seal, rotate or forget old keys"
        )
    if rotate and forget_old:
        raise UsageError(
            "--rotate and --forget-old cannot be given together",
            why="copies of before would have no key left that opens them",
            next_step="rotate; make a backup; then run it with --forget-old",
        )
    session = Session.of(ctx)
    flags = ["--rotate"] * rotate + ["--forget-old"] * forget_old
    done = server_answer("edgefleet_server.process.secret_sealer", "--data", str(data or default_data()), *flags)
    session.out.facts(done, lambda: session.out.fields(flat_fields(done)))
    if not done["is_clean"]:
        session.out.note(
            "texts of before may still be in the database's files; run it again when nothing else reads the database"
        )


def _drop_lost(session: Session, data: str) -> None:
    """Say which secrets no key opens any more and what that means, ask, and delete them."""
    sealer = "edgefleet_server.process.secret_sealer"
    found = server_answer(sealer, "--data", data, "--lost")
    lost: list[dict[str, Any]] = found["lost"]
    if not found["keys"]:
        session.out.facts(
            {"dropped": 0}, lambda: session.out.line("No secret is lost: each key that is needed is there.")
        )
        return
    if session.out.is_for_eyes:
        session.out.heading("Lost")
        session.out.table(lost, _LOST)
        for what in dict.fromkeys(one["what"] for one in lost):
            session.out.note(f"{what}: {_AFTERWARDS.get(what, 'make it again')}")
        for bundle in found["bundles"]:
            session.out.note(f"no device can get it any more: {bundle}")
        session.out.note(
            f"looked for the keys in {found['looked_in']}; a server with another environment may get them from elsewhere"
        )
    session.confirm(
        f"Go on without the sealing key and delete {len(lost)} secrets for good? If it may turn up, bring it back instead."
    )
    done = server_answer(sealer, "--data", data, "--drop-lost", *found["keys"])
    session.out.facts(
        done | {"lost": lost, "bundles": found["bundles"]},
        lambda: session.out.line(f"{done['dropped']} secrets deleted."),
    )
