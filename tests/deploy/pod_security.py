"""The level "restricted" of Kubernetes' Pod Security Standards, as a pure check of a pod's specification.

Source: kubernetes.io, Pod Security Standards, of version 1.35: baseline and restricted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
SECCOMP = frozenset({"RuntimeDefault", "Localhost"})


def broken_rules(spec: Mapping[str, Any]) -> list[str]:
    """Return the rules that a pod's specification breaks, each with its place; none = restricted."""
    return [
        *_of_pod(spec),
        *(line for kind in KINDS for one in spec.get(kind, ()) for line in _of_container(spec, one)),
    ]


KINDS = ("initContainers", "containers", "ephemeralContainers")


def _of_pod(spec: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{name} is true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name))
    own = spec.get("securityContext", {})
    if own.get("sysctls"):
        yield "sysctls are set"
    if own.get("runAsUser") == 0:
        yield "runAsUser is 0"
    for volume in spec.get("volumes", ()):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume {volume['name']} is of kind {', '.join(sorted(kinds - VOLUMES))}"


def _of_container(spec: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    name, own, pod = container["name"], container.get("securityContext", {}), spec.get("securityContext", {})
    if own.get("privileged"):
        yield f"{name} is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name} allows privilege escalation"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield f"{name} may run as root"
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield f"{name} runs as root"
    if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in SECCOMP:
        yield f"{name} has no seccomp profile"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()):
        yield f"{name} keeps capabilities"
    if set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"{name} adds capabilities"
    if own.get("procMount", "Default") != "Default":
        yield f"{name} sees all of /proc"
    yield from (f"{name} has a port of the host" for port in container.get("ports", ()) if port.get("hostPort"))
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        calls = container.get(probe, {})
        if calls.get("httpGet", {}).get("host") or calls.get("tcpSocket", {}).get("host"):
            yield f"{name} probes another host"
