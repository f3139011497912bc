"""Pages of the reference that are made from code: `./dev run python -m tests.house.reference` writes them, a test compares.

Settings of the server from the fields and the sentence under each; settings of the agent with their defaults; figures at `/metrics` from
the registry of a server's parts; which role may call which route from the policy; the JSON Schema of a rollout's spec from its models.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from prometheus_client.core import Metric
from pydantic import TypeAdapter

from edgefleet_agent.settings import PREFIX as AGENT_PREFIX
from edgefleet_agent.settings import AgentSettings
from edgefleet_server import settings as server_settings
from edgefleet_server.access.grants.grant_scope import Touch
from edgefleet_server.access.model import INCLUDES, Role
from edgefleet_server.access.rules import POLICY, role_of, touch_of
from edgefleet_server.observability.fleet_figures.figure_table import FIGURES
from edgefleet_server.observability.prometheus import Metrics
from edgefleet_server.rollout.spec.model import Spec
from edgefleet_server.rollout.spec.parser import Document
from edgefleet_server.settings import ServerSettings
from tests.house.tree import ROOT

FOLDER = ROOT / "docs" / "reference"
_HEAD = """# Settings

<!-- made by `python -m tests.house.reference` from the code; edit the code -->

Each process reads its settings once, when it starts. A wrong name or value stops the start and is named.

## Server

Strongest first: flags of `edgectl server start`; the environment; drop-ins `server.toml.d/*.toml` in the data folder, the last by
name wins; `server.toml` there; systemd credentials; the default. `edgectl server check --settings` says which is in force, and from where.

- In the environment a setting is `{server}` and its name in capitals, or that with `_FILE` at the end: a file with the value, as
  Docker and Kubernetes mount secrets. Both for one setting are refused, and so is a name that does not exist.
- A credential is `edgefleet.NAME`: `LoadCredential=edgefleet.api_port:/etc/edgefleet/port`.
- In the environment, in a file of one value and in a credential, lists and tables are JSON: `identity_providers` is a list of
  objects. `roles`, `custom_metrics` and `webhook_networks` may also have commas: `api,engine`.
- Of a secret, its value wins over the file that `NAME_file` names, and both over its credential; file and credential are read
  when they are needed.

Sizes are bytes, times seconds.

| setting | default | what it does |
| --- | --- | --- |
"""
_AGENT = """
## Agent

Strongest first: the environment (`{agent}` and the name in capitals), `agent.toml` in the state folder, the default.
What they mean is on [the device page](../operate/device.md), and in [bytes and offline](../operate/bandwidth.md) and
[privacy](../operate/privacy.md).

| setting | default |
| --- | --- |
"""
_METRICS = """# Figures at /metrics

<!-- made by `python -m tests.house.reference` from the code; edit the code -->

Prometheus text at `/metrics` of the API listener. No figure has a label for a device: their number does not grow with
the fleet. [Monitoring](../operate/monitoring.md) has rules and dashboards for them.

## Of fleet and models

With a viewer token. They are the same from every server process: they come from the database, at most 5 s old. Only releases and groups
that the server knows have series. Counters of models count since the beginning and never fall; answers of candidates are not among them.

| figure | kind | labels | what it counts |
| --- | --- | --- | --- |
"""
_PROCESS_METRICS = """
## Of one server process

Without a token, too. They begin at zero when a process starts: add up those of all processes.

| figure | kind | labels | what it counts |
| --- | --- | --- | --- |
"""
_ROLES = """
## Who may call what

<!-- made by `python -m tests.house.reference` from the code; edit the code -->

"yes": a token with this role alone may call these routes. [What they do](rest.md).

| of | routes | {roles} |
| --- | --- | {lines} |
"""
_SCOPES = """
## What a grant for a part of the fleet reaches

A route that is in no row needs its role over the whole fleet; to read, any grant is enough.
Stages are approved and denied by the role that they name, over what the rollout touches.

| what its scope has to contain | routes |
| --- | --- |
"""
_TOUCHES = {
    Touch.NOTHING: "anything: it touches nothing that a scope names",
    Touch.MODEL: "the model of the address",
    Touch.MODEL_EVERYWHERE: "the model of the address, on all devices",
    Touch.DEVICE: "the device of the address, with every model",
    Touch.ROLLOUT: "the model of the rollout, on the devices of its selector",
    Touch.STATED: "the model and the devices that the body names",
}


def sentences() -> dict[str, str]:
    """Return the sentence under each field of the server's settings."""
    tree = ast.parse(inspect.getsource(server_settings))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "ServerSettings")
    found: dict[str, str] = {}
    for field, after in zip(body, [*body[1:], None], strict=True):
        told = after.value if isinstance(after, ast.Expr) else None
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(told, ast.Constant):
            found[field.target.id] = " ".join(str(told.value).replace("``", "`").split())
    return found


