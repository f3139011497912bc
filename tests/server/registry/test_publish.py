"""Publishing: idempotent, refused when something else, profiles chosen and explained. On both databases."""

import copy
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import col, select

import edgefleet_profiles
from edgefleet_profiles.profile import profile_to_dict
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.access.model import Role
from edgefleet_server.conversion.tables import JobRow
from edgefleet_server.registry.errors import BadSourceError
from edgefleet_server.registry.model import SourceFile
from edgefleet_server.registry.rules import check_source, check_source_path, release_state, source_digest
from edgefleet_server.registry.schemas import OptionsIn
from tests.server.registry.worked import sign
from tests.support.servers import PROFILE, ApiHouse, release_body

MODEL = b"a model"


def publish(house: ApiHouse, body: dict[str, Any]) -> Any:
    """Send the body as a publisher."""
    return house.client(Role.PUBLISHER).post("/api/v1/releases", json=body)


def test_the_same_again_is_the_same_release(any_house: ApiHouse) -> None:
    any_house.put(MODEL)
    first, again = publish(any_house, release_body(MODEL)), publish(any_house, release_body(MODEL))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert first.json()["state"] == "converting"
    assert first.json()["ref"] == "digits@1.0.0"
    assert first.json()["profiles_reason"] == "chosen by the publisher"
    assert [(job["profile"], job["state"]) for job in first.json()["jobs"]] == [(PROFILE, "queued")]
    assert first.headers["location"] == "/api/v1/releases/digits@1.0.0"


@pytest.mark.parametrize("part", ["source", "data", "options"])
def test_a_version_never_becomes_something_else(any_house: ApiHouse, part: str) -> None:
    any_house.put(MODEL)
    other = any_house.put(b"other")
    publish(any_house, release_body(MODEL))
    sign(any_house)
    changed = {
        "source": release_body(b"other"),
        "data": release_body(MODEL, data={"labels": other}),
        "options": release_body(MODEL, options={"precision": "fp32"}),
    }[part]
    answer = publish(any_house, changed)
    assert answer.status_code == 409
    assert answer.json()["code"] == "release.exists_different"
    assert part in answer.json()["detail"]
    assert "new version" in answer.json()["next"]


def test_a_release_may_gain_profiles_but_not_twice(any_house: ApiHouse) -> None:
    any_house.put(MODEL)
    publish(any_house, release_body(MODEL))
    for _ in range(2):
        more = publish(any_house, release_body(MODEL, profiles=[PROFILE, "generic-aarch64-ort"]))
        assert more.status_code == 200
        assert [job["profile"] for job in more.json()["jobs"]] == [PROFILE, "generic-aarch64-ort"]
    plain = publish(any_house, release_body(MODEL, profiles=None))
    assert len(plain.json()["jobs"]) == 2


def test_a_publisher_cannot_name_code_for_the_server_to_run(any_house: ApiHouse, tmp_path: Path) -> None:
    any_house.put(MODEL)
    for metric in ("os:system", "subprocess:call", "builtins:exec"):
        answer = publish(any_house, release_body(MODEL, options={"metric": metric}))
        assert (answer.status_code, answer.json()["code"]) == (422, "release.bad_metric")
        assert "custom_metrics" in answer.json()["next"]
    assert any_house.client(Role.VIEWER).get("/api/v1/releases").json()["total"] == 0
    allowing = ApiHouse(tmp_path / "allowing", custom_metrics=("mine.metrics:f1",))
    allowing.put(MODEL)
    assert publish(allowing, release_body(MODEL, options={"metric": "mine.metrics:f1"})).status_code == 201
    assert publish(allowing, release_body(MODEL, options={"metric": "os:system"})).status_code == 422
    allowing.close()


def test_a_publisher_cannot_have_a_pickle_read_unless_the_operator_allows_it(
    any_house: ApiHouse, tmp_path: Path
) -> None:
    any_house.put(MODEL)
    answer = publish(any_house, release_body(MODEL, options={"allow_pickle": True}))
    assert (answer.status_code, answer.json()["code"]) == (422, "release.pickle_not_allowed")
    assert answer.json()["next"] == "export the model to ONNX where it was trained, and publish that file"
    allowing = ApiHouse(tmp_path / "allowing", allow_pickle=True)
    allowing.put(MODEL)
    assert publish(allowing, release_body(MODEL, options={"allow_pickle": True})).status_code == 201
    allowing.close()


