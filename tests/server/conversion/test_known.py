"""What was converted before is taken over under a new version; reports are served; a conversion can be cancelled. Real children."""

import contextlib
import sys
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from edgefleet_protocol.bundle import Bundle, open_bundle
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.access.model import Role
from edgefleet_server.clock import SystemClock
from edgefleet_server.conversion import reports
from edgefleet_server.process.conversion_worker import Worker
from edgefleet_server.registry.model import BundleView
from tests.converters.graphs import classifier
from tests.server.conversion.test_engine import FAKE, converting
from tests.support.servers import PROFILE, ApiHouse, HandClock, release_body

TOOLS = "a" * 64


def publish(house: ApiHouse, source: bytes, version: str, **changes: Any) -> dict[str, Any]:
    """Publish a source, work on what waits, and return the release as REST shows it."""
    house.put(source)
    body = release_body(source, version=version, **changes)
    assert house.client(Role.PUBLISHER).post("/api/v1/releases", json=body).status_code in {200, 201}
    worker = Worker(house.parts, "w")
    while worker.run_once():
        pass
    return release(house, version)


def release(house: ApiHouse, version: str) -> dict[str, Any]:
    shown: dict[str, Any] = house.client(Role.VIEWER).get(f"/api/v1/releases/digits@{version}").json()
    return shown


def bundle(house: ApiHouse, version: str) -> Bundle:
    view = house.parts.registry.bundle_for(ReleaseRef.parse(f"digits@{version}"), PROFILE)
    assert view is not None
    opened = open_bundle(BytesIO(house.parts.registry.read_blob(view.sha256, 1 << 30)))
    opened.verify_members()
    return opened


def maker(house: ApiHouse, version: str) -> str:
    """Return which process made a bundle; it stands in the manifest of the test's own converter."""
    return bundle(house, version).manifest.licence


def test_the_same_under_a_new_version_is_packed_again_and_not_made_again(tmp_path: Path, database_url: str) -> None:
    house = converting(tmp_path, database_url)
    source = f"known {TOOLS} model".encode()
    first, second = publish(house, source, "1.0.0"), publish(house, source, "1.0.1")
    assert (first["state"], second["state"]) == ("ready", "ready")
    assert maker(house, "1.0.1") == maker(house, "1.0.0")
    assert bundle(house, "1.0.1").manifest.version == "1.0.1"
    (old,), (new,) = first["bundles"], second["bundles"]
    assert new["sha256"] != old["sha256"]
    assert new["target"] == f"digits/1.0.1/{PROFILE}.bundle"
    for name in ("bytes", "fp32_bytes", "ratio", "precision", "runtime"):
        assert new[name] == old[name]
    report = house.client(Role.VIEWER).get("/api/v1/releases/digits@1.0.1/report").json()
    assert (report["version"], report["kept_from"]) == ("1.0.1", "digits@1.0.0")
    assert report["profiles"][0]["bundle"]["sha256"] == new["sha256"]
    house.close()


@pytest.mark.parametrize(
    "changes",
    [{"options": {"max_drop": 0.02}}, {"options": {"precision": "fp32"}}, {"data": "labels"}, {"profiles": ["generic-aarch64-ort"]}],
)  # fmt: skip
def test_another_content_is_made_anew(tmp_path: Path, changes: dict[str, Any]) -> None:
    house = converting(tmp_path)
    source = f"known {TOOLS} model".encode()
    publish(house, source, "1.0.0")
    if changes.get("data"):
        changes = {"data": {"labels": house.put(b"one\ntwo\n")}}
    again = publish(house, source, "1.0.1", **changes)
    assert again["state"] == "ready"
    assert "kept_from" not in house.client(Role.VIEWER).get("/api/v1/releases/digits@1.0.1/report").json()
    house.close()


