"""What each role may say to the signing process: everything that would outlive a theft of the web process is refused."""

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical

from edgefleet_protocol.desired import DESIRED_TYPE, HOLD_TYPE, Desired, Hold, encode_desired, encode_hold
from edgefleet_server.fleet.desired.content import DESIRED_LIFE
from edgefleet_server.fleet.desired.hold import HOLD_LIFE
from edgefleet_server.signing.errors import SigningQuotaError, StatementRefusedError
from edgefleet_server.signing.keys.inventory import Inventory, KeyAlgorithm, KeyRecord, KeySource, KeyState
from edgefleet_server.signing.keys.signer_uris import identified
from edgefleet_server.signing.role_lives import highest_number
from edgefleet_server.signing.service import DEVICE_CERT_LIFE, SERVER_CERT_LIFE, SERVICE_CERT_LIFE
from edgefleet_server.signing.signer import question_handler, quotas, statements
from edgefleet_terms.evidence.evidence_manifest import EvidenceFile, EvidenceManifest, manifest_bytes

NOW = dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC)
VERSION = int(NOW.timestamp())
THIEF = "f" * 64
CA = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
Change = Callable[[dict[str, Any]], object]


def record(role: str, state: KeyState = KeyState.ACTIVE, source: KeySource = KeySource.MADE) -> KeyRecord:
    """Return a key of a role, whose id and public part are its name."""
    return KeyRecord(role, role, f"file2:{role}.pem", KeyAlgorithm.ED25519, f"public {role}", state, NOW, source)


ROLES = ("targets", "releases", "director", "snapshot", "timestamp", "m.digits")
INVENTORY = Inventory((*(record(role) for role in ROLES), record("m.gone", KeyState.REVOKED)))


