"""`edgectl key team`, `release sign` and `key sign`: a team signs where its keys are, and nothing that a stolen server slips in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_ceremony.team_request import team_request_bytes, team_request_of
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.access.grants.grant_scope import Scope
from edgefleet_server.access.model import Grant, Role
from edgefleet_server.clock import SystemClock
from edgefleet_server.signing import store
from edgefleet_server.signing.repository import SERIALIZER
from edgefleet_server.signing.tables import TeamRequestRow
from tests.cli.conftest import Edgectl, Ran
from tests.cli.test_ceremony import fails, good
from tests.server.dashboard.serving import served
from tests.server.registry.worked import sign
from tests.server.telemetry.drifting import bundle_bytes
from tests.support.servers import ApiHouse, release_body
from tests.support.teams import key_file, member, pem

TEAM = [member(), member(is_ecdsa=True)]
PASSPHRASE = b"five words taken at random"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ApiHouse, str]]:
    """A server, served."""
    house = ApiHouse(tmp_path_factory.mktemp("teams") / "server", clock=SystemClock())
    with served(house.own_app()) as url:
        yield house, url
    house.close()


def test_a_team_signs_its_releases(
    edgectl: Edgectl, site: tuple[ApiHouse, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    house, url = site
    admin = ("--server", url, "--token", house.token(Role.ADMIN))
    ci, other = (("--server", url, "--token", publisher_of(house, model), "--yes") for model in ("digits", "faces"))
    publish(house, "1.0.0")
    for number, one in enumerate(TEAM):
        Path(f"{number}.pub").write_text(pem(one))
        key_file(one, Path(f"{number}.pem"), PASSPHRASE if number else None)
    Path("secret").write_bytes(PASSPHRASE + b"\n")
    setting_up = ("key", "team", "digits", "--key", "0.pub", "--key", "1.pub", "--threshold", "2", "--close")
    fails(edgectl(*ci, *setting_up), 4)
    good(edgectl(*admin, *setting_up, "--yes", "--out", "request.json"))
    signing = ("key", "team", "digits", "--sign", "0.pem")
    assert "nobody vouches" in fails(edgectl(*ci, *signing), 1)
    root = sha256_hex(house.parts.signing.metadata_file("1.root.json") or b"")
    assert "not the one" in fails(edgectl(*ci, *signing, "--root-sha256", "0" * 64), 1)
    assert "model digits" in fails(edgectl(*other, *signing, "--root-sha256", root), 4)
    assert "waiting for signature 2 of 2" in good(edgectl(*ci, *signing, "--root-sha256", root, "-o", "table")).out
    # the second is on a machine without a network
    offline = ("key", "sign", "request.json", "--key", "1.pem", "--passphrase-file", "secret", "--out", "answer.json")
    assert "not the one" in fails(edgectl(*offline, "--yes", "--trust-root", "0" * 64), 1)
    said = good(edgectl(*offline, "--yes", "-o", "json"))
    assert (said.json["model"], said.json["act"]) == ("digits", "team")
    done = good(edgectl(*ci, "key", "team", "digits", "--answer", "answer.json", "-o", "json")).json
    assert (done["state"], len(done["signed"])) == ("done", 2)
    assert "2 of the 2 keys of its team" in good(edgectl(*ci, "key", "team", "digits", "-o", "table")).out

    publish(house, "1.1.0")
    first = ("release", "sign", "digits@1.1.0", "--key", "0.pem")
    assert good(edgectl(*ci, *first, "-o", "json")).json["state"] == "waiting"
    second = good(
        edgectl(*ci, "release", "sign", "digits@1.1.0", "--key", "1.pem", "--passphrase-file", "secret", "-o", "table")
    )
    assert "in force" in second.out
    assert good(edgectl(*ci, "release", "show", "digits@1.1.0", "-o", "json")).json["state"] == "ready"
    assert "is not one of the team" in fails(stranger_signs(edgectl, ci, house), 2)

    publish(house, "1.2.0")
    for what, tamper in TAMPERED.items():
        slip_in(house, "1.2.0", tamper)
        words = fails(edgectl(*ci, *signing), 1)
        assert "nothing was signed" in words, (what, words)
    sign_both = ("--sign", "0.pem", "--sign", "1.pem", "--passphrase-file", "secret")
    both = ("--key", "0.pem", "--key", "1.pem", "--passphrase-file", "secret")
    operator = ("--server", url, "--token", house.token(Role.OPERATOR), "--yes")
    cancel(edgectl, operator)
    assert "in force" in good(edgectl(*ci, "release", "sign", "digits@1.2.0", *both, "-o", "table")).out

    withdrawn = good(edgectl(*operator, "release", "withdraw", "digits@1.0.0", "--reason", "wrong"))
    assert "once its team has signed" in withdrawn.err
    signed = good(
        edgectl(*ci, "key", "team", "digits", "--sign", "0.pem", "--sign", "1.pem", "--passphrase-file", "secret")
    )
    assert "withdraws version 1.0.0" in signed.out
    assert "in force" in signed.out
    good(edgectl(*ci, "key", "team", "digits", "--renew", "--sign", "0.pem"))
    cancel(edgectl, operator)
    end_role(house)  # nobody prolonged it in time
    assert "in force" in good(edgectl(*ci, "key", "team", "digits", "--renew", *sign_both, "-o", "table")).out
    good(edgectl(*ci, "key", "team", "digits", "--renew", "--sign", "0.pem"))
    assert "renew" in good(edgectl(*ci, "key", "team")).out
    cancel(edgectl, operator)


def _other_bytes(signed: Targets) -> None:
    one = signed.targets["digits/1.2.0/generic-x86_64-ort.bundle"]
    one.hashes["sha256"] = signed.targets["digits/1.0.0/generic-x86_64-ort.bundle"].hashes["sha256"]


def _another_release(signed: Targets) -> None:
    found = signed.targets["digits/1.2.0/generic-x86_64-ort.bundle"]
    signed.targets["digits/6.6.6/generic-x86_64-ort.bundle"] = found


def _one_less(signed: Targets) -> None:
    del signed.targets["digits/1.0.0/generic-x86_64-ort.bundle"]


TAMPERED: dict[str, Callable[[Targets], None]] = {
    "a bundle that is another release's": _other_bytes,
    "a release besides": _another_release,
    "a bundle less": _one_less,
    "a life without end": lambda signed: setattr(signed, "expires", signed.expires.replace(year=2099)),
    "no room for later versions": lambda signed: setattr(signed, "version", 2**62),
}
"""What a stolen server slips in. All ways are in tests/server/signing/test_team_change.py; here that the command goes by them."""


def slip_in(house: ApiHouse, version: str, tamper: Callable[[Targets], None]) -> None:
    """Change what the server proposes for a release, as its thief would."""
    with house.parts.db.session() as session:
        row = store.open_team_request(session, "digits")
        if row is not None:
            house.parts.signing.teams.drop(row.id)
    asked = house.parts.signing.teams.ask_release("digits", version)
    assert asked is not None
    request = team_request_of(asked.document.encode())
    tamper(request.proposed.signed)
    with house.parts.db.session() as session:
        row = store.open_team_request(session, "digits")
        assert row is not None
        session.delete(row)
        session.flush()
        fields = {name: getattr(row, name) for name in ("model", "act", "version", "state", "options", "made_at")}
        session.add(TeamRequestRow(**{**fields, "id": request.id, "document": team_request_bytes(request)}))


def publisher_of(house: ApiHouse, model: str) -> str:
    """Return a token that may publish one model, as a pipeline has it."""
    grant = Grant(Role.PUBLISHER, Scope(models=frozenset({model})))
    return house.parts.access.create_token("test", [Role.VIEWER], by="test", scoped=[grant]).token


def end_role(house: ApiHouse) -> None:
    """Put a file of the team in force whose life ended an hour ago."""
    parts, now = house.parts, SystemClock().now()
    with parts.db.session() as session:
        repository = parts.signing._repository
        file = repository.newest(session, "m.digits")
        assert file is not None
        file.signed.version += 1
        file.signed.expires = (now - timedelta(hours=1)).replace(microsecond=0)
        file.signatures.clear()
        for one in TEAM:
            file.sign(one, append=True)
        store.put(session, "m.digits", file.signed.version, file.to_bytes(SERIALIZER), now)
        repository.publish(session, {}, now, given={"m.digits": file.signed.version})


def publish(house: ApiHouse, version: str) -> None:
    """Convert a release."""
    house.put(version.encode())
    body = release_body(version.encode(), version=version)
    assert house.client(Role.PUBLISHER).post("/api/v1/releases", json=body).status_code == 201
    sign(house, bundle_bytes("digits", version, body["profiles"][0], None))


def cancel(edgectl: Edgectl, operator: tuple[str, ...]) -> None:
    """Drop what waits."""
    good(edgectl(*operator, "key", "team", "digits", "--cancel"))


def stranger_signs(edgectl: Edgectl, ci: tuple[str, ...], house: ApiHouse) -> Ran:
    """Let a key that is not the team's sign."""
    key_file(member(), Path("other.pem"))
    publish(house, "1.1.1")
    return edgectl(*ci, "release", "sign", "digits@1.1.1", "--key", "other.pem")
