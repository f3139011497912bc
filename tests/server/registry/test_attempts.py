"""A version is taken once a bundle of it was signed; what failed before that is kept as an attempt. On both databases."""

import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.access.model import Role
from edgefleet_server.conversion.errors import LeaseLostError
from edgefleet_server.conversion.model import JobState
from edgefleet_server.registry.model import ReleaseState
from edgefleet_server.registry.rules import Outcome, publish_outcome, release_state
from edgefleet_server.registry.service import KEPT_ATTEMPTS
from tests.server.registry.worked import refuse, sign, work
from tests.support.servers import PROFILE, ApiHouse, release_body

REF = ReleaseRef.parse("digits@1.0.0")
OTHER = "generic-aarch64-ort"
PICKLE, GOOD = b"a pickle", b"a good model"


def publish(house: ApiHouse, data: bytes, **changes: Any) -> Any:
    """Publish these bytes as digits@1.0.0."""
    house.put(data)
    return house.client(Role.PUBLISHER).post("/api/v1/releases", json=release_body(data, **changes))


def shown(house: ApiHouse) -> dict[str, Any]:
    """Return the release as REST shows it."""
    body: dict[str, Any] = house.client(Role.VIEWER).get(f"/api/v1/releases/{REF}").json()
    return body


def test_a_refused_publication_leaves_its_version_free_and_stays_readable(any_house: ApiHouse) -> None:
    publish(any_house, PICKLE, options={"precision": "fp32"})
    report = any_house.put(json.dumps({"profiles": [{"profile": PROFILE}]}).encode())
    refuse(any_house, "convert.pickle", "a pickle is code", report)
    again = publish(any_house, GOOD)
    assert (again.status_code, again.json()["state"], again.json()["attempt"]) == (201, "converting", 2)
    assert [(job["profile"], job["state"]) for job in again.json()["jobs"]] == [(PROFILE, "queued")]
    sign(any_house)
    body = shown(any_house)
    assert (body["state"], len(body["bundles"]), body["refused"]) == ("ready", 1, [])
    (before,) = body["attempts"]
    assert (before["number"], before["state"], before["created_by"]) == (1, "failed", "test")
    assert before["files"][0]["length"] == len(PICKLE)
    assert before["options"]["precision"] == "fp32"
    why = before["refused"][0]
    assert (why["profile"], why["code"], why["reason"]) == (PROFILE, "convert.pickle", "a pickle is code")
    assert why["report"] == report
    viewer = any_house.client(Role.VIEWER)
    assert viewer.get(f"/api/v1/releases/{REF}/report", params={"attempt": 1}).json()["profiles"]
    for number in ({"attempt": 3}, {}):
        answer = viewer.get(f"/api/v1/releases/{REF}/report", params=number)
        assert answer.json()["code"] == "conversion.report_unknown"
    assert publish(any_house, PICKLE).json()["code"] == "release.exists_different"


def test_the_same_bytes_again_are_no_new_attempt(house: ApiHouse) -> None:
    publish(house, PICKLE)
    refuse(house)
    again = publish(house, PICKLE)
    assert (again.status_code, again.json()["attempt"], again.json()["state"]) == (200, 1, "failed")


def test_one_signed_bundle_takes_the_version_whatever_became_of_the_others(any_house: ApiHouse) -> None:
    publish(any_house, GOOD, profiles=[PROFILE, OTHER])
    sign(any_house)
    refuse(any_house)
    assert shown(any_house)["state"] == "partial"
    answer = publish(any_house, b"other")
    assert (answer.status_code, answer.json()["code"]) == (409, "release.exists_different")
    assert "source.sha256" in answer.json()["detail"]
    assert "new version" in answer.json()["next"]


def test_nothing_else_comes_under_a_version_that_converts_and_a_cancelled_one_is_free(any_house: ApiHouse) -> None:
    publish(any_house, PICKLE)
    old = work(any_house)
    answer = publish(any_house, GOOD)
    assert (answer.status_code, answer.json()["code"]) == (409, "release.converting")
    assert f"edgectl release cancel {REF}" in answer.json()["next"]
    assert any_house.client(Role.PUBLISHER).post(f"/api/v1/releases/{REF}:cancel").status_code == 200
    assert publish(any_house, GOOD).status_code == 201
    with pytest.raises(LeaseLostError), any_house.parts.db.session():  # the worker that had it signs nothing of it
        any_house.parts.conversion.finish(old, JobState.DONE)
    assert shown(any_house)["attempts"][0]["state"] == "cancelled"


