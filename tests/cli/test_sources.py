"""MODEL as files: hashed, named inside the source, hidden files left out."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.release.conversion.model_files import read_source


def test_a_file_is_one_hashed_entry(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"model")
    source = read_source(str(tmp_path / "m.onnx"))
    assert source.kind == "file"
    assert [file.as_json() for file in source.files] == [
        {"path": "m.onnx", "sha256": hashlib.sha256(b"model").hexdigest(), "length": 5}
    ]


def test_a_folder_is_its_visible_files_in_order_with_posix_names(tmp_path: Path) -> None:
    for name in ("model.onnx", "data/weights.bin", ".git/config", "a/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    source = read_source(str(tmp_path))
    assert source.kind == "folder"
    assert [file.path for file in source.files] == ["data/weights.bin", "model.onnx"]


def test_a_file_uri_is_the_file_it_names(tmp_path: Path) -> None:
    (tmp_path / "my model.onnx").write_bytes(b"model")
    assert read_source((tmp_path / "my model.onnx").as_uri()).files[0].path == "my model.onnx"


def test_a_file_uri_of_another_host_is_refused() -> None:
    with pytest.raises(UsageError):
        read_source("file://elsewhere/m.onnx")
