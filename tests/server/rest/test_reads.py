"""What the pages of bundles, keys, versions and experiments show, programs read too: the same figures, by the same services."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from edgefleet_protocol.digest import parse_sha256
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.registry.views import RegistryViews
from edgefleet_server.registry.schemas import SignatureOut
from tests.server.dashboard.fleet import LITERT, ORT, Fleet
from tests.server.dashboard.shelf import shelve, stocked
from tests.server.dashboard.test_experiment_pages import FIGURES, REST, SHADOW, SPLIT, tell, trying

NONE = "0" * 64


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Releases with real bundles, and devices that report."""
    made = Fleet(tmp_path_factory.mktemp("shop") / "server")
    stocked(made)
    shelve(made, "seeds@1.0.0", LITERT)
    yield made
    made.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A server without devices."""
    made = Fleet(tmp_path / "server")
    yield made
    made.close()


def read(fleet: Fleet, path: str, **params: Any) -> Any:
    answer = fleet.house.client(Role.VIEWER).get(f"/api/v1{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


# ---- bundles


def test_bundles_are_listed_newest_first_and_by_model_and_profile(shop: Fleet) -> None:
    everything = read(shop, "/bundles")
    assert [one["signed_at"] for one in everything["items"]] == sorted(
        (one["signed_at"] for one in everything["items"]), reverse=True
    )
    of_model = read(shop, "/bundles", model="digits")
    assert {one["model"] for one in of_model["items"]} == {"digits"}
    of_profile = read(shop, "/bundles", profile=LITERT)
    assert [(one["model"], one["profile"]) for one in of_profile["items"]] == [("seeds", LITERT)]
    assert (of_profile["total"], of_model["total"], everything["total"]) == (1, 2, 3)
    assert read(shop, "/bundles", model="digits", profile=LITERT)["items"] == []
    first = read(shop, "/bundles", limit=1)
    rest = read(shop, "/bundles", cursor=first["next_cursor"])
    assert [*first["items"], *rest["items"]] == everything["items"]


def test_a_bundle_tells_what_is_in_it_and_how_it_is_signed(shop: Fleet) -> None:
    listed = read(shop, "/bundles", model="digits", profile=ORT)["items"][0]
    one = read(shop, f"/bundles/{listed['sha256']}")
    assert {name: one[name] for name in listed} == listed
    assert one["signature"]["state"] == "signed"
    assert (one["signature"]["role"], one["signature"]["sha256"]) == ("m.digits", one["sha256"])
    assert one["signature"]["length"] == one["bundle_bytes"]
    assert "model.onnx" in one["manifest"]["members"]
    assert (one["manifest"]["model"], one["trouble"]) == ("digits", "")
    parts, fleet = shop.parts, shop.parts.fleet
    views = RegistryViews(
        parts.registry, parts.signing, fleet.reader, fleet.lists, parts.rollout.reader, parts.comparisons
    )
    page = views.bundle(listed["sha256"])
    assert page.target is not None
    assert datetime.fromisoformat(one["signature"]["expires"]) == page.target.expires


def test_a_bundle_that_is_unreadable_or_unsigned_says_so(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", ORT)
    digest = read(fleet, "/bundles")["items"][0]["sha256"]
    one = read(fleet, f"/bundles/{digest}")
    assert one["manifest"] is None
    assert "bundle." in one["trouble"]
    bundle = fleet.parts.registry.bundle(parse_sha256(digest))
    assert SignatureOut.of(bundle, None).state == "missing"
    client = fleet.house.client(Role.VIEWER)
    for path, code in ((f"/bundles/{NONE}", "bundle.unknown"), ("/keys/m.none", "signing.role_unknown")):
        gone = client.get(f"/api/v1{path}")
        assert (gone.status_code, gone.json()["code"]) == (404, code)
    assert client.get("/api/v1/bundles/x").status_code == 422


# ---- keys


def test_keys_are_the_roles_of_the_page_by_name(shop: Fleet) -> None:
    trust = shop.parts.signing.trust()
    keys = read(shop, "/keys")
    assert [one["name"] for one in keys["items"]] == sorted(one.name for one in (*trust.roles, *trust.model_roles))
    by_name = {one["name"]: one for one in keys["items"]}
    assert by_name["root"]["resign_at"] is None
    assert by_name["director"]["keys"] == [shop.parts.signing.director_key().keyid]
    assert by_name["m.digits"]["targets"] > 0
    assert all(one["purpose"] for one in by_name.values())
    assert read(shop, "/keys/m.digits") == by_name["m.digits"]


def test_trust_tells_of_the_ca_its_certificates_and_the_root_key(shop: Fleet) -> None:
    found = read(shop, "/trust")
    assert found["authority"]["sha256"] == shop.parts.signing.ca_sha256()
    kinds = {one["kind"]: one["valid"] for one in found["certificates"]}
    assert kinds["device"] == len(shop.by_id)
    assert found["is_root_here"] is True
    assert "PRIVATE" not in str(found)


# ---- versions


def test_versions_are_compared_as_on_the_page(shop: Fleet) -> None:
    found = read(shop, "/models/digits/compare", a="1.0.0", b="1.1.0")
    assert (found["before"]["ref"], found["after"]["ref"]) == ("digits@1.0.0", "digits@1.1.0")
    ort = next(one for one in found["profiles"] if one["profile"] == ORT)
    sizes = next(one for one in ort["changes"] if one["figure"] == "model_bytes")
    assert (sizes["unit"], sizes["before"], sizes["after"]) == ("bytes", 40_960, 61_440)
    assert (sizes["said"], sizes["tone"]) == ("50% larger", "bad")
    assert (ort["better"], ort["worse"]) == tuple(
        [one["tone"] for one in ort["changes"]].count(tone) for tone in ("good", "bad")
    )


def test_what_cannot_be_compared_is_refused_with_its_name(shop: Fleet) -> None:
    client = shop.house.client(Role.VIEWER)
    path = "/api/v1/models/digits/compare"
    assert client.get(path, params={"a": "1.0.0", "b": "9.9.9"}).json()["code"] == "release.unknown"
    assert client.get(path, params={"a": "1.0.0"}).status_code == 422
    assert client.get("/api/v1/models/none/compare", params={"a": "1", "b": "2"}).json()["code"] == "model.unknown"


# ---- experiments


def test_an_experiment_is_told_as_on_the_page(fleet: Fleet) -> None:
    rollout, devices = trying(fleet, SHADOW)
    tell(fleet, devices, shadow=FIGURES)
    listed = read(fleet, "/experiments")["items"]
    assert [(one["id"], one["modes"], one["is_open"]) for one in listed] == [(rollout, ["shadow"], True)]
    one = read(fleet, f"/experiments/{rollout}")
    assert {name: one[name] for name in listed[0]} == listed[0]
    [trial] = one["trials"]
    assert (trial["mode"], trial["stages"], trial["devices"], trial["is_cut"]) == ("shadow", ["beside"], 3, False)
    [result] = trial["results"]
    assert (result["stratum"], result["shadow"]["agreed"], result["shadow"]["judged"]) == (ORT, 291, 300)
    assert (result["active"]["errors"], result["candidate"]["answers"]) == (3, 300)
    assert {metric["name"] for metric in result["metrics"]} == {"latency_p95_ms", "shadow_agreement"}


@pytest.fixture
def any_fleet(tmp_path: Path, database_url: str) -> Iterator[Fleet]:
    """A server on each database."""
    made = Fleet(tmp_path / "server", url=database_url)
    yield made
    made.close()


def test_only_rollouts_with_stages_beside_what_serves_are_experiments(any_fleet: Fleet) -> None:
    fleet = any_fleet
    tried, _ = trying(fleet, SPLIT)
    fleet.parts.rollout.abort(tried, "ann", "enough", rollback=False)
    named = {**REST, "name": "shadow"}
    plain = fleet.rollout(release="digits@1.1.0", selector="", stages=[named])
    fleet.parts.rollout.abort(plain, "ann", "enough", rollback=False)
    fleet.house.clock.turn(seconds=60)
    second = fleet.rollout(release="digits@1.1.0", selector="", stages=[SHADOW, REST])
    found = read(fleet, "/experiments", model="digits")
    assert ([one["id"] for one in found["items"]], found["total"]) == ([second, tried], 2)
    assert read(fleet, "/experiments", model="other")["items"] == []
    first = read(fleet, "/experiments", limit=1)
    rest = read(fleet, "/experiments", cursor=first["next_cursor"])
    assert [one["id"] for one in (*first["items"], *rest["items"])] == [second, tried]
    assert [one["id"] for one in read(fleet, "/experiments", sort="created_at")["items"]] == [tried, second]
    refused = fleet.house.client(Role.VIEWER).get(f"/api/v1/experiments/{plain}")
    assert (refused.status_code, refused.json()["code"]) == (404, "rollout.experiment_unknown")


@pytest.mark.parametrize("path", ["/bundles", "/keys", "/trust", "/experiments", "/models/digits/compare?a=1&b=2"])
def test_reads_need_a_token(shop: Fleet, path: str) -> None:
    assert shop.house.client().get(f"/api/v1{path}").status_code == 401
