"""Every query of every panel, and every recorded rule, against a real Prometheus that scrapes a real fleet: each has data."""

import json
import math
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from edgefleet_server.access.model import Role
from edgefleet_server.composition.api_app import create_app
from edgefleet_server.composition.container import Parts, build_parts
from edgefleet_server.objectives import openslo
from edgefleet_server.objectives.model import Indicator, Slo
from edgefleet_server.process.integration_files import FOLDER
from edgefleet_server.process.lifecycle.engine_work import build_engine
from tests.house.grafana_dashboards import DASHBOARDS
from tests.server.dashboard.serving import served
from tests.server.observability.reports import report
from tests.server.rollout.fleet_sim import World, make_world, stages

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus on this machine")
RULES = FOLDER / "edgefleet.rules.yml"
PATIENCE_S = 60.0


class LiveFleet:
    """Five devices, one of them away, that answer requests while a rollout goes on, and the parts of a process that serve them."""

    def __init__(self, folder: Path) -> None:
        self.world: World = make_world(f"sqlite:///{folder / 'a.db'}", folder / "a")
        self.parts: Parts = build_parts(self.world.house.settings, self.world.clock, is_turned=True)
        self.world.service = self.parts.rollout
        self.engine = build_engine(self.parts)
        self.world.engine = self.engine._rollouts
        self.sent = {"telemetry": 0}
        self.parts.metrics.watch_gateway(lambda: self.sent, lambda: {"rate": self.sent["telemetry"]}, lambda: 0.0)
        self.parts.metrics.watch_revocation(lambda: 1, lambda: 86_400.0 * 29)
        self.parts.metrics.watch_connections("api", lambda: 1)
        self.seq = 0

    def begin(self) -> None:
        """Enrol the devices, with one release that runs, one more, and a group."""
        self.parts.fleet.groups.create("lab", "room=lab", "ann")
        self.world.enrol(5, room="lab")
        self.world.settle("1.0.0")
        self.world.release("1.1.0")
        slo = Slo("digits-works", "digits", Indicator.SUCCESS, 0.9, 30 * 86_400)
        self.parts.objectives.put(slo.name, openslo.document_of(slo), "ann")
        away = next(iter(self.world.devices.values()))
        self.world.presence(away, on=False)
        self.answer()
        self.world.clock.turn(seconds=60)

    def answer(self) -> None:
        """Let devices report what they answered, with both releases."""
        self.seq += 1
        self.sent["telemetry"] += 2
        device = list(self.world.devices)[1]
        for at, version in enumerate(("1.0.0", "1.1.0")):
            now_s = self.world.clock.now().timestamp()
            report(self.parts.telemetry, device, "digits", version, seq=2 * self.seq + at, now_s=now_s)

    def go_on(self) -> None:
        """Roll the new release out, and answer more."""
        if self.seq == 1:
            self.world.create(stages=stages(2, "100%", soak="1h"))
        self.answer()
        self.world.clock.turn(seconds=7)
        self.engine.tick()
        self.world.go(rounds=12)
        self.world.clock.turn(seconds=60)


@contextmanager
def scraping(url: str, token: str, folder: Path) -> Iterator[Callable[..., Any]]:
    """Run Prometheus on a server with the rules that come with it; yield what asks its API."""
    (folder / "token").write_text(token)
    config = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "edgefleet",
                "authorization": {"credentials_file": str(folder / "token")},
                "static_configs": [{"targets": [url.removeprefix("http://")]}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    log = folder / "prometheus.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
             "--web.listen-address=127.0.0.1:0"],
            stdout=written, stderr=written,
        )  # fmt: skip
    try:
        match = until(lambda: re.search(r'msg="Listening on" address=(\S+)', log.read_text()), log.read_text)
        with httpx.Client(base_url=f"http://{match[1]}/api/v1") as client:
            # it listens before it can answer: until then each question is 503
            until(lambda: client.get(f"http://{match[1]}/-/ready").status_code == 200, log.read_text)
            yield lambda path, **asked: client.get(path, params=asked).json().get("data", {})
    finally:
        process.terminate()
        process.wait(30)


def until(fact: Callable[[], Any], why: Callable[[], object]) -> Any:
    """Return what a fact says once it says something."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        found = fact()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(why())


def queries() -> dict[str, str]:
    """Return the queries of all panels as Grafana would send them, by dashboard, title and letter; and of the recorded rules."""
    found = {}
    for name in DASHBOARDS:
        for panel in json.loads((FOLDER / f"{name}.dashboard.json").read_text("utf-8"))["panels"]:
            for target in panel["targets"]:
                asked = target["expr"].replace("$__rate_interval", "1m").replace("$model", ".*")
                found[f"{name}: {panel['title']} {target['refId']}"] = asked
    for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]:
        found |= {f"rule {rule['record']}": rule["record"] for rule in group["rules"] if "record" in rule}
    return found


def test_every_panel_has_data(tmp_path: Path) -> None:
    fleet = LiveFleet(tmp_path)
    fleet.begin()
    token = fleet.parts.access.create_token("prometheus", [Role.VIEWER], by="test").token
    with served(create_app(fleet.parts)) as url, scraping(url, token, tmp_path) as ask:

        def value(expression: str) -> float:
            result = ask("query", query=expression).get("result", [])
            return float(result[0]["value"][1]) if result else 0.0

        for answers in (200, 400, 600):  # what first happens between two scrapes has no rate yet
            until(lambda: value("sum(edgefleet_model_predictions_total)") == answers, lambda: ask("targets"))  # noqa: B023
            fleet.go_on()
        without: dict[str, str] = queries()

        def lacking() -> bool:
            for name, expression in list(without.items()):
                result = ask("query", query=expression).get("result", [])
                if any(math.isfinite(float(one["value"][1])) for one in result):
                    del without[name]
            return bool(without)

        until(lambda: not lacking(), lambda: f"no data: {without}")
        groups = ask("rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}, groups
    assert len(queries()) > 60
    fleet.world.house.db.dispose()
    fleet.parts.db.dispose()