def settings_page() -> str:
    """Return the page of all settings."""
    said = sentences()
    rows = [
        f"| `{name}` | {_default(field.default)} | {said[name]} |"
        for name, field in ServerSettings.model_fields.items()
    ]
    agent = [f"| `{field.name}` | {_default(field.default)} |" for field in msgspec.structs.fields(AgentSettings)]
    head = _HEAD.format(server="EDGEFLEET_SERVER_")
    return head + "\n".join(rows) + "\n" + _AGENT.format(agent=AGENT_PREFIX) + "\n".join(agent) + "\n"


def metrics_page() -> str:
    """Return the page of all figures."""
    metrics = Metrics()
    metrics.watch_gateway(lambda: {"example": 1}, lambda: {"rate": 1}, lambda: 0.0)
    metrics.watch_revocation(lambda: 1, lambda: 1)
    metrics.watch_signer(lambda: ({"director": 1}, {"director": 1}))
    fleet = [(one.name, one.kind.value, _named(one.labels), one.text) for one in FIGURES]
    return _METRICS + _rows(fleet) + _PROCESS_METRICS + _rows(_figures(metrics))


def _rows(figures: Iterable[tuple[str, str, str, str]]) -> str:
    return "".join(f"| `{name}` | {kind} | {labels} | {text} |\n" for name, kind, labels, text in figures)


def _named(labels: Sequence[str]) -> str:
    return ", ".join(f"`{one}`" for one in labels)


def roles_page() -> str:
    """Return the page of roles: what people wrote, and below it which role may call which route."""
    written = (FOLDER / "roles.md").read_text("utf-8").partition(_ROLES.splitlines()[1])[0].rstrip("\n")
    routes: dict[tuple[str, Role], list[str]] = {}
    for method, path in POLICY:
        if (role := role_of(method, path)) is not None:
            routes.setdefault((re.split(r"[/:]", path)[1], role), []).append(f"`{method} {path}`")
    rows = [
        f"| {what} | {', '.join(those)} |" + "".join(" yes |" if role in INCLUDES[own] else " |" for own in Role)
        for (what, role), those in sorted(routes.items())
    ]
    head = _ROLES.format(roles=" | ".join(Role), lines=" | ".join("---" for _ in Role))
    scoped = {touch: [f"`{' '.join(row)}`" for row in POLICY if touch_of(*row) is touch] for touch in Touch}
    reaches = "".join(f"| {_TOUCHES[touch]} | {', '.join(those)} |\n" for touch, those in scoped.items())
    return f"{written}\n{head}" + "\n".join(rows) + f"\n{_SCOPES}{reaches}"


def _figures(metrics: Metrics) -> Iterator[tuple[str, str, str, str]]:
    labels = {
        collector._name: collector._labelnames  # the library tells label names nowhere else
        for collector in vars(metrics).values()
        if hasattr(collector, "_labelnames")
    }
    family: Metric
    for family in metrics.registry.collect():
        ending = "_total" if family.type == "counter" else ""
        names = labels.get(family.name) or tuple(family.samples[0].labels if family.samples else ())
        yield family.name + ending, family.type, _named(names), family.documentation


def _default(value: Any) -> str:
    if repr(value) == "PydanticUndefined":
        return "needed"
    if value is msgspec.NODEFAULT:
        return "–"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, tuple | list):
        return ", ".join(str(getattr(one, "value", one)) for one in value) or "none"
    if value == "":
        return '`""`'
    mib = 1024 * 1024
    if isinstance(value, int) and value >= mib and value % mib == 0:
        return f"{value // mib} MiB"
    return f"{value:g}" if isinstance(value, float) else str(getattr(value, "value", value))


def spec_schema() -> str:
    """Return what an editor needs to know of a rollout's spec."""
    made = TypeAdapter[Any](Document | Spec).json_schema()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Spec of a rollout"}
    return json.dumps(head | made, indent=1) + "\n"


PAGES = {
    "settings.md": settings_page,
    "metrics.md": metrics_page,
    "roles.md": roles_page,
    "rollout-spec.schema.json": spec_schema,
}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
