"""The conversion queue as the rest of the server sees it.

* One job = one release for one profile. States: queued → running → done | refused | failed; queued | running → cancelled by a
  person; failed | cancelled → queued by publishing again.
* A worker holds a job by a lease that every report extends. A silent worker's job is taken over with the next attempt number;
  the old worker's reports then change nothing. After `max_attempts` silent workers the job fails: it may be what kills them.
* `refused` is the converters' verdict on the model and final; `failed` is trouble of the machine.
* All methods join the caller's transaction.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_server.conversion import rules, store
from edgefleet_server.conversion.errors import LeaseLostError
from edgefleet_server.conversion.model import ClaimedJob, JobState, KnownResult, QueuePlace
from edgefleet_server.conversion.tables import JobRow
from edgefleet_server.db.database import Database
from edgefleet_server.registry.model import JobSpec, JobView, SourceFile

LEASE = timedelta(seconds=60)
_MAX_TEXT = 4000


class ConversionService:
    """Queue, leases and results of conversion jobs. Thread-safe; calls block."""

    def __init__(self, db: Database, clock: Clock, *, max_attempts: int = 3) -> None:
        self._db = db
        self._clock = clock
        self._max_attempts = max_attempts

    # ---- for the registry

    def enqueue(self, spec: JobSpec) -> None:
        """Queue one job."""
        row = JobRow(
            model=spec.ref.model,
            version=spec.ref.version,
            profile=spec.profile,
            spec=_spec_to_json(spec),
            state=JobState.QUEUED,
            queued_at=self._clock.now(),
        )
        with self._db.session() as session:
            store.add(session, row)

    def retry_failed(self, ref: ReleaseRef) -> int:
        """Queue the failed and the cancelled jobs of a release again; return how many."""
        values = _blank() | {"state": JobState.QUEUED, "attempt": 0, "queued_at": self._clock.now()}
        with self._db.session() as session:
            return store.change_in_states(session, ref, (JobState.FAILED, JobState.CANCELLED), values)

    def forget(self, ref: ReleaseRef) -> None:
        """Remove all jobs of a release: a worker that still has one can change nothing any more."""
        with self._db.session() as session:
            store.remove(session, ref)

    def reports(self) -> set[str]:
        """Return the digests of all reports that jobs name."""
        with self._db.read() as session:
            return store.reports(session)

    def cancel(self, ref: ReleaseRef, by: str) -> int:
        """End the waiting and running jobs of a release; return how many. A worker notices within a second."""
        values = {
            "state": JobState.CANCELLED,
            "code": "conversion.cancelled",
            "reason": f"cancelled by {by}",
            "next_step": "publish the same again to convert it after all",
            "finished_at": self._clock.now(),
            "lease_until": None,
        }
        with self._db.session() as session:
            return store.change_in_states(session, ref, (JobState.QUEUED, JobState.RUNNING), values)

    def end_search(self, ref: ReleaseRef) -> int:
        """Ask the waiting and running jobs of a release to end their search with the best found; return how many."""
        with self._db.session() as session:
            return store.change_in_states(session, ref, (JobState.QUEUED, JobState.RUNNING), {"ends_search": True})

    def jobs_of(self, refs: Sequence[ReleaseRef]) -> dict[ReleaseRef, list[JobView]]:
        """Return the jobs of releases, oldest first."""
        found: dict[ReleaseRef, list[JobView]] = {ref: [] for ref in refs}
        with self._db.read() as session:
            rows = store.jobs_of(session, refs)
            places = self._places(session, rows)
        for row in rows:
            found[ReleaseRef.parse(f"{row.model}@{row.version}")].append(_view(row, places.get(row.id or 0)))
        return found

    def _places(self, session: Session, rows: Sequence[JobRow]) -> dict[int, QueuePlace]:
        """Return where those of the jobs that wait stand in the queue."""
        wanted = {row.id for row in rows if row.id is not None and row.state == JobState.QUEUED}
        if not wanted:
            return {}
        now = self._clock.now()
        work = store.work_since(session, now - rules.SHARE_SPAN)
        return rules.queue_places(store.waiting_jobs(session, rules.MOST_FORESEEN), work, wanted, now)

    def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state, zero included."""
        with self._db.read() as session:
            counted = store.count_by_state(session)
        return {state.value: counted.get(state.value, 0) for state in JobState}

    def seconds_by_model(self, since: datetime, until: datetime) -> dict[str, float]:
        """Return how long conversions took that ended in a span of time, each its last attempt."""
        found: dict[str, float] = {}
        with self._db.read() as session:
            for model, begun, done in store.ended_between(session, since, until):
                found[model] = found.get(model, 0.0) + max(0.0, (done - begun).total_seconds())
        return found

    # ---- for the worker

    def has_work(self) -> bool:
        """Return whether a job waits, or the worker of one went silent."""
        with self._db.read() as session:
            return store.has_claimable(session, self._clock.now())

    def claim(self, worker: str) -> tuple[ClaimedJob | None, ReleaseRef | None]:
        """Take the waiting job whose turn it is (`rules.next_release`).

        Returns (job, None); or (None, release) when a job was given up because its workers kept dying, and that release's
        state must be brought up to date; or (None, None) when nothing waits.
        """
        if not self.has_work():
            return None, None
        now = self._clock.now()
        with self._db.session() as session:
            waiting = store.waiting_releases(session, now)
            turn = rules.next_release(waiting, store.work_since(session, now - rules.SHARE_SPAN), now)
            row = store.next_claimable(session, now, turn) or store.next_claimable(session, now)
            if row is None:
                return None, None
            spec = _spec_from_json(row.spec)
            if row.state == JobState.RUNNING and row.attempt >= self._max_attempts:
                row.state, row.finished_at = JobState.FAILED, now
                row.code = "conversion.worker_lost"
                row.reason = f"{row.attempt} conversion workers in turn ended in the middle of this job"
                row.next_step = "look into the server's log; publish again to try once more"
                session.add(row)
                session.flush()
                return None, spec.ref
            for name, value in _blank().items():
                setattr(row, name, value)
            row.state, row.worker, row.attempt = JobState.RUNNING, worker, row.attempt + 1
            row.started_at, row.lease_until = now, now + LEASE
            session.add(row)
            session.flush()
            assert row.id is not None
            return ClaimedJob(row.id, row.attempt, worker, spec), None

    def report(self, job: ClaimedJob, stage: str, message: str, pct: float) -> None:
        """Store how far a job is and extend its lease. Raises LeaseLostError."""
        values = {"stage": _text(stage, 40), "message": _text(message), "pct": max(0.0, min(100.0, pct))}
        self._change(job, values | {"lease_until": self._clock.now() + LEASE})

    def keep(self, job: ClaimedJob) -> None:
        """Extend a job's lease. Raises LeaseLostError."""
        self._change(job, {"lease_until": self._clock.now() + LEASE})

    def check_held(self, job: ClaimedJob) -> bool:
        """Return whether the job's search was asked to end. Raises LeaseLostError when another worker has it, or it was cancelled."""
        with self._db.read() as session:
            ends = store.ends_search(session, job.id, job.attempt, job.worker)
        if ends is None:
            raise _lost(job)
        return ends

    def known(self, job: ClaimedJob, key: str) -> KnownResult | None:
        """Note the digest of what decides the job's result, and return how the same ended before. Raises LeaseLostError."""
        self._change(job, {"key": key})
        with self._db.read() as session:
            row = store.newest_with_key(session, key)
            if row is None:
                return None
            ref = ReleaseRef.parse(f"{row.model}@{row.version}")
            return KnownResult(ref, row.state, row.code, row.reason, row.next_step, row.report)

    def finish(
        self, job: ClaimedJob, state: JobState, code: str = "", reason: str = "", next_step: str = "", report: str = ""
    ) -> None:
        """End a job as done, refused or failed. report: sha256 of its stored report. Raises LeaseLostError."""
        values: dict[str, Any] = {
            "state": state,
            "code": _text(code, 80),
            "reason": _text(reason),
            "next_step": _text(next_step),
            "report": report,
            "finished_at": self._clock.now(),
            "lease_until": None,
        }
        if state is JobState.DONE:
            values["pct"] = 100.0
        self._change(job, values)

    def give_back(self, job: ClaimedJob) -> None:
        """Queue a job again that this worker must leave, without counting the attempt. Raises LeaseLostError."""
        self._change(job, _blank() | {"state": JobState.QUEUED, "attempt": job.attempt - 1, "worker": ""})

    def try_again(self, job: ClaimedJob) -> bool:
        """Queue a job whose process the system ended, until its attempts are used up; return whether. Raises LeaseLostError."""
        if job.attempt >= self._max_attempts:
            return False
        self._change(job, _blank() | {"state": JobState.QUEUED, "worker": ""})
        return True

    def _change(self, job: ClaimedJob, values: Mapping[str, Any]) -> None:
        with self._db.session() as session:
            if not store.change_held(session, job.id, job.attempt, job.worker, dict(values)):
                raise _lost(job)


