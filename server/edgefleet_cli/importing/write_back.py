"""Telling the registry that a release came from what became of it, by tags of its model version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgefleet_cli.core.errors import CliError
from edgefleet_cli.core.session import Session

if TYPE_CHECKING:
    from edgefleet_cli.core.api.release import Release
    from edgefleet_cli.core.api.rollout import Rollout

RELEASE_TAG: Final = "edge.release"
"""The release that was signed."""
DEPLOYED_TAG: Final = "edge.deployed"
"""The release and the devices of a rollout that finished: `digits@3 to site=berlin`."""
ROLLOUT_TAG: Final = "edge.rollout"
"""The id of the newest rollout and how it stands: `r-7f3a9c finished`."""


def tell_registry(session: Session, release: Release, tags: dict[str, str], mlflow_url: str | None) -> bool:
    """Set tags of the version that a release came from; return whether they were set.

    A release from elsewhere has none. The registry is the one of the command, never one that the release names, so that its
    credentials go nowhere else. That a registry does not take a tag is told and ends nothing: the release is signed anyhow.
    """
    lineage = release.lineage
    if lineage.get("registry") != "mlflow" or not lineage.get("registry_model") or not lineage.get("version"):
        return False
    from edgefleet_cli.importing.mlflow import Registry
    from edgefleet_cli.importing.resolver import fetch_context_of

    try:
        with Registry(fetch_context_of(session, mlflow_url)) as registry:
            for key, value in tags.items():
                registry.tag(lineage["registry_model"], lineage["version"], key, value)
    except CliError as error:
        session.out.note(f"the registry was not told ({', '.join(tags)}): {error.message}: {error.why}")
        return False
    return True


def tell_of_release(session: Session, release: Release, mlflow_url: str | None) -> bool:
    """Tell the registry which release was signed of its version; return whether it was told."""
    return tell_registry(session, release, {RELEASE_TAG: release.ref}, mlflow_url)


def tags_of(rollout: Rollout) -> dict[str, str]:
    """Return what the registry is told of a rollout."""
    tags = {ROLLOUT_TAG: f"{rollout.id} {rollout.state}"}
    if rollout.state == "finished" and not rollout.is_partial:
        tags[DEPLOYED_TAG] = f"{rollout.release} to {rollout.selector or 'all devices'}"
    return tags
