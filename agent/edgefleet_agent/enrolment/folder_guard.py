"""Where private keys may be made: not among other files, and not where git would commit them.

`look` reads the facts, `refusal` is the rule; the agent's `enroll` and edgectl's `server init | up` both use them. The rule is for a folder
that becomes a device's or a server's: one that is already in use goes on. Source: ADR 0075.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HARMLESS = {"lost+found"}
"""What a file system itself puts into an empty volume."""
GIT_S = 20.0
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """What was found. entries: names in the folder, sorted. work_tree: of git, around the folder.

    is_ignored: whether git ignores all that will lie there; None = git is not installed, or could not say.
    """

    folder: Path
    entries: tuple[str, ...] = ()
    work_tree: Path | None = None
    is_ignored: bool | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a folder is not taken: three sentences for a person."""

    what: str
    why: str
    next_step: str


def look(folder: Path, ours: Sequence[str]) -> FolderFacts:
    """Return the facts about a folder, which need not exist. ours: names of what will lie there. Raises OSError."""
    folder = folder.resolve()
    entries = tuple(sorted(path.name for path in folder.iterdir())) if folder.exists() else ()
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    work_tree = next((path for path in (there, *there.parents) if (path / ".git").exists()), None)
    is_ignored = None if work_tree is None else _is_ignored(there, [str(folder / name) for name in ours])
    return FolderFacts(folder, entries, work_tree, is_ignored)


def refusal(facts: FolderFacts, ours: Sequence[str], option: str, default: Path) -> Refusal | None:
    """Return why the folder is refused, None when it is fine. option: of the command; default: the folder without that option."""
    foreign = [name for name in facts.entries if name not in ours and name not in HARMLESS]
    elsewhere = f"choose an empty folder with {option} DIR"
    if facts.folder != default:
        elsewhere = f"leave {option} out to use {default}, or {elsewhere}"
    if foreign:
        shown = ", ".join(foreign[:_SHOWN]) + (f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else "")
        return Refusal(
            f"{facts.folder} holds other files",
            f"private keys get a folder of their own, and there is already: {shown}",
            elsewhere,
        )
    if facts.work_tree is None or facts.is_ignored:
        return None
    fault = "git does not ignore it"
    if facts.is_ignored is None:
        fault = f"git is not installed, or cannot say whether it is ignored: see `git -C {facts.work_tree} status`"
    inside = facts.folder.relative_to(facts.work_tree)
    return Refusal(
        f"{facts.folder} lies in the git work tree {facts.work_tree}",
        f"private keys would be one `git add` away from being published: {fault}",
        f"{elsewhere} outside of the work tree, or add /{inside}/ to {facts.work_tree / '.gitignore'}",
    )


def _is_ignored(there: Path, paths: Sequence[str]) -> bool | None:
    git = shutil.which("git")
    if git is None:
        return None
    # found by folder: a variable of a hook, for example, names another repository
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            [git, "-C", str(there), "check-ignore", "-z", "--stdin"],
            input="\0".join(paths).encode(),
            capture_output=True,
            env=environment,
            timeout=GIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode not in {0, 1}:
        return None
    return done.stdout.count(b"\0") == len(paths)
