"""`edgectl deploy --shadow | --split PCT | --end`: a release as a candidate. What the flags mean and what is printed."""

from __future__ import annotations

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK, UsageError
from edgefleet_cli.core.selection import no_match
from edgefleet_cli.core.session import Session

_WORDS = {
    "shadow": "run it as a shadow",
    "split": "let it answer a share of the requests",
    "end": "no longer run it as a candidate",
}


def parse(
    *, shadow: bool, split: int | None, salt: str, end: bool, wait: bool, strategy: str
) -> api.release.DeployIn | None:
    """Return the body's mode, share_pct and salt, None without any of the flags. Raises UsageError."""
    chosen = [name for name, is_set in (("--shadow", shadow), ("--split", split is not None), ("--end", end)) if is_set]
    if salt and split is None:
        raise UsageError("--salt is only for a split", why="only a split divides requests", next_step="add --split PCT")
    if not chosen:
        return None
    if len(chosen) > 1:
        raise UsageError(
            f"{' and '.join(chosen)} do not go together",
            why="a device runs one candidate in one mode",
            next_step=f"keep {chosen[0]}",
        )
    if wait or strategy != "all":
        flag = "--wait" if wait else f"--strategy {strategy}"
        raise UsageError(
            f"{flag} does not go with {chosen[0]}",
            why="a candidate is not installed as the active version",
            next_step="leave it out, and see `edgectl device show ID`",
        )
    if split is not None:
        return api.release.DeployIn(mode="split", share_pct=split, salt=salt)
    return api.release.DeployIn(mode="shadow" if shadow else "end")


def run(
    session: Session, ref: str, to: str | None, device: str | None, candidate: api.release.DeployIn, *, dry_run: bool
) -> int:
    """Ask the server, print which devices it concerns; return the exit code."""
    from edgefleet_cli.release.deployment.deployer import Deployer
    from edgefleet_cli.release.deployment.render import SET, note_skipped

    deployer = Deployer(session.api, session.out, session.clock)
    answer = deployer.deploy(ref, selector=to, device=device, dry_run=dry_run, candidate=candidate)
    chosen = answer.value.set
    note_skipped(session, answer.value)
    if not chosen:
        if not session.out.is_for_eyes:
            session.out.rows(answer.raw, [], SET)
        is_unmatched = device is None and not answer.value.skipped
        session.out.note(no_match(session.api, to) if is_unmatched else f"no device gets {ref} as a candidate")
        return EXIT_OK if dry_run else EXIT_FAILED
    session.out.rows(answer.raw, chosen, SET)
    verb = "would" if dry_run else "now"
    first = chosen[0].device
    watch = "" if dry_run else f": `edgectl device show {first}`"
    session.out.note(f"{len(chosen)} devices {verb} {_WORDS[str(candidate.mode)]}{watch}")
    return EXIT_OK
