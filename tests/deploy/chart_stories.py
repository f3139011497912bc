"""`./dev soak chart-values`: values that are drawn are rendered, and each result is what every release must be.

Valid for Kubernetes (in the soak; the sample of the suite leaves that to the examples, as it takes a second each), restricted, no secret
in plain, a requested amount of memory and a limit, and only secrets that exist outside of the release.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.deploy.charts import VERSIONS, Rendered, drawn, render
from tests.deploy.pod_security import KINDS, broken_rules

_SECRET_NAME = re.compile(r"password|passphrase|token|secret|database_url$|_key$", re.IGNORECASE)
MANY = 40


def broken(found: Rendered) -> Iterator[str]:
    """Yield what is wrong with a rendered release."""
    if found.refused:
        yield f"refused: {found.refused}"
    yield from (one for one in found.problems if not one.startswith("no schema"))
    if any(one["kind"] in {"Secret", "ConfigMap"} for one in found.objects):
        yield "a Secret or ConfigMap is a part of the release"
    for name, spec in found.pods():
        yield from (f"{name}: {rule}" for rule in broken_rules(spec))
        yield from (f"{name}: {line}" for line in _of_pod(spec))
    names = [(one["kind"], one["metadata"]["name"]) for one in found.objects]
    if len(names) != len(set(names)):
        yield "two objects have one name"
    yield from (f"name too long: {name}" for _, name in names if len(name) > 47)


def _of_pod(spec: Mapping[str, Any]) -> Iterator[str]:
    if spec["automountServiceAccountToken"] and "serviceAccountName" not in spec:
        yield "the token of the default account is mounted"
    volumes = {one["name"] for one in spec.get("volumes", ())}
    for container in (one for kind in KINDS for one in spec.get(kind, ())):
        name = container["name"]
        if not container["securityContext"].get("readOnlyRootFilesystem"):
            yield f"{name} may write to its image"
        if "memory" not in container["resources"]["requests"] or "memory" not in container["resources"]["limits"]:
            yield f"{name} has no request or no limit of memory"
        mounts = [one["mountPath"] for one in container.get("volumeMounts", ())]
        if len(mounts) != len(set(mounts)):
            yield f"{name} mounts two volumes at one place"
        if missing := {one["name"] for one in container.get("volumeMounts", ())} - volumes:
            yield f"{name} mounts {missing}, which the pod does not have"
        for variable in container.get("env", ()):
            is_path = variable["name"].endswith("_FILE")
            if _SECRET_NAME.search(variable["name"]) and not is_path and "valueFrom" not in variable:
                yield f"{name} has {variable['name']} in plain"


def main(n: int, seed: int) -> dict[str, Any]:
    """Render n drawn values; in the soak also validate them."""
    lines: list[str] = []
    done = 0
    versions = VERSIONS if n > MANY else ()
    while done < n:
        values = drawn(min(MANY, n - done), seed + done)
        for own, found in zip(values, render(values, versions), strict=True):
            lines += [f"{line} (values {own})" for line in broken(found)]
        done += len(values)
    return {"ok": not lines, "rendered": done, "validated_for": list(versions), "broken": lines[:20]}
