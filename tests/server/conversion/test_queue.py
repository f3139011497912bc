"""The queue on both databases: leases, fencing, giving up."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_server.conversion.errors import LeaseLostError
from edgefleet_server.conversion.model import ClaimedJob, JobState
from edgefleet_server.conversion.service import LEASE, ConversionService
from edgefleet_server.db.database import Database
from edgefleet_server.registry.model import JobSpec, SourceFile
from tests.support.servers import HandClock


def spec(version: str = "1") -> JobSpec:
    """Return a job's spec."""
    return JobSpec(
        ref=ReleaseRef.parse(f"digits@{version}"),
        profile=ProfileName("p-ort"),
        profile_facts={"name": "p-ort"},
        kind="file",
        files=(SourceFile("m.onnx", Sha256("0" * 64), 3),),
        data={"eval": Sha256("1" * 64)},
        options={"precision": "auto"},
    )


def claimed(queue: ConversionService, worker: str) -> ClaimedJob:
    """Claim a job that must be there."""
    job, _ = queue.claim(worker)
    assert job is not None
    return job


def test_jobs_are_claimed_once_in_order_with_their_whole_spec(db: Database) -> None:
    queue = ConversionService(db, HandClock())
    queue.enqueue(spec("1"))
    queue.enqueue(spec("2"))
    assert claimed(queue, "a").spec == spec("1")
    assert claimed(queue, "b").spec == spec("2")
    assert queue.claim("c") == (None, None)
    assert queue.counts()["running"] == 2


def test_a_release_waits_for_the_job_that_runs_and_not_for_all_of_a_busy_model(db: Database) -> None:
    clock = HandClock()
    queue = ConversionService(db, clock)
    for profile in ("p1", "p2", "p3"):
        queue.enqueue(replace(spec("1"), profile=ProfileName(profile)))
    first = claimed(queue, "a")
    clock.turn(seconds=20)
    queue.finish(first, JobState.REFUSED)
    queue.enqueue(spec("2"))
    queue.enqueue(replace(spec(), ref=ReleaseRef.parse("other@1")))
    taken = [str(claimed(queue, "a").spec.ref) for _ in range(4)]
    assert taken == ["other@1", "digits@2", "digits@1", "digits@1"]


def test_new_names_do_not_keep_a_model_out_that_was_converted_much(db: Database) -> None:
    clock = HandClock()
    queue = ConversionService(db, clock)
    queue.enqueue(spec("1"))
    used = claimed(queue, "a")
    clock.turn(seconds=10)
    queue.finish(used, JobState.DONE)
    queue.enqueue(spec("2"))
    taken = []
    for number in range(6):
        queue.enqueue(replace(spec(), ref=ReleaseRef.parse(f"new-{number}@1")))
        job = claimed(queue, "a")
        taken.append(str(job.spec.ref))
        clock.turn(seconds=10)
        queue.finish(job, JobState.REFUSED)
    assert "digits@2" in taken[:4], "its model's 10 s count as 20 s of waiting"


def test_the_place_and_time_that_a_waiting_job_is_shown_are_those_it_gets(db: Database) -> None:
    clock = HandClock()
    queue = ConversionService(db, clock)
    for version in ("1", "2"):
        queue.enqueue(spec(version))
    for job in [claimed(queue, worker) for worker in "ab"]:
        clock.turn(seconds=30)
        queue.finish(job, JobState.DONE)  # the first took 30 s, the second 60 s: 45 s are usual
    for model, profiles in (("big@1", 4), ("digits@3", 2), ("small@1", 1)):
        for number in range(profiles):
            queue.enqueue(replace(spec(), ref=ReleaseRef.parse(model), profile=ProfileName(f"p{number}")))
    busy = {worker: (claimed(queue, worker), clock.now()) for worker in "ab"}
    began = clock.now()
    refs = [ReleaseRef.parse(ref) for ref in ("big@1", "digits@3", "small@1")]
    waiting = [job for jobs in queue.jobs_of(refs).values() for job in jobs if job.state == "queued"]
    foreseen = {job.id: (job.position, job.starts_in_s) for job in waiting}
    assert {place for place, _ in foreseen.values()} == {1, 2, 3, 4, 5}
    taken: list[tuple[str, float]] = []
    while busy:
        clock.turn(seconds=1)
        for worker, (job, since) in list(busy.items()):
            if clock.now() - since < timedelta(seconds=45):
                continue
            queue.finish(job, JobState.DONE)
            del busy[worker]
            following, _ = queue.claim(worker)
            if following is not None:
                busy[worker] = following, clock.now()
                taken.append((f"j-{following.id}", (clock.now() - began).total_seconds()))
    assert {job: (place, at) for place, (job, at) in enumerate(taken, 1)} == foreseen


def test_without_a_job_that_ended_a_waiting_one_has_a_place_and_no_time(db: Database) -> None:
    queue = ConversionService(db, HandClock())
    queue.enqueue(spec("1"))
    queue.enqueue(spec("2"))
    claimed(queue, "a")
    running, waiting = (queue.jobs_of([ref])[ref][0] for ref in map(ReleaseRef.parse, ("digits@1", "digits@2")))
    assert (running.position, running.starts_in_s) == (None, None)
    assert (waiting.position, waiting.starts_in_s) == (1, None)


