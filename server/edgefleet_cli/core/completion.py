"""Completion of names that the server knows. Silent and quick: a shell must not hang or print errors for a TAB.

What the server answered is kept for a minute in a file of the cache folder (`$XDG_CACHE_HOME/edgefleet/completion`, readable by its owner
only), one for each server, token and list: the second TAB asks nobody. The file's name is a digest, no secret is in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from edgefleet_cli.core.files import write_private
from edgefleet_cli.core.options import resolve
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_protocol.errors import EdgefleetError

TIMEOUT_S = 2.0
FRESH_S = 60.0
_LIMIT = 200


def names_of(path: str, key: str) -> Callable[[str], list[str]]:
    """Return a completer that offers `key` of each item listed at `path`; nothing when the server cannot be asked."""

    def complete(incomplete: str) -> list[str]:
        return _offered(incomplete, lambda session: _names(session, path, key))

    return complete


def _offered(incomplete: str, ask: Callable[[Session], list[str]]) -> list[str]:
    """Return those of the names that begin so; nothing when the server cannot be asked."""
    try:
        session = Session(replace(resolve({}), timeout_s=TIMEOUT_S))
        return [name for name in ask(session) if name.startswith(incomplete)]
    except EdgefleetError:
        return []


def _as_text(value: Any) -> list[str]:
    return [str(value)]


def _as_terms(labels: Any) -> list[str]:
    return [f"{key}={value}" for key, value in labels.items()]


def _names(
    session: Session, path: str, key: str, of: Callable[[Any], list[str]] = _as_text, **filters: str
) -> list[str]:
    """Return the names in the cache when they are fresh, else those that the server says now. of: what an item's value offers."""
    file = cache_file(session.server, session.token, "?".join((path, *filters.values())), key)
    now_s = session.clock.now().timestamp()
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if 0 <= now_s - float(kept["at"]) < FRESH_S:
            return [str(name) for name in kept["names"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or none that can be read: then it is made again
    found = [reply.raw.get(key) for reply in session.api.pages(path, dict, limit=_LIMIT, fields=key, **filters).replies]
    names = list(dict.fromkeys(name for value in found if value for name in of(value)))
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(file, json.dumps({"at": now_s, "names": names}))
    except OSError:
        pass  # a cache that cannot be kept costs only time
    return names


def cache_file(server: str, token: str | None, path: str, key: str) -> Path:
    """Return where the names of one list are kept."""
    import hashlib

    import platformdirs

    digest = hashlib.sha256("\0".join((server, token or "", path, key)).encode()).hexdigest()[:32]
    return Path(platformdirs.user_cache_path("edgefleet")) / "completion" / f"{digest}.json"


devices = names_of("/devices", "id")
readmissions = names_of("/readmissions", "device")
models = names_of("/models", "name")
profiles = names_of("/profiles", "name")
releases = names_of("/releases", "ref")
rollouts = names_of("/rollouts", "id")
groups = names_of("/groups", "name")
pending = names_of("/enrollments/pending", "id")
webhooks = names_of("/webhooks", "id")
tokens = names_of("/tokens", "id")
people = names_of("/people", "name")
identities = names_of("/identities", "id")
pipelines = names_of("/trusted-pipelines", "name")
bundles = names_of("/bundles", "sha256")
keys = names_of("/keys", "name")
experiments = names_of("/experiments", "id")
strategies = names_of("/rollout-strategies", "name")
claims = names_of("/enrollments", "id")
receivers = names_of("/alert-receivers", "id")
alerts = names_of("/alerts", "id")
alert_rules = names_of("/alert-rules", "name")
silences = names_of("/alert-silences", "id")
windows = names_of("/maintenance-windows", "id")
slos = names_of("/slos", "name")
triggers = names_of("/triggers", "name")
retrainings = names_of("/retrainings", "id")
contacts = names_of("/contact-points", "id")
_STATES = ("online", "offline", "unknown", "revoked")


def selectors(incomplete: str) -> list[str]:
    """Return selectors that go on with a group, a profile, a status or a label that devices have; what stands before a comma stays."""
    done, comma, _last = incomplete.rpartition(",")

    def ask(session: Session) -> list[str]:
        terms = [f"group={name}" for name in _names(session, "/groups", "name")]
        terms += sorted(_names(session, "/devices", "labels", _as_terms))
        terms += [f"profile={name}" for name in _names(session, "/devices", "profile")]
        terms += [f"status={name}" for name in _STATES]
        return [f"{done}{comma}{term}" for term in terms]

    return _offered(incomplete, ask)


def selector_option(what: str) -> Any:
    """Return the option that chooses devices, the same everywhere: `-l`, `--selector` and `--to` are one. what: what happens to them."""
    return typer.Option(
        "--selector",
        "--to",
        "-l",
        metavar="SELECTOR",
        help=f"{what}: labels and facts such as site=berlin,arch=arm64 or group=NAME; '' is all devices.",
        autocompletion=selectors,
    )


def deliveries(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the deliveries of the webhook that stands before."""
    webhook = ctx.params.get("webhook_id")
    path = f"/webhooks/{part(str(webhook))}/deliveries"
    return _offered(incomplete, lambda session: _names(session, path, "id")) if webhook else []


def aliases(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the aliases of the model that stands before."""
    model = ctx.params.get("model")
    path = f"/models/{part(str(model))}/aliases"
    return _offered(incomplete, lambda session: _names(session, path, "alias")) if model else []


def versions(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the versions of the model that stands before."""
    model = ctx.params.get("model")
    return (
        _offered(incomplete, lambda session: _names(session, "/releases", "version", model=str(model))) if model else []
    )


def signals(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the signals of the model that stands before."""
    model = ctx.params.get("model")

    def ask(session: Session) -> list[str]:
        found = session.api.get(f"/models/{part(str(model))}/drift", dict).raw
        return [str(one["name"]) for one in found.get("signals", ())]

    return _offered(incomplete, ask) if model else []


def drift_spans(incomplete: str) -> list[str]:
    """Return how long answers are added up for."""
    return [one for one in ("5m", "1h", "1d") if one.startswith(incomplete)]


def accuracy_lines(incomplete: str) -> list[str]:
    """Return what lines of accuracy may be of."""
    words = ("all", "release", "group", "segment", "site", "profile")
    return [one for one in words if one.startswith(incomplete)]


def device_to_label(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return devices for the first word of `device label`; labels come after it, or alone with -l."""
    return [] if ctx.params.get("words") or ctx.params.get("selector") else devices(incomplete)


def kinds(incomplete: str) -> list[str]:
    """Return the kinds of documents."""
    from edgefleet_cli.declarative.resource_kinds import KINDS

    return [name for name in map(str.lower, KINDS) if name.startswith(incomplete)]


def kind_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the kind that stands before, where a list of the server has them."""
    lists = {"group": groups, "device": devices}
    complete = lists.get(str(ctx.params.get("kind")).lower().removesuffix("s"))
    return complete(incomplete) if complete else []


def contexts(incomplete: str) -> list[str]:
    """Return the saved contexts that begin so."""
    from edgefleet_cli.core.contexts import load_contexts

    try:
        return [name for name in sorted(load_contexts().contexts) if name.startswith(incomplete)]
    except EdgefleetError:
        return []
