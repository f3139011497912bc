"""`edgectl` against a real server: every list, every refusal, and a model published by hand."""

from __future__ import annotations

import csv
import io
import stat
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Edgectl, Server

_DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
_LISTS = (
    ("model", "list"),
    ("release", "list"),
    ("device", "list"),
    ("profile", "list"),
    ("token", "list"),
    ("events",),
    ("rollout", "list"),
    ("group", "list"),
)
_DATA = ("--calibration", _DIGITS / "data" / "calibration.npz", "--eval", _DIGITS / "data" / "eval.npz")
_SMALL = "generic-x86_64-ort-small"


@pytest.mark.parametrize("command", _LISTS)
def test_every_list_is_an_object_with_items_in_json(edgectl: Edgectl, admin: Server, command: tuple[str, ...]) -> None:
    ran = edgectl(*command, "-o", "json")
    assert ran.code == 0, ran.err
    assert isinstance(ran.json["items"], list)


@pytest.mark.parametrize("command", _LISTS)
@pytest.mark.parametrize("form", ["table", "wide", "yaml", "name", "csv"])
def test_every_list_has_every_format(edgectl: Edgectl, admin: Server, command: tuple[str, ...], form: str) -> None:
    assert edgectl(*command, "-o", form).code == 0


def test_profiles_are_listed_as_csv_and_shown(edgectl: Edgectl, admin: Server) -> None:
    rows = list(csv.DictReader(io.StringIO(edgectl("profile", "list", "-o", "csv").out)))
    assert _SMALL in {row["name"] for row in rows}
    shown = edgectl("profile", "show", _SMALL, "-o", "json")
    assert shown.json["name"] == _SMALL
    assert "runtime.name" in edgectl("profile", "show", _SMALL).out


def test_login_saves_a_private_context_and_logout_forgets_the_token(
    edgectl: Edgectl, server: Server, tmp_path: Path
) -> None:
    ran = edgectl("login", server.url, "--token-stdin", stdin=server.tokens["viewer"] + "\n")
    assert ran.code == 0, ran.err
    assert stat.S_IMODE((tmp_path / "config" / "edgectl.json").stat().st_mode) == 0o600
    assert edgectl("whoami", "-o", "json").json["roles"] == ["viewer"]
    assert edgectl("logout").code == 0
    assert edgectl("whoami").code == 4


def test_a_wrong_token_is_not_saved(edgectl: Edgectl, server: Server, tmp_path: Path) -> None:
    ran = edgectl("login", server.url, "--token-stdin", stdin="edg_wrong_token\n")
    assert ran.code == 4
    ran.told()
    assert not (tmp_path / "config").exists()


