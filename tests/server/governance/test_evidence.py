"""The evidence of a model as the API sends it: complete, signed, and made in the caller's name."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from edgefleet_server.access.model import Role
from edgefleet_server.governance.api_reader import ApiReader
from edgefleet_server.governance.archive_stream import in_own_thread
from edgefleet_server.governance.errors import EvidenceBusyError
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


def test_an_archive_takes_no_thread_from_requests_and_ends_with_its_reader() -> None:
    ended: list[bool] = []

    def pieces() -> Any:
        try:
            while True:
                limiter = anyio.from_thread.run_sync(anyio.to_thread.current_default_thread_limiter)
                yield f"{limiter.borrowed_tokens}".encode()
        finally:
            ended.append(True)

    async def read_two() -> list[bytes]:
        stream: Any = in_own_thread(pieces())
        found = [await anext(stream), await anext(stream)]
        await stream.aclose()
        return found

    assert (anyio.run(read_two), ended) == ([b"0", b"0"], [True])


def test_an_archive_that_waits_for_its_quota_keeps_others_out(house: ApiHouse) -> None:
    maker, clock = house.parts.governance.evidence, house.clock
    answers = [429, 429, 200]
    refused: list[float] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"retry-after", b"60")]
        await send({"type": "http.response.start", "status": answers.pop(0), "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    def sleep(seconds: float) -> None:
        clock.turn(seconds=seconds)
        with pytest.raises(EvidenceBusyError):
            maker.archive(reader, "digits", by="eve")
        refused.append(seconds)

    reader = ApiReader(app, {"headers": []}, None, sleep)  # type: ignore[arg-type]
    pieces = maker.archive(reader, "digits", by="ann")

    async def first() -> None:
        await anyio.to_thread.run_sync(next, pieces)

    anyio.run(first)
    pieces.close()
    assert refused == [60.0, 60.0]
