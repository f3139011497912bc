"""Following an alias of a registry: each version that it comes to stand for is published and rolled out, once.

What was seen is kept in a file, so that a restart repeats nothing and an operator's own rollout is never overruled: only a
*change* of the alias acts. Without the file, a version counts as seen when the server has a rollout of it to these devices.

1. Ask the registry. The same version as last time: nothing to do but to report a rollout that ended to it.
2. Another one: publish it (the server knows it again if it did that before), start the rollout, remember both.
3. Refused by the gate, or a rollout that cannot start: reported, tagged, remembered. The next change of the alias goes on.
4. Registry or server away: reported once, asked again, later each time.

One program at a time works with a file of what was seen (`alone`): two that look at once would both find the alias moved. The lock is
a file next to it, since that file itself is replaced with each write; the system lets go of it whatever ends the program.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import platformdirs

from edgefleet_cli.core.api.release import Release
from edgefleet_cli.core.api.rollout import Rollout
from edgefleet_cli.core.errors import (
    EXIT_CONFLICT,
    ApiError,
    BadAnswerError,
    CliError,
    ServerUnreachableError,
    UnreadableFileError,
    UsageError,
)
from edgefleet_cli.core.files import write_whole
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Document, Reply
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.importing.addresses import MlflowAddress, parse_address
from edgefleet_cli.importing.mlflow import Registry, RegistryUnreachableError
from edgefleet_cli.importing.resolver import fetch_context_of, resolved
from edgefleet_cli.importing.write_back import ROLLOUT_TAG, report_release, report_to_registry, tags_of
from edgefleet_cli.release.conversion.conversion_options import make_request
from edgefleet_cli.release.publisher import DEFAULT_WAIT_S, Publisher
from edgefleet_cli.release.render import failures, is_over
from edgefleet_cli.rollout.client import Rollouts
from edgefleet_cli.rollout.render import is_final
from edgefleet_cli.rollout.spec import RolloutFlags, from_flags
from edgefleet_terms.rollout_states import shown_state

LONGEST_PAUSE_S: Final = 300.0


@dataclass(frozen=True)
class FollowOptions:
    """What is followed and how. rollout: how each release goes out; request: what `make_request` takes besides model, name, version."""

    address: MlflowAddress
    selector: str
    rollout: RolloutFlags
    supersede: str
    name: str
    mlflow_url: str | None
    request: dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """What was seen last. rollout: the id of the last one that was started; is_settled: its end was reported to the registry."""

    version: str = ""
    rollout: str = ""
    is_settled: bool = False


def mlflow_address(given: str) -> MlflowAddress:
    """Return an address of a registry. Raises UsageError for any other."""
    address = parse_address(given)
    if not isinstance(address, MlflowAddress):
        raise UsageError(
            f"{given!r} is not the address of a registry",
            why="expected mlflow:/NAME@ALIAS",
            next_step="see `edgectl import --help`",
        )
    return address


def state_file(server: str, following: FollowOptions) -> Path:
    """Return where it is kept what was seen: one file for each server, registry, alias and selector."""
    key = "\n".join([server, following.mlflow_url or "", str(following.address), following.name, following.selector])
    return (
        Path(platformdirs.user_state_path("edgefleet"))
        / "import"
        / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    )


class FollowedError(CliError):
    """Another program follows the same alias with the same state file."""

    code = "cli.followed"
    exit_code = EXIT_CONFLICT


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Be the only one to work with a file of what was seen, while the block runs. Raises FollowedError, UnreadableFileError."""
    lock_file = file.with_name(f"{file.name}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_file.open("a", encoding="utf-8")
    except OSError as error:
        raise UnreadableFileError(
            f"cannot write {lock_file}", why=error.strerror or str(error), next_step="give another --state"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FollowedError(
                "this alias is already followed",
                why=f"another process holds {file}",
                next_step="end that one, or give this one its own --state if it should follow something else",
            ) from error
        yield


class AliasFollower:
    """Follows one alias at one server. To be used inside `alone`."""

    def __init__(self, session: Session, following: FollowOptions, file: Path) -> None:
        self._session = session
        self._following = following
        self._file = file
        self._rollouts = Rollouts(session.api, session.out, session.clock)

    def run(self, every_s: float) -> None:
        """Look again and again. Ends only by an interrupt, or by an error that no waiting cures."""
        note, pause_s = self._session.out.note, every_s
        note(f"following {self._following.address} for {self._following.selector or 'all devices'}; Ctrl-C ends it")
        while True:
            try:
                self.look()
            except (ServerUnreachableError, BadAnswerError, RegistryUnreachableError) as error:
                note(f"{error.message}: {error.why}; asking again in {pause_s:g} s")
                self._session.clock.sleep(pause_s)
                pause_s = min(2 * pause_s, max(LONGEST_PAUSE_S, every_s))
                continue
            pause_s = every_s
            self._session.clock.sleep(every_s)

    def look(self) -> bool:
        """Ask the registry once and do what is to be done. Return False when a new version was refused."""
        seen = self._seen()
        with Registry(fetch_context_of(self._session, self._following.mlflow_url)) as registry:
            version = registry.resolve(self._following.address).version
        self._settle(seen)
        if seen.version == version:
            return True
        if not seen.version and (earlier := self._rollout_of(version, Seen())) is not None:
            self._keep(Seen(version, earlier.id))
            return True
        self._session.out.note(f"{self._following.address} is now version {version}")
        release = self._published(version)
        if not release.bundles:
            reasons = "; ".join(f"{one.profile}: {one.reason}" for one in failures(release))
            return self._refused(release, replace(seen, version=version), f"no bundle was signed: {reasons}")
        report_release(self._session, release, self._following.mlflow_url)
        try:
            rollout = self._rollout_of(version, seen) or self._rollouts.create(self._document(release.ref)).value
        except ApiError as error:
            if error.status >= 500:
                raise
            return self._refused(release, replace(seen, version=version), f"{error.message}: {error.why}")
        self._keep(Seen(version, rollout.id))
        report_to_registry(self._session, release, tags_of(rollout), self._following.mlflow_url)
        self._session.out.note(f"rollout {rollout.id} of {release.ref} is {shown_state(rollout.state)}")
        return True

    def _document(self, ref: str) -> Document:
        """Return the rollout of a release: it waits for one that is under way to the same devices, no matter which command began that."""
        wanted = self._following
        document = from_flags(replace(wanted.rollout, release=ref, selector=wanted.selector))
        spec = {**document["spec"], "supersede": wanted.supersede}
        return {**document, "spec": spec}

    def _published(self, version: str) -> Release:
        """Return the release of a version, with its conversion over: what the server has already, else published now."""
        session, wanted = self._session, self._following
        ref = f"{wanted.name}@{version}"
        publisher = Publisher(session.api, session.out, session.clock)
        reply = self._known(ref)
        is_free = reply is None or (reply.value.state in {"failed", "cancelled"} and not reply.value.bundles)
        if reply is None or (is_free and not self._is_of(reply.value, version)):
            address = replace(wanted.address, version=version)
            with resolved(session, str(address), address, wanted.mlflow_url) as source:
                request = make_request(
                    model=str(source.path), name=wanted.name, version=version, lineage=source.lineage, **wanted.request
                )
                reply = publisher.publish(request)
        if not is_over(reply.value):
            reply = publisher.follow(reply, wait_s=session.options.timeout_s or DEFAULT_WAIT_S)
        release = reply.value
        if not self._is_of(release, version):
            raise UsageError(
                f"{ref} exists with different content than {wanted.address.name} {version}",
                why=f"its source is {release.lineage.get('uri') or 'a file'}",
                next_step="follow the alias under another --name",
            )
        return release

    def _is_of(self, release: Release, version: str) -> bool:
        """Tell whether a release was made of this version of the model that is followed."""
        lineage = release.lineage
        return (lineage.get("registry_model"), lineage.get("version")) == (self._following.address.name, version)

    def _known(self, ref: str) -> Reply[Release] | None:
        try:
            return self._session.api.get(f"/releases/{part(ref)}", Release)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def _rollout_of(self, version: str, seen: Seen) -> Rollout | None:
        """Return the newest rollout of a version to these devices, None when the last that was seen here is newer.

        One that was not seen was started just before this program ended, or by a person: neither is done again.
        """
        wanted = self._following
        for rollout in self._session.api.pages("/rollouts", Rollout, model=wanted.name):  # newest first
            if rollout.release == f"{wanted.name}@{version}" and rollout.selector == wanted.selector:
                return rollout
            if rollout.id == seen.rollout:
                return None
        return None

    def _settle(self, seen: Seen) -> None:
        """Tell the registry of the rollout that was started last, once it is over."""
        if not seen.rollout or seen.is_settled:
            return
        rollout = self._rollouts.get(seen.rollout).value
        if is_final(rollout):
            release = self._session.api.get(f"/releases/{part(rollout.release)}", Release).value
            self._session.out.note(f"rollout {seen.rollout} of {rollout.release} is {shown_state(rollout.state)}")
            report_to_registry(self._session, release, tags_of(rollout), self._following.mlflow_url)
            self._keep(replace(seen, is_settled=True))

    def _refused(self, release: Release, seen: Seen, why: str) -> bool:
        self._session.out.note(f"{release.ref} is not rolled out: {why}")
        report_to_registry(self._session, release, {ROLLOUT_TAG: f"refused: {why}"[:500]}, self._following.mlflow_url)
        self._keep(seen)
        return False

    def _seen(self) -> Seen:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            return Seen(str(found["version"]), str(found["rollout"]), bool(found["is_settled"]))
        except FileNotFoundError:
            return Seen()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"cannot read the state file {self._file}",
                why=str(error),
                next_step="delete the file, or give another --state",
            ) from error

    def _keep(self, seen: Seen) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._file, json.dumps(asdict(seen)).encode())
