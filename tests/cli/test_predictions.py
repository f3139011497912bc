"""`edgectl predictions` and `edgectl data` against a served fleet with a kept log: tables of 80 columns, JSON, exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from edgefleet_agent.captures.log_parts import LogParts
from edgefleet_agent.worker.control.protocol import Entry
from edgefleet_cli.predictions.export_files import fetch_file, open_file, remove_others
from edgefleet_protocol.hpke import about_log, key_id, new_key, seal
from edgefleet_protocol.messages import Sample
from edgefleet_protocol.prediction_parts import REASON, Answer, Head, Part, Release, Row, encode_head, pseudonym
from edgefleet_server.access.model import Role
from edgefleet_server.telemetry.predictions.parquet import write_parts
from tests.cli.conftest import Edgectl
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.serving import served


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, str]]:
    """A fleet that keeps the answers of digits, with two parts of one device in a file, served."""
    folder = tmp_path_factory.mktemp("predictions")
    fleet = Fleet(folder / "server")
    fleet.release("digits@1.0.0", ORT)
    device = fleet.device("cam").id
    fleet.parts.predictions.set("digits", "ann", ratio=1.0, inputs=False, keep_days=30)
    rule = fleet.parts.fleet.logging.rule("digits")
    assert rule is not None
    parts = LogParts(folder / "parts", device, "digits")
    body = msgspec.msgpack.encode(Answer(labels=["seven"], scores=[0.9]))
    for who, lost in (("ann", 0), ("bob", 3)):
        subject = pseudonym(bytes.fromhex(rule.subject_key), who)
        entries = [Entry(1_000, f"{who}-{i}", "ok", 250, subject, i, body) for i in range(2)]
        parts.add(entries, Release("1.0.0", "a" * 64, "active"), b"", "", lost=lost, free_bytes=1 << 20)
        parts.close()
    for number in parts.waiting():
        sample = Sample(
            device=device,
            boot_id="b",
            seq=number,
            ts=0,
            task="",
            model="digits",
            reason=REASON,
            sealed=parts.read(number),
        )
        fleet.parts.telemetry.ingest_samples([sample])
    fleet.parts.predictions.pack("digits")
    with served(fleet.house.own_app()) as url:
        yield fleet, url
    fleet.close()


@pytest.fixture(autouse=True)
def _signed_in(site: tuple[Fleet, str], monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, url = site
    monkeypatch.setenv("EDGECTL_SERVER", url)
    monkeypatch.setenv("EDGECTL_TOKEN", fleet.house.token(Role.ADMIN))
    monkeypatch.setenv("COLUMNS", "80")


def test_a_log_is_kept_shown_checked_and_stopped(edgectl: Edgectl, site: tuple[Fleet, str], tmp_path: Path) -> None:
    kept = edgectl("predictions", "keep", "digits", "--sample", "0.5", "--days", "10")
    assert "digits: 50 % of its answers are kept for 10 days" in kept.out
    assert "readable on the server" in kept.err
    for command in (("show", "digits"), ("list",), ("files", "digits"), ("verify", "digits")):
        ran = edgectl("predictions", *command)
        assert ran.code == 0, ran.err
        assert [line for line in ran.out.splitlines() if len(line) > 80] == []
    assert "The prediction log of digits is whole: 4 rows, 0 erased, 3 lost." in ran.out
    assert "3 lost: 3-5" in ran.out
    out = edgectl("predictions", "export", "digits", "--out", str(tmp_path / "log"))
    assert out.out.startswith("1 file in "), out.err
    (file,) = (tmp_path / "log").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    for name in ("digits", "digits-2"):
        (tmp_path / "log" / f"{name}.{'a' * 64}.parquet").write_bytes(b"of rows that were erased")
    again = edgectl("predictions", "export", "digits", "--out", str(tmp_path / "log"))
    assert "1 file removed that the server has no more" in again.err
    assert file.read_bytes() == whole, "a damaged file is fetched again"
    assert sorted(path.name.split(".")[0] for path in (tmp_path / "log").iterdir()) == ["digits", "digits-2"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert edgectl("predictions", "stop", "digits", "--yes").code == 0
    assert edgectl("predictions", "show", "digits", "-o", "json").json["state"] == "off"
    wrong = edgectl("predictions", "verify", "other")
    assert wrong.error_code == "predictions.unknown"
    operator = site[0].house.token(Role.OPERATOR)
    assert edgectl("predictions", "verify", "digits", "--token", operator).code != 0, "operators read no answers"
    assert edgectl("predictions", "verify", "digits", "--token", site[0].house.token(Role.AUDITOR)).code == 0


def test_a_subject_is_erased_with_a_receipt_and_a_missing_file_ends_in_1(
    edgectl: Edgectl, site: tuple[Fleet, str]
) -> None:
    made = edgectl("data", "erase", "--subject", "ann", "--model", "digits", "--yes")
    assert "erased 2 rows and 0 captured records" in made.out, made.err
    (receipt,) = edgectl("data", "list", "-o", "json").json["items"]
    assert receipt["finished_at"]
    shown = edgectl("data", "show", receipt["id"])
    assert receipt["id"] in shown.out
    assert edgectl("predictions", "verify", "digits", "-o", "json").json["erased"] == 2
    (file,) = site[0].parts.predictions.files("digits")
    (site[0].house.settings.blobs_dir / file.id[:2] / file.id).unlink()
    broken = edgectl("predictions", "verify", "digits")
    assert (broken.code, "NOT WHOLE" in broken.out) == (1, True)
    assert f"its file {file.id[:16]} is missing" in broken.out


def test_what_was_opened_lies_where_readers_of_the_folder_do_not_read_it(tmp_path: Path) -> None:
    private, public = new_key()
    other, before = new_key()
    secret, nonce = bytes(32), 7
    body = ChaCha20Poly1305(secret).encrypt(
        nonce.to_bytes(12, "big"), msgspec.msgpack.encode(Answer(labels=["seven"], scores=[0.9])), None
    )
    keys = [*(seal(one, secret, about_log("cam", "digits")) for one in (public, before)), b"none"]
    rows = [Row(n + 1, 1_000, 0, "t", "ok", 250, b"", bytes(16), n, nonce, body) for n in range(3)]
    rows.append(msgspec.structs.replace(rows[0], seq=4, body=b"altered"))
    head = Head(
        1, "cam", "digits", "a", 1, b"", 1, 4, 1.0, [Release("1", "a" * 64, "active")], keys, key_id(public), []
    )
    data = write_parts([Part(encode_head(head), rows, [])])
    path = fetch_file(tmp_path, "digits", sha256(data).hexdigest(), lambda: data)
    assert open_file(path, new_key()[0]) == (None, 0, 4)
    opened, *counts = open_file(path, private)
    assert opened is not None
    assert counts == [1, 3], "what is for another key, or what one device made up, stops no other"
    assert pq.read_table(opened).column("label").to_pylist() == ["seven", None, None, None]
    assert pq.read_table(tmp_path).column("label").to_pylist() == [None] * 4, "each row once"
    assert pq.read_table(opened.parent).num_rows == 4
    assert opened.stat().st_mode & 0o777 == 0o600
    assert open_file(path, other)[1:] == (1, 3)
    assert remove_others(tmp_path, "digits", []) == 2
