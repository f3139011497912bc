"""`edgectl key init --offline`, `key sign` and `key ceremony`: from a trial to a fleet whose root needs two of three, by files alone."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_server.access.model import Role
from edgefleet_server.clock import SystemClock
from tests.cli.conftest import Edgectl, Ran
from tests.server.dashboard.serving import served
from tests.support.servers import ApiHouse

PASSPHRASE = "five words taken at random"  # of keys that live as long as a test


def good(ran: Ran) -> Ran:
    """Return what a command did that must not fail."""
    assert ran.code == 0, ran.err
    return ran


def fails(ran: Ran, code: int) -> str:
    """Return the words of a refusal."""
    assert ran.code == code, ran.err or ran.out
    return " ".join(ran.told())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ApiHouse, str]]:
    """A trial, served."""
    house = ApiHouse(tmp_path_factory.mktemp("trial") / "server", clock=SystemClock())
    with served(house.own_app()) as url:
        yield house, url
    house.close()


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three mounted media and a file with the passphrase: the arguments of `key init`."""
    monkeypatch.chdir(tmp_path)
    Path("secret").write_text(f"{PASSPHRASE}\nnot this\n")
    for name in ("anna", "ben", "carl"):
        Path(name).mkdir()
    media = [word for name in ("anna", "ben", "carl") for word in ("--out", name)]
    return ["key", "init", "--offline", "--keys", "3", "--threshold", "2", *media, "--passphrase-file", "secret"]


def test_keys_are_made_once_encrypted_and_readable_by_their_owner_only(edgectl: Edgectl, offline: list[str]) -> None:
    made = edgectl(*offline, "-o", "json").json
    assert [(one["holder"], one["made"]) for one in made["holders"]] == [
        (name, True) for name in ("anna", "ben", "carl")
    ]
    for name in ("root.pem", "targets.pem"):
        file = Path("anna/edgefleet-keys") / name
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert b"ENCRYPTED PRIVATE KEY" in file.read_bytes()
    assert PASSPHRASE not in "".join(path.read_text() for path in Path("anna/edgefleet-keys").iterdir())
    Path("carl/edgefleet-keys").rename("carl/.edgefleet-keys.part")  # the plug was pulled in the middle of the third
    again = edgectl(*offline, "-o", "json").json
    assert [one["made"] for one in again["holders"]] == [False, False, True]
    assert again["holders"][:2] == [{**one, "made": False} for one in made["holders"][:2]]
    assert again["holders"][2]["root"] != made["holders"][2]["root"]
    assert not Path("carl/.edgefleet-keys.part").exists()


def test_places_and_words_that_keys_must_not_have_are_refused(edgectl: Edgectl, offline: list[str]) -> None:
    (Path.cwd() / ".git").mkdir()
    assert "git work tree" in fails(edgectl(*offline), 2)
    (Path.cwd() / ".git").rmdir()
    Path("secret").write_text("short\n")
    assert "at least 12" in fails(edgectl(*offline), 2)
    assert "no terminal" in fails(edgectl(*offline[:-2]), 2)
    assert "add --offline" in fails(edgectl(*[word for word in offline if word != "--offline"]), 2)
    assert "no algorithm" in fails(edgectl(*offline, "--algorithm", "rsa"), 2)
    assert "do not go together" in fails(edgectl(*offline, "--holder", "anna"), 2)
    assert "can never sign" in fails(edgectl("key", "init", "--offline", "--keys", "1", "--out", "anna"), 2)
    assert "is no folder" in fails(
        edgectl("key", "init", "--offline", "--out", "x", "--threshold", "1", *offline[-2:]), 2
    )
    assert not list(Path("anna").iterdir())


def test_a_trial_becomes_production_by_carried_files(
    site: tuple[ApiHouse, str], edgectl: Edgectl, offline: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    house, url = site
    good(edgectl(*offline))
    monkeypatch.setenv("EDGECTL_SERVER", url)
    monkeypatch.setenv("EDGECTL_TOKEN", house.token(Role.ADMIN))
    holders = [word for name in ("anna", "ben", "carl") for word in ("--holder", f"{name}/edgefleet-keys/public.json")]
    begun = good(edgectl("key", "ceremony", *holders, "--out", "request.json", "--yes")).out
    assert "root: root needs 2 of 3 keys (now 1 of 1)" in begun
    assert "targets, for the new root: 2 needed, signed by nobody yet" in begun
    assert "waits for signatures" in fails(edgectl("key", "ceremony", *holders, "--yes"), 6)

    monkeypatch.delenv("EDGECTL_SERVER")
    for name in ("anna", "carl"):
        answer = f"{name}.answer.json"
        words = ("key", "sign", "request.json", "--key", name, "--passphrase-file", "secret", "--out", answer)
        assert "needs a confirmation" in fails(edgectl(*words), 3)
        assert not Path(answer).exists()
        signed = edgectl(*words, "--yes", "--quiet")  # what is signed is no hint: it is always shown
        assert "root: targets is signed off the server from now on" in signed.err
        (root,) = re.findall(r"Root of today: ([0-9a-f]{64})", signed.err)
        assert f"root of today, for holders who ask: {root}" in begun
        assert "targets: 2 of 3" in signed.err
        assert Path(name, "edgefleet-keys/trusted-root.json").exists()
    Path("secret").write_text("another one of words\n")
    assert "does not open" in fails(
        edgectl("key", "sign", "request.json", "--key", "ben", "--passphrase-file", "secret", "--yes"), 2
    )

    monkeypatch.setenv("EDGECTL_SERVER", url)
    one = good(edgectl("key", "ceremony", "--answer", "anna.answer.json")).out
    assert "1 of ben, carl still to sign" in one
    assert house.parts.signing.trust().is_root_here
    done = edgectl("key", "ceremony", "--answer", "anna.answer.json", "--answer", "carl.answer.json", "-o", "json").json
    assert done["destroyed"] == ["root.pem", "root.passphrase", "targets.pem"]
    assert done["request"]["state"] == "done"
    assert house.parts.signing.role("root").threshold == 2
    assert "done" in good(edgectl("key", "ceremony")).out
    assert "no request waits" in fails(edgectl("key", "ceremony", "--answer", "anna.answer.json"), 2)

    good(edgectl("key", "ceremony", "--renew", "targets", "--out", "renew.json"))
    Path("secret").write_text(f"{PASSPHRASE}\n")
    known = edgectl("key", "sign", "renew.json", "--key", "anna", "--passphrase-file", "secret", "--yes")
    assert "this holder signed it" in known.err
    forged = json.loads(Path("renew.json").read_text())
    forged["current"] = json.loads(Path("request.json").read_text())["current"]
    Path("forged.json").write_text(json.dumps(forged))
    assert "signed another root" in fails(edgectl("key", "sign", "forged.json", "--key", "anna", "--yes"), 1)
    assert "not the one that was named" in fails(
        edgectl("key", "sign", "renew.json", "--key", "anna", "--trust-root", "ab"), 1
    )
    for alone in (["--replace", "carl"], ["--threshold", "1"], ["--threshold", "1", "--renew", "root"]):
        assert "go with --holder" in fails(edgectl("key", "ceremony", *alone), 2)
    assert "leaves the threshold" in fails(
        edgectl("key", "ceremony", "--replace", "carl", "--holder", "ben", "--threshold", "1"), 2
    )
    assert "only one of" in fails(edgectl("key", "ceremony", "--cancel", "--renew", "root"), 2)
    assert "dropped request" in edgectl("key", "ceremony", "--cancel", "--yes").err