def test_options_that_came_later_do_not_make_an_old_release_another_one(any_house: ApiHouse) -> None:
    any_house.put(MODEL)
    old = {"precision": "auto", "metric": None, "max_drop": 0.01}
    assert OptionsIn().as_given() == old
    assert publish(any_house, release_body(MODEL, options=old)).status_code == 201
    sign(any_house)
    empty = old | {"shapes": {}, "values": {}, "allow_pickle": False, "explore": False}
    assert publish(any_house, release_body(MODEL, options=empty)).status_code == 200
    fixed = publish(any_house, release_body(MODEL, options={"shapes": {"x": [1, 4]}, "values": {"sr": 16000}}))
    assert fixed.status_code == 409
    assert "options.shapes" in fixed.json()["detail"]


@pytest.mark.parametrize(
    "options", [{"shapes": {"x": [0]}}, {"shapes": {"x": []}}, {"values": {"": 1}}, {"values": {"x": "a"}}]
)
def test_shapes_and_values_are_checked_at_the_door(any_house: ApiHouse, options: dict[str, Any]) -> None:
    any_house.put(MODEL)
    assert publish(any_house, release_body(MODEL, options=options)).status_code == 422


def test_a_path_is_a_file_or_a_folder() -> None:
    digest = Sha256("0" * 64)
    for paths in (("a", "a/b"), ("x/A", "x/a/b/c")):
        with pytest.raises(BadSourceError, match="file and as a folder"):
            check_source("folder", [SourceFile(path, digest, 1) for path in paths])
    check_source("folder", [SourceFile(path, digest, 1) for path in ("a/b", "a/c", "ab")])


def test_without_devices_the_two_generic_profiles_are_taken_and_it_says_so(any_house: ApiHouse) -> None:
    any_house.put(MODEL)
    body = publish(any_house, release_body(MODEL, profiles=None)).json()
    assert [job["profile"] for job in body["jobs"]] == ["generic-x86_64-ort", "generic-aarch64-ort"]
    assert "no device is enrolled" in body["profiles_reason"]


def test_publishing_at_the_same_time_makes_one_release(any_house: ApiHouse) -> None:
    any_house.put(MODEL)
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(publish(any_house, release_body(MODEL)).status_code))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200, 200, 200, 201]
    assert len(any_house.parts.registry.release(ReleaseRef.parse("digits@1.0.0")).jobs) == 1


def test_missing_blobs_wrong_lengths_and_unknown_profiles_are_refused_and_leave_nothing(house: ApiHouse) -> None:
    assert publish(house, release_body(MODEL)).json()["code"] == "blob.unknown"
    house.put(MODEL)
    wrong = release_body(MODEL)
    wrong["source"]["files"][0]["length"] += 1
    assert publish(house, wrong).json()["code"] == "blob.length_mismatch"
    refused = publish(house, release_body(MODEL, profiles=["toaster"]))
    assert refused.json()["code"] == "profile.unknown"
    assert PROFILE in refused.json()["next"]
    assert publish(house, release_body(MODEL, data={"eval": "0" * 64})).json()["code"] == "blob.unknown"
    assert house.client(Role.VIEWER).get("/api/v1/models").json()["total"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "Digits"),
        ("model", "targets"),
        ("model", "a/b"),
        ("version", ""),
        ("version", ".."),
        ("profiles", ["A"]),
    ],
)
def test_names_outside_their_grammar_are_refused(house: ApiHouse, field: str, value: Any) -> None:
    house.put(MODEL)
    assert publish(house, release_body(MODEL, **{field: value})).status_code == 422


