"""Telling the registry that a release came from what became of it, by tags of its model version."""

from __future__ import annotations

from typing import Final

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import CliError
from edgefleet_cli.core.session import Session

RELEASE_TAG: Final = "edge.release"
"""The release that was signed."""
DEPLOYED_TAG: Final = "edge.deployed"
"""The release and the devices of a rollout that finished: `digits@3 to site=berlin`."""
ROLLOUT_TAG: Final = "edge.rollout"
"""The id of the newest rollout and how it stands: `r-7f3a9c finished`."""


def report_to_registry(
    session: Session, release: api.release.Release, tags: dict[str, str], mlflow_url: str | None
) -> bool:
    """Set tags of the version that a release came from; return whether they were set.

    A release from elsewhere has none. The registry is the one of the command, never one that the release names, so that its
    credentials go nowhere else. That a registry does not take a tag is reported and ends nothing: the release is signed anyhow.
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
        session.out.note(f"the registry was not updated ({', '.join(tags)}): {error.message}: {error.why}")
        return False
    return True


def report_release(session: Session, release: api.release.Release, mlflow_url: str | None) -> bool:
    """Report to the registry which release was signed of its version; return whether that succeeded."""
    return report_to_registry(session, release, {RELEASE_TAG: release.ref}, mlflow_url)


def tags_of(rollout: api.rollout.Rollout) -> dict[str, str]:
    """Return what the registry gets of a rollout."""
    tags = {ROLLOUT_TAG: f"{rollout.id} {rollout.state}"}
    if rollout.state == "finished" and not rollout.is_partial:
        tags[DEPLOYED_TAG] = f"{rollout.release} to {rollout.selector or 'all devices'}"
    return tags
