"""The evidence of a model as the API sends it: complete, signed, and made in the caller's name."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator

import pytest

from edgefleet_server.access.model import Role
from edgefleet_terms.evidence.evidence_manifest import MANIFEST, SIGNATURE, manifest_of
from tests.support.servers import ApiHouse, release_body


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHouse]:
    house = ApiHouse(tmp_path_factory.mktemp("evidence") / "server")
    house.put(b"weights")
    made = house.client(Role.ADMIN).post("/api/v1/releases", json=release_body(b"weights"))
    assert made.status_code == 201, made.text
    yield house
    house.close()


def files_of(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]


def test_an_auditor_gets_all_of_a_model(house: ApiHouse) -> None:
    answer = house.client(Role.AUDITOR).get("/api/v1/models/digits/evidence")
    assert answer.status_code == 200, answer.text
    files = files_of(answer.content)
    assert list(files)[-2:] == [MANIFEST, SIGNATURE], files.get("failure.json")
    manifest = manifest_of(files[MANIFEST])
    assert [one.path for one in manifest.files] == list(files)[:-2]
    print(sorted(files), manifest.left_out)
    entries = [json.loads(line)["entry"]["action"] for line in files["audit/entries.jsonl"].splitlines()]
    assert entries == ["create_release", "get_model_evidence"]
