"""A release is withdrawn with a reason, or deleted when it was never deployed. On both databases."""

import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from sqlmodel import Session

from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_server.access.model import Role
from edgefleet_server.conversion.model import JobState
from edgefleet_server.process.lifecycle.engine_work import build_engine
from edgefleet_server.registry import rules, store
from edgefleet_server.registry.errors import BlobStoreError, ReleaseWithdrawnError
from edgefleet_server.registry.model import Publication
from edgefleet_server.registry.withdrawals import WithdrawalBook
from tests.server.registry.worked import refuse, sign, signed, work
from tests.support.servers import PROFILE, ApiHouse, release_body

REF = ReleaseRef.parse("digits@1.0.0")
PATH = f"/api/v1/releases/{REF}"
WHY = {"reason": "it reads zip codes of one person"}
ON_POSTGRES = pytest.mark.parametrize(
    "database_url", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)
"""SQLite has one writer at a time."""


def test_a_withdrawn_release_leaves_the_targets_and_says_why(any_house: ApiHouse) -> None:
    view = signed(any_house)
    signed(any_house, version="1.1.0")
    operator, publisher = any_house.client(Role.OPERATOR), any_house.client(Role.PUBLISHER)
    for body in ({}, {"reason": ""}, {"reason": " "}):
        assert operator.post(f"{PATH}:withdraw", json=body).status_code == 422
    assert publisher.post(f"{PATH}:withdraw", json=WHY).status_code == 403
    tried = operator.post(f"{PATH}:withdraw", params={"dry_run": True}, json=WHY)
    assert tried.json()["withdrawn"]["reason"] == WHY["reason"]
    assert any_house.parts.signing.target(view.target) is not None, "a dry run changes nothing"
    body = operator.post(f"{PATH}:withdraw", json=WHY).json()
    assert (body["state"], len(body["bundles"])) == ("ready", 1)
    assert (body["withdrawn"]["by"], body["withdrawn"]["reason"]) == ("test", WHY["reason"])
    assert any_house.parts.signing.target(view.target) is None
    assert any_house.parts.signing.target(f"digits/1.1.0/{PROFILE}.bundle") is not None
    again = operator.post(f"{PATH}:withdraw", json={"reason": "another"}).json()
    assert again["withdrawn"] == body["withdrawn"], "the first reason stays"
    (event,) = any_house.client(Role.VIEWER).get("/api/v1/events", params={"kind": "release"}).json()["items"]
    assert (event["type"], event["detail"]["reason"]) == ("edgefleet.release.withdrawn", WHY["reason"])
    listed = any_house.client(Role.VIEWER).get("/api/v1/releases").json()["items"]
    assert [one["withdrawn"] is None for one in listed] == [True, False]


