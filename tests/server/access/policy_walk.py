"""Every route × role × scope, through the whole app: each cell is answered as the policy table says, no more and no less.

`./dev soak policy-walk`. A cell is a caller with one grant, a route, and what the request is about: a model and a device, each inside or
outside of the scopes. What must be allowed is computed here from sets: a scope and a request are each a set of pairs (model, device), and
the request is allowed when its pairs are among those of the scope. Requests are dry runs, or have a body that is refused later.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Final

from fastapi.testclient import TestClient

from edgefleet_server.access.grants.grant_scope import Scope, Touch
from edgefleet_server.access.model import INCLUDES, Grant, Role
from edgefleet_server.access.rules import POLICY, role_of, touch_of
from tests.server.fleet.apps import Operators
from tests.server.fleet.house import PROFILE, House, TurnedClock
from tests.support.teams import member, pem

IN, OUT = "inside", "outside"
NO_DEVICE: Final = "no device"
MODELS, DEVICES = (IN, OUT, "any other"), (IN, OUT)
GROUP: Final = {IN: "line-a", OUT: "line-b"}
SITE: Final = {IN: "berlin", OUT: "oslo"}
SELECTOR: Final = {where: f"group={GROUP[where]},site={SITE[where]}" for where in (IN, OUT)}
ACTING: Final = (Role.OPERATOR, Role.APPROVER)
SCOPES: Final[Mapping[str, Scope]] = {
    "fleet": Scope(),
    "model": Scope(models=frozenset({IN})),
    "group": Scope(groups=frozenset({GROUP[IN]})),
    "site": Scope(sites=frozenset({SITE[IN]})),
    "model, group": Scope(models=frozenset({IN}), groups=frozenset({GROUP[IN]})),
    "model, group, site": Scope(frozenset({IN}), frozenset({GROUP[IN]}), frozenset({SITE[IN]})),
}
RETRAINING: Final = ("/triggers", "/retrainings")
Pair = tuple[str, str]
EVERYTHING: Final[frozenset[Pair]] = frozenset(product(MODELS, (*DEVICES, NO_DEVICE)))
_BODIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "/releases/{ref}:deploy": {"dry_run": True},
    "/devices:task": {"kind": "diag", "dry_run": True},
    "/rollouts": {},
    "/rollouts:undo": {"dry_run": True},
    "/releases": {
        "version": "9.9.9",
        "source": {"kind": "file", "files": [{"path": "m.onnx", "sha256": "0" * 64, "length": 1}]},
    },
    "/team-requests/{request_id}:sign": {"answer": "no answer"},
    "/triggers": {"name": "another", "on": "hand"},
    "/retrainings:lease": {"holder": "walk"},
    "/retrainings/{retraining_id}:renew": {"lease": "no lease"},
    "/retrainings/{retraining_id}:complete": {"lease": "no lease", "release": "inside@1.0.0"},
    "/retrainings/{retraining_id}:fail": {"lease": "no lease", "code": "walk.none", "why": "none"},
}


@dataclass(frozen=True)
class Cell:
    """One request of one caller. model, device: what it is about."""

    role: Role
    scope: str
    method: str
    path: str
    model: str = IN
    device: str = IN

    @property
    def row(self) -> tuple[str, str]:
        """The row of the table that stands for the request."""
        return ("GET" if self.method == "HEAD" and ("HEAD", self.path) not in POLICY else self.method), self.path

    @property
    def grant(self) -> Grant:
        """What the caller was granted."""
        return Grant(self.role, SCOPES[self.scope])

    def touched(self) -> frozenset[Pair]:
        """Return what the request touches, as pairs; empty: nothing that a scope could name."""
        match touch_of(*self.row):
            case Touch.NOTHING:
                return frozenset()
            case Touch.MODEL:
                return frozenset({(self.model, NO_DEVICE)})
            case Touch.MODEL_EVERYWHERE:
                return frozenset((self.model, device) for device in DEVICES)
            case Touch.DEVICE:
                return frozenset((model, self.device) for model in MODELS)
            case Touch.ROLLOUT:
                return frozenset({(self.model, self.device)})
            case Touch.STATED:
                return self._stated()
        return EVERYTHING

    def _stated(self) -> frozenset[Pair]:
        if self.path.startswith(RETRAINING):
            return frozenset({(self.model, NO_DEVICE)})
        return {
            "/releases/{ref}:deploy": frozenset({(self.model, self.device)}),
            "/rollouts": frozenset({(self.model, self.device)}),
            "/releases": frozenset({(self.model, NO_DEVICE)}),
            "/rollouts:undo": frozenset((self.model, device) for device in DEVICES),
            "/devices:task": frozenset((model, self.device) for model in MODELS),
            "/team-requests/{request_id}:sign": frozenset({(self.model, NO_DEVICE)}),
        }[self.path]

    def allowed(self) -> bool:
        """Return whether the policy lets the caller in."""
        needed = role_of(*self.row)
        if needed is None or needed not in INCLUDES[self.role]:
            return False
        return needed is Role.VIEWER or self.touched() <= pairs_of(SCOPES[self.scope])


def pairs_of(scope: Scope) -> frozenset[Pair]:
    """Return what lies in a scope, as pairs."""
    devices = {*DEVICES, NO_DEVICE} if not scope.has_devices else {IN}
    models = scope.models or MODELS
    return frozenset(product(models, devices))


def cells() -> Iterator[Cell]:
    """Yield every cell there is."""
    callers = [(role, "fleet") for role in Role]
    callers += [(role, scope) for role in ACTING for scope in SCOPES if scope != "fleet"]
    callers.append((Role.PUBLISHER, "model"))
    for (method, path), (role, scope) in product(POLICY, callers):
        both, one = (IN, OUT), (IN,)
        match touch_of(method, path):
            case None | Touch.NOTHING:
                about = product(one, one)
            case Touch.MODEL | Touch.MODEL_EVERYWHERE:
                about = product(both, one)
            case Touch.DEVICE:
                about = product(one, both)
            case _:
                about = product(both, both)
        for model, device in about:
            yield Cell(role, scope, method, path, model, device)
            if method == "GET" and ("HEAD", path) not in POLICY and not path.endswith("/stream"):
                yield Cell(role, scope, "HEAD", path, model, device)


class Walk:
    """A fleet with two models on two devices, each in a group and at a site, and rollouts of both; a client for each grant."""

    def __init__(self, folder: Path) -> None:
        self.house = House(f"sqlite:///{folder / 'a.db'}", folder / "a", TurnedClock())
        self.operators = Operators(self.house)
        self._clients: dict[Grant, TestClient] = {}

    @cached_property
    def devices(self) -> dict[str, str]:
        """The device inside and the one outside."""
        for where in DEVICES:
            self.house.fleet.groups.create(GROUP[where], f"line={GROUP[where]}", "test")
        labels = {where: {"line": GROUP[where], "site": SITE[where]} for where in DEVICES}
        return {where: str(self.house.device(labels=labels[where]).id) for where in DEVICES}

    @cached_property
    def rollouts(self) -> dict[Pair, str]:
        """A rollout of each model on each device."""
        assert self.devices
        for model in (IN, OUT):
            self.house.release(f"{model}@1.0.0", bundles={PROFILE: model.encode()})
        made = {}
        for model, where in product((IN, OUT), DEVICES):
            spec = {"release": f"{model}@1.0.0", "selector": SELECTOR[where], "strategy": "rolling"}
            made[model, where] = str(self.operators.parts.rollout.create(spec, "test"))
        return made

    @cached_property
    def team_requests(self) -> dict[str, str]:
        """What the team of each model is asked to sign."""
        assert self.rollouts
        teams = self.house.signing.teams
        return {model: teams.set_team(model, [pem(member())], 1).id for model in (IN, OUT)}

    @cached_property
    def retrainings(self) -> dict[str, str]:
        """A retraining of each model, by a trigger that has the name of the model. They wait for an approval."""
        assert self.rollouts
        maker, made = self.client(Grant(Role.PUBLISHER, Scope())), {}
        for model in (IN, OUT):
            maker.post("/triggers", json={"name": model, "model": model, "on": "hand"}).raise_for_status()
            started = maker.post(f"/triggers/{model}:start", json={})
            made[model] = str(started.raise_for_status().json()["id"])
        return made

    def client(self, grant: Grant) -> TestClient:
        """Return a client whose token has one grant."""
        if grant not in self._clients:
            whole = grant.scope.is_whole
            made = self.operators.parts.access.create_token(
                "ann", [grant.role] if whole else [], by="test", scoped=[] if whole else [grant]
            )
            headers = {"authorization": f"Bearer {made.token}"}
            self._clients[grant] = TestClient(
                self.operators.app, base_url="http://server.test/api/v1", headers=headers, raise_server_exceptions=False
            )
        return self._clients[grant]

    def answer(self, cell: Cell) -> Any:
        """Send the request of a cell."""
        rollout = self.rollouts[cell.model, cell.device]
        named = {"ref": f"{cell.model}@1.0.0", "device_id": self.devices[cell.device], "rollout_id": rollout}
        if cell.path.startswith("/models/"):
            named["name"] = cell.model
        if cell.path.startswith("/team-requests/"):
            named["request_id"] = self.team_requests[cell.model]
        if cell.path.startswith(RETRAINING) and touch_of(*cell.row) is Touch.STATED:
            named |= {"name": cell.model, "retraining_id": self.retrainings[cell.model]}
        address = re.sub(r"\{(\w+)\}", lambda found: named.get(found[1], "zzz"), cell.path)
        params: dict[str, Any] = {} if cell.method in ("GET", "HEAD") else {"dry_run": "true"}
        if cell.path.endswith("/stream"):
            params = {"max_s": 0}
        body: dict[str, Any] | None = None
        if cell.method in ("POST", "PUT", "PATCH") and not cell.path.startswith("/blobs"):
            body = {**_BODIES.get(cell.path, {}), **self._stated(cell)}
        return self.client(cell.grant).request(cell.method, address, params=params, json=body)

    @staticmethod
    def _stated(cell: Cell) -> dict[str, Any]:
        return {
            "/releases/{ref}:deploy": {"selector": SELECTOR[cell.device]},
            "/devices:task": {"selector": SELECTOR[cell.device]},
            "/rollouts": {"release": f"{cell.model}@1.0.0", "selector": SELECTOR[cell.device]},
            "/rollouts:undo": {"name": cell.model},
            "/releases": {"model": cell.model},
            "/triggers": {"model": cell.model},
            "/retrainings:lease": {"model": cell.model},
        }.get(cell.path, {})

    def wrong(self, cell: Cell) -> str:
        """Return what is wrong with the answer of a cell, "" when nothing is."""
        answer = self.answer(cell)
        if (answer.status_code != 403) is not cell.allowed():
            return f"{cell}: {answer.status_code}, but the table says {'allowed' if cell.allowed() else 'refused'}"
        if answer.status_code >= 500:
            return f"{cell}: {answer.status_code}"
        if answer.status_code == 403 and cell.method != "HEAD":
            told = answer.json()
            if told["code"] != "access.forbidden" or not told["next"]:
                return f"{cell}: {told}"
        return ""

    def close(self) -> None:
        """Close the database."""
        self.house.db.dispose()


def main(n: int, seed: int) -> dict[str, Any]:
    """Ask `n` cells, of all there are, in an order drawn by the seed; ok when each answer is what the table says."""
    chosen = list(cells())
    every = len(chosen)
    random.Random(seed).shuffle(chosen)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ef-walk-") as folder:
        walk = Walk(Path(folder))
        try:
            for cell in chosen[:n]:
                counts["allowed" if cell.allowed() else "refused"] += 1
                if found := walk.wrong(cell):
                    wrong.append(found)
        finally:
            walk.close()
    return {
        "ok": not wrong,
        "cells": every,
        "asked": min(n, every),
        "routes": len(POLICY),
        **counts,
        "wrong": wrong[:20],
    }
