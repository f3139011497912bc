"""The Helm chart: valid for Kubernetes 1.35 to 1.37, restricted, without secrets, and able to be upgraded and rolled back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgefleet_server import migrations
from edgefleet_server.process.integration_files import FOLDER
from edgefleet_server.settings import ServerSettings, load_settings
from tests.deploy import chart_stories
from tests.deploy.charts import CHART, VERSIONS, Rendered, example, lint, merged, render
from tests.deploy.pod_security import broken_rules
from tests.house.soak import SOAKS
from tests.house.tree import ROOT

pytestmark = pytest.mark.network
GOLDEN = Path(__file__).parent / "golden"
OUTSIDE_KINDS = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}


@pytest.fixture(scope="module")
def small() -> Rendered:
    """The example of one pod, validated."""
    return render([example("small")], VERSIONS)[0]


@pytest.fixture(scope="module")
def production() -> Rendered:
    """The example of two replicas of each role, validated."""
    return render([example("production")], VERSIONS)[0]


def test_the_examples_are_valid_for_each_version(small: Rendered, production: Rendered) -> None:
    assert not small.problems
    assert {line.split()[-1] for line in production.problems} == {"ServiceMonitor", "PrometheusRule"}
    assert all(line.startswith("no schema") for line in production.problems)
    assert not [one for one in lint(example("production")) if one["severity"] > 1]


def test_a_small_fleet_has_one_pod_with_all_roles(small: Rendered) -> None:
    (server,) = small.named("StatefulSet").values()
    roles = environment_of(server)["EDGEFLEET_SERVER_ROLES"]
    assert json.loads(roles) == ["api", "gateway", "engine", "converter"]
    assert not small.named("Deployment")
    assert not small.named("Job"), "SQLite is migrated by the pod that has it"
    assert "fleet-edgefleet-server-0 -c server -- python3 -c" in small.notes


def test_production_has_all_that_was_promised(production: Rendered) -> None:
    names = {f"fleet-edgefleet-{role}" for role in ("api", "engine", "converter")}
    assert set(production.named("Deployment")) == names
    assert set(production.named("StatefulSet")) == {"fleet-edgefleet-gateway"}
    assert set(production.named("HorizontalPodAutoscaler")) == names - {"fleet-edgefleet-engine"}
    assert set(production.named("PodDisruptionBudget")) == names | {"fleet-edgefleet-gateway"}
    assert "fleet-edgefleet-deny" in production.named("NetworkPolicy")
    job = production.named("Job")["fleet-edgefleet-migrate"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    claim = production.named("PersistentVolumeClaim")["fleet-edgefleet-data"]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_settings_are_those_of_the_server(production: Rendered, tmp_path: Path) -> None:
    """The pods' environment is read by the server's own settings: a name that it does not have would stop every pod."""
    for workload in [*production.named("Deployment").values(), *production.named("StatefulSet").values()]:
        given = {
            name.removeprefix("EDGEFLEET_SERVER_").lower(): value
            for name, value in environment_of(workload).items()
            if name.startswith("EDGEFLEET_SERVER_") and name != "EDGEFLEET_SERVER_DATA"
        }
        assert set(given) <= set(ServerSettings.model_fields), given
        given["roles"] = json.loads(given["roles"])
        files = [name for name in given if name.endswith("_file")]
        settings = load_settings(tmp_path, **{k: v for k, v in given.items() if k not in files})
        assert settings.public_host == "fleet.example.com"
        assert "api" in settings.roles, "/healthz and /metrics are the API's"


def environment_of(workload: dict[str, Any]) -> dict[str, str]:
    """Return the environment of the server's container; a name that Kubernetes fills in is the workload's with the longest ending."""
    (server,) = workload["spec"]["template"]["spec"]["containers"]
    longest = f"{workload['metadata']['name']}-0123456789-abcde"
    return {one["name"]: one.get("value", longest) for one in server["env"]}


def test_rules_are_the_server_s_own(production: Rendered) -> None:
    rules = production.named("PrometheusRule")["fleet-edgefleet"]["spec"]
    assert rules == yaml.safe_load((FOLDER / "edgefleet.rules.yml").read_text("utf-8"))
    assert (CHART / "files/edgefleet.rules.yml").read_bytes() == (FOLDER / "edgefleet.rules.yml").read_bytes(), (
        f"cp {FOLDER.relative_to(ROOT)}/edgefleet.rules.yml {CHART.relative_to(ROOT)}/files/"
    )


def test_services_lead_to_pods_with_those_ports(small: Rendered, production: Rendered) -> None:
    for found in (small, production):
        for service in found.named("Service").values():
            selector = service["spec"]["selector"]
            pods = [
                one["spec"]["template"]
                for one in found.objects
                if one["kind"] in {"Deployment", "StatefulSet"}
                and selector.items() <= one["spec"]["template"]["metadata"]["labels"].items()
            ]
            assert pods, service["metadata"]["name"]
            wanted = {port["targetPort"] for port in service["spec"]["ports"]}
            for pod in pods:
                assert wanted <= {port["name"] for one in pod["spec"]["containers"] for port in one["ports"]}
    devices = production.named("Service")["fleet-edgefleet-devices"]["spec"]
    assert devices["type"] == "LoadBalancer", "below HTTP: nothing on the way ends the TLS of devices"


def test_drawn_values_combine() -> None:
    found = chart_stories.main(SOAKS["chart-values"].in_ci, seed=20261202)
    assert found["ok"], found["broken"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"publicHost": ""}, "publicHost is empty"),
        ({"publicHost": "https://fleet.example.com"}, "publicHost"),
        ({"mode": "cluster"}, "value must be one of 'single', 'split'"),
        ({"mode": "split"}, "mode split needs PostgreSQL"),
        ({"mode": "split", "database": {"existingSecret": "a"}}, "set storage.accessModes to [ReadWriteMany]"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"api": {"replicas": 0}}, "minimum: got 0, want 1"),
        ({"api": {"replica": 2}}, "additional properties 'replica' not allowed"),
        ({"api": {"autoscaling": {"enabled": True}}}, "needs mode split"),
        ({"broker": {"kind": "external"}}, "broker.url: mqtts://HOST:PORT"),
        ({"broker": {"kind": "external", "url": "mqtt://host:1883"}}, "/broker/url"),
        ({"ingress": {"enabled": True, "tlsSecret": ""}}, "set ingress.tlsSecret"),
        ({"httpRoute": {"enabled": True}}, "httpRoute needs parentRefs"),
        ({"settings": {"database_url": "postgresql://u:p@h/d"}}, "would be plain in the pods"),
        ({"blobs": {"url": "file:///blobs"}}, "/blobs/url"),
        ({"terminationGracePeriodSeconds": 5}, "minimum: got 5, want 30"),
        ({"fullnameOverride": "a-name-of-more-than-thirty-characters"}, "maxLength"),
    ],
)
def test_wrong_values_are_refused(change: dict[str, Any], why: str, refusals: dict[str, str]) -> None:
    assert why in refusals[json.dumps(change)]


@pytest.fixture(scope="module")
def refusals() -> dict[str, str]:
    """Why each wrong value is refused: one run of Helm for all."""
    marks = [mark for mark in test_wrong_values_are_refused.pytestmark if mark.name == "parametrize"]
    changes = [change for change, _ in marks[0].args[1]]
    found = render([merged(example("small"), change) for change in changes])
    return {json.dumps(change): one.refused for change, one in zip(changes, found, strict=True)}


UPGRADE = {
    "image": {"tag": "0.2.0"},
    "api": {"replicas": 3},
    "gateway": {"replicas": 3},
    "settings": {"log_level": "DEBUG"},
    "podLabels": {"team": "edge"},
    "podDisruptionBudget": {"enabled": False},
}


def test_an_upgrade_changes_no_field_that_cannot_change() -> None:
    for name in ("small", "production"):
        values = merged(example(name), {"gateway": {"replicas": 1}} if name == "small" else {})
        change = {k: v for k, v in UPGRADE.items() if name == "production" or k != "gateway"}
        before, after, back = render([values, merged(values, change), values])
        assert immutable(before) == immutable(after)
        assert back == before, "a rollback renders what was there"
        changed = dict(differences(before, after))
        assert changed, "the new version reaches the pods"
        images = {v[1] for k, v in changed.items() if k.endswith(".image")}
        assert images <= {"edgefleet/server:0.2.0", "edgefleet/converter:0.2.0"}
        assert not [key for key in changed if "selector" in key and not key.startswith("PodDisruptionBudget")]


def test_fields_that_cannot_change_are_those_of_the_first_version() -> None:
    """A release of the chart that is installed can be upgraded to this one. Golden files are added, never edited."""
    for name in ("small", "production"):
        (now,) = render([example(name)])
        for path in sorted(GOLDEN.glob(f"chart-*-{name}.json")):
            former = json.loads(path.read_text("utf-8"))
            found = immutable(now)
            assert {key: found.get(key) for key in former} == former, path.name


def immutable(found: Rendered) -> dict[str, Any]:
    """Return what Kubernetes lets nobody change: selectors, names of volumes and services of StatefulSets, claims."""
    fields: dict[str, Any] = {}
    for one in found.objects:
        key, spec = f"{one['kind']} {one['metadata']['name']}", one.get("spec", {})
        if one["kind"] == "Deployment":
            fields[key] = {"selector": spec["selector"]}
        elif one["kind"] == "StatefulSet":
            held = ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates")
            fields[key] = {name: spec.get(name) for name in held}
        elif one["kind"] == "PersistentVolumeClaim":
            fields[key] = spec
        elif one["kind"] == "Service":
            fields[key] = {"clusterIP": spec.get("clusterIP")}
    return fields


def differences(before: Rendered, after: Rendered) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield each field that differs, with both values."""
    old, new = ({f"{one['kind']}/{one['metadata']['name']}": one for one in found.objects} for found in (before, after))
    yield from _differences("", old, new)


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(f"{path}.{key}".lstrip("."), old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for at, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{path}.{at}", one, other)
    elif old != new:
        yield path, (old, new)


def test_the_check_of_pods_finds_what_is_not_restricted(small: Rendered) -> None:
    """The check itself: each rule is broken once."""
    _, spec = next(iter(small.pods()))
    assert not broken_rules(spec)
    container = spec["containers"][0]
    own = container["securityContext"]
    changes: tuple[dict[str, Any], ...] = (
        {"securityContext": {}},
        {"securityContext": {**own, "privileged": True}},
        {"securityContext": {**own, "runAsUser": 0}},
        {"securityContext": {**own, "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}},
        {"ports": [{"containerPort": 1, "hostPort": 1}]},
        {"livenessProbe": {"httpGet": {"host": "example.com"}}},
    )
    wrong: list[dict[str, Any]] = [
        {**spec, "hostNetwork": True},
        {**spec, "volumes": [{"name": "host", "hostPath": {"path": "/"}}]},
        {**spec, "securityContext": {}},
        *({**spec, "containers": [{**container, **change}]} for change in changes),
    ]
    assert all(broken_rules(one) for one in wrong)


def test_the_first_pod_makes_the_server_and_the_others_wait(tmp_path: Path) -> None:
    """The init container's own script with the real `edgectl`: what it prints has no token."""
    script = (CHART / "files/first_start.py").read_text("utf-8")
    own = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "EDGEFLEET_SERVER_DATA": str(tmp_path / "server"),
        "EDGEFLEET_SERVER_PUBLIC_HOST": "fleet.example.com",
        "POD_NAME": "fleet-edgefleet-gateway-0",
    }
    with subprocess.Popen([sys.executable, "-c", script, "wait"], env=own) as waiting:
        made = subprocess.run(
            [sys.executable, "-c", script, "make"], env=own, capture_output=True, text=True, check=True
        )
        assert waiting.wait(30) == 0
    token = (tmp_path / "server" / "admin.token").read_text("ascii").strip()
    assert token
    assert token not in made.stdout + made.stderr
    key = (tmp_path / "server/keys/root.pem").read_bytes()
    subprocess.run([sys.executable, "-c", script, "make"], env=own, check=True)
    assert (tmp_path / "server/keys/root.pem").read_bytes() == key
    assert re.fullmatch(r"edg[a-z]*_.+", token)


def test_the_migration_makes_the_newest_schema_without_keys(production: Rendered, tmp_path: Path) -> None:
    """The Job's own command, with a database in the place of the mounted one; a failure stops the upgrade."""
    (container,) = production.named("Job")["fleet-edgefleet-migrate"]["spec"]["template"]["spec"]["containers"]
    given = {one["name"]: one["value"] for one in container["env"]}
    database = tmp_path / "url"
    database.write_text(f"sqlite:///{tmp_path}/edgefleet.db\n")
    (tmp_path / "edgefleet.db").touch()
    own = {
        **os.environ,
        **given,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "EDGEFLEET_SERVER_DATA": str(tmp_path / "server"),
        "EDGEFLEET_SERVER_DATABASE_URL_FILE": str(database),
    }
    assert own["EDGEFLEET_SERVER_DATABASE_URL_FILE"] != given["EDGEFLEET_SERVER_DATABASE_URL_FILE"]
    ran = subprocess.run(container["command"], env=own, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"to {migrations.newest()}." in ran.stdout
    database.write_text("sqlite:////proc/no/edgefleet.db")
    refused = subprocess.run(container["command"], env=own, cwd=tmp_path, capture_output=True, check=False)
    assert refused.returncode, "the upgrade stops"


def test_pods_leave_the_schema_to_the_job_where_there_is_one(small: Rendered, production: Rendered) -> None:
    name = "EDGEFLEET_SERVER_UPGRADE_SCHEMA_AT_START"
    assert {environment_of(one)[name] for one in production.named("Deployment").values()} == {"false"}
    assert name not in environment_of(small.named("StatefulSet")["fleet-edgefleet-server"])