def delegation(name: str, *paths: str, keyids: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a delegation as metadata has it."""
    return {"name": name, "keyids": list(keyids or (name,)), "threshold": 1, "paths": list(paths), "terminating": True}


def metadata(role: str) -> dict[str, Any]:
    """Return what a role signs day by day."""
    life = {"timestamp": 1, "snapshot": 7, "targets": 180, "root": 365}.get(role, 90)
    expires = f"{NOW + dt.timedelta(days=life):%Y-%m-%dT%H:%M:%SZ}"
    signed: dict[str, Any] = {"_type": role, "version": VERSION, "expires": expires, "spec_version": "1.0.31"}
    if role == "root":
        keys = {one: {"keyval": {"public": f"public {one}"}} for one in ("snapshot", "timestamp")}
        return signed | {"version": 2, "keys": keys, "roles": {one: {"keyids": [one], "threshold": 1} for one in keys}}
    if role in {"snapshot", "timestamp"}:
        named = ("snapshot",) if role == "timestamp" else ("targets", "releases", "m.digits", "m.team")
        return signed | {"meta": {f"{one}.json": {"version": VERSION} for one in named}}
    signed |= {"_type": "targets", "targets": {}}
    if role == "targets":
        roles = [delegation("director", "director/*"), delegation("releases", "*/*/*")]
    elif role == "releases":
        roles = [delegation("m.digits", "digits/*/*")]
    else:
        signed["targets"] = {"digits/1.0.0/p.bundle": {}} if role == "m.digits" else {}
        return signed
    keys = {keyid: {"keyval": {"public": f"public {keyid}"}} for one in roles for keyid in one["keyids"]}
    return signed | {"delegations": {"roles": roles, "keys": keys}}


def check(role: str, signed: Any, last: int = VERSION - 1) -> int:
    """Let the signing process look at metadata."""
    return look(role, canonical(signed), last)


def canonical(signed: Any) -> bytes:
    """Return the form that is signed."""
    return (encode_canonical(signed) or "").encode()


def look(role: str, content: bytes, last: int = VERSION - 1) -> int:
    """Let the signing process look at bytes. last: version of each role that was signed last; 0 is none."""
    facts = statements.MetadataFacts(
        INVENTORY, lambda name: min(1, last) if name == "root" else last, NOW, frozenset({CA.strip()})
    )
    return statements.check_metadata(role, content, facts)


def hand_on(name: str, *paths: str, keyid: str = "", **more: Any) -> Change:
    """Return a change that adds a delegation."""

    def change(signed: dict[str, Any]) -> None:
        one = delegation(name, *paths, keyids=(keyid,) if keyid else ()) | more
        found = signed.setdefault("delegations", {"roles": [], "keys": {}})
        found["roles"] = [other for other in found["roles"] if other["name"] != name] + [one]
        for each in one["keyids"]:
            found["keys"].setdefault(each, {"keyval": {"public": f"public {each}"}})

    return change


@pytest.mark.parametrize("key", ["m.digits", "m.gone", "snapshot"])
@pytest.mark.parametrize("keyid", ["", "a" * 64])
def test_targets_give_no_team_a_key_of_this_folder(key: str, keyid: str) -> None:
    signed = metadata("targets")
    hand_on("m.digits", "digits/*/*", keyid=THIEF)(signed)
    check("targets", signed)  # a team's own
    hand_on("m.digits", "digits/*/*", keyid=keyid or key)(signed)
    signed["delegations"]["keys"][keyid or key] = {"keyval": {"public": f"public {key}"}}
    with pytest.raises(StatementRefusedError, match="team"):
        check("targets", signed)


@pytest.mark.parametrize("role", ["root", *ROLES, "audit"])
def test_what_is_signed_day_by_day_passes(role: str) -> None:
    assert check(role, metadata(role)) == metadata(role)["version"]


def test_a_team_may_have_its_model_and_models_may_be_closed() -> None:
    signed = metadata("targets")
    hand_on("m.digits", "digits/*/*", keyid=THIEF)(signed)
    hand_on("releases", "gears/*/*", "faces/*/*")(signed)
    assert check("targets", signed)


def announce(**fields: Any) -> Change:
    """Return a change that says where the server is."""
    place = {"url": "https://new.example:8443", "host": "new.example", "port": 8883}
    custom = {"number": 7, "places": [place], "cas": [CA]} | fields
    return lambda signed: signed["targets"].update({"fleet/places.json": {"custom": custom}})


def test_targets_may_say_where_the_server_is() -> None:
    signed = metadata("targets")
    announce()(signed)
    assert check("targets", signed)


REFUSED: dict[str, tuple[str, Change, str]] = {
    "another type": ("director", lambda s: s.update(_type="root"), "of type 'root'"),
    "a snapshot as timestamp": ("timestamp", lambda s: s.update(_type="snapshot"), "of type 'snapshot'"),
    "a role that is none": ("m/../x", lambda _s: None, "no such role"),
    "a longer life": ("timestamp", lambda s: s.update(expires="2026-12-02T13:00:01Z"), "longer than 1 days"),
    "an older version": ("snapshot", lambda s: s.update(version=VERSION - 2), "older than"),
    "version 0": ("snapshot", lambda s: s.update(version=0), "older than"),
    "a version out of reach": ("timestamp", lambda s: s.update(version=2**62), "those to come"),
    "a version of another kind": ("timestamp", lambda s: s.update(version="9"), "no number"),
    "a root that skips": ("root", lambda s: s.update(version=3), "those to come"),
    "a snapshot that names a version out of reach": (
        "snapshot",
        lambda s: s["meta"]["targets.json"].update(version=2**62),
        "those to come",
    ),
    "a timestamp that names a version out of reach": (
        "timestamp",
        lambda s: s["meta"]["snapshot.json"].update(version=2**62),
        "those to come",
    ),
    "a timestamp that names more": (
        "timestamp",
        lambda s: s["meta"].update({"targets.json": {"version": 1}}),
        "more than the snapshot",
    ),
    "a thief's timestamp in root": (
        "root",
        lambda s: s["roles"]["timestamp"].update(keyids=[THIEF]) or s["keys"].update({THIEF: {"keyval": {}}}),
        "none of this key folder",
    ),
    "no end": ("timestamp", lambda s: s.pop("expires"), "no metadata"),
    "bundles in targets": ("targets", lambda s: s.update(targets={"digits/2/p.bundle": {}}), "it names 'digits"),
    "bundles of the director": ("director", lambda s: s.update(targets={"director/x": {}}), "it names 'director"),
    "bundles of another model": ("m.digits", lambda s: s["targets"].update({"gears/1/p": {}}), "it names 'gears"),
    "another head of the audit": ("audit", lambda s: s.update(targets={"audit/x": {}}), "it names 'audit/x'"),
    "a place in no known form": ("targets", announce(places=[]), "no known form"),
    "a place for ever": ("targets", announce(number=2**62), "no room for later ones"),
    "a thief's CA": ("targets", announce(cas=[CA, CA.replace("x", "y")]), "a CA that is none of this key folder"),
    "a place by the director": (
        "director",
        lambda s: s.update(targets={"fleet/places.json": {}}),
        "it names 'fleet/places.json'",
    ),
    "a thief as director": ("targets", hand_on("director", "director/*", keyid=THIEF), "none of this key folder"),
    "a thief's releases": ("targets", hand_on("releases", "*/*/*", keyid=THIEF), "none of this key folder"),
    "a thief's model": ("releases", hand_on("m.digits", "digits/*/*", keyid=THIEF), "none of this key folder"),
    "a key under another id": (
        "targets",
        lambda s: s["delegations"]["keys"]["director"]["keyval"].update(public="other"),
        "none of this key folder",
    ),
    "a revoked key": ("releases", hand_on("m.gone", "gone/*/*"), "none of this key folder"),
    "a role from outside": ("targets", hand_on("thief", "*", keyid="director"), "hands on to 'thief'"),
    "more paths": ("targets", hand_on("director", "director/*", "*/*/*"), "not its own"),
    "all paths for a model": ("releases", hand_on("m.digits", "*/*/*"), "not its own"),
    "paths by hash": ("targets", hand_on("director", path_hash_prefixes=["00"]), "not its own"),
    "not the last word": ("releases", hand_on("m.digits", "digits/*/*", terminating=False), "not its own"),
    "no threshold": ("releases", hand_on("m.digits", "digits/*/*", threshold=0), "by 0 of 1"),
    "a director that hands on": ("director", hand_on("m.digits", "digits/*/*"), "hands on"),
    "a model that hands on": ("m.digits", hand_on("m.digits", "digits/*/*"), "hands on"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_metadata_that_would_outlive_a_theft_is_refused(case: str) -> None:
    role, change, why = REFUSED[case]
    signed = metadata("targets" if role.startswith("m/") else role)
    change(signed)
    with pytest.raises(StatementRefusedError, match=why):
        check(role, signed)


def test_a_folder_that_has_signed_nothing_yet_takes_no_version_without_a_higher_one() -> None:
    """As after an update from a server before there was a signing process; a clock may have been wrong there once."""
    assert check("targets", metadata("targets") | {"version": VERSION * 2}, last=0) == VERSION * 2
    with pytest.raises(StatementRefusedError, match="those to come"):
        check("targets", metadata("targets") | {"version": 2**62}, last=0)
    with pytest.raises(StatementRefusedError, match="those to come"):
        look("snapshot", canonical(metadata("snapshot") | {"meta": {"m.x.json": {"version": 2**62}}}), 0)


def test_a_role_that_is_new_in_a_folder_that_has_signed_goes_by_the_clock() -> None:
    facts = statements.MetadataFacts(INVENTORY, lambda role: VERSION if role == "snapshot" else 0, NOW)
    content = canonical(metadata("m.digits") | {"version": VERSION * 2})
    with pytest.raises(StatementRefusedError, match="those to come"):
        statements.check_metadata("m.digits", content, facts)
    with pytest.raises(StatementRefusedError, match="leaves no higher"):
        statements.check_document(HOLD_TYPE, encode_hold(Hold(seq=VERSION * 2, expires=NOW)), NOW)


def test_bytes_that_say_something_else_to_another_reader_are_refused() -> None:
    signed = metadata("m.digits")
    plain = canonical(signed)
    assert look("m.digits", plain)
    doubled = plain.replace(b'"targets":{', b'"targets":{"gears/1/p":{}},"targets":{', 1)
    for odd in (doubled, plain + b"\n", json.dumps(signed).encode(), plain.decode().encode("utf-16")):
        with pytest.raises(StatementRefusedError, match="not written as metadata"):
            look("m.digits", odd)


@pytest.mark.parametrize(
    "role", ["../x", "m.", "m.a/b", "m.../x", "server", "device-ca", "m.x\n", "m." + "x" * 99, "Root"]
)
def test_names_of_roles_become_names_of_files(role: str) -> None:
    with pytest.raises(StatementRefusedError, match="no such role") as refused:
        statements.check_role(role)
    assert "\n" not in refused.value.message, "and lines of the log"


def test_a_key_from_elsewhere_has_the_id_that_follows_from_it() -> None:
    given = replace(record("director", KeyState.PREPARED, KeySource.GIVEN), public="ab" * 32, uri="hv:x/1")
    right = replace(given, keyid=identified(given).keyid)
    statements.check_given(right)
    for change in (
        {"keyid": "director"},
        {"public": "no key"},
        {"role": "root"},
        {"role": "../x"},
        {"source": KeySource.FOUND},
        {"state": KeyState.REVOKED},
    ):
        with pytest.raises(StatementRefusedError):
            statements.check_given(replace(right, **change))


def test_a_key_that_is_given_is_no_file() -> None:
    """Files lie in the folder, and to revoke a key deletes its file: of the device CA, say."""
    given = replace(record("director", KeyState.PREPARED, KeySource.GIVEN), public="ab" * 32)
    with pytest.raises(StatementRefusedError, match="not in a file"):
        statements.check_given(replace(given, keyid=identified(given).keyid))


@pytest.mark.parametrize("role", ["m.digits", "targets"])
def test_a_role_that_was_handed_over_is_signed_by_nobody_here(role: str) -> None:
    facts = statements.MetadataFacts(
        INVENTORY, lambda _role: VERSION - 1, NOW, frozenset({CA.strip()}), frozenset({role})
    )
    for one in [role, "releases"] if role == "m.digits" else [role]:
        with pytest.raises(StatementRefusedError, match=f"{role}: it is signed by its"):
            statements.check_metadata(one, canonical(metadata(one)), facts)
    for one in ("snapshot", "timestamp", "director"):
        assert statements.check_metadata(one, canonical(metadata(one)), facts)


@given(st.text(max_size=70))
def test_a_client_is_a_device_or_the_server_itself(subject: str) -> None:
    try:
        is_device = statements.check_subject(subject)
    except StatementRefusedError:
        return
    assert set(subject) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert is_device is not subject.startswith("srv-")


def test_a_key_signs_for_its_own_role_only() -> None:
    statements.check_key(record("m.digits"), "m.digits")
    statements.check_key(record("releases"), "m.digits")  # ADR 0115: a model from before it had a key of its own
    statements.check_key(record("copy", source=KeySource.FOUND), "director")
    for key, role in (("m.digits", "m.gears"), ("director", "targets"), ("releases", "director"), ("timestamp", "m.x")):
        with pytest.raises(StatementRefusedError, match=f"is the one of {key}"):
            statements.check_key(record(key), role)


def document(**fields: Any) -> bytes:
    """Return a desired document."""
    known: dict[str, Any] = {"device": "d-1", "gen": 7, "issued": NOW, "expires": NOW + DESIRED_LIFE, "models": {}}
    return encode_desired(Desired(**known | fields))


def test_a_number_that_a_thief_had_signed_is_overtaken_a_moment_later() -> None:
    highest = highest_number(NOW)
    assert statements.check_document(DESIRED_TYPE, document(gen=highest), NOW) == highest
    with pytest.raises(StatementRefusedError, match="leaves no higher"):
        statements.check_document(DESIRED_TYPE, document(gen=highest + 1), NOW)
    statements.check_document(DESIRED_TYPE, document(gen=highest + 1), NOW + dt.timedelta(milliseconds=1))
    ahead = encode_hold(Hold(seq=VERSION + 86_400 * 2, expires=NOW))
    with pytest.raises(StatementRefusedError, match="leaves no higher"):
        statements.check_document(HOLD_TYPE, ahead, NOW, VERSION)
    statements.check_document(HOLD_TYPE, ahead, NOW, VERSION + 86_400 * 2 - 1)  # a clock was wrong once


def test_documents_of_the_director_are_read_before_they_are_signed() -> None:
    statements.check_document(DESIRED_TYPE, document(), NOW)
    statements.check_document(HOLD_TYPE, encode_hold(Hold(seq=3, expires=NOW + HOLD_LIFE)), NOW)
    long, high = NOW + DESIRED_LIFE + dt.timedelta(hours=2), 2**63 - 1
    for kind, payload, why in (
        (DESIRED_TYPE, document(expires=long), "longer than a week"),
        (DESIRED_TYPE, document(gen=high), "leaves no higher"),
        (HOLD_TYPE, encode_hold(Hold(seq=high, expires=NOW)), "leaves no higher"),
        (HOLD_TYPE, encode_hold(Hold(seq=1, expires=long)), "longer than a week"),
        (HOLD_TYPE, document(), "not a hold"),
        (DESIRED_TYPE, b"anything at all", "not a desired document"),
        (DESIRED_TYPE, encode_hold(Hold(seq=1, expires=NOW)), "not a desired document"),
        (DESIRED_TYPE, document(expires=NOW.replace(tzinfo=None)), "not a desired document"),
        (DESIRED_TYPE, document(gen=0), "not a desired document"),
        (DESIRED_TYPE, document().replace(b"{", b'{"gen":1,', 1).replace(b'"gen":7', b'"gen":%d' % high), "no higher"),
        (DESIRED_TYPE, document(sec_floor={"digits": 1}), "shut out releases for good"),
        ("application/vnd.other", document(), "signs no"),
    ):
        with pytest.raises(StatementRefusedError, match=why):
            statements.check_document(kind, payload, NOW)
    with pytest.raises(StatementRefusedError, match="longer than a week"):
        statements.check_documents(DESIRED_TYPE, [document(), document(expires=long), document()], NOW)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(role=st.sampled_from([*ROLES, "root"]), field=st.sampled_from(sorted(metadata("targets"))), value=_json)
def test_no_metadata_is_so_odd_that_looking_at_it_fails(role: str, field: str, value: object) -> None:
    signed = metadata(role) | {field: value}
    try:
        check(role, signed)
    except StatementRefusedError:
        return
    assert signed["_type"] == metadata(role)["_type"]


def test_a_minute_has_an_end() -> None:
    counted = quotas.Quotas()
    counted.take("documents", quotas.DOCUMENTS, quotas.DOCUMENTS, 0.0)
    with pytest.raises(SigningQuotaError, match="documents in a minute"):
        counted.take("documents", 1, quotas.DOCUMENTS, 59.0)
    counted.take("certificates", 1, quotas.CERTIFICATES, 59.0)
    counted.take("documents", 1, quotas.DOCUMENTS, 60.0)


def test_lives_are_the_ones_that_the_server_gives() -> None:
    assert statements.DOCUMENT_LIFE == DESIRED_LIFE == HOLD_LIFE
    assert question_handler.DEVICE_CERT_LIFE == DEVICE_CERT_LIFE
    assert max(SERVICE_CERT_LIFE, SERVER_CERT_LIFE) == question_handler.OTHER_CERT_LIFE


def evidence(**fields: Any) -> bytes:
    """Return a manifest of evidence that is made now, but for these fields."""
    plain: dict[str, Any] = {
        "files": (EvidenceFile(path="model.json", length=2, sha256="a" * 64, source="/api/v1/models/digits"),),
        "head_size": 3, "left_out": (), "made_at": "2026-12-01T12:00:00.000000Z", "made_by": "ann", "model": "digits",
        "release": "", "server": "0", "since": "",
    }  # fmt: skip
    return manifest_bytes(EvidenceManifest(**plain | fields))


def test_evidence_is_signed_that_is_made_now() -> None:
    statements.check_evidence(evidence(), NOW)


@pytest.mark.parametrize(
    "manifest",
    [
        evidence(made_at="2026-12-01T10:30:00.000000Z"),
        evidence(made_at="2026-12-01T12:00:00"),
        evidence(model="../x"),
        evidence() + b" ",
        evidence().replace(b'"v":1', b'"v":2'),
        canonical(metadata("timestamp")),
        b"[]",
    ],
)
def test_what_is_no_evidence_of_now_is_refused(manifest: bytes) -> None:
    with pytest.raises(StatementRefusedError, match="audit"):
        statements.check_evidence(manifest, NOW)