def test_other_tools_and_a_child_that_does_not_tell_them_convert_anew(tmp_path: Path) -> None:
    house = converting(tmp_path)
    for source in (f"known {'b' * 64} model", "known no-digest model", "good model"):
        publish(house, source.encode(), f"1-{len(source)}")
        publish(house, source.encode(), f"2-{len(source)}")
        known = maker(house, f"1-{len(source)}") == maker(house, f"2-{len(source)}")
        assert known == source.startswith("known b")
    house.close()


def test_one_child_tells_for_all_that_follows_soon(tmp_path: Path) -> None:
    converter = tmp_path / "converter.py"
    converter.write_bytes(Path(FAKE[1]).read_bytes())
    clock = HandClock()
    house = ApiHouse(tmp_path / "server", None, clock, converter_command=(sys.executable, str(converter)))
    worker = Worker(house.parts, "w")
    source = f"known {TOOLS} model".encode()
    house.put(source)
    states = []
    for version, seconds in (("1", 0), ("2", 9), ("3", 2)):
        clock.turn(seconds=seconds)
        house.client(Role.PUBLISHER).post("/api/v1/releases", json=release_body(source, version=version))
        assert worker.run_once()
        states.append(release(house, version)["state"])
        converter.unlink(missing_ok=True)
    assert states == ["ready", "ready", "failed"], (
        "made by a child, known without one, and asked again after ten seconds"
    )
    house.close()


def test_a_damaged_bundle_is_not_taken_over_but_made_anew(tmp_path: Path) -> None:
    house = converting(tmp_path)
    source = f"known {TOOLS} model".encode()
    digest = publish(house, source, "1.0.0")["bundles"][0]["sha256"]
    made_by = maker(house, "1.0.0")
    path = house.settings.blobs_dir / digest[:2] / digest
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    assert publish(house, source, "1.0.1")["state"] == "ready"
    assert maker(house, "1.0.1") != made_by
    house.close()


@pytest.mark.parametrize(("code", "is_known"), [("convert.accuracy", True), ("convert.timed_out", False)])
def test_a_refusal_is_known_unless_a_busy_machine_may_have_caused_it(tmp_path: Path, code: str, is_known: bool) -> None:
    house = converting(tmp_path)
    source = f"known-refuse {TOOLS} {code}".encode()
    (first,), (second,) = publish(house, source, "1.0.0")["refused"], publish(house, source, "1.0.1")["refused"]
    assert (second["code"], second["next"]) == (code, "retrain")
    assert (first["reason"] == second["reason"]) == is_known
    house.close()


def test_the_report_is_served_as_json_and_as_a_page_that_can_do_nothing(tmp_path: Path) -> None:
    house = converting(tmp_path)
    publish(house, b"report honest model", "1.0.0")
    viewer = house.client(Role.VIEWER)
    report = viewer.get("/api/v1/releases/digits@1.0.0/report").json()
    assert report["profiles"][0]["bundle"]["path"] == "", "no path of the server"
    page = viewer.get("/api/v1/releases/digits@1.0.0/report.html")
    assert page.status_code == 200, page.text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    for rule in ("sandbox;", "default-src 'none'", "frame-ancestors 'none'", "form-action 'none'"):
        assert rule in policy
    assert "script-src" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "&lt;b&gt;data" in page.text
    assert "<b>" not in page.text
    assert house.client().get("/api/v1/releases/digits@1.0.0/report").status_code == 401
    house.close()


def test_pages_are_made_a_few_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = converting(tmp_path)
    publish(house, b"report honest model", "1.0.0")
    viewer = house.client(Role.VIEWER)
    monkeypatch.setattr(reports, "_RENDERERS", threading.BoundedSemaphore(1))
    monkeypatch.setattr(reports, "_QUEUE_S", 0.0)
    with reports._RENDERERS:
        busy = viewer.get("/api/v1/releases/digits@1.0.0/report.html")
        assert (busy.status_code, busy.json()["code"]) == (503, "conversion.report_unavailable")
    for _ in range(2):
        assert viewer.get("/api/v1/releases/digits@1.0.0/report.html").status_code == 200
    house.close()