def _lost(job: ClaimedJob) -> LeaseLostError:
    return LeaseLostError(
        f"job j-{job.id} was cancelled, or is held by another worker now", next_step="nothing; this worker continues"
    )


def _text(text: str, most: int = _MAX_TEXT) -> str:
    """Return what a child reported as text that every database holds: NUL and halves of surrogate pairs become escapes."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()[:most]


def _blank() -> dict[str, Any]:
    return {
        "stage": "",
        "message": "",
        "pct": 0.0,
        "code": "",
        "reason": "",
        "next_step": "",
        "key": "",
        "report": "",
        "ends_search": False,
        "lease_until": None,
        "started_at": None,
        "finished_at": None,
    }


def _view(row: JobRow, place: QueuePlace | None) -> JobView:
    return JobView(
        id=f"j-{row.id}",
        profile=ProfileName(row.profile),
        state=row.state,
        stage=row.stage,
        message=row.message,
        pct=row.pct,
        code=row.code,
        reason=row.reason,
        next_step=row.next_step,
        report=row.report,
        position=None if place is None else place.position,
        starts_in_s=None if place is None else place.starts_in_s,
    )


def _spec_to_json(spec: JobSpec) -> dict[str, Any]:
    return {
        "ref": str(spec.ref),
        "profile": spec.profile,
        "profile_facts": dict(spec.profile_facts),
        "kind": spec.kind,
        "files": [{"path": file.path, "sha256": file.sha256, "length": file.length} for file in spec.files],
        "data": dict(spec.data),
        "options": dict(spec.options),
    }


def _spec_from_json(document: Mapping[str, Any]) -> JobSpec:
    return JobSpec(
        ref=ReleaseRef.parse(document["ref"]),
        profile=ProfileName(document["profile"]),
        profile_facts=document["profile_facts"],
        kind=document["kind"],
        files=tuple(SourceFile(f["path"], Sha256(f["sha256"]), f["length"]) for f in document["files"]),
        data={name: Sha256(digest) for name, digest in document["data"].items()},
        options=document["options"],
    )
