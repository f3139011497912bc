"""The Helm chart in tests: rendered by Helm's own code in an environment of its own, with values that are put together."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.house.tree import ROOT
from tests.support.tool_environments import HELM, environment

CHART = ROOT / "deploy" / "helm" / "edgefleet"
VERSIONS = ("1.35", "1.36", "1.37")
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Rendered:
    """What Helm made of values. refused: why it made nothing. problems: what the schemas of Kubernetes refuse."""

    objects: tuple[dict[str, Any], ...] = ()
    notes: str = ""
    problems: tuple[str, ...] = ()
    refused: str = ""

    def named(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the objects of a kind by name."""
        return {one["metadata"]["name"]: one for one in self.objects if one["kind"] == kind}

    def pods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each pod's specification, with the name of what makes it."""
        for one in self.objects:
            name = f"{one['kind']} {one['metadata']['name']}"
            if one["kind"] == "Pod":
                yield name, one["spec"]
            elif "template" in one.get("spec", {}):
                yield name, one["spec"]["template"]["spec"]


def render(requests: Sequence[Values], versions: Sequence[str] = (), chart: Path = CHART) -> list[Rendered]:
    """Return what Helm makes of each of these values. Blocks; the first call in a cache downloads Helm."""
    asked = {
        "chart": str(chart),
        "versions": list(versions),
        "requests": [{"name": "fleet", "values": one} for one in requests],
    }
    return [_rendered(one) for one in _answer(asked)["answers"]]


def lint(values: Values) -> list[dict[str, Any]]:
    """Return what Helm's linter says, by severity: 1 remark, 2 warning, 3 error."""
    asked = {"chart": str(CHART), "versions": [], "requests": [{"name": "fleet", "values": values}]}
    found: list[dict[str, Any]] = _answer(asked)["lint"]["messages"]
    return found


def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    script = Path(__file__).with_name("chart_renderer.py")
    ran = subprocess.run(
        [str(environment("helm", HELM)), str(script)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"Helm did not run:\n{ran.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def _rendered(answer: Mapping[str, Any]) -> Rendered:
    if "refused" in answer:
        return Rendered(refused=answer["refused"])
    objects = tuple(one["object"] for one in answer["objects"])
    return Rendered(objects, answer["notes"], tuple(answer["problems"]))


@cache
def example(name: str) -> dict[str, Any]:
    """Return the values of an example, `small` or `production`. Do not change them."""
    text = (ROOT / "deploy" / "helm" / f"values-{name}.yaml").read_text("utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def merged(values: Values, *changes: Values) -> dict[str, Any]:
    """Return values with changes laid over them, as Helm does it: tables merge, all else is replaced."""
    found = deepcopy(dict(values))
    for change in changes:
        for name, value in change.items():
            is_table = isinstance(value, Mapping) and isinstance(found.get(name), Mapping)
            found[name] = merged(found[name], value) if is_table else deepcopy(value)
    return found


TOGGLES: tuple[Values, ...] = (
    {"storage": {"existingClaim": "claim"}},
    {"storage": {"className": "shared"}},
    {"blobs": {"url": "s3://bucket/a", "endpoint": "https://s3.example", "region": "eu", "existingSecret": "s3"}},
    {"secrets": {"keysPassphraseSecret": "pass"}},
    {"secrets": {"sealingKeysSecret": "sealing"}},
    {"signer": {"existingClaim": "signer"}},
    {"settings": {"log_level": "DEBUG", "enrol_approval": True, "api_connections": 4096}},
    {"image": {"registry": "registry.example", "tag": "0.2.0", "pullSecrets": ["pull"]}},
    {"ingress": {"enabled": True, "tlsSecret": "tls", "host": "pages.example.com"}},
    {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}},
    {"networkPolicy": {"enabled": False}},
    {"networkPolicy": {"egressPorts": [], "monitoringFrom": [{"podSelector": {}}], "apiFrom": [{"podSelector": {}}]}},
    {"networkPolicy": {"egressExcept": ["169.254.169.254/32", "fd00:ec2::254/128"]}},
    {"podDisruptionBudget": {"enabled": False}},
    {"monitoring": {"serviceMonitor": {"enabled": True}, "tokenSecret": "metrics"}},
    {"monitoring": {"serviceMonitor": {"enabled": True}}},
    {"monitoring": {"prometheusRule": {"enabled": True, "labels": {"release": "p"}}}},
    {"migrations": {"enabled": False}},
    {"devices": {"service": {"type": "ClusterIP"}}},
    {"devices": {"service": {"loadBalancerClass": "a/b", "externalTrafficPolicy": "Cluster"}}},
    {"api": {"trustedProxies": "*", "service": {"annotations": {"a": "b"}}}},
    {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "affinity": {"nodeAffinity": {}}},
    {"podAnnotations": {"a": "b"}, "podLabels": {"c": "d"}, "priorityClassName": "high"},
    {"automountServiceAccountToken": True, "serviceAccount": {"annotations": {"role": "arn"}}},
    {"fullnameOverride": "a-name-of-thirty-characters-00", "tenant": "acme"},
)
BASES: tuple[Values, ...] = (
    {"mode": "single", "publicHost": "fleet.example.com"},
    {"mode": "single", "publicHost": "192.0.2.1", "database": {"existingSecret": "pg"}},
    {
        "mode": "split",
        "publicHost": "fleet.example.com",
        "database": {"existingSecret": "pg"},
        "storage": {"accessModes": ["ReadWriteMany"]},
    },
    {
        "mode": "split",
        "publicHost": "fleet.example.com",
        "database": {"existingSecret": "pg"},
        "storage": {"accessModes": ["ReadWriteMany"]},
        "broker": {"kind": "external", "url": "mqtts://mqtt.example.com:8883", "filesClaim": "broker"},
        "api": {"autoscaling": {"enabled": True}},
        "gateway": {"replicas": 3},
        "engine": {"replicas": 2},
        "converter": {"autoscaling": {"enabled": True, "metric": "edgefleet_conversion_jobs"}},
    },
)


def drawn(n: int, seed: int) -> list[dict[str, Any]]:
    """Return n values that are right: a base with any of the toggles on it."""
    draw = random.Random(seed)
    return [merged(draw.choice(BASES), *draw.sample(TOGGLES, draw.randint(0, len(TOGGLES)))) for _ in range(n)]