def test_a_profile_of_its_own_comes_with_the_publication_and_stays(house: ApiHouse) -> None:
    house.put(MODEL)
    own = profile_to_dict(house.parts.registry.profile(PROFILE)) | {"name": "my-board-ort", "title": "My board"}
    body = publish(house, release_body(MODEL, profiles=None, profile_files=[own])).json()
    assert [job["profile"] for job in body["jobs"]] == ["my-board-ort"]
    viewer = house.client(Role.VIEWER)
    assert viewer.get("/api/v1/profiles/my-board-ort").json() == own
    assert "my-board-ort" in [item["name"] for item in viewer.get("/api/v1/profiles").json()["items"]]
    changed = copy.deepcopy(own) | {"ram_mb": 65_536}
    answer = publish(house, release_body(MODEL, version="2", profiles=None, profile_files=[changed]))
    assert answer.json()["code"] == "profile.exists_different"
    bad = publish(house, release_body(MODEL, version="2", profiles=None, profile_files=[{"name": "x"}]))
    assert bad.json()["code"] == "profile.bad"


def test_every_profile_that_comes_with_edgefleet_is_served_whole(house: ApiHouse) -> None:
    viewer = house.client(Role.VIEWER)
    listed = {item["name"]: item for item in viewer.get("/api/v1/profiles").json()["items"]}
    assert set(listed) == set(edgefleet_profiles.names())
    for name, item in listed.items():
        assert item == viewer.get(f"/api/v1/profiles/{name}").json() == profile_to_dict(edgefleet_profiles.load(name))
    assert listed["coral-tflite-edgetpu"]["backend"]["mode"] == "prepare"


def test_lists_are_pages_by_cursor(any_house: ApiHouse) -> None:
    any_house.put(MODEL)
    for version in ("1", "2", "3"):
        publish(any_house, release_body(MODEL, version=version))
    publish(any_house, release_body(MODEL, model="other"))
    viewer = any_house.client(Role.VIEWER)
    seen, cursor = [], None
    while True:
        page = viewer.get(
            "/api/v1/releases", params={"model": "digits", "limit": 2} | ({"cursor": cursor} if cursor else {})
        ).json()
        seen += [item["version"] for item in page["items"]]
        assert page["total"] == 3
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ["3", "2", "1"]
    models = viewer.get("/api/v1/models").json()["items"]
    assert [(m["name"], m["releases"], m["latest"]) for m in models] == [
        ("digits", 3, "digits@3"),
        ("other", 1, "other@1.0.0"),
    ]


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../b", "a//b", ".hidden", "a/", "", "a\\b", "x" * 300, "a\n"])
def test_hostile_source_paths_are_refused(path: str) -> None:
    with pytest.raises(BadSourceError):
        check_source_path(path)


@given(st.permutations([SourceFile("a", Sha256("1" * 64), 1), SourceFile("b/c", Sha256("2" * 64), 2)]))
def test_a_folder_has_one_digest_in_any_order(files: list[SourceFile]) -> None:
    assert source_digest("folder", files) == source_digest("folder", sorted(files, key=lambda f: f.path))


@pytest.mark.parametrize(
    ("jobs", "bundles", "state"),
    [
        (["queued", "done"], 1, "converting"),
        (["running"], 0, "converting"),
        (["done", "done"], 2, "ready"),
        (["done", "refused"], 1, "partial"),
        (["done", "failed"], 1, "partial"),
        (["refused", "failed"], 0, "failed"),
        (["refused", "cancelled"], 0, "cancelled"),
        (["done", "cancelled"], 1, "partial"),
        (["queued", "cancelled"], 0, "converting"),
    ],
)
def test_release_state_follows_jobs_and_bundles(jobs: list[str], bundles: int, state: str) -> None:
    assert release_state(jobs, bundles) == state


@pytest.mark.parametrize("metric", ["top1", "agreement", "mae", "sequence", "detection", "scores"])
def test_every_metric_of_the_converters_can_be_published_with(house: ApiHouse, metric: str) -> None:
    house.put(MODEL)
    answer = publish(house, release_body(MODEL, options={"metric": metric}))
    assert answer.status_code == 201, answer.text


def test_a_profile_that_names_no_list_of_operators_takes_no_name(house: ApiHouse) -> None:
    house.put(MODEL)
    facts = profile_to_dict(edgefleet_profiles.load("generic-x86_64-litert")) | {"name": "my-board", "evidence": {}}
    wrong = release_body(MODEL, profiles=None, profile_files=[facts | {"operator_set": "nope"}])
    answer = publish(house, wrong)
    assert (answer.status_code, answer.json()["code"]) == (422, "profile.bad"), answer.text
    assert publish(house, release_body(MODEL, profiles=None, profile_files=[facts])).status_code == 201


