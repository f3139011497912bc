"""Files of a ceremony: what they refuse, and that no change of a request goes without a line."""

import contextlib
import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # documented, but not in __all__
from tuf.api.metadata import (  # type: ignore[attr-defined]  # documented there, but not in __all__
    DelegatedRole,
    Delegations,
    Metadata,
    Root,
    TargetFile,
    Targets,
)

from edgefleet_ceremony.change_text import changes_of, state_after
from edgefleet_ceremony.file_format import BadCeremonyFileError, canonical
from edgefleet_ceremony.public_part import part_of
from edgefleet_ceremony.root_fields import CEREMONY_FIELD, holder_names, offline_roles
from edgefleet_ceremony.signature_request import ID_DIGITS, SigningRequest, answer_of, request_bytes, request_of
from edgefleet_protocol.digest import sha256_hex
from tests.support.holders import part_text

UNTIL = datetime(2027, 1, 1, tzinfo=UTC)
KINDS: list[tuple[str, Any]] = [("root", Root), ("targets", Targets)]
KEYS = [CryptoSigner.generate_ed25519().public_key for _ in range(4)]


def root() -> Root:
    made = Root(version=3, expires=UNTIL, consistent_snapshot=True)
    for role in ("root", "targets", "snapshot", "timestamp"):
        made.add_key(KEYS[0], role)
    made.unrecognized_fields[CEREMONY_FIELD] = {"offline": ["targets"], "holders": {KEYS[0].keyid: "anna"}}
    return made


def targets() -> Targets:
    made = Targets(version=3, expires=UNTIL, delegations=Delegations({}, {}))
    for name, path in (("director", "director/*"), ("releases", "*/*/*")):
        assert made.delegations is not None
        assert made.delegations.roles is not None
        made.delegations.roles[name] = DelegatedRole(name, [], 1, terminating=True, paths=[path])
        made.add_key(KEYS[1], name)
    made.targets["a/b/c"] = TargetFile(1, {"sha256": "a" * 64}, "a/b/c")
    return made