def test_of_two_at_once_one_starts_the_next_attempt_and_the_other_is_refused(any_house: ApiHouse) -> None:
    publish(any_house, PICKLE)
    refuse(any_house)
    answers: list[tuple[int, str]] = []

    def send(data: bytes) -> None:
        answer = publish(any_house, data)
        answers.append((answer.status_code, answer.json().get("code", "")))

    threads = [threading.Thread(target=send, args=(b"%d" % n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [(201, ""), (409, "release.converting"), (409, "release.converting")]
    assert (shown(any_house)["attempt"], len(shown(any_house)["jobs"])) == (2, 1)


def test_a_signature_that_was_not_committed_takes_nothing(any_house: ApiHouse) -> None:
    def cut() -> None:
        with any_house.parts.db.session():
            sign(any_house)
            raise RuntimeError("power cut")

    publish(any_house, PICKLE)
    with pytest.raises(RuntimeError, match="power cut"):
        cut()
    assert any_house.parts.signing.target(f"digits/1.0.0/{PROFILE}.bundle") is None
    refuse(any_house)
    assert publish(any_house, GOOD).status_code == 201


def test_the_oldest_attempts_go(house: ApiHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT_ATTEMPTS == 50
    monkeypatch.setattr("edgefleet_server.registry.service.KEPT_ATTEMPTS", 2)
    for number in range(4):
        publish(house, b"%d" % number)
        refuse(house)
    assert [one["number"] for one in shown(house)["attempts"]] == [3, 2]


@pytest.mark.parametrize(
    ("state", "bundles", "is_same", "outcome"),
    [
        (ReleaseState.FAILED, 0, False, Outcome.NEXT),
        (ReleaseState.CANCELLED, 0, False, Outcome.NEXT),
        (ReleaseState.CONVERTING, 0, False, Outcome.BUSY),
        (ReleaseState.CONVERTING, 1, False, Outcome.TAKEN),
        (ReleaseState.PARTIAL, 1, False, Outcome.TAKEN),
        (ReleaseState.READY, 2, False, Outcome.TAKEN),
        (ReleaseState.FAILED, 0, True, Outcome.SAME),
        (ReleaseState.READY, 2, True, Outcome.SAME),
    ],
)
def test_what_becomes_of_a_publication(state: ReleaseState, bundles: int, is_same: bool, outcome: Outcome) -> None:
    assert publish_outcome(state, bundles, is_same=is_same) is outcome
    assert publish_outcome(state, bundles, is_same=is_same, is_withdrawn=True) is Outcome.WITHDRAWN


ACTIONS = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from("abc")), st.tuples(st.sampled_from(["sign", "refuse", "cancel"]))
)


@given(st.lists(ACTIONS, max_size=30))
def test_what_a_version_stands_for_never_changes_once_something_was_signed(actions: list[tuple[str, ...]]) -> None:
    content, jobs, signed, attempts = "", list[str](), 0, list[str]()
    first_signed = ""
    for action, *given_content in actions:
        if action == "publish":
            (wanted,) = given_content
            state = release_state(jobs, signed) if content else ReleaseState.FAILED
            outcome = publish_outcome(state, signed, is_same=wanted == content)
            if outcome is Outcome.NEXT:
                attempts += [content] * bool(content)
                content, jobs = wanted, ["queued", "queued"]
        elif "queued" in jobs:
            jobs[jobs.index("queued")] = {"sign": "done", "refuse": "refused", "cancel": "cancelled"}[action]
            signed += action == "sign"
            first_signed = first_signed or content * (action == "sign")
        assert not first_signed or content == first_signed
        assert bool(first_signed) == (signed > 0)
        if content and not signed and "queued" not in jobs:
            assert publish_outcome(release_state(jobs, signed), signed, is_same=False) is Outcome.NEXT
    assert all(one != two for one, two in zip(attempts, [*attempts[1:], content], strict=False))