def test_everything_refuses_a_withdrawn_release_with_its_reason(any_house: ApiHouse) -> None:
    signed(any_house)
    operator, publisher = any_house.client(Role.OPERATOR), any_house.client(Role.PUBLISHER)
    assert publisher.put("/api/v1/models/digits/aliases/prod", json={"version": "1.0.0"}).status_code == 201
    operator.post(f"{PATH}:withdraw", json=WHY)
    spec = {"release": str(REF), "selector": "", "stages": [{"name": "all", "size": {"percent": 100}}]}
    answers = [
        operator.post(f"{PATH}:deploy", json={"selector": ""}),
        operator.post(f"{PATH}:deploy", json={"selector": "", "dry_run": True}),
        operator.post("/api/v1/releases/digits@prod:deploy", json={"selector": ""}),
        operator.post("/api/v1/rollouts", json=spec),
        operator.post("/api/v1/rollouts:plan", json=spec),
        publisher.put("/api/v1/models/digits/aliases/next", json={"version": "1.0.0"}),
        publisher.post("/api/v1/releases", json=release_body(b"a model")),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (409, "release.withdrawn"), answer.text
        assert WHY["reason"] in answer.json()["detail"]


def test_nothing_of_it_is_signed_after_a_withdrawal(any_house: ApiHouse) -> None:
    any_house.put(b"a model")
    both = release_body(b"a model", profiles=[PROFILE, "generic-aarch64-ort"])
    any_house.client(Role.PUBLISHER).post("/api/v1/releases", json=both)
    view = sign(any_house)
    late = work(any_house)
    body = any_house.client(Role.OPERATOR).post(f"{PATH}:withdraw", json=WHY).json()
    assert [job["state"] for job in body["jobs"]] == ["done", "cancelled"]
    with pytest.raises(ReleaseWithdrawnError):
        any_house.parts.registry.accept_bundle(view)
    assert any_house.parts.conversion.counts()[JobState.RUNNING] == 0, f"{late.id} is nobody's any more"


def test_only_what_was_signed_is_withdrawn(house: ApiHouse) -> None:
    house.put(b"a model")
    house.client(Role.PUBLISHER).post("/api/v1/releases", json=release_body(b"a model"))
    answer = house.client(Role.OPERATOR).post(f"{PATH}:withdraw", json=WHY)
    assert (answer.status_code, answer.json()["code"]) == (409, "release.unsigned")
    assert "edgectl release delete" in answer.json()["next"]


def test_a_deleted_release_is_gone_with_its_bytes_and_a_signed_version_is_never_used_again(any_house: ApiHouse) -> None:
    view = signed(any_house)
    shared = signed(any_house, version="1.1.0")  # of the same source
    publisher = any_house.client(Role.PUBLISHER)
    assert any_house.client(Role.OPERATOR).delete(PATH).status_code == 403
    assert publisher.delete(PATH, params={"dry_run": True}).status_code == 204
    assert any_house.parts.registry.blob_size(view.sha256) is not None
    assert publisher.delete(PATH, params={"reason": "a typo"}).status_code == 204
    assert publisher.get(PATH).json()["code"] == "release.unknown"
    registry, signing = any_house.parts.registry, any_house.parts.signing
    assert signing.target(view.target) is None
    assert registry.blob_size(view.sha256) is None
    assert not any(path.name == view.sha256 for path in any_house.settings.blobs_dir.rglob("*"))
    assert registry.read_blob(registry.source_of(shared.ref).files[0].sha256, 100) == b"a model", "others need it"
    again = publisher.post("/api/v1/releases", json=release_body(b"a model"))
    assert (again.status_code, again.json()["code"]) == (409, "release.removed")
    assert "new version" in again.json()["next"]
    assert publisher.delete("/api/v1/releases/digits@1.1.0").status_code == 204
    assert publisher.get("/api/v1/models").json()["total"] == 0
    assert signing.lost_models() == [], "an emptied role is not one that was lost"
    signed(any_house, version="2.0.0")
    events = publisher.get("/api/v1/events", params={"kind": "release"}).json()["items"]
    assert {(one["type"], one["detail"]["reason"]) for one in events} == {
        ("edgefleet.release.deleted", "a typo"),
        ("edgefleet.release.deleted", ""),
    }


def test_an_unsigned_release_is_deleted_and_its_version_is_free(any_house: ApiHouse) -> None:
    any_house.put(b"a model")
    publisher = any_house.client(Role.PUBLISHER)
    publisher.post("/api/v1/releases", json=release_body(b"a model"))
    busy = publisher.delete(PATH)
    assert (busy.status_code, busy.json()["code"]) == (409, "release.converting")
    report = any_house.put(b"{}")
    refuse(any_house, report=report)
    assert publisher.delete(PATH).status_code == 204
    assert any_house.parts.registry.blob_size(report) is None  # type: ignore[arg-type]
    assert publisher.post("/api/v1/releases", json=release_body(b"a model")).json()["code"] == "blob.unknown"
    any_house.put(b"a model")
    assert publisher.post("/api/v1/releases", json=release_body(b"a model")).json()["attempt"] == 1


def test_a_release_that_something_names_is_not_deleted(any_house: ApiHouse) -> None:
    signed(any_house)
    publisher = any_house.client(Role.PUBLISHER)
    publisher.put("/api/v1/models/digits/aliases/prod", json={"version": "1.0.0"})
    answer = publisher.delete(PATH)
    assert (answer.status_code, answer.json()["code"]) == (409, "release.in_use")
    assert "digits@prod stands for it" in answer.json()["detail"]
    assert f"edgectl release withdraw {REF}" in answer.json()["next"]
    assert publisher.delete("/api/v1/releases/digits@prod").json()["code"] == "release.unknown", "never by an alias"


def test_bytes_that_are_uploaded_again_stay(house: ApiHouse) -> None:
    book: WithdrawalBook = house.parts.registry.withdrawals
    sha256 = house.put(b"once more")
    book.drop([sha256])  # type: ignore[list-item]  # it is recorded again
    assert house.parts.registry.read_blob(sha256, 100) == b"once more"  # type: ignore[arg-type]


def test_bytes_that_could_not_be_removed_go_later(any_house: ApiHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    view = signed(any_house)
    shared = signed(any_house, version="1.1.0")  # of the same source
    registry, publisher = any_house.parts.registry, any_house.client(Role.PUBLISHER)

    def refuse_to_remove(_sha256: object) -> None:
        raise BlobStoreError("no connection")

    with monkeypatch.context() as broken:
        broken.setattr(registry._blobs, "remove", refuse_to_remove)
        assert publisher.delete(PATH).status_code == 204, "the release is gone all the same"
        hourly = dict(build_engine(any_house.parts)._work.hourly)["remove bytes of deleted releases"]
        hourly(any_house.clock.now())
    assert any_house.settings.blobs_dir.joinpath(view.sha256[:2], view.sha256).exists()
    assert registry.blob_size(view.sha256) is None, "it is no blob any more"
    for _ in range(2):
        hourly(any_house.clock.now())
    assert not any_house.settings.blobs_dir.joinpath(view.sha256[:2], view.sha256).exists()
    assert registry.read_blob(shared.sha256, 100) == b"bundle of digits@1.1.0 for " + PROFILE.encode()
    assert registry.read_blob(shared.leaves, 100) == b"l" * 32
    assert registry.read_blob(registry.source_of(shared.ref).files[0].sha256, 100) == b"a model"


def test_what_is_uploaded_again_before_its_bytes_are_removed_stays(any_house: ApiHouse) -> None:
    registry = any_house.parts.registry
    sha256 = registry.put_blob_bytes(b"in use again")
    with any_house.parts.db.session() as session:
        store.discard_blobs(session, [sha256], any_house.clock.now())
    assert any_house.put(b"in use again") == sha256
    assert registry.withdrawals.drop_left() == 0
    assert registry.read_blob(sha256, 100) == b"in use again"


def test_an_upload_whose_bytes_were_removed_meanwhile_is_refused(house: ApiHouse) -> None:
    registry = house.parts.registry
    with registry.upload() as writer:
        writer.write(b"unlucky")
        finish = writer.finish

        def removed(expected: object) -> object:
            sha256 = finish(None)
            registry._blobs.remove(sha256)
            return sha256

        writer.finish = removed  # type: ignore[method-assign, assignment]
        with pytest.raises(BlobStoreError, match="removed while"):
            registry.finish_upload(writer, None)


@ON_POSTGRES
def test_an_alias_that_is_set_during_a_deletion_keeps_the_release(
    any_house: ApiHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed(any_house)
    signed(any_house, version="1.1.0")
    registry = any_house.parts.registry
    hold = registry.withdrawals.hold

    def set_alias_first(ref: ReleaseRef) -> None:
        with ThreadPoolExecutor(1) as other:
            other.submit(registry.aliases.set, ref.model, "prod", ref.version, "ann").result(30)
        hold(ref)

    monkeypatch.setattr(registry.withdrawals, "hold", set_alias_first)
    answer = any_house.client(Role.PUBLISHER).delete(PATH)
    assert (answer.status_code, answer.json()["code"]) == (409, "release.in_use")


@ON_POSTGRES
@pytest.mark.parametrize("is_last", [True, False])
def test_files_of_what_is_published_during_a_deletion_stay(any_house: ApiHouse, *, is_last: bool) -> None:
    signed(any_house)
    if not is_last:
        any_house.put(b"another")
        any_house.client(Role.PUBLISHER).post("/api/v1/releases", json=release_body(b"another", version="0.9.0"))
    registry = any_house.parts.registry
    source = registry.source_of(REF)
    next_one = Publication(
        ReleaseRef.parse("digits@1.1.0"), source.kind, source.files, (ProfileName(PROFILE),), (), {}, {}
    )
    is_published = Event()

    def publish_slowly() -> None:
        with any_house.parts.db.session():
            registry.publish(next_one, "ann")
            is_published.set()
            time.sleep(0.5)  # until the deletion waits for the files

    with ThreadPoolExecutor(1) as other:
        published = other.submit(publish_slowly)
        assert is_published.wait(30)
        assert any_house.client(Role.PUBLISHER).delete(PATH).status_code == 204
        published.result(30)
    assert registry.read_blob(source.files[0].sha256, 100) == b"a model"


@ON_POSTGRES
def test_a_version_that_is_published_again_during_its_deletion(
    any_house: ApiHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    any_house.put(b"a model")
    publisher = any_house.client(Role.PUBLISHER)
    publisher.post("/api/v1/releases", json=release_body(b"a model"))
    refuse(any_house)
    has_files, has_release = Event(), Event()
    check_blobs, lock_blobs = rules.check_blobs, store.lock_blobs

    def meet_deletion(publication: Publication, lengths: Mapping[str, int]) -> None:
        check_blobs(publication, lengths)
        has_files.set()
        has_release.wait(0.5)  # in the right order it comes never

    def meet_publication(session: Session, digests: Collection[str]) -> None:
        has_release.set()
        lock_blobs(session, digests)

    monkeypatch.setattr(rules, "check_blobs", meet_deletion)
    monkeypatch.setattr(store, "lock_blobs", meet_publication)
    any_house.put(b"a better model")
    with ThreadPoolExecutor(1) as other:
        body = release_body(b"a model", data={"labels": any_house.put(b"one")})
        published = other.submit(publisher.post, "/api/v1/releases", json=body)
        assert has_files.wait(30)
        deleted = any_house.client(Role.PUBLISHER).delete(PATH)
    assert (published.result(30).status_code, published.result(30).json().get("attempt")) == (201, 2)
    assert (deleted.status_code, deleted.json()["code"]) == (409, "release.converting")


@ON_POSTGRES
def test_a_version_that_is_deleted_before_it_is_published_again(
    any_house: ApiHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    any_house.put(b"a model")
    publisher = any_house.client(Role.PUBLISHER)
    publisher.post("/api/v1/releases", json=release_body(b"a model"))
    refuse(any_house)
    labels = any_house.put(b"one")
    is_held = Event()
    lock_blobs = store.lock_blobs

    def delete_slowly(session: Session, digests: Collection[str]) -> None:
        is_held.set()
        time.sleep(0.3)  # until the publication waits for it
        lock_blobs(session, digests)

    monkeypatch.setattr(store, "lock_blobs", delete_slowly)
    with ThreadPoolExecutor(1) as other:
        deleted = other.submit(any_house.client(Role.PUBLISHER).delete, PATH)
        assert is_held.wait(30)
        published = publisher.post("/api/v1/releases", json=release_body(b"a model", data={"labels": labels}))
    assert deleted.result(30).status_code == 204
    assert published.json()["code"] == "blob.unknown", "its files went with the deleted version"
    assert publisher.get("/api/v1/models").json()["total"] == 0
