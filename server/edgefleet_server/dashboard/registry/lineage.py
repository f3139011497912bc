"""Where a release came from: as lines of its page, what its publisher states by names of which a few are known; and as the steps from
its data to the devices. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from edgefleet_protocol.digest import Sha256
from edgefleet_server.dashboard.core.filters import number, size

NAMES: Final[Mapping[str, str]] = {
    "parent": "Parent release",
    "retraining": "Retraining",
    "uri": "Origin",
    "git_commit": "Git commit",
    "git_state": "File state in Git",
    "dvc_rev": "DVC revision",
    "dvc_path": "Path in DVC",
    "run_id": "MLflow run",
    "registry_model": "Registered model",
    "version": "Registry version",
    "alias": "Registry alias",
    "registry": "Registry type",
    "registry_url": "Registry",
}
"""What `edgectl publish` and `import` state, in the order in which it is shown."""


@dataclass(frozen=True, slots=True)
class LineageLine:
    """One fact of the origin. link: its address, "" where none is known."""

    name: str
    value: str
    link: str


def lineage_lines(lineage: Mapping[str, str]) -> list[LineageLine]:
    """Return what is known first, then the rest by name."""
    order = {key: n for n, key in enumerate(NAMES)}
    keys = sorted(lineage, key=lambda key: (order.get(key, len(order)), key))
    return [
        LineageLine(NAMES.get(key, key.replace("_", " ").capitalize()), lineage[key], _link(key, lineage))
        for key in keys
    ]


def _link(key: str, lineage: Mapping[str, str]) -> str:
    """Return an address that a browser may open: of the web alone, since a publisher can write anything here. A parent's page is ours."""
    if key == "parent" and "@" in lineage[key]:
        model, _, version = lineage[key].partition("@")
        return f"/models/{quote(model, safe='')}/{quote(version, safe='')}"
    base = lineage.get("registry_url", "").rstrip("/")
    if key == "registry_model" and lineage.get("registry") == "mlflow" and _is_web(base) and "version" in lineage:
        return f"{base}/#/models/{quote(lineage[key], safe='')}/versions/{quote(lineage['version'], safe='')}"
    return lineage[key] if _is_web(lineage[key]) else ""


def _is_web(text: str) -> bool:
    return text.startswith(("https://", "http://"))


@dataclass(frozen=True, slots=True)
class OriginFacts:
    """What is recorded of a release's origin. data: digests of its data files by what they are for; samples: how many judged it.

    tried, passed: candidates of its conversions, 0 where the report says nothing. bundle: digest of its only bundle, "" of none or several.
    """

    model: str
    version: str
    files: Sequence[tuple[str, int]]
    source_sha256: str
    lineage: Mapping[str, str]
    data: Mapping[str, Sha256]
    samples: int
    tried: int
    passed: int
    profiles: Sequence[str]
    refused: int
    bundle: str
    signed: str
    devices: int
    doing: str


@dataclass(frozen=True, slots=True)
class OriginStep:
    """One step from data to devices. icon: of icons.svg; said: a line below; code: a digest or revision, "" without."""

    icon: str
    title: str
    said: str
    code: str
    link: str
    is_now: bool = False


def origin_steps(facts: OriginFacts) -> list[OriginStep]:
    """Return the steps that are recorded, from data to devices."""
    page = f"/models/{quote(facts.model, safe='')}/{quote(facts.version, safe='')}"
    steps = []
    if facts.data:
        said = f"{number(facts.samples)} samples judged it" if facts.samples else "as published"
        names = " and ".join(name.replace("eval", "evaluation") for name in sorted(facts.data))
        first = facts.data[min(facts.data)] if len(facts.data) == 1 else ""
        steps.append(OriginStep("doc", f"{names} data".capitalize(), said, first[:8], f"{page}#card"))
    name = facts.files[0][0] if len(facts.files) == 1 else f"{len(facts.files)} files"
    steps.append(
        OriginStep(
            "cube", name, size(sum(length for _, length in facts.files)), facts.source_sha256[:8], f"{page}#card"
        )
    )
    revision = facts.lineage.get("git_commit") or facts.lineage.get("run_id") or ""
    if revision:
        kind = "Git commit" if facts.lineage.get("git_commit") else "MLflow run"
        steps.insert(-1, OriginStep("undo", kind, "as its publisher states", revision[:12], f"{page}#card"))
    if parent := facts.lineage.get("parent"):
        said = "retrained from it" if facts.lineage.get("retraining") else "made from it"
        steps.insert(0, OriginStep("undo", parent, said, "", _link("parent", facts.lineage)))
    if facts.tried:
        good = f"{facts.passed} good enough" if facts.passed else "none good enough"
        steps.append(OriginStep("search", _of(facts.tried, "candidate"), good, "", f"{page}#candidates"))
    if facts.profiles:
        said = facts.profiles[0] if len(facts.profiles) == 1 else "one for each hardware profile"
        more = f", {facts.refused} refused" if facts.refused else ""
        steps.append(OriginStep("fleet", _of(len(facts.profiles), "bundle"), said + more, "", f"{page}#bundles"))
        where = f"/bundles/{facts.bundle}" if facts.bundle else "/bundles"
        steps.append(OriginStep("shield", "Signed", facts.signed, facts.bundle[:8], where))
        found = quote(f"model.{facts.model}={facts.version}", safe="")
        link = f"/devices?selector={found}" if facts.devices else f"{page}#where"
        steps.append(OriginStep("send", _of(facts.devices, "device"), facts.doing, "", link, is_now=True))
    elif facts.refused:
        steps.append(
            OriginStep("x", "No bundle", f"{_of(facts.refused, 'profile')} refused", "", f"{page}#bundles", is_now=True)
        )
    return steps


def _of(n: int, what: str) -> str:
    return f"{number(n)} {what}{'' if n == 1 else 's'}"
