"""Renders a chart by Helm's own code and validates what comes out. Runs in the tool environment HELM, which has no edgefleet.

stdin: JSON {"chart": folder, "requests": [{"name", "values"}], "versions": ["1.37"]}. stdout: JSON, one answer for each request:
{"objects": [{"template", "object"}], "notes", "problems"}, or {"refused": why}. `versions` empty = not validated.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import helm_python  # type: ignore[import-not-found,unused-ignore]
import kubernetes_validate  # type: ignore[import-not-found,unused-ignore]
import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def problems_of(found: dict[str, Any], versions: list[str]) -> list[str]:
    """Return what the schemas of these versions of Kubernetes refuse; "no schema" for kinds that are not its own."""
    problems = []
    for version in versions:
        try:
            kubernetes_validate.validate(found, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            problems.append(f"no schema: {found['apiVersion']} {found['kind']}")
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            problems.append(f"{version} {found['kind']} {found['metadata']['name']}: {path}: {error.message}")
    return problems


def rendered(chart: Any, request: dict[str, Any], versions: list[str]) -> dict[str, Any]:
    """Return the objects of one request."""
    try:
        texts = chart.render(request["values"], name=request["name"], namespace="edge")
    except helm_python.HelmError as error:
        return {"refused": str(error)}
    answer: dict[str, Any] = {"objects": [], "notes": "", "problems": []}
    for template, text in sorted(texts.items()):
        if template.endswith("NOTES.txt"):
            answer["notes"] = text
            continue
        for found in yaml.load_all(text, Loader=LOADER):
            if found:
                answer["objects"].append({"template": template, "object": found})
                answer["problems"] += problems_of(found, versions)
    return answer


def main() -> None:
    """Answer one document on stdin."""
    asked = json.load(sys.stdin)
    with helm_python.Chart.load(asked["chart"]) as chart:
        answers = [rendered(chart, one, asked["versions"]) for one in asked["requests"]]
    lint = helm_python.lint(asked["chart"], strict=True, values=asked["requests"][0]["values"])
    json.dump({"answers": answers, "lint": lint, "helm": helm_python.helm_sdk_version()}, sys.stdout)


if __name__ == "__main__":
    main()
