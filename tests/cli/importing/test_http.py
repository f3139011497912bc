"""A model by https from a real server with a CA of the test: whole, taken up again, bounded, and never something else."""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.importing.addresses import parse_address
from edgefleet_cli.importing.fetch_context import (
    LIMIT_VARIABLE,
    FetchContext,
    Fetched,
    HostileNameError,
    ImportFailedError,
    ImportTooLargeError,
    WrongDigestError,
    budget_from,
    place_for,
)
from edgefleet_cli.importing.resolver import fetch
from tests.broker.pki import Authority
from tests.cli.importing.file_server import Files, serving_files

MODEL = os.urandom(900_000)
PATH = "/models/digits.onnx"


class Quick(SystemClock):
    """A clock that does not sleep."""

    def sleep(self, seconds: float) -> None:
        """Go on at once."""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    authority = Authority(tmp_path / "ca")
    identity = authority.server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.cert_file, identity.key_file)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serving_files(context) as serving:
        serving.bodies[PATH] = MODEL
        yield serving


def got(address: str, folder: Path, told: list[str] | None = None, environ: dict[str, str] | None = None) -> Fetched:
    """Return what an address stands for."""
    parsed = parse_address(address)
    assert parsed is not None
    folder.mkdir(exist_ok=True)
    note = (told if told is not None else []).append
    return fetch(parsed, folder, FetchContext(budget_from(environ or {}), Quick(), note, environ or {}))


def parts(tmp_path: Path) -> list[Path]:
    """Return what lies in the cache."""
    return sorted((tmp_path / "cache" / "edgefleet" / "imports").iterdir())


def test_a_file_comes_whole_and_where_from_is_told(files: Files, tmp_path: Path) -> None:
    fetched = got(f"{files.url}{PATH}?token=secret", tmp_path / "in")
    assert fetched.path.read_bytes() == MODEL
    assert fetched.path.name == "digits.onnx"
    assert fetched.lineage["uri"] == f"{files.url}{PATH}"
    assert fetched.lineage["sha256"] == hashlib.sha256(MODEL).hexdigest()
    assert "secret" not in str(fetched.lineage)
    assert parts(tmp_path) == []


def test_what_breaks_off_goes_on_where_it_was(files: Files, tmp_path: Path) -> None:
    files.breaks = [300_000, 200_000]
    told: list[str] = []
    assert got(f"{files.url}{PATH}", tmp_path / "in", told).path.read_bytes() == MODEL
    assert files.asked[0] == ""
    assert all(asked.startswith("bytes=") for asked in files.asked[1:])
    assert len(told) == 2


def test_the_next_run_goes_on_where_the_last_one_broke_off(files: Files, tmp_path: Path) -> None:
    files.breaks = [100_000] * 5
    with pytest.raises(ImportFailedError, match="broke off 5 times"):
        got(f"{files.url}{PATH}", tmp_path / "in")
    assert len(parts(tmp_path)) == 2
    assert got(f"{files.url}{PATH}", tmp_path / "again").path.read_bytes() == MODEL
    assert files.asked[-1] == "bytes=500000-"


def test_a_file_that_changed_meanwhile_comes_anew(files: Files, tmp_path: Path) -> None:
    files.breaks = [100_000] * 5
    with pytest.raises(ImportFailedError):
        got(f"{files.url}{PATH}", tmp_path / "in")
    files.bodies[PATH] = other = os.urandom(700_000)
    assert got(f"{files.url}{PATH}", tmp_path / "again").path.read_bytes() == other


def test_without_a_strong_tag_it_begins_anew(files: Files, tmp_path: Path) -> None:
    files.has_tags, files.breaks = False, [300_000]
    assert got(f"{files.url}{PATH}", tmp_path / "in").path.read_bytes() == MODEL
    assert files.asked == ["", ""]


def test_a_server_that_is_busy_is_asked_again_and_one_that_refuses_is_not(files: Files, tmp_path: Path) -> None:
    files.statuses = [503, 429]
    assert got(f"{files.url}{PATH}", tmp_path / "in").path.read_bytes() == MODEL
    with pytest.raises(ImportFailedError, match="404"):
        got(f"{files.url}/models/none.onnx", tmp_path / "none")


def test_another_digest_than_the_named_one_is_refused(files: Files, tmp_path: Path) -> None:
    digest = hashlib.sha256(MODEL).hexdigest()
    assert got(f"{files.url}{PATH}#sha256={digest}", tmp_path / "in").path.read_bytes() == MODEL
    with pytest.raises(WrongDigestError, match="does not have the given digest"):
        got(f"{files.url}{PATH}#sha256={'0' * 64}", tmp_path / "no")
    assert parts(tmp_path) == []


@pytest.mark.parametrize("is_chunked", [False, True])
def test_more_than_the_limit_is_refused_also_where_no_length_is_told(
    files: Files, tmp_path: Path, is_chunked: bool
) -> None:
    files.is_chunked = is_chunked
    with pytest.raises(ImportTooLargeError) as caught:
        got(f"{files.url}{PATH}", tmp_path / "in", environ={LIMIT_VARIABLE: "500"})
    assert LIMIT_VARIABLE in caught.value.next_step


def test_a_bad_limit_is_said() -> None:
    with pytest.raises(UsageError):
        budget_from({LIMIT_VARIABLE: "4G"})


def test_a_certificate_of_nobody_is_refused(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ImportFailedError) as caught:
        got(f"{files.url}{PATH}", tmp_path / "in")
    assert "certificate" in caught.value.why.lower()


def test_redirects_are_followed_with_no_credentials_to_another_host_and_never_to_plain_http(
    files: Files, tmp_path: Path
) -> None:
    files.moved["/latest.onnx"] = PATH
    assert got(f"{files.url.replace('//', '//ana:word@')}/latest.onnx", tmp_path / "in").path.read_bytes() == MODEL
    assert files.authorized[0].startswith("Basic ")
    with serving_files() as plain:
        plain.bodies[PATH] = MODEL
        files.moved["/down.onnx"] = f"{plain.url}{PATH}"
        with pytest.raises(ImportFailedError, match="redirects to http"):
            got(f"{files.url}/down.onnx", tmp_path / "no")
        assert plain.asked == []
    files.moved["/round.onnx"] = "/round.onnx"
    with pytest.raises(ImportFailedError, match="circle"):
        got(f"{files.url}/round.onnx", tmp_path / "round")


def test_what_is_no_model_is_not_fetched(files: Files, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        got(f"{files.url}/models/archive.tar.gz", tmp_path / "in")
    assert files.authorized == []


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a//b",
        "",
        ".",
        "..",
        ".ssh/id",
        "a\\..\\b",
        "a\x00b",
        "a\nb",
        "x" * 300,
        "ü.onnx",
    ],
)
def test_a_name_that_could_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HostileNameError):
        place_for(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_an_escaped_name_is_judged_by_what_it_means(files: Files, tmp_path: Path) -> None:
    with pytest.raises(HostileNameError):
        got(f"{files.url}/models/..%2F..%2Fevil.onnx", tmp_path / "in")
