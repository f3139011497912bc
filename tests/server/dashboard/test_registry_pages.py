"""Pages of models, versions, bundles, keys and profiles, over HTTP, on real services."""

import re
from collections.abc import Iterator

import msgspec
import pytest
from fastapi.testclient import TestClient

from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_protocol.messages import Phase, Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.registry.views import facts_of
from edgefleet_server.registry.model import Publication, SourceFile
from edgefleet_server.registry.schemas import BundleOut
from tests.converters.test_report_html import HOSTILE, metric, report
from tests.server.dashboard.fleet import LITERT, ORT, Fleet, follow
from tests.server.dashboard.forms_of import form, send
from tests.server.dashboard.shelf import shelve, stocked
from tests.server.dashboard.test_acting import do
from tests.server.dashboard.test_login_pages import assert_headers
from tests.server.dashboard.test_pages import part_of, text_of


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two versions of digits, one of them refused for a profile; three devices, two of which run 1.1.0. Tests only look at it."""
    fleet = Fleet(tmp_path_factory.mktemp("shop") / "server")
    stocked(fleet)
    yield fleet
    fleet.close()


def page(fleet: Fleet, path: str, *roles: Role) -> str:
    """Return a page that is there."""
    answer = fleet.browser(*(roles or (Role.VIEWER,))).get(path)
    assert answer.status_code == 200, (path, answer.status_code, text_of(answer.text)[:800])
    assert_headers(answer)
    assert answer.text.count("<h1") == 1
    return str(answer.text)


def test_models_name_the_newest_version_its_state_and_where_it_runs(shop: Fleet) -> None:
    told = part_of(page(shop, "/models"), "models")
    assert "digits 2 versions 1.1.0 running on 2 devices 1.0.0 running on 1 device 3 4.84 ms" in told
    assert "1.1.0 1 bundle; generic-x86_64-litert: refused" in told
    assert "1 of 1 model is live." in part_of(page(shop, "/models"), "head")
    assert "60.0 KiB" in told


def sent(browser: TestClient, path: str, operation: str, values: dict[str, str]) -> str:
    """Fill in the form of an operation on a page, send it, and return the page after it as words."""
    answer = send(browser, form(browser.get(path).text, f"/do/{operation}"), values)
    return text_of(browser.get(answer.headers["location"]).text if answer.status_code == 303 else answer.text)


def test_a_model_that_devices_run_is_never_a_failed_one(fleet: Fleet) -> None:
    shelve(fleet, "gauge@1.0.0", ORT)
    device = fleet.device("cam")
    fleet.parts.fleet.deployer.deploy(ReleaseRef.parse("gauge@1.0.0"), device=device.id)
    device.report(Phase.COMMITTED, model="gauge")
    shelve(fleet, "gauge@1.1.0", refuse={ORT: "top1 fell by 0.0412"})
    page = fleet.browser(Role.PUBLISHER, Role.OPERATOR).get("/models").text
    assert "1.0.0 running 1" in part_of(page, "models")
    assert "1.1.0</a>: nothing was signed, top1 fell by 0.0412" in page
    assert "state bad" not in page
    page = fleet.browser(Role.PUBLISHER, Role.OPERATOR).get("/models/gauge").text
    assert "1.0.0 running 1.0.0 runs on 1 device." in part_of(page, "standing").replace("gauge ", "")
    assert "state bad" not in page
    told = part_of(page, "versions")
    assert "1 of 2" in told
    assert "1 refused attempt 1.1.0 , just now : nothing was signed, top1 fell by 0.0412" in told
    assert "Not running on any device." in fleet.browser(Role.PUBLISHER).get("/models/gauge/1.1.0").text


def test_a_revoked_device_counts_nowhere_as_running_what_it_ran(fleet: Fleet) -> None:
    shelve(fleet, "gauge@1.0.0", ORT)
    devices = [fleet.device(f"cam{n}") for n in range(2)]
    for device in devices:
        fleet.parts.fleet.deployer.deploy(ReleaseRef.parse("gauge@1.0.0"), device=device.id)
        device.report(Phase.COMMITTED, model="gauge")
    fleet.parts.fleet.revocation.revoke(devices[0].id)
    assert "gauge 1 version 1.0.0 running 1 " in part_of(page(fleet, "/models"), "models")
    assert "1 of 1 devices" in part_of(page(fleet, "/models/gauge"), "versions")
    assert "It runs on 1 device." in part_of(page(fleet, "/models/gauge/1.0.0"), "head")


def test_a_withdrawal_is_shown_with_its_reason_wherever_the_version_is(fleet: Fleet) -> None:
    shelve(fleet, "gauge@1.0.0", ORT)
    device = fleet.device("cam")
    fleet.parts.fleet.deployer.deploy(ReleaseRef.parse("gauge@1.0.0"), device=device.id)
    device.report(Phase.COMMITTED, model="gauge")
    browser = fleet.browser(Role.PUBLISHER, Role.OPERATOR)
    whole = {"confirm": "gauge@1.0.0"}
    answer = sent(browser, "/models/gauge/1.0.0", "withdraw_release", {**whole, "body.reason": "it reads zip codes"})
    assert "Withdrew gauge@1.0.0" in answer
    for path in ("/models/gauge/1.0.0", "/models/gauge", "/models", f"/devices/{device.id}", "/rollouts/new"):
        page = browser.get(path).text
        assert "it reads zip codes" in page, path
        assert "withdrawn" in page, path
    assert "state warn" in browser.get("/models").text
    assert "No rollouts: this version was withdrawn." in browser.get("/models/gauge/1.0.0").text
    compared = browser.get("/models/gauge/compare?a=1.0.0&b=1.0.0").text
    assert "1.0.0 was withdrawn: it reads zip codes" in compared
    assert "Roll out" not in compared
    assert 'href="/rollouts/new?release=gauge' not in browser.get("/models/gauge/1.0.0").text
    assert "it was deployed to devices" in sent(browser, "/models/gauge/1.0.0", "delete_release", whole)


def test_an_earlier_attempt_is_shown_in_small(fleet: Fleet) -> None:
    shelve(fleet, "gauge@1.0.0", refuse={ORT: "top1 fell by 0.0412"})
    page = fleet.browser(Role.VIEWER).get("/models/gauge/1.0.0").text
    assert "Nothing was signed, so the version is still free" in page
    registry = fleet.parts.registry
    other = registry.put_blob_bytes(b"mended")
    profiles = (ProfileName(ORT),)
    registry.publish(
        Publication(
            ReleaseRef.parse("gauge@1.0.0"), "file", (SourceFile("mended.onnx", other, 6),), profiles, (), {}, {}
        ),
        "bob",
    )
    page = fleet.browser(Role.VIEWER).get("/models/gauge/1.0.0").text
    assert "1 earlier attempt without a signed bundle" in page
    assert "1: digits.onnx" in page
    assert "top1 fell by 0.0412" in page


def test_an_empty_registry_names_the_next_command(empty_fleet: Fleet) -> None:
    for path, command in {
        "/models": "edgectl publish MODEL",
        "/bundles": "edgectl publish MODEL",
        "/events": "edgectl device enroll",
    }.items():
        assert command in page(empty_fleet, path), path


def test_a_model_shows_each_versions_share_of_the_devices(shop: Fleet) -> None:
    text = page(shop, "/models/digits")
    told = part_of(text, "versions")
    there = [(one, shop.parts.fleet.reader.device(one).status) for one in shop.by_id]
    assert re.search(r"1\.1\.0 \S.* ago running .*1\.0\.0 \S.* ago running", told), (told, there)
    assert "2 of 3 devices" in told
    assert "1 of 3 devices" in told
    assert "generic-x86_64-litert: refused, top1 fell by 0.0412" in told
    assert "98.5 % top1 60.0 KiB 4.84 ms" in told
    assert 'width="66.67%"' in text
    assert "/models/digits/compare" in text
    assert "1.1.0 1 bundle, " in told
    assert f'title="for {ORT}; by ' in text


def test_a_version_shows_what_was_measured_predicted_and_seen(shop: Fleet) -> None:
    text = page(shop, "/models/digits/1.1.0")
    told = part_of(text, "bundles")
    assert "validated on onnxruntime 1.32.0" in told
    assert "60.0 KiB 25 % of float32" in told
    assert "top1 0.9850 0.0070 better than the source, 360 samples" in told
    assert "p50 0.81 ms p95 0.93 ms" in told
    assert re.search(r"p50 3\.\d\d ms, p95 4\.\d\d ms, 48\.0 MiB 2 devices", told), told
    assert "no errors" in told
    assert "refused generic-x86_64-litert : top1 fell by 0.0412 convert.metric Next: give more calibration data" in told


def test_the_card_tells_source_inputs_outputs_licence_and_where_it_runs(shop: Fleet) -> None:
    text = page(shop, "/models/digits/1.1.0")
    card = part_of(text, "card")
    assert "file digits.onnx" in card
    assert "Licence Apache-2.0" in card
    assert "image input float32 n × 1 × 8 × 8 NCHW" in card
    assert "logits output float32 n × 10" in card
    where = part_of(text, "where")
    assert "2 of 3 devices that run the model" in where
    assert all(f"/devices/{one}" in text for one in shop.by_id if not one.startswith("cam0"))
    assert "/rollouts/new?release=digits%401.1.0" in text
    assert "/models/digits/compare?a=1.0.0&amp;b=1.1.0" in text


def test_two_versions_are_compared_in_words_and_signs_not_by_colour_alone(shop: Fleet) -> None:
    text = page(shop, "/models/digits/compare?a=1.0.0&b=1.1.0")
    told = text_of(text)
    assert "Model size exact 40.0 KiB 60.0 KiB ▼ 50% larger" in told
    assert "Accuracy 360 samples each top1 0.9750 top1 0.9850 0.0100 better, could be chance" in told
    faster = r"On devices p50 1 and 2 devices [34]\.\d\d ms [23]\.\d\d ms [\d.]+ ms faster, too few devices to be sure"
    assert re.search(faster, told)
    assert "Errors on devices 600 and 1200 answers 4.00% 0.00% ▲ 4.00 points fewer" in told
    assert "Host latency p50 one run on the converting server 0.81 ms 0.81 ms same" in told
    assert "1.1.0 is better in 1 and worse in" in told


def test_the_comparison_begins_with_the_two_newest_and_says_what_is_missing(shop: Fleet) -> None:
    text = page(shop, "/models/digits/compare")
    assert re.findall(r"<option selected>(.*?)</option>", text) == ["1.0.0", "1.1.0"]
    assert "Model size exact 40.0 KiB 60.0 KiB ▼ 50% larger" in text_of(text)
    assert shop.browser(Role.VIEWER).get("/models/digits/compare?a=1.0.0&b=9.9.9").status_code == 404


@pytest.mark.parametrize("path", ["/models/none", "/models/digits/9.9.9", f"/bundles/{'0' * 64}", "/profiles/none"])
def test_what_is_not_there_is_a_page_that_says_so(shop: Fleet, path: str) -> None:
    answer = shop.browser(Role.VIEWER).get(path)
    assert answer.status_code == 404
    assert_headers(answer)
    assert "edgectl" in answer.text or "choose one of" in answer.text or "Overview" in answer.text


def test_conversions_under_way_show_how_far_they_are_and_can_be_stopped(fleet: Fleet) -> None:
    source = fleet.parts.registry.put_blob_bytes(b"source")
    ref = ReleaseRef.parse("digits@2.0.0")
    names = (ProfileName(ORT), ProfileName(LITERT))
    fleet.parts.registry.publish(Publication(ref, "file", (SourceFile("m.onnx", source, 6),), names, (), {}, {}), "ann")
    job, _ = fleet.parts.conversion.claim("test")
    assert job is not None
    fleet.parts.conversion.report(job, "quantize", "int8-static: 12 of 40 samples", 35.0)
    text = page(fleet, "/models/digits/2.0.0", Role.PUBLISHER)
    told = part_of(text, "progress")
    assert "35 %, quantize int8-static: 12 of 40 samples" in told
    assert "Waiting for a conversion worker: number 1 in the queue." in told
    assert 'action="/do/cancel_release"' in text
    assert 'action="/do/end_release_search"' in text
    assert 'action="/do/cancel_release"' not in page(fleet, "/models/digits/2.0.0")
    browser = fleet.browser(Role.PUBLISHER)
    ended = do(browser, "end_release_search", path__ref="digits@2.0.0", next="/models/digits/2.0.0")
    assert ended.status_code == 303, ended.text  # type: ignore[attr-defined]
    answer = do(browser, "cancel_release", path__ref="digits@2.0.0", next="/models/digits/2.0.0")
    assert answer.status_code == 303, answer.text  # type: ignore[attr-defined]
    assert "cancelled" in browser.get("/models/digits/2.0.0").text
    assert fleet.parts.registry.release(ref).state == "cancelled"


def test_deploying_from_the_version_page_writes_the_documents(fleet: Fleet) -> None:
    shelve(fleet, "digits@1.0.0", ORT)
    device = fleet.device("cam", labels={"site": "hall"})
    browser = fleet.browser(Role.OPERATOR)
    assert 'action="/do/deploy_release"' in browser.get("/models/digits/1.0.0").text
    answer = do(
        browser, "deploy_release", path__ref="digits@1.0.0", body__selector="site=hall", next="/models/digits/1.0.0",
        confirm_word="digits@1.0.0", confirm="digits@1.0.0",
    )  # fmt: skip
    assert answer.status_code == 303, answer.text  # type: ignore[attr-defined]
    wanted = device.desired().models["digits"].active
    assert wanted is not None
    assert wanted.target == f"digits/1.0.0/{ORT}.bundle"


def test_the_report_of_a_release_without_one_is_a_page_that_says_so(shop: Fleet) -> None:
    answer = shop.browser(Role.VIEWER).get("/models/digits/1.1.0/report")
    assert answer.status_code == 404
    assert "edgectl release show digits@1.1.0" in text_of(answer.text)


def reported(fleet: Fleet, ref: str, document: object) -> str:
    """Return the page of a release whose conversion left this report."""
    shelve(fleet, ref, ORT, report=str(fleet.parts.registry.put_blob_bytes(msgspec.json.encode(document))))
    return page(fleet, "/models/" + ref.replace("@", "/"))


def test_the_search_of_a_release_is_drawn_on_its_page(fleet: Fleet) -> None:
    shown = reported(fleet, "det@1.0.0", report())
    plots = re.findall(r'<svg class="front-plot".*?</svg>', shown)
    assert [re.search('aria-label="([^"]*)"', one).group(1) for one in plots] == [  # type: ignore[union-attr]
        "top1 against size of 4 models", "top1 against time of 4 models",
    ]  # fmt: skip
    assert "style=" not in shown, "the policy of pages allows no style of their own"
    told = part_of(shown, "candidates")
    assert "a-ort: 3 candidates" in told
    assert "int8-mixed int8 1.1 MiB 0.9950 0.0050 1.00 ms passed taken on the front" in told
    assert "source 2.9 MiB 1.0000" in told
    assert "rejected loses too much" in told
    assert "1 more was not tried" in told
    assert "<script>" not in reported(fleet, "det@1.0.1", report(HOSTILE[0]))


def test_a_search_that_cannot_be_drawn_is_left_out(fleet: Fleet) -> None:
    random = report()
    guess = msgspec.structs.replace(metric(1.0), is_measured=False)
    for profile in random.profiles:
        profile.candidates = [msgspec.structs.replace(one, metric=guess) for one in profile.candidates]
    random.data["open_dimensions"] = {"x": "1x16, the only length with which the graph runs"}
    shown = reported(fleet, "det@1.0.0", random)
    assert "front-plot" not in shown
    assert "Open dimensions of x 1x16, the only length with which the graph runs" in part_of(shown, "card")
    row = {"id": ["x"], "bytes": 1e300, "latency_ms": 3, "metric": {"value": 10**400, "baseline": True}}
    odd = {"profiles": [{"candidates": [row, row, None], "fp32": 7, "bundle": "x"}, 1], "options": {"max_drop": "all"}}
    assert "front-plot" not in reported(fleet, "det@1.0.1", odd)
    same = {"id": "a", "verdict": "rejected", "bytes": 0, "metric": {"value": 0, "baseline": 0, "drop": 0}}
    assert "front-plot" in reported(fleet, "det@1.0.2", {"profiles": [{"candidates": [same, same]}]})


def test_no_release_looks_better_than_what_is_known_of_it(fleet: Fleet) -> None:
    random = {"name": "agreement", "value": 1.0, "baseline": 1.0, "drop": 0.0, "n": 100, "data": "random input only"}
    shelve(fleet, "det@1.0.0", ORT, metric=random, parity={"y": {"cosine": 0.424}}, latency_shapes={"x": [1, 3, 1, 1]})
    told = part_of(page(fleet, "/models/det/1.0.0"), "bundles")
    assert "not measured tested on random input only: it runs, but its accuracy is unknown" in told
    assert "unproven" in told
    assert "same as the source" not in told
    assert "agreement" not in told
    assert "with input 1×3×1×1" in told
    body = BundleOut.of(fleet.parts.registry.release(ReleaseRef.parse("det@1.0.0")).bundles[0])
    assert (body.verdict, body.is_measured, (body.metric or {})["is_measured"]) == ("unproven", False, False)
    shelve(fleet, "det@1.1.0", ORT, metric={**random, "data": "evaluation data"}, parity={"y": {"cosine": 0.424}})
    told = part_of(page(fleet, "/models/det/1.1.0"), "bundles")
    assert "the same as the source by this metric, but its outputs differ (cosine 0.424)" in told
    shelve(fleet, "det@1.2.0", refuse={LITERT: "top1 fell"})
    listed = text_of(fleet.browser(Role.OPERATOR).get("/rollouts/new").text)
    assert "none: all were refused" in listed
    assert "none yet" not in listed


def test_a_release_says_where_it_ran_and_figures_without_requests_are_no_praise(fleet: Fleet) -> None:
    shelve(fleet, "digits@1.0.0", ORT)
    shelve(fleet, "digits@1.1.0", ORT)
    device = fleet.device("cam")
    everywhere = [{"name": "all", "size": {"percent": 100}, "soak": "0s"}]
    first = fleet.rollout(release="digits@1.0.0", selector="", stages=everywhere)
    assert "Not running on any device" in part_of(page(fleet, "/models/digits/1.0.0"), "where")
    follow(fleet, [device])
    fleet.rollout(release="digits@1.1.0", selector="", stages=everywhere)
    follow(fleet, [device])
    told = part_of(page(fleet, "/models/digits/1.0.0"), "where")
    assert f"Not running on any device now. {first} deployed it to 1 device" in told
    sha256 = fleet.digests["digits/1.1.0/" + ORT + ".bundle"]
    window = Window(
        t0=int(fleet.house.clock.now().timestamp()), length_s=60, model="digits", lane="active", sha256=sha256,
        version="1.1.0", n=0, errors=0, nonfinite=0, latency=LatencySketch().packed(),
    )  # fmt: skip
    message = Telemetry(device=device.id, boot_id="b1", seq=99, ts=window.t0 * 1000, windows=[window])
    fleet.parts.telemetry.ingest([message])
    told = part_of(page(fleet, "/models/digits/1.1.0"), "bundles")
    assert "no requests yet" in told
    assert "no errors" not in told


def test_the_card_tells_where_a_release_came_from(fleet: Fleet) -> None:
    registry = {
        "registry": "mlflow",
        "registry_url": "https://ml.example/",
        "registry_model": "digit s",
        "version": "7",
    }
    told = {"uri": "mlflow:/digit s/7", "git_commit": "a" * 40, "run_id": "r42", "dvc_rev": "v1.2", "trained_by": "ann"}
    shelve(fleet, "digits@1.0.0", ORT, lineage=told | registry)
    text = page(fleet, "/models/digits/1.0.0")
    card = part_of(text, "card")
    known = (
        "Origin mlflow:/digit s/7",
        "Git commit " + "a" * 40,
        "DVC revision v1.2",
        "MLflow run r42",
        "Trained by ann",
    )
    assert [one in card for one in known] == [True] * len(known), card
    assert sorted(known, key=card.index) == list(known)
    assert 'href="https://ml.example/#/models/digit%20s/versions/7"' in text
    bad = {"uri": "javascript:alert(1)", "note": "<script>window.hostile = 1</script>"}
    shelve(fleet, "digits@2.0.0", ORT, lineage=bad)
    text = page(fleet, "/models/digits/2.0.0")
    assert "javascript:alert(1)" in part_of(text, "card")
    assert 'href="javascript' not in text
    assert "<script>window" not in text


def test_hostile_names_are_written_not_run(fleet: Fleet) -> None:
    bad = "</td><script>window.hostile = 1</script>\"'{{ 7 * 7 }}"
    shelve(fleet, "digits@1.0.0", ORT, refuse={LITERT: bad}, metric={"name": bad, "value": float("inf")}, verdict=bad)
    text = page(fleet, "/models/digits/1.0.0")
    assert "<script>window" not in text
    assert "&lt;script&gt;" in text


def test_an_alias_is_set_moved_and_removed_by_forms(fleet: Fleet) -> None:
    paths = fleet.house.app.openapi()["paths"]
    if "/api/v1/models/{name}/aliases/{alias}" not in paths:
        pytest.skip("this API has no aliases")
    for version in ("1.0.0", "1.1.0"):
        shelve(fleet, f"digits@{version}", ORT)
    browser = fleet.browser(Role.PUBLISHER)
    assert 'action="/do/set_alias"' in browser.get("/models/digits").text
    for version in ("1.0.0", "1.1.0"):
        answer = do(
            browser, "set_alias", path__name="digits", path__alias="prod", body__version=version, next="/models/digits"
        )
        assert answer.status_code == 303, answer.text  # type: ignore[attr-defined]
        told = part_of(browser.get("/models/digits").text, "aliases")
        assert f"@prod points to {version}" in told
    assert "@prod" in part_of(browser.get("/models/digits").text, "versions")
    assert "@prod" in part_of(browser.get("/models/digits/1.1.0").text, "head")
    assert "@prod" in part_of(browser.get("/models").text, "models")
    gone = do(
        browser, "remove_alias", path__name="digits", path__alias="prod", next="/models/digits", confirm_word="prod", confirm="prod"
    )  # fmt: skip
    assert gone.status_code == 303  # type: ignore[attr-defined]
    assert "No aliases yet" in part_of(browser.get("/models/digits").text, "aliases")


def test_a_report_of_another_shape_gives_empty_facts() -> None:
    found = facts_of({"source": "x", "data": [1], "kept_from": {"a": 1}})
    assert (found.format, found.judged_on, found.operators, found.imported) == ("", "", [], [])
    told = facts_of(
        {
            "source": {
                "format": "onnx",
                "operators": {"Conv": 2},
                "imported": {"kind": "sklearn", "versions": {"skl2onnx": "1.2"}},
            }
        }
    )
    assert told.imported == [("kind", "sklearn"), ("versions", "skl2onnx 1.2")]
    assert told.operators == [("Conv", 2)]


def test_the_page_of_a_release_leads_to_its_parent(fleet: Fleet) -> None:
    shelve(fleet, "digits@1.0.0", ORT)
    shelve(fleet, "digits@1.1.0", ORT, lineage={"parent": "digits@1.0.0", "retraining": "rt-1"})
    text = page(fleet, "/models/digits/1.1.0")
    assert "Parent release digits@1.0.0 Retraining rt-1" in part_of(text, "card")
    assert '<a href="/models/digits/1.0.0"' in text