def test_half_a_character_in_a_report_can_be_read(tmp_path: Path) -> None:
    house = converting(tmp_path)
    assert publish(house, b"report surrogate model", "1.0.0")["state"] == "ready"
    viewer = house.client(Role.VIEWER)
    assert viewer.get("/api/v1/releases/digits@1.0.0/report").json()["data"] == {"judged_on": "\ud800"}
    page = viewer.get("/api/v1/releases/digits@1.0.0/report.html")
    assert page.status_code in {200, 500}
    assert page.status_code == 200 or page.json()["code"] == "conversion.report_broken"
    house.close()


@pytest.mark.parametrize(
    "source",
    [b"report liar", b"report nan", b"report deep", b"report huge", b"report infinite", b"report list", b"report nested", b"good model"],
)  # fmt: skip
def test_without_a_report_that_can_be_believed_there_is_none(tmp_path: Path, source: bytes) -> None:
    house = converting(tmp_path)
    assert publish(house, source, "1.0.0")["state"] == "ready"
    for path in ("report", "report.html"):
        answer = house.client(Role.VIEWER).get(f"/api/v1/releases/digits@1.0.0/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "conversion.report_unknown")
    house.close()


def test_a_report_bears_its_releases_name_whatever_the_child_wrote(tmp_path: Path) -> None:
    house = converting(tmp_path)
    publish(house, b"report alias model", "1.0.0")
    report = house.client(Role.VIEWER).get("/api/v1/releases/digits@1.0.0/report").json()
    assert (report["model"], report["version"], report.get("kept_from")) == ("digits", "1.0.0", None)
    house.close()


def test_a_link_that_a_child_left_is_not_written_through(tmp_path: Path) -> None:
    house = converting(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    source = f"known-plant {TOOLS} {victim}".encode()
    for version in ("1.0.0", "1.0.1"):
        assert publish(house, source, version)["state"] == "ready"
        assert victim.read_text() == "precious"
    assert maker(house, "1.0.1") == maker(house, "1.0.0")
    house.close()


@pytest.mark.parametrize("row", ['{"ratio": 1e999}', '{"metric": "x"}', '{"verdict": "\\ud800"}', '{"runtimes": [1]}'])
def test_a_bundle_whose_report_nobody_could_show_is_refused_and_the_list_stays(
    tmp_path: Path, database_url: str, row: str
) -> None:
    house = converting(tmp_path, database_url)
    (refused,) = publish(house, f"row {row}".encode(), "1.0.0")["refused"]
    assert refused["code"] == "conversion.bad_answer"
    assert house.client(Role.VIEWER).get("/api/v1/releases").status_code == 200
    house.close()


def test_cancelling_while_a_bundle_is_signed_locks_nobody_up(tmp_path: Path, database_url: str) -> None:
    house = converting(tmp_path, database_url)
    house.put(b"good model")
    publisher = house.client(Role.PUBLISHER)
    publisher.post("/api/v1/releases", json=release_body(b"good model"))
    answers: list[int] = []
    thread = threading.Thread(
        target=lambda: answers.append(publisher.post("/api/v1/releases/digits@1.0.0:cancel").status_code)
    )
    accept = house.parts.registry.accept_bundle

    def accept_and_wait(bundle: BundleView) -> None:
        accept(bundle)
        thread.start()
        while not house.parts.db.is_sqlite and thread.is_alive() and not waiting(house):
            pass

    house.parts.registry.accept_bundle = accept_and_wait  # type: ignore[method-assign]
    assert Worker(house.parts, "w").run_once()
    thread.join(20)
    assert answers == [409], "the bundle was there first"
    assert release(house, "1.0.0")["state"] == "ready"
    house.close()


def waiting(house: ApiHouse) -> bool:
    """Return whether a session of this PostgreSQL waits for a row of another."""
    with house.parts.db.engine.connect() as connection:
        return bool(connection.execute(text("SELECT 1 FROM pg_locks WHERE NOT granted LIMIT 1")).scalar())


def processes_of(job: Path) -> list[str]:
    """Return the processes of a job's child: its temporary folder stands in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={job}/".encode() in entry.read_bytes():
                found.append(entry.parent.name)
    return found


def test_a_search_that_is_asked_to_end_keeps_the_best(tmp_path: Path) -> None:
    house = converting(tmp_path)
    house.put(b"search model")
    publisher = house.client(Role.PUBLISHER)
    publisher.post("/api/v1/releases", json=release_body(b"search model", version="1.0.0"))
    worker = Worker(house.parts, "w")
    thread = threading.Thread(target=worker.run)
    thread.start()
    while not any(job["message"].startswith("best so far") for job in release(house, "1.0.0")["jobs"]):
        pass
    assert house.client(Role.VIEWER).post("/api/v1/releases/digits@1.0.0:end-search").status_code == 403
    asked = publisher.post("/api/v1/releases/digits@1.0.0:end-search")
    assert (asked.status_code, asked.json()["state"]) == (200, "converting")
    while release(house, "1.0.0")["state"] == "converting":
        pass
    worker.stop()
    thread.join(20)
    assert release(house, "1.0.0")["state"] == "ready"
    again = publisher.post("/api/v1/releases/digits@1.0.0:end-search")
    assert (again.status_code, again.json()["code"]) == (409, "conversion.over")
    house.close()


def test_a_cancelled_conversion_dies_and_the_next_one_starts(tmp_path: Path) -> None:
    house = converting(tmp_path)
    for source in (b"hang model", b"good model"):
        house.put(source)
    publisher = house.client(Role.PUBLISHER)
    publisher.post("/api/v1/releases", json=release_body(b"hang model", version="1.0.0"))
    publisher.post("/api/v1/releases", json=release_body(b"good model", version="1.0.1"))
    worker = Worker(house.parts, "w")
    thread = threading.Thread(target=worker.run)
    thread.start()
    found: list[Path] = []
    while not found:
        found = list((house.settings.run_dir / "jobs").rglob("running"))
    job = found[0].parent.parent
    assert processes_of(job)
    cancelled = publisher.post("/api/v1/releases/digits@1.0.0:cancel")
    assert cancelled.status_code == 200, cancelled.text
    assert cancelled.json()["state"] == "cancelled"
    (refused,) = cancelled.json()["refused"]
    assert (refused["code"], refused["reason"]) == ("conversion.cancelled", "cancelled by test")
    while release(house, "1.0.1")["state"] == "converting":
        pass
    assert not processes_of(job)
    worker.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert release(house, "1.0.1")["state"] == "ready"
    assert release(house, "1.0.0")["state"] == "cancelled"
    again = publisher.post("/api/v1/releases/digits@1.0.0:cancel")
    assert (again.status_code, again.json()["code"]) == (409, "conversion.over")
    body = release_body(b"hang model", version="1.0.0")
    assert publisher.post("/api/v1/releases", json=body).json()["state"] == "converting"
    assert house.client(Role.VIEWER).post("/api/v1/releases/digits@1.0.0:cancel").status_code == 403
    assert publisher.post("/api/v1/releases/digits@9:cancel").status_code == 404
    house.close()


def test_the_real_converter_gives_the_same_bytes_as_packing_again(tmp_path: Path) -> None:
    source = classifier(features=16).SerializeToString()
    options = {"options": {"precision": "fp32"}}
    house = ApiHouse(tmp_path / "one", None, SystemClock())
    publish(house, source, "1.0.0", **options)
    again = publish(house, source, "1.0.1", **options)
    report = house.client(Role.VIEWER).get("/api/v1/releases/digits@1.0.1/report").json()
    assert report["kept_from"] == "digits@1.0.0"
    house.close()
    other = ApiHouse(tmp_path / "two", None, SystemClock())
    anew = publish(other, source, "1.0.1", **options)
    assert again["bundles"][0]["sha256"] == anew["bundles"][0]["sha256"]
    other.close()
