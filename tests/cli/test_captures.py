"""Records on the operator's machine: keys are private files, records open to JSON and arrays, nothing else is written."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgefleet_cli.core.api.capture import SealedCapture
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.device.captures.capture_files import make_key, open_folder, read_key, save
from edgefleet_protocol.hpke import SealedError, about_record, key_id, new_key, public_of, seal
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub

ARRAY = np.arange(6, dtype="<f4").reshape(2, 3)
FETCH = "/devices/d-1/captures:fetch"


def record(public: bytes, **plain: Any) -> dict[str, Any]:
    """Return a record as the API gives it."""
    fields = {"x": {"dtype": "<f4", "shape": [2, 3], "data": ARRAY.tobytes()}, "badge": ["00ff"]}
    content = {"v": 1, "device": "d-1", "fields": fields, "outputs": {"y": [{"label": "a"}]}, **plain}
    packed = zlib.compress(msgspec.msgpack.encode(content))
    sealed = seal(public, packed, about_record("d-1", "ab12", "s" * 64))
    about = {"id": "ab12", "device": "d-1", "sha256": "s" * 64, "model": "digits", "key": key_id(public)}
    return {**about, "sealed": base64.b64encode(sealed).decode()}


def test_a_key_is_a_private_file_that_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "capture.key"
    public = make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_of(read_key(path)).hex() == public
    with pytest.raises(UsageError, match="already exists"):
        make_key(path)
    (tmp_path / "other").write_text("no key")
    with pytest.raises(UsageError, match="cannot read the key"):
        read_key(tmp_path / "other")


def test_a_record_becomes_json_and_arrays(tmp_path: Path) -> None:
    private, public = new_key()
    files = save(Reply(record(public), SealedCapture), tmp_path / "out", private)
    assert [file.name for file in files] == ["ab12.json", "ab12.npz"]
    document = json.loads(files[0].read_text())
    assert document["fields"] == {"x": {"array": "in.x", "dtype": "<f4", "shape": [2, 3]}, "badge": ["00ff"]}
    assert document["outputs"] == {"y": [{"label": "a"}]}
    assert (np.load(files[1])["in.x"] == ARRAY).all()
    assert files[1].stat().st_mode & 0o777 == 0o600


def test_a_sealed_record_is_opened_later_where_the_key_is(tmp_path: Path) -> None:
    private, public = new_key()
    files = save(Reply(record(public), SealedCapture), tmp_path, None)
    assert [file.name for file in files] == ["ab12.json", "ab12.sealed"]
    with pytest.raises(SealedError):
        open_folder(tmp_path, new_key()[0])
    assert (tmp_path / "ab12.sealed").exists()
    assert [file.name for file in open_folder(tmp_path, private)] == ["ab12.json", "ab12.npz"]
    assert not (tmp_path / "ab12.sealed").exists()


def test_a_record_that_was_relabelled_does_not_open(tmp_path: Path) -> None:
    private, public = new_key()
    with pytest.raises(SealedError):
        save(Reply({**record(public), "device": "d-2"}, SealedCapture), tmp_path, private)


@pytest.mark.parametrize("name", ["../up", "a/b", "", "A", "x" * 40])
def test_a_server_cannot_choose_where_files_go(tmp_path: Path, name: str) -> None:
    private, public = new_key()
    with pytest.raises(UsageError, match="is not the id of a record"):
        save(Reply({**record(public), "id": name}, SealedCapture), tmp_path / "out", private)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "array", [{"dtype": "|O8", "shape": [1], "data": b"12345678"}, {"dtype": "<f4", "shape": [9], "data": b""}]
)
def test_an_array_that_is_none_is_not_written(tmp_path: Path, array: dict[str, Any]) -> None:
    private, public = new_key()
    files = save(Reply(record(public, fields={"x": array}), SealedCapture), tmp_path, private)
    assert [file.name for file in files] == ["ab12.json"]
    assert "unreadable" in json.loads(files[0].read_text())["fields"]["x"]


def test_a_fetch_is_asked_for_waited_for_and_shown(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"POST {FETCH}", {"id": "c-1", "state": "asked"})
    fleet.says(f"GET {FETCH}/c-1", {"id": "c-1", "state": "asked"}, {"id": "c-1", "state": "done"})
    item = {"id": "ab12", "model": "digits", "reason": "flag", "label": 7, "seen": 3, "bytes": 900, "trace_id": "t1"}
    fleet.says("GET /devices/d-1/captures", {"items": [item], "next_cursor": None, "total": 1})
    ran = edgectl("device", "capture", "d-1", "--reason", "flag", "--limit", "5")
    assert ran.code == 0, ran.err
    assert "ab12" in ran.out
    assert fleet.bodies(f"POST {FETCH}") == [{"model": "", "reason": "flag", "limit": 5}]
    assert fleet.queries("GET /devices/d-1/captures")[0]["fetch"] == "c-1"


def test_a_device_that_does_not_answer_in_time_is_said_and_can_be_asked_again(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"POST {FETCH}", {"id": "c-1", "state": "asked"})
    fleet.says(f"GET {FETCH}/c-1", {"id": "c-1", "state": "asked"})
    ran = edgectl("device", "capture", "d-1", "--wait", "1s")
    assert ran.code == 8
    assert "--fetch c-1" in ran.told()[2]
    fleet.says(f"GET {FETCH}/c-1", {"id": "c-1", "state": "done"})
    fleet.says("GET /devices/d-1/captures", {"items": [], "next_cursor": None, "total": 0})
    assert edgectl("device", "capture", "d-1", "--fetch", "c-1").code == 0
    assert len(fleet.bodies(f"POST {FETCH}")) == 1


def test_a_key_without_a_folder_is_refused_before_anything_is_asked(
    edgectl: Edgectl, fleet: Stub, tmp_path: Path
) -> None:
    ran = edgectl("device", "capture", "d-1", "--key", str(tmp_path / "k"))
    assert ran.code == 2
    assert fleet.asked == []
