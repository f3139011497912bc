"""Where a release came from, as lines of its page: what its publisher states, by names of which a few are known. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

NAMES: Final[Mapping[str, str]] = {
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
    """Return an address that a browser may open: of the web alone, since a publisher can write anything here."""
    base = lineage.get("registry_url", "").rstrip("/")
    if key == "registry_model" and lineage.get("registry") == "mlflow" and _is_web(base) and "version" in lineage:
        return f"{base}/#/models/{quote(lineage[key], safe='')}/versions/{quote(lineage['version'], safe='')}"
    return lineage[key] if _is_web(lineage[key]) else ""


def _is_web(text: str) -> bool:
    return text.startswith(("https://", "http://"))
