"""From a raw envelope to verified fields: repository, signature, device, generation, expiry, and agreement with TUF.

1. Refreshed with the `repo/head` hint first; whatever fails is tried once more without it before it counts.
2. The document is refused whole for what is wrong with *it*. A bundle on which document and repository disagree is refused alone.
3. `desired.ok` is written before the floor is raised: a power cut between them means "verify again", never "deaf".
4. What was accepted last is accepted again, byte for byte: agentd ends a child for a newer document, perhaps before it heard the answer.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from edgefleet_agent.core.durable import read_record, write_record
from edgefleet_agent.errors import StateFileError
from edgefleet_agent.identity.place_follower import note_announced
from edgefleet_agent.identity.store import ROOT_FILE
from edgefleet_agent.install.desired_diff import spread
from edgefleet_agent.install.records import CandidateRequest, DesiredOk, HoldOk, LogRules, Refusal, TaskRequest, Wanted
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.install.verifier_protocol import Task
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.verifier.errors import HoldReplayError, TargetMismatchError, TransportError, code_of
from edgefleet_agent.verifier.floor import Floor, FloorFile, trusted_now, with_time, with_versions
from edgefleet_agent.verifier.repository import MetaSource, Repository, decode_head
from edgefleet_agent.verifier.withdrawals import Withdrawals, remembered
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.desired import (
    DESIRED_TYPE,
    HOLD_TYPE,
    Desired,
    ModelDesired,
    Ref,
    decode_desired,
    decode_hold,
)
from edgefleet_protocol.desired import Task as DesiredTask
from edgefleet_protocol.digest import parse_sha256, sha256_hex
from edgefleet_protocol.errors import BadMessageError, EdgefleetError
from edgefleet_protocol.ids import parse_model_name, parse_target_path
from edgefleet_protocol.messages import RepoHead
from edgefleet_protocol.server_places import Announcement
from edgefleet_protocol.verify import ExpiredError, check_desired, verify_envelope

T = TypeVar("T")
K = TypeVar("K", DesiredOk, HoldOk)


class Documents:
    """Verifies one document per instance. `gen` is set as soon as it is known, so that a refusal can name it."""

    def __init__(self, task: Task, source: MetaSource, clock: Clock) -> None:
        self._task = task
        self._source = source
        self._paths = StatePaths(Path(task.state_dir))
        self._system = clock.now()
        self.floor_file = FloorFile(self._paths.root)
        self.gen = 0
        self._announced: Announcement | None = None

    @property
    def _floor(self) -> Floor:
        return self.floor_file.floor

    def desired(self, raw: bytes) -> DesiredOk:
        """Verify a desired document, write `desired.ok` and the floor, return the former. Raises EdgefleetError."""
        known = self._known(DesiredOk, self._paths.desired_ok, raw)
        if known is not None and known.gen == self._floor.gen:
            return known
        accepted, floor = self._with_repository(lambda repository: self._check_desired(raw, repository))
        note_announced(self._paths.identity, self._announced)
        write_record(self._paths.desired_ok, accepted)
        self.floor_file.save(floor)
        return accepted

    def hold(self, raw: bytes) -> HoldOk:
        """Verify a hold, write `hold.ok` and the floor. Raises EdgefleetError."""
        known = self._known(HoldOk, self._paths.hold_ok, raw)
        if known is not None and known.seq == self._floor.hold_seq:
            return known
        accepted, floor = self._with_repository(lambda repository: self._check_hold(raw, repository))
        note_announced(self._paths.identity, self._announced)
        write_record(self._paths.hold_ok, accepted)
        self.floor_file.save(floor)
        return accepted

    def hear(self) -> None:
        """Write what the repository announces, without a document. Raises EdgefleetError."""
        note_announced(self._paths.identity, self._open(None).announced())

    def _last(self) -> DesiredOk | None:
        """Return what was accepted last, None when there is nothing or it cannot be read."""
        try:
            return read_record(DesiredOk, self._paths.desired_ok)
        except StateFileError:
            return None

    def _known(self, kind: type[K], path: Path, raw: bytes) -> K | None:
        """Return what was accepted last, when it was of these very bytes."""
        try:
            known = read_record(kind, path)
        except StateFileError:
            return None
        return known if known is not None and known.raw_sha256 == sha256_hex(raw) else None

    def _with_repository(self, use: Callable[[Repository], tuple[T, Floor]]) -> tuple[T, Floor]:
        head = decode_head(self._task.repo_head)
        if head is not None:
            try:
                result, floor = use(self._open(head))
                if not (isinstance(result, DesiredOk) and result.refused):
                    return result, floor
                self.gen = 0  # a stale hint hides what was signed a moment ago
            except TransportError:
                raise
            except EdgefleetError:
                self.gen = 0  # the hint may be stale: only the answer without it counts
        return use(self._open(None))

    def _open(self, head: RepoHead | None) -> Repository:
        root = (self._paths.identity / ROOT_FILE).read_bytes()
        now = trusted_now(self._floor, self._system)
        repository = Repository(self._paths.tuf, root, self._source, head, now)
        repository.refresh()
        return repository

    def _raised(self, repository: Repository) -> Floor:
        raised = with_versions(self._floor, repository.versions(), repository.top_keys())
        self._announced = repository.announced()
        return with_time(raised, self._system)

    def _check_desired(self, raw: bytes, repository: Repository) -> tuple[DesiredOk, Floor]:
        floor = self._raised(repository)
        keys, threshold = repository.director_keys()
        document = decode_desired(verify_envelope(raw, DESIRED_TYPE, keys, threshold))
        self.gen = document.gen
        now = trusted_now(self._floor, self._system)
        check_desired(document, device=self._task.device, floor_gen=self._floor.gen, now=now)
        withdrawals = Withdrawals(repository, self._floor, document.sec_floor)
        accepted = spread(
            _accepted(document, raw, repository, withdrawals), self._last(), int(self._system.timestamp())
        )
        withdrawn = withdrawals.in_slots(Slots(self._paths.models))
        accepted = msgspec.structs.replace(accepted, withdrawn=withdrawn, shut_out=withdrawals.all())
        floor = with_versions(floor, repository.versions(), {})  # the delegated roles are loaded by now
        return accepted, msgspec.structs.replace(remembered(floor, accepted.shut_out), gen=document.gen)

    def _check_hold(self, raw: bytes, repository: Repository) -> tuple[HoldOk, Floor]:
        floor = self._raised(repository)
        keys, threshold = repository.director_keys()
        hold = decode_hold(verify_envelope(raw, HOLD_TYPE, keys, threshold))
        self.gen = hold.seq
        if hold.seq <= self._floor.hold_seq:
            raise HoldReplayError(f"the hold has seq {hold.seq}; seq {self._floor.hold_seq} was already accepted")
        now = trusted_now(self._floor, self._system)
        if hold.expires <= now:
            raise ExpiredError(f"the hold expired at {hold.expires.isoformat()}; it is {now.isoformat()} here")
        accepted = HoldOk(
            seq=hold.seq,
            expires_s=_unix_s(hold.expires),
            rollouts=hold.rollouts,
            digests=hold.digests,
            raw_sha256=sha256_hex(raw),
        )
        return accepted, msgspec.structs.replace(floor, hold_seq=hold.seq)


def _accepted(document: Desired, raw: bytes, repository: Repository, withdrawals: Withdrawals) -> DesiredOk:
    wanted: list[Wanted] = []
    idle: list[str] = []
    refused: list[Refusal] = []
    candidates: list[CandidateRequest] = []
    refused_candidates: list[Refusal] = []
    for name, model in sorted(document.models.items()):
        if model.active is None:
            idle.append(parse_model_name(name))
        else:
            try:
                wanted.append(_wanted(name, model.active, document.gen, repository, withdrawals))
            except TransportError:
                raise
            except EdgefleetError as error:
                refused.append(_refusal(name, model.active, error))
        if model.candidate is None or model.mode is None or (model.active is None and model.mode != "measure"):
            continue
        try:
            candidates.append(_candidate(name, model, model.candidate, document.gen, repository, withdrawals))
        except TransportError:
            raise
        except EdgefleetError as error:  # alone: what is active does not depend on a candidate
            refused_candidates.append(_refusal(name, model.candidate, error))
    until, watched = document.telemetry.until, document.telemetry.predictions_until
    return DesiredOk(
        device=document.device,
        gen=document.gen,
        raw_sha256=sha256_hex(raw),
        issued_s=_unix_s(document.issued),
        expires_s=_unix_s(document.expires),
        wanted=wanted,
        idle_models=idle,
        refused=refused,
        telemetry_profile=document.telemetry.profile,
        telemetry_until_s=_unix_s(until) if until is not None else 0,
        predictions_until_s=_unix_s(watched) if watched is not msgspec.UNSET else 0,
        tasks=[_task(task) for task in document.tasks],
        candidates=candidates,
        refused_candidates=refused_candidates,
        capture_key=document.capture.key if document.capture is not msgspec.UNSET else "",
        prediction_logs={
            parse_model_name(name): LogRules(
                subject_key=bytes.fromhex(kept.subject_key),
                ratio=kept.ratio,
                inputs=kept.inputs,
                erased={bytes.fromhex(one): until for one, until in kept.erased.items()},
            )
            for name, kept in (document.prediction_logs or {}).items()
        },
    )


def _candidate(
    name: str, model: ModelDesired, ref: Ref, gen: int, repository: Repository, withdrawals: Withdrawals
) -> CandidateRequest:
    if not 0 <= model.share_pct <= 100:
        raise BadMessageError(f"the document gives the candidate of {name} a share of {model.share_pct} %")
    wanted = _wanted(name, ref, gen, repository, withdrawals)
    return CandidateRequest(wanted=wanted, mode=str(model.mode), share_pct=model.share_pct, salt=model.salt)


def _task(task: DesiredTask) -> TaskRequest:
    return TaskRequest(id=task.id, kind=task.kind, until_s=_unix_s(task.until) if task.until else 0, args=task.args)


def _refusal(name: str, ref: Ref, error: EdgefleetError) -> Refusal:
    return Refusal(model=name, target=ref.target, sha256=ref.sha256, code=code_of(error), reason=error.message)


def _wanted(name: str, ref: Ref, gen: int, repository: Repository, withdrawals: Withdrawals) -> Wanted:
    model_name = parse_model_name(name)
    if parse_target_path(ref.target)[0] != model_name:
        raise TargetMismatchError(f"the document wants {ref.target} for model {model_name}")
    parse_sha256(ref.sha256)
    if ref.length < 1:
        raise TargetMismatchError(f"the document gives {ref.target} a length of {ref.length}")
    leaves, sec_version = repository.target(ref)
    withdrawals.check(ref.target, sec_version)
    return Wanted(
        model=model_name,
        target=ref.target,
        sha256=ref.sha256,
        length=ref.length,
        leaves=leaves,
        gen=gen,
        rollout=ref.rollout or "",
        attempt=ref.attempt,
        not_before_s=_not_before_s(ref),
        download_s=ref.deadlines.download_s,
        apply_s=ref.deadlines.apply_s,
        verify_s=ref.deadlines.verify_s,
        start_within_s=ref.start_within_s if ref.start_within_s is not msgspec.UNSET else 0,
        sec_version=sec_version,
    )


def _not_before_s(ref: Ref) -> int:
    if ref.not_before is None:
        return 0
    at = ref.not_before if ref.not_before.tzinfo is not None else ref.not_before.replace(tzinfo=UTC)
    return _unix_s(at)


def _unix_s(at: datetime) -> int:
    return int(at.timestamp())