def test_a_silent_worker_loses_its_job_and_can_change_nothing_more(db: Database) -> None:
    clock = HandClock()
    queue = ConversionService(db, clock)
    queue.enqueue(spec())
    old = claimed(queue, "a")
    clock.turn(seconds=LEASE.total_seconds() - 1)
    queue.report(old, "import", "working", 10)
    clock.turn(seconds=LEASE.total_seconds())
    assert queue.claim("b") == (None, None)
    clock.turn(seconds=1)
    new = claimed(queue, "b")
    assert new.attempt == 2
    with pytest.raises(LeaseLostError):
        queue.report(old, "x", "", 1)
    with pytest.raises(LeaseLostError):
        queue.keep(old)
    with pytest.raises(LeaseLostError):
        queue.finish(old, JobState.DONE)
    with pytest.raises(LeaseLostError):
        queue.give_back(old)
    queue.finish(new, JobState.DONE)
    assert queue.counts()["done"] == 1


def test_a_job_that_keeps_killing_workers_fails(db: Database) -> None:
    clock = HandClock()
    queue = ConversionService(db, clock, max_attempts=2)
    queue.enqueue(spec())
    for _ in range(2):
        claimed(queue, "a")
        clock.turn(seconds=(LEASE + timedelta(seconds=1)).total_seconds())
    assert queue.claim("a") == (None, spec().ref)
    (view,) = queue.jobs_of([spec().ref])[spec().ref]
    assert (view.state, view.code) == ("failed", "conversion.worker_lost")


def test_a_job_given_back_is_claimed_again_with_the_attempt_uncounted(db: Database) -> None:
    queue = ConversionService(db, HandClock())
    queue.enqueue(spec())
    queue.give_back(claimed(queue, "a"))
    assert claimed(queue, "b").attempt == 1


def test_failed_jobs_are_queued_again_others_not(db: Database) -> None:
    queue = ConversionService(db, HandClock())
    queue.enqueue(spec())
    queue.finish(claimed(queue, "a"), JobState.FAILED, "x", "broken", "again")
    assert queue.retry_failed(spec().ref) == 1
    queue.finish(claimed(queue, "a"), JobState.REFUSED, "x", "bad", "")
    assert queue.retry_failed(spec().ref) == 0


def test_cancelling_ends_what_waits_and_runs_and_nothing_else(db: Database) -> None:
    queue = ConversionService(db, HandClock())
    queue.enqueue(spec("1"))
    queue.enqueue(spec("2"))
    job = claimed(queue, "a")
    queue.check_held(job)
    assert queue.cancel(spec("1").ref, "ann") == 1
    with pytest.raises(LeaseLostError):
        queue.check_held(job)
    with pytest.raises(LeaseLostError):
        queue.finish(job, JobState.DONE)
    (view,) = queue.jobs_of([spec("1").ref])[spec("1").ref]
    assert (view.state, view.code, view.reason) == ("cancelled", "conversion.cancelled", "cancelled by ann")
    assert queue.cancel(spec("1").ref, "ann") == 0
    assert claimed(queue, "a").spec == spec("2")
    assert queue.retry_failed(spec("1").ref) == 1
    assert claimed(queue, "b").spec == spec("1")


def test_the_newest_end_of_the_same_content_is_known(db: Database) -> None:
    queue = ConversionService(db, HandClock())
    for version in "1234":
        queue.enqueue(spec(version))
    first, second, third, fourth = (claimed(queue, "a") for _ in range(4))
    assert queue.known(first, "k" * 64) is None
    queue.finish(first, JobState.DONE, report="r" * 64)
    assert queue.known(third, "other" + "k" * 59) is None
    queue.known(second, "k" * 64)
    queue.finish(second, JobState.FAILED, "x", "broken")
    known = queue.known(fourth, "k" * 64)
    assert known is not None, "neither the failed job nor this one counts"
    assert (known.ref, known.state, known.report) == (first.spec.ref, "done", "r" * 64)


def test_many_workers_never_share_a_job(db: Database) -> None:
    queue = ConversionService(db, HandClock())
    for number in range(12):
        queue.enqueue(spec(str(number)))
    got: list[int] = []

    def work(name: str) -> None:
        while (job := queue.claim(name)[0]) is not None:
            got.append(job.id)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == len(set(got))
    # on PostgreSQL a worker may see nothing while others hold all waiting rows; what is left is still queued
    assert len(got) + queue.counts()["queued"] == 12


def test_what_a_child_tells_is_stored_whatever_characters_it_has(db: Database) -> None:
    queue = ConversionService(db, HandClock())
    queue.enqueue(spec())
    job = claimed(queue, "a")
    queue.report(job, "im\0port", "half \ud800", 10)
    queue.finish(job, JobState.REFUSED, "c\0", "tensor a\0b", "\udfff")
    (view,) = queue.jobs_of([job.spec.ref])[job.spec.ref]
    assert (view.reason, view.next_step) == ("tensor a\\x00b", "\\udfff")