def asked(new_root: Root | None = None, new_targets: Targets | None = None) -> SigningRequest:
    proposed: dict[str, Metadata[Any]] = {}
    if new_root is not None:
        proposed["root"] = Metadata(new_root)
    if new_targets is not None:
        proposed["targets"] = Metadata(new_targets)
    current: dict[str, Metadata[Any]] = {"root": Metadata(root()), "targets": Metadata(targets())}
    return SigningRequest(purpose="p", made_at=UNTIL, current=current, proposed=proposed)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all plain values and of all entries of maps and lists."""
    if isinstance(value, dict):
        return [found for key, one in value.items() for found in [(*path, key), *leaves(one, (*path, key))]]
    if isinstance(value, list):
        return [found for n, one in enumerate(value) for found in [(*path, n), *leaves(one, (*path, n))]]
    return []


def test_the_same_again_says_only_versions_and_ends() -> None:
    assert [line.split(":")[0] for line in changes_of(asked(root(), targets()))] == ["root", "targets"]


@given(st.data())
def test_no_change_goes_without_a_line(data: Any) -> None:
    role = data.draw(st.sampled_from(["root", "targets"]))
    old = (root() if role == "root" else targets()).to_dict()
    new = copy.deepcopy(old)
    path = data.draw(
        st.sampled_from([one for one in leaves(new) if one[0] not in {"version", "expires", "_type", "spec_version"}])
    )
    inner = new
    for step in path[:-1]:
        inner = inner[step]
    how = data.draw(st.sampled_from(["removed", "other", "added"]))
    if how == "removed":
        del inner[path[-1]]
    elif how == "added" and isinstance(inner, dict):
        inner["x-new"] = 7
    elif isinstance(inner[path[-1]], str):
        inner[path[-1]] += "x"
    elif isinstance(inner[path[-1]], bool):
        inner[path[-1]] = not inner[path[-1]]
    elif isinstance(inner[path[-1]], int):
        inner[path[-1]] += 1
    else:
        return
    try:
        found = (Root if role == "root" else Targets).from_dict(copy.deepcopy(new))
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # it cannot be read, so it is refused
    lines = changes_of(asked(found if role == "root" else None, found if role == "targets" else None))  # type: ignore[arg-type]
    assert len(lines) > 1 or found.to_dict() == old, (path, how)


def test_a_request_that_was_changed_on_its_way_is_refused() -> None:
    whole = json.loads(request_bytes(asked(root())))
    assert request_of(json.dumps(whole).encode()).id == whole["id"]
    whole["proposed"]["root"]["signed"]["roles"]["root"]["threshold"] = 1
    whole["proposed"]["root"]["signed"]["version"] = 9
    with pytest.raises(BadCeremonyFileError, match="changed on its way"):
        request_of(json.dumps(whole).encode())


@pytest.mark.parametrize("role", ["root", "targets"])
def test_a_key_under_the_id_of_another_is_refused(role: str) -> None:
    """A holder compares ids, and the library of devices takes any id: a stolen server would put its own key there."""
    whole = json.loads(request_bytes(asked(root(), targets())))
    signed = whole["proposed"][role]["signed"]
    keys = signed["keys"] if role == "root" else signed["delegations"]["keys"]
    for key in keys.values():
        key["keyval"]["public"] = KEYS[3].keyval["public"]
    whole["id"] = asked(*(kind.from_dict(copy.deepcopy(whole["proposed"][name]["signed"])) for name, kind in KINDS)).id
    with pytest.raises(BadCeremonyFileError, match="another key under the id"):
        request_of(json.dumps(whole).encode())


def test_the_whole_id_of_a_new_key_is_shown() -> None:
    new = root()
    new.add_key(KEYS[3], "root")
    new.unrecognized_fields[CEREMONY_FIELD]["holders"][KEYS[3].keyid] = "dora"
    assert f"root: root gains the key {KEYS[3].keyid} of dora" in changes_of(asked(new))


@given(st.data())
def test_a_request_with_an_odd_value_is_refused_or_shown(data: Any) -> None:
    whole = json.loads(request_bytes(asked(root(), targets())))
    path = data.draw(st.sampled_from([one for one in leaves(whole) if one[0] in {"current", "proposed"}]))
    inner = whole
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = data.draw(
        st.sampled_from([None, 0, -1, 1.5, True, "", "x", "\ud800", [], {}, [1], {"a": 1}, 10**30])
    )
    with contextlib.suppress(BadCeremonyFileError, AttributeError, TypeError, KeyError):  # no id can be made of it
        signed = {role: one["signed"] for role, one in whole["proposed"].items()}
        whole["id"] = sha256_hex(canonical(signed))[:ID_DIGITS]
    with contextlib.suppress(BadCeremonyFileError):
        request = request_of(json.dumps(whole).encode())
        assert changes_of(request)
        assert state_after(request)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_what_is_no_file_of_a_ceremony_is_refused(data: bytes) -> None:
    for read in (part_of, request_of, answer_of):
        with pytest.raises(BadCeremonyFileError):
            read(data)


@given(st.data())
def test_a_public_part_that_was_changed_is_refused(data: Any) -> None:
    whole = json.loads(PART)
    path = data.draw(st.sampled_from(leaves(whole)))
    inner = whole
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = data.draw(st.none() | st.integers(0, 9) | st.text(max_size=5) | st.just({}) | st.just([]))
    if whole == json.loads(PART):
        return
    with pytest.raises(BadCeremonyFileError):
        part_of(json.dumps(whole).encode())


def test_what_root_says_of_its_holders_is_read_or_ignored() -> None:
    assert offline_roles(root().to_dict()) == {"targets"}
    assert holder_names(root().to_dict()) == {KEYS[0].keyid: "anna"}
    odd: Any
    for odd in (None, [], "x", {"offline": "targets", "holders": []}, {}):
        assert (offline_roles({CEREMONY_FIELD: odd}), holder_names({CEREMONY_FIELD: odd})) == (frozenset(), {})


PART = part_text("anna")
