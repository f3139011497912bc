"""Fetching, checking and proving an audit trail, and the words for what was found."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgefleet_cli.audit.audit_state import roots_seen, state_of
from edgefleet_cli.audit.entry_files import fetch_entries, last_number, read_entries
from edgefleet_cli.audit.entry_proof import (
    BadProofError,
    EntryProof,
    ProvenEntry,
    proof_bytes,
    proof_of,
    what_fails,
)
from edgefleet_cli.audit.errors import NoHeadYetError, TrailNotProvenError
from edgefleet_cli.audit.published_head import Published, check_signed, fetch_published
from edgefleet_cli.core import api
from edgefleet_cli.core.errors import UnreadableFileError, UsageError
from edgefleet_cli.core.files import write_whole
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.progress import count_bar
from edgefleet_terms.audit_chain.audit_head import AuditHead
from edgefleet_terms.audit_chain.chain_check import Check, check
from edgefleet_terms.audit_chain.hash_chain import hash_of
from edgefleet_terms.audit_chain.merkle_tree import is_consistent

_DIGEST_CHARS = 64


class ProofAnswer(Struct, frozen=True, kw_only=True):
    """What the server answers: an entry with its way to a head, and the way from an older head."""

    before: str
    entry: ProvenEntry
    head: AuditHead
    path: tuple[str, ...]
    since: tuple[str, ...]


@dataclass(frozen=True)
class Checked:
    """What a check of the whole trail found. published: the newest head by TUF; seen: the last that held here; None = none yet."""

    found: Check
    published: Published | None
    seen: AuditHead | None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return self.found.finding is None


def entries_text(count: int) -> str:
    """Return `1 entry` or `2 entries`."""
    return f"{count} entr{'y' if count == 1 else 'ies'}"


def export_to(session: Session, out: Path) -> tuple[int, int]:
    """Write all entries to a file, after those that it has; return the number of the last one before and now."""
    begin = last_number(out)
    total = session.api.get("/audit/chain", api.access.AuditChain).value.entries
    try:
        with out.open("ab") as sink, count_bar(session.out, "exporting", max(0, total - begin)) as advance:
            return begin, fetch_entries(session.api, sink, begin, advance)
    except OSError as error:
        raise UnreadableFileError(
            f"cannot write {out}", why=error.strerror or str(error), next_step="give another --out"
        ) from error


def verify_trail(session: Session, file: Path | None) -> Checked:
    """Check a whole trail, an export or what the server has, and remember its head when it holds. Raises TrailNotProvenError."""
    state = state_of(session.server)
    seen = state.head()
    published = fetch_published(session.api, state, session.clock.now())
    heads = {head.size: head for head in session.api.pages("/audit/heads", AuditHead)}
    if published is None:
        heads = {}  # nobody vouches for them
    sworn = {head.size: head for head in (seen, published.head if published else None) if head is not None}
    known = {size: head for size, head in heads.items() if size <= max(sworn, default=0)} | sworn
    _agree(seen, published)
    with _entries(session, file) as (path, total):
        found = _check(session, path, total, known, sworn)
    if found.finding is None and published is not None:
        state.put_head(published.head)
    return Checked(found, published, seen)


@contextmanager
def _entries(session: Session, file: Path | None) -> Iterator[tuple[Path, int]]:
    """Yield a file with the entries, fetched into a temporary one without a name, and about how many it has."""
    if file is not None:
        yield file, _about(file)
        return
    with tempfile.TemporaryDirectory(prefix="edgectl-audit-") as folder:
        path = Path(folder) / "entries.jsonl"
        _, last = export_to(session, path)
        yield path, last


def _about(file: Path) -> int:
    """Return about how many entries an export has, by its length: for a bar, nothing else. Raises UnreadableFileError."""
    try:
        with file.open("rb") as stream:
            first = len(stream.readline())
            return file.stat().st_size // first if first else 0
    except OSError as error:
        raise UnreadableFileError(
            f"cannot read {file}", why=error.strerror or str(error), next_step="check the path and its permissions"
        ) from error


def _check(
    session: Session, path: Path, total: int, heads: Mapping[int, AuditHead], sworn: Mapping[int, AuditHead]
) -> Check:
    with count_bar(session.out, "checking", total) as advance:
        return check(read_entries(path), heads, sworn, lambda place: read_entries(path, place), advance)


def _agree(seen: AuditHead | None, published: Published | None) -> None:
    """Raise TrailNotProvenError where the heads alone show that the trail was made anew."""
    if seen is None:
        return
    if published is None:
        raise TrailNotProvenError(
            "the server publishes no head of its audit trail any more",
            why=f"this machine saw one over {seen.size} entries, of {moment(seen.at)}",
            next_step="ask the server's owner whether it was restored from a backup",
        )
    if published.head.size == seen.size and published.head.root != seen.root:
        raise TrailNotProvenError(
            f"there are two heads over {seen.size} entries",
            why=f"this machine saw the root {seen.root[:16]}…, TUF has {published.head.root[:16]}… now",
            next_step="entries were rewritten and signed again: keep the server's database, and tell its owner",
        )


def show_check(session: Session, checked: Checked) -> None:
    """Write what a check of the whole trail found."""
    found, head = checked.found, checked.published.head if checked.published else None
    finding = found.finding
    document = {
        "is_whole": finding is None,
        "entries": found.size,
        "root": found.root.hex(),
        "chain": found.chain.hex(),
        "published": None if head is None else {"size": head.size, "root": head.root, "at": head.at},
        "seen": None if checked.seen is None else {"size": checked.seen.size, "root": checked.seen.root},
        "finding": None
        if finding is None
        else {
            "kind": finding.kind.value,
            "n": finding.n,
            "other": finding.other or None,
            "after_head": finding.after or None,
            "before_head": finding.before or None,
            "words": finding.words,
        },
    }

    def lines() -> None:
        out = session.out
        if finding is not None:
            out.line(f"The audit trail is not whole: {finding.words}.")
            out.line(
                "Keep the server's database and its backups as they are; an export of before says what stood there."
            )
            return
        out.line(f"The audit trail is whole: {entries_text(found.size)}.")
        if head is not None:
            out.line(f"published  {entries_text(head.size)}, root {head.root[:16]}, {moment(head.at)}")
        if checked.seen is not None:
            seen = checked.seen
            out.line(f"seen here  {entries_text(seen.size)}, root {seen.root[:16]}: it is a beginning")

    session.out.document(document, lines)
    if checked.published is None:
        session.out.note("no head is published yet, so the end could be missing; the server makes one each hour")
    elif checked.published.is_first:
        session.out.note(f"this machine goes by the root of trust {checked.published.root_sha256} from now on")


def prove_entry(session: Session, n: int, out: Path) -> None:
    """Write the proof of an entry under the published head, checked first. Raises TrailNotProvenError, NoHeadYetError."""
    state = state_of(session.server)
    seen = state.head()
    published = fetch_published(session.api, state, session.clock.now())
    _agree(seen, published)
    if published is None:
        raise NoHeadYetError(
            "the server has published no head of its audit trail yet",
            why="a proof leads to a head, and one is made each hour in which something was written",
            next_step="try again within the hour",
        )
    head = published.head
    older = seen.size if seen is not None and seen.size <= head.size else None
    answer = session.api.get(f"/audit/entries/{n}/proof", ProofAnswer, size=head.size, since=older).value
    proof = EntryProof(before=answer.before, entry=answer.entry, head=head, path=answer.path, signed=published.signed)
    wrong = what_fails(proof) or ("" if answer.entry.n == n else f"the server answered with entry {answer.entry.n}")
    if not wrong and seen is not None:
        wrong = _not_after(seen, head, answer)
    if wrong:
        raise TrailNotProvenError(
            f"entry {n} is not proven", why=wrong, next_step="`edgectl audit verify` says what was done to the trail"
        )
    state.put_head(head)
    write_whole(out, proof_bytes(proof))
    session.out.document(
        {"file": str(out), "n": n, "head": {"size": head.size, "root": head.root, "at": head.at}},
        lambda: session.out.line(f"{text(out)} proves entry {n} under the head over {entries_text(head.size)}"),
    )


def _not_after(seen: AuditHead, head: AuditHead, answer: ProofAnswer) -> str:
    """Return why the head that was seen here is not a beginning of the published one, "" when it is."""
    if seen.size > head.size:
        return f"this machine saw a head over {seen.size} entries, the published one has {head.size}"
    way = [hash_of(one) for one in answer.since]
    roots = hash_of(seen.root), hash_of(head.root)
    if None in way or None in roots:
        return "one of its hashes is none"
    hashes = [one for one in way if one is not None]
    assert roots[0] is not None
    assert roots[1] is not None
    if not is_consistent(seen.size, roots[0], head.size, roots[1], hashes):
        return f"the trail of {seen.size} entries that this machine saw is not a beginning of it"
    return ""


def verify_proof(session: Session, file: Path, root_sha256: str) -> None:
    """Check a proof without a server. Raises TrailNotProvenError, UsageError, UnreadableFileError."""
    if root_sha256 and (len(root_sha256) != _DIGEST_CHARS or hash_of(root_sha256.lower()) is None):
        raise UsageError(f"{root_sha256!r} is not a SHA-256", why="expected 64 hex digits", next_step="copy it whole")
    try:
        proof = proof_of(file.read_bytes())
    except OSError as error:
        raise UnreadableFileError(
            f"cannot read {file}", why=error.strerror or str(error), next_step="check the path and its permissions"
        ) from error
    except BadProofError as error:
        raise UsageError(
            f"{file} is not a proof", why=str(error), next_step="`edgectl audit prove N --out FILE` writes one"
        ) from error
    wrong = what_fails(proof)
    if wrong:
        raise TrailNotProvenError(f"{file} proves nothing", why=wrong, next_step="ask for the proof again")
    trusted = {root_sha256.lower()} if root_sha256 else set(roots_seen())
    root = check_signed(proof.signed, proof.head, trusted)
    entry = proof.entry
    document = {
        "is_proven": True,
        "entry": {name: getattr(entry, name) for name in entry.__struct_fields__},
        "head": {"size": proof.head.size, "root": proof.head.root, "at": proof.head.at},
        "root_sha256": root,
    }

    def lines() -> None:
        out = session.out
        out.line(f"Proven: entry {entry.n} was in the audit trail at {moment(proof.head.at)}.")
        out.line(f"at      {moment(entry.at)}")
        out.line(f"actor   {text(entry.actor)}")
        out.line(f"action  {text(entry.action)} on {text(entry.object)}, answered with {entry.status}")
        out.line(f"head    {entries_text(proof.head.size)}, root {proof.head.root[:16]}")

    session.out.document(document, lines)