def test_login_reads_the_token_from_a_file(edgectl: Edgectl, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "admin.token"
    file.write_text(server.tokens["viewer"] + "\n")
    assert edgectl("login", server.url, "--token-file", str(file)).code == 0
    assert edgectl("whoami", "-o", "json").json["roles"] == ["viewer"]
    file.write_text("\n")
    for path in (file, tmp_path / "none"):
        ran = edgectl("login", server.url, "--token-file", str(path))
        assert ran.code == 2
        assert str(path) in ran.told()[0]


def test_a_context_token_is_never_sent_to_another_server(edgectl: Edgectl, server: Server) -> None:
    edgectl("login", server.url, "--token-stdin", stdin=server.tokens["viewer"] + "\n")
    assert edgectl("whoami", "--server", "http://127.0.0.1:1").code == 4


def test_an_expired_token_exits_4_and_says_so(edgectl: Edgectl, server: Server) -> None:
    deadline = time.monotonic() + 30
    while (ran := edgectl("whoami", "--server", server.url, "--token", server.expired)).code == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert ran.code == 4
    assert "expired" in " ".join(ran.told())


def test_a_revoked_token_exits_4(edgectl: Edgectl, server: Server) -> None:
    ran = edgectl("whoami", "--server", server.url, "--token", server.revoked)
    assert ran.code == 4
    ran.told()


@pytest.mark.parametrize(
    ("role", "command"),
    [
        ("viewer", ("device", "enroll")),
        ("viewer", ("deploy", "digits@9", "--to", "")),
        ("viewer", ("rollout", "create", "digits@9", "--to", "")),
        ("viewer", ("rollout", "pause", "r-nope")),
        ("viewer", ("group", "create", "mine", "-l", "site=lab")),
        ("publisher", ("device", "enroll")),
        ("operator", ("publish", _DIGITS / "digits-1.0.0.onnx", "--name", "digits", "--version", "9")),
        ("operator", ("token", "list")),
    ],
)
def test_a_wrong_role_exits_4_and_names_what_is_needed(
    edgectl: Edgectl, server: Server, role: str, command: tuple[str | Path, ...]
) -> None:
    ran = edgectl(*command, "--server", server.url, "--token", server.tokens[role])
    assert (ran.code, ran.out) == (4, "")
    assert "role" in " ".join(ran.told())


@pytest.mark.parametrize(
    "command",
    [
        ("model", "show", "nope"),
        ("release", "show", "nope@1"),
        ("release", "devices", "nope@1"),
        ("device", "show", "d-nope"),
        ("device", "events", "d-nope"),
        ("profile", "show", "nope"),
        ("deploy", "nope@1", "--to", ""),
        ("token", "revoke", "nope", "--yes"),
        *(("rollout", verb, "r-nope") for verb in ("show", "watch", "plan", "explain", "devices", "pause", "resume")),
        ("rollout", "abort", "r-nope", "--yes"),
        ("rollout", "promote", "r-nope", "--reason", "r"),
        ("rollout", "create", "nope@1", "--to", ""),
        ("group", "show", "nope"),
        ("group", "members", "nope"),
        ("group", "delete", "nope", "--yes"),
    ],
)
def test_what_is_not_there_exits_5(edgectl: Edgectl, admin: Server, command: tuple[str, ...]) -> None:
    ran = edgectl(*command)
    assert (ran.code, ran.out) == (5, "")
    ran.told()


@pytest.mark.parametrize("selector", ["site in (", "=x", "a=b=c", "site=berlin,,"])
def test_a_bad_selector_exits_2(edgectl: Edgectl, admin: Server, selector: str) -> None:
    ran = edgectl("device", "list", "--selector", selector)
    assert (ran.code, ran.out) == (2, "")
    ran.told()


def test_an_unknown_profile_exits_5_and_names_close_ones(edgectl: Edgectl, admin: Server) -> None:
    ran = edgectl(
        "publish", _DIGITS / "digits-1.0.0.onnx", "--name", "digits", "--version", "8", "--profile", "generic-x86-ort"
    )
    assert ran.code == 5
    assert "generic-x86_64-ort" in " ".join(ran.told())


def test_enrolment_tokens_are_printed_or_written_privately(edgectl: Edgectl, admin: Server, tmp_path: Path) -> None:
    ran = edgectl("device", "enroll", "--count", "2", "--label", "site=lab")
    assert ran.code == 0, ran.err
    assert [line[:5] for line in ran.out.splitlines()] == ["efc1.", "efc1."]
    assert "edge-agent enroll" in ran.err
    assert edgectl("device", "enroll", "--count", "3", "--out", tmp_path / "claims").code == 0
    files = list((tmp_path / "claims").iterdir())
    assert len(files) == 3
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


def test_the_agents_packages_are_added_and_a_line_that_installs_them_is_printed(
    edgectl: Edgectl, admin: Server, tmp_path: Path
) -> None:
    add = ("server", "agent-packages", "add", tmp_path, "--data")
    assert edgectl(*add, tmp_path).told()[0].endswith("is not the data folder of a server")
    assert "./dev dist" in edgectl(*add, admin.data).told()[2]
    assert "agent-packages add" in edgectl("device", "enroll").err
    wheel, deb = tmp_path / "edgefleet_agent-0.1.0-py3-none-any.whl", tmp_path / "edgefleet-agent_0.1.0_all.deb"
    for package in (wheel, deb):
        package.write_bytes(package.name.encode())
    assert [one["name"] for one in edgectl(*add, admin.data, "-o", "json").json["items"]] == [wheel.name, deb.name]
    newer = wheel.rename(tmp_path / wheel.name.replace("0.1.0", "0.2.0"))
    assert edgectl(*add, admin.data, "-o", "name").out.split() == [newer.name, deb.name]
    assert _packages(edgectl, admin) == {newer.name, deb.name}
    wheel.touch()
    assert edgectl(*add, admin.data).told()[0] == "2 packages of one kind"
    wheel.unlink()
    with deb.open("r+b") as file:
        file.truncate(16 * 1024 * 1024 + 1)
    assert edgectl(*add, admin.data).told()[:2] == (
        f"{deb.name} is too large",
        "it has 16,777,217 bytes; the server hands out packages of at most 16,777,216",
    )
    deb.unlink()
    strange = newer.rename(tmp_path / "edgefleet_agent-mine-py3-none-any.whl")
    assert edgectl(*add, admin.data).told()[0] == f"{strange.name} is not the name of a package of the agent"
    assert _packages(edgectl, admin) == {newer.name, deb.name}
    made = edgectl("device", "enroll", "-o", "json").json
    assert made["install"].endswith("sh install.sh)")
    assert made["tokens"][0]["token"] not in made["install"]
    told = edgectl("device", "enroll")
    assert f"echo {told.out.strip()} | {made['install']}" in told.err


def _packages(edgectl: Edgectl, admin: Server) -> set[str]:
    """Return the packages that the server hands out, as `server check` shows them."""
    found = edgectl("server", "check", "--data", admin.data, "-o", "json").json["agent_packages"]
    assert [one["problem"] for one in found] == ["" for _ in found]
    return {one["name"] for one in found}


def test_publishing_twice_is_the_same_release_and_other_bytes_are_a_conflict(edgectl: Edgectl, admin: Server) -> None:
    flags = (*_DATA, "--profile", _SMALL, "-o", "json")
    one, two = _DIGITS / "digits-1.0.0.onnx", _DIGITS / "digits-1.1.0.onnx"
    first = edgectl("publish", one, "--name", "twice", "--version", "1.0.0", *flags)
    assert first.code == 0, first.err
    (bundle,) = first.json["bundles"]
    assert (bundle["precision"], bundle["profile"]) == ("int8", _SMALL)
    again = edgectl("publish", one, "--name", "twice", "--version", "1.0.0", *flags)
    assert (again.code, again.json) == (0, first.json)
    other = edgectl("publish", two, "--name", "twice", "--version", "1.0.0", *flags)
    assert (other.code, other.out) == (6, "")
    other.told()
    assert edgectl("release", "show", "twice@1.0.0", "-o", "json").json == first.json
    assert edgectl("model", "list", "-o", "name").out.split().count("twice") == 1
    assert "twice@1.0.0" in edgectl("model", "show", "twice").out


def test_a_file_that_is_no_model_is_refused_with_a_reason(edgectl: Edgectl, admin: Server, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"these bytes are no model")
    ran = edgectl("publish", tmp_path / "m.onnx", "--name", "nomodel", "--version", "1", "--profile", _SMALL)
    assert ran.code == 1
    assert "not_a_model" in ran.out
    assert "next: " in ran.out


def test_a_partial_release_exits_1_and_keeps_what_was_signed(edgectl: Edgectl, admin: Server) -> None:
    flags = (*_DATA, "--precision", "fp32", "--profile", _SMALL, "--profile", "generic-x86_64-ort", "-o", "json")
    ran = edgectl("publish", _DIGITS / "digits-1.0.0.onnx", "--name", "partial", "--version", "1", *flags)
    assert ran.code == 1, ran.err
    assert ran.json["state"] == "partial"
    assert [bundle["profile"] for bundle in ran.json["bundles"]] == ["generic-x86_64-ort"]
    assert [entry["profile"] for entry in ran.json["refused"]] == [_SMALL]


def test_without_profile_and_devices_the_generic_ones_are_built_and_it_says_so(edgectl: Edgectl, admin: Server) -> None:
    ran = edgectl("publish", _DIGITS / "digits-1.0.0.onnx", "--name", "generic", "--version", "1", *_DATA)
    assert ran.code == 0, ran.err
    assert "generic-aarch64-ort" in ran.out
    assert "generic-x86_64-ort" in ran.out
    assert "profiles: " in ran.err


def test_no_wait_returns_at_once_and_the_release_can_be_followed(edgectl: Edgectl, admin: Server) -> None:
    flags = (*_DATA, "--profile", _SMALL, "--no-wait")
    ran = edgectl("publish", _DIGITS / "digits-1.1.0.onnx", "--name", "later", "--version", "1", *flags)
    assert ran.code == 0, ran.err
    assert "queued; follow it with" in ran.err
    deadline = time.monotonic() + 120
    while edgectl("release", "show", "later@1", "-o", "json").json["state"] == "converting":
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_deploying_to_nobody_exits_1_and_a_dry_run_0(edgectl: Edgectl, admin: Server) -> None:
    edgectl("publish", _DIGITS / "digits-1.0.0.onnx", "--name", "alone", "--version", "1", *_DATA, "--profile", _SMALL)
    assert edgectl("deploy", "alone@1", "--to", "site=nowhere", "--dry-run").code == 0
    ran = edgectl("deploy", "alone@1", "--to", "site=nowhere", "-o", "json")
    assert ran.code == 1
    assert ran.json["set"] == []


def test_a_group_is_a_saved_selector(edgectl: Edgectl, admin: Server) -> None:
    made = edgectl("group", "create", "nobody", "-l", "site=nowhere", "-o", "json")
    assert made.code == 0, made.err
    assert (made.json["name"], made.json["selector"], made.json["devices"]) == ("nobody", "site=nowhere", 0)
    assert edgectl("group", "create", "nobody", "-l", "site=nowhere").code == 6
    assert edgectl("group", "list", "-o", "name").out.split() == ["nobody"]
    assert edgectl("group", "members", "nobody", "-o", "json").json["items"] == []
    assert edgectl("device", "list", "-l", "group=nobody", "-o", "json").json["items"] == []
    assert edgectl("group", "create", "broken", "-l", "site in (").code == 2
    assert edgectl("group", "delete", "nobody", "--yes").code == 0
    assert edgectl("group", "list", "-o", "name").out == ""


def test_a_rollout_to_nobody_is_refused_with_its_finding(edgectl: Edgectl, admin: Server, tmp_path: Path) -> None:
    edgectl("publish", _DIGITS / "digits-1.0.0.onnx", "--name", "rolled", "--version", "1", *_DATA, "--profile", _SMALL)
    spec = tmp_path / "rollout.yaml"
    spec.write_text("release: rolled@1\nselector: site=nowhere\n")
    linted = edgectl("rollout", "lint", "-f", spec)
    assert linted.code == 1
    assert "1 error" in linted.err
    assert edgectl("rollout", "create", "-f", spec, "--dry-run").code == 1
    refused = edgectl("rollout", "create", "-f", spec)
    assert (refused.code, refused.out) == (2, "")
    assert "site=nowhere" in refused.told()[1]
    assert edgectl("rollout", "list", "-o", "json").json["items"] == []


def test_every_mistake_of_a_spec_is_named_with_its_place(edgectl: Edgectl, admin: Server) -> None:
    ran = edgectl("rollout", "lint", "-f", "-", stdin="release: digits@1\nselector: ''\nstagez: []\npromote: maybe\n")
    assert (ran.code, ran.out) == (2, "")
    assert "stagez" in ran.told()[1]
    assert "promote" in ran.told()[1]


def test_debug_shows_requests_with_their_ids(edgectl: Edgectl, admin: Server) -> None:
    ran = edgectl("whoami", "--debug")
    assert ran.code == 0
    assert "debug: GET " in ran.err


def test_server_check_says_what_it_would_use(edgectl_process: Edgectl, server: Server) -> None:
    ran = edgectl_process("server", "check", "--data", server.data, "--broker", "embedded")
    assert ran.code == 0, ran.err
    assert "broker.kind" in ran.out
    as_json = edgectl_process("server", "check", "--data", server.data, "--broker", "embedded", "-o", "json")
    assert as_json.json["broker"]["kind"] == "embedded"


def test_a_second_init_of_the_same_folder_is_refused(edgectl_process: Edgectl, server: Server) -> None:
    ran = edgectl_process("server", "init", server.data)
    assert ran.code != 0
    ran.told()
