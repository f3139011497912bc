"""What must be true of the work tree before a version is built: clean, one version everywhere, a dated entry of the changelog."""

from __future__ import annotations

import re
import subprocess
import tomllib
from datetime import date
from pathlib import Path

import yaml

from tests.release.refusal import RefusalError

_VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
_OPENAPI_VERSION = re.compile(r'^  "version": "([^"]+)"$', re.MULTILINE)
_IMAGE_VERSION = re.compile(r"^ +image: edgefleet/[\w-]+:(\S+)$", re.MULTILINE)
_HEADING = re.compile(r"^## +(.+?) *$", re.MULTILINE)
_ENTRY = re.compile(r"(\S+) - (\d{4}-\d{2}-\d{2})")


def git(root: Path, *arguments: str) -> str:
    """Return what git prints, without the last newline. Raises RefusalError with git's own words when it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise RefusalError(f"git {arguments[0]} failed", why, "run it by hand in this clone")
    return done.stdout.rstrip("\n")


def versions(root: Path) -> dict[str, str]:
    """Return the version that each place of the tree claims, "" where none is found."""
    server, agent = (
        tomllib.loads((root / path).read_text())["project"] for path in ("pyproject.toml", "agent/pyproject.toml")
    )
    pins = [item for item in server["dependencies"] if item.startswith("edgefleet-agent==")]
    found = {
        "pyproject.toml": str(server["version"]),
        "agent/pyproject.toml": str(agent["version"]),
        "pyproject.toml, its edgefleet-agent==": pins[0].partition("==")[2] if pins else "",
    }
    for path, pattern in (
        ("agent/edgefleet_agent/__init__.py", _VERSION),
        ("server/edgefleet_server/__init__.py", _VERSION),
        ("docs/reference/openapi.json", _OPENAPI_VERSION),
        ("deploy/compose/trial.yaml", _IMAGE_VERSION),
    ):
        found[path] = " and ".join(dict.fromkeys(pattern.findall((root / path).read_text())))
    chart = yaml.safe_load((root / "deploy/helm/edgefleet/Chart.yaml").read_text())
    found["deploy/helm/edgefleet/Chart.yaml"] = str(chart["version"])
    found["deploy/helm/edgefleet/Chart.yaml, its appVersion"] = str(chart["appVersion"])
    return found


def check_versions(root: Path, version: str) -> None:
    """Raise RefusalError when a place claims another version."""
    wrong = [f"{place} says {found or 'nothing'}" for place, found in versions(root).items() if found != version]
    if wrong:
        raise RefusalError(
            f"not every place says {version}", "; ".join(wrong), f"write {version} there, commit, and run this again"
        )


def check_changelog(text: str, version: str) -> None:
    """Raise RefusalError unless the newest heading is `## VERSION - DATE` and nothing is left under another name."""
    headings = _HEADING.findall(text)
    newest = headings[0] if headings else ""
    match = _ENTRY.fullmatch(newest)
    next_step = f"make it `## {version} - YYYY-MM-DD`, with what changed for users below it, and commit"
    if not match or match[1] != version:
        found = f"its first heading is `## {newest}`" if newest else "it has no heading"
        raise RefusalError(f"CHANGELOG.md has no dated entry of {version} at its top", found, next_step)
    try:
        date.fromisoformat(match[2])
    except ValueError:
        raise RefusalError("CHANGELOG.md has a date that is none", f"`{match[2]}`", next_step) from None
    if not changes_of(text).strip():
        raise RefusalError(
            f"CHANGELOG.md says nothing about {version}",
            "below its heading is no line",
            "write what changed, and commit",
        )


def changes_of(text: str) -> str:
    """Return what a changelog says below its newest heading."""
    newest = _HEADING.findall(text)[0]
    return text.split(f"## {newest}", 1)[1].split("\n## ", 1)[0].strip() + "\n"


def check_clean(root: Path) -> None:
    """Raise RefusalError when the tree holds what no commit holds."""
    if changed := git(root, "status", "--porcelain").splitlines():
        names = ", ".join(line[3:] for line in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise RefusalError(
            "the work tree is not clean", f"not committed: {names}{more}", "commit or stash, then run this again"
        )


def check_tag(root: Path, version: str, commit: str) -> bool:
    """Return whether the tag of the version is there already. Raises RefusalError when it names another commit than `commit`."""
    tag = f"v{version}"
    if not git(root, "tag", "--list", tag):
        return False
    tagged = git(root, "rev-parse", f"{tag}^{{commit}}")
    if tagged != commit:
        raise RefusalError(
            f"{tag} is another commit",
            f"the tag names {tagged[:12]}, and this is {commit[:12]}",
            f"git checkout {tag}, or give this commit a version of its own: a released version is never made again",
        )
    return True


def check_tree(root: Path, version: str) -> bool:
    """Run every check of the tree; return whether the commit has its tag already. Raises RefusalError."""
    check_clean(root)
    check_versions(root, version)
    check_changelog((root / "CHANGELOG.md").read_text(), version)
    return check_tag(root, version, git(root, "rev-parse", "HEAD"))