def test_a_profile_with_half_a_character_does_not_break_the_list_of_profiles(house: ApiHouse) -> None:
    house.put(MODEL)
    facts = profile_to_dict(edgefleet_profiles.load(PROFILE)) | {"name": "my-board", "title": "half \ud800"}
    body = json.dumps(release_body(MODEL, profiles=None, profile_files=[facts]))
    headers = {"content-type": "application/json"}
    assert house.client(Role.PUBLISHER).post("/api/v1/releases", content=body, headers=headers).status_code == 422
    assert house.client(Role.VIEWER).get("/api/v1/profiles").status_code == 200


def test_where_a_source_came_from_is_kept_and_makes_no_other_release(any_house: ApiHouse) -> None:
    any_house.put(MODEL)
    told = {"uri": "mlflow:/digits/3", "run_id": "r1", "git_commit": "ab" * 20}
    assert publish(any_house, release_body(MODEL)).json()["lineage"] == {}
    known = publish(any_house, release_body(MODEL, lineage=told))
    assert (known.status_code, known.json()["lineage"]) == (200, told), "told later, where nothing was told before"
    other = publish(any_house, release_body(MODEL, lineage={"uri": "https://example.org/m.onnx"}))
    assert (other.status_code, other.json()["lineage"]) == (200, told), "the first word stays"
    shown = any_house.client(Role.VIEWER).get("/api/v1/releases/digits@1.0.0").json()
    assert shown["lineage"] == told


def test_a_parent_is_another_release_of_the_model(any_house: ApiHouse) -> None:
    any_house.put(MODEL)
    assert publish(any_house, release_body(MODEL)).status_code == 201

    def child(parent: str) -> tuple[int, str]:
        answer = publish(
            any_house, release_body(MODEL, version="1.1.0", lineage={"parent": parent, "retraining": "rt-1"})
        )
        return answer.status_code, answer.json().get("code", "")

    assert child("ocr@1.0.0") == (422, "release.bad_parent"), "of another model"
    assert child("digits@1.1.0") == (422, "release.bad_parent"), "itself"
    assert child("no release") == (422, "release.bad_parent")
    assert child("digits@0.9.0") == (404, "release.unknown"), "one that there is not"
    shown = any_house.client(Role.VIEWER).get("/api/v1/releases/digits@1.1.0")
    assert shown.status_code == 404, "a refused publication leaves nothing"
    assert child("digits@1.0.0")[0] == 201
    shown = any_house.client(Role.VIEWER).get("/api/v1/releases/digits@1.1.0").json()
    assert shown["lineage"] == {"parent": "digits@1.0.0", "retraining": "rt-1"}
    with any_house.parts.db.read() as session:
        jobs = session.exec(select(JobRow).where(JobRow.version == "1.1.0").order_by(col(JobRow.id))).all()
    asked = ["parent" in job.spec["data"] for job in jobs]
    assert asked == [True] + [False] * (len(jobs) - 1), "the first job asks both the same"


@pytest.mark.parametrize(
    "lineage",
    [{"Bad Key": "x"}, {"uri": ""}, {"uri": "x" * 501}, {"uri": "a\nb"}, {"uri": 3}, {f"k{i}": "v" for i in range(25)}],
)
def test_a_lineage_is_short_text_by_name(any_house: ApiHouse, lineage: dict[str, Any]) -> None:
    any_house.put(MODEL)
    assert publish(any_house, release_body(MODEL, lineage=lineage)).status_code == 422


def test_a_publisher_reads_what_a_release_was_made_of(any_house: ApiHouse) -> None:
    any_house.put(MODEL)
    assert publish(any_house, release_body(MODEL)).status_code == 201
    found = any_house.client(Role.PUBLISHER).get("/api/v1/releases/digits@1.0.0/source")
    sent = release_body(MODEL)
    assert found.status_code == 200, found.text
    assert found.json()["kind"] == sent["source"]["kind"]
    assert found.json()["files"] == sent["source"]["files"]
    assert found.json()["options"]["precision"] == "auto"
    assert any_house.client(Role.VIEWER).get("/api/v1/releases/digits@1.0.0/source").status_code == 403
    assert any_house.client(Role.PUBLISHER).get("/api/v1/releases/digits@9/source").status_code == 404
