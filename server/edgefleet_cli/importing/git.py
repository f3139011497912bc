"""What Git knows of a file or a repository; everything here is "" where there is no Git or no repository."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_WAIT_S = 20


def lineage_of(path: Path) -> dict[str, str]:
    """Return `{git_commit, git_state}` of a local file or folder that lies in a repository: `clean`, `changed` or `untracked`."""
    folder = (path if path.is_dir() else path.parent).resolve()
    commit = _asked(folder, "rev-parse", "--verify", "HEAD")
    if not _COMMIT.fullmatch(commit):
        return {}
    # Git knows a file by the folder it is in, not by a link to that folder; the file itself may be a link, as DVC makes them
    name = str(folder if path.is_dir() else folder / path.name)
    tracked = _asked(folder, "ls-files", "--", name)
    changed = _asked(folder, "status", "--porcelain", "--untracked-files=all", "--", name)
    return {"git_commit": commit, "git_state": "untracked" if not tracked else "changed" if changed else "clean"}


def commit_of(repo: str, rev: str) -> str:
    """Return the commit of a revision of a repository, local or remote."""
    if Path(repo).is_dir():
        found = _asked(Path(repo), "rev-parse", "--verify", "--end-of-options", f"{rev or 'HEAD'}^{{commit}}")
        return found if _COMMIT.fullmatch(found) else ""
    if _COMMIT.fullmatch(rev):
        return rev
    lines = _asked(Path.cwd(), "ls-remote", "--", repo, rev or "HEAD", f"{rev or 'HEAD'}^{{}}").splitlines()
    commits = [line.split()[0] for line in lines if line.strip()]
    return commits[-1] if commits and _COMMIT.fullmatch(commits[-1]) else ""


def _asked(folder: Path, *question: str) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    # no monitor, hook or prompt of a repository that somebody else made is run by a look at it
    command = [git, "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C", str(folder), *question]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_WAIT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
