"""Each line of `edgectl` that pages show for a change really asks the server for that change, and for no other.

A server that agrees to everything writes down what each command sends; the page's word for it (`LINES`) is held against that.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgefleet_server.dashboard.operations.catalog import Operations
from edgefleet_server.dashboard.operations.command_preview import LINES, OF_FIELD, cli_line
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Asked, Stub, serving
from tests.house.tree import ROOT
from tests.server.objectives.test_openslo import latency

OPERATIONS = Operations(json.loads((ROOT / "docs" / "reference" / "openapi.json").read_text("utf-8")))
PREFIX = "/api/v1"
READING = {"GET", "HEAD"}
ASKED_BEFORE = {"create_rollout": {"plan_rollout"}}
"""Operations that change nothing and that a command asks before."""

FIELDS: Mapping[str, Any] = {
    "path.token_id": "t1",
    "path.ref": "digits@1.0.0",
    "path.claim_id": "c1",
    "path.device_id": "d-1",
    "path.name": "digits",
    "path.alias": "prod",
    "path.rollout_id": "r-1",
    "path.webhook_id": "w1",
    "path.delivery_id": "7",
    "path.receiver_id": "a1",
    "path.alert_id": "7",
    "path.rule": "device_offline",
    "path.silence_id": "si-1",
    "path.window_id": "mw-1",
    "path.contact_id": "cp-1",
    "path.person_id": "p-1",
    "body.provider": "github",
    "body.repository": "acme/vision",
    "body.ref": "refs/heads/main",
    "path.request_id": "sr-1",
    "body.disabled": True,
    "body.threshold": 15,
    "body.for_s": 3600,
    "body.duration_s": 3600,
    "body.cron": "0 1 * * *",
    "body.name": "digits",
    "body.version": "1.0.0",
    "body.since": "2026-11-20T00:00:00+00:00",
    "body.roles": "viewer",
    "body.count": 1,
    "body.uses": 1,
    "body.ids": "f1",
    "body.labels": "site=berlin",
    "body.selector": "site=berlin",
    "body.kind": "diag",
    "body.public_key": "09" + "0" * 62,
    "body.reason": "because",
    "body.rollback": True,
    "body.failed": True,
    "body.stratum": "generic-x86_64-ort",
    "body.url": "https://example.test/hook",
    "body.action": "pause",
    "body.model": "digits",
    "body.models": "late",
    "body.require": "owner",
    "body.data.most": 100,
    "body.asked_at": "2026-11-25T12:00:00+00:00",
    "body.profile": "generic-x86_64-ort",
}
SPEC = "release: digits@1.0.0\nselector: site=berlin\nstages:\n  - {name: all, size: {percent: 100}}\n"

AGREED: Mapping[str, Any] = {
    "items": [], "total": 0, "next_cursor": None, "id": "x1", "ref": "digits@1.0.0", "name": "digits", "state": "done",
    "tokens": [], "matched": 1, "set": [], "skipped": [], "done": ["f1"], "ok": True, "last_id": 0, "until": None,
    "url": "http://127.0.0.1:9/login/x", "path": "/login/x", "token": "x", "secret": "whsec_x", "jobs": [], "bundles": [],
    "webhook": {"id": "w1", "name": "ops"}, "receiver": {"id": "a1", "name": "am"}, "moves": [], "rollouts": [],
    "devices": 0, "stages": [], "desired": {"gen": 1, "models": []}, "models": [], "labels": {}, "changed": 1, "sample": [],
    "release": "digits@1.0.0", "spec": {}, "counts": {}, "findings": [], "strata": [], "excluded": [], "dry_run": False,
}  # fmt: skip
WAITING_FOR: Mapping[str, Any] = {
    "GET /signing-requests": [{"id": "sr-1", "state": "waiting"}],
    "GET /team-requests": [{"id": "sr-1", "state": "waiting", "model": "model.onnx", "ended_at": None}],
}
"""Requests for signatures: commands answer or drop the one that waits, and ask for it first."""


class Agreeing(Stub):
    """A server that agrees to everything."""

    def answer(self, asked: Asked) -> Any:
        """Note a request and agree."""
        with self.lock:
            self.asked.append(asked)
        return {**AGREED, "items": WAITING_FOR.get(asked.what, [])}


@pytest.fixture
def agreeing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stub]:
    """The server, named in the environment of the command line; the working folder has a model and a spec."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"a model")
    (tmp_path / "rollout.yaml").write_text(SPEC)
    (tmp_path / "labels.csv").write_text("device,trace_id,label\nd-1,t-1,1\n")
    (tmp_path / "public.json").write_bytes((ROOT / "tests/server/rest/public_part.json").read_bytes())
    (tmp_path / "answer.json").write_text("{}")
    (tmp_path / "FILE").write_text("a public key")
    (tmp_path / "prices.json").write_text('{"currency": "EUR", "kwh": 1}')
    (tmp_path / "card.yaml").write_text("owner: Line team\n")
    (tmp_path / "slo.json").write_text(json.dumps(latency()))
    with serving(Agreeing()) as stub:
        monkeypatch.setenv("EDGECTL_SERVER", stub.url)
        monkeypatch.setenv("EDGECTL_TOKEN", "edg_test")
        yield stub


def operation_of(what: str) -> str:
    """Return the id of the operation that a request is for: the one with the fewest names in its address that fits."""
    method, _, path = what.partition(" ")
    found = [
        (template.count("{"), one.id)
        for one in OPERATIONS
        if one.method == method
        for template in [one.path.removeprefix(PREFIX)]
        if re.fullmatch(re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(template)), path)
    ]
    assert found, f"the API has no {what}"
    return min(found)[1]


def changes(stub: Stub) -> set[str]:
    """Return the operations that may change something and that were asked for."""
    return {operation_of(one.what) for one in stub.asked if one.what.partition(" ")[0] not in READING}


@pytest.mark.parametrize(("operation", "asks"), [*((one, "") for one in LINES), *OF_FIELD])
def test_a_line_sends_what_it_stands_for(edgectl: Edgectl, agreeing: Stub, operation: str, asks: str) -> None:
    line = cli_line(operation, FIELDS, asks).replace("MODEL", "model.onnx", 1)
    ran = edgectl(*shlex.split(line)[1:], "--yes", "--no-input", "--timeout", "1s", "-o", "json")
    sent = changes(agreeing)
    assert operation in sent, (line, sent, ran.err)
    assert sent <= {operation} | ASKED_BEFORE.get(operation, set()), line


def test_an_address_belongs_to_the_most_exact_operation() -> None:
    assert operation_of("POST /rollouts:undo") == "undo_model"
    assert operation_of("POST /rollouts/r-1:pause") == "pause_rollout"
    assert operation_of("GET /enrollments/pending") == "list_pending_devices"
    with pytest.raises(AssertionError, match="the API has no"):
        operation_of("POST /nowhere")
