"""When a protected device's document may change: tables of the pure rules, and any two documents."""

import ast
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.desired import ModelDesired, Ref
from edgefleet_server.fleet.protection.model import PersonWarrant, RolloutWarrant, Warrant
from edgefleet_server.fleet.protection.rules import (
    NO_WARRANT,
    NOT_APPROVED,
    NOT_BEFORE,
    NOT_ITS_OWN,
    gained,
    refusal,
    unsteady_keys,
)
from edgefleet_server.fleet.selectors.grammar import parse_selector
from tests.house.tree import ROOT

OFFER, UNAPPROVED = RolloutWarrant("r-2", "eve"), RolloutWarrant("r-2")


def ref(version: str, rollout: str | None = None, attempt: int = 1) -> Ref:
    return Ref(target=f"m/{version}/p.bundle", sha256=version * 64, length=1, rollout=rollout, attempt=attempt)


def active(version: str, rollout: str | None = None, **more: Any) -> dict[str, ModelDesired]:
    return {"m": ModelDesired(active=ref(version, rollout), **more)}


def back(to: str, *, rollout: str = "r-1", by: str = "") -> RolloutWarrant:
    return RolloutWarrant(rollout, by, is_rollback=True, before=to * 64)


A, B = active("a"), active("b", "r-1")
SHADOW = active("a", candidate=ref("b"), mode="shadow")
HALF = active("a", candidate=ref("b"), mode="split", share_pct=50, salt="s")


@pytest.mark.parametrize(
    ("before", "after", "warrant", "reason"),
    [
        ({}, A, None, NO_WARRANT),
        ({}, A, PersonWarrant("t-1"), NO_WARRANT),
        ({}, A, OFFER, ""),
        ({}, A, UNAPPROVED, NOT_APPROVED),
        (A, A, None, ""),
        (A, {}, None, ""),
        (A, B, None, NO_WARRANT),
        (A, SHADOW, None, NO_WARRANT),
        (SHADOW, A, None, ""),
        (SHADOW, HALF, None, NO_WARRANT),
        (HALF, active("a", candidate=ref("b"), mode="split", share_pct=60, salt="s"), UNAPPROVED, NOT_APPROVED),
        (SHADOW, active("a", candidate=ref("b", attempt=2), mode="shadow"), None, NO_WARRANT),
        (
            B,
            active("b"),
            None,
            NO_WARRANT,
        ),  # the same bundle in nobody's name: the rollout could not take it back any more
        (B, active("b", "r-2"), UNAPPROVED, NOT_APPROVED),
        (B, A, back("a"), ""),
        (B, A, back("c"), NOT_BEFORE),
        (B, active("c"), back("a"), NOT_BEFORE),
        (
            B,
            active("c"),
            back("a", by="eve"),
            "",
        ),  # the rollout says where its devices go back to, and that was approved
        (B, A, back("a", rollout="r-9"), NOT_ITS_OWN),
        (B, A, back("a", rollout="r-9", by="eve"), NOT_ITS_OWN),
        (A, active("c"), back("c"), NOT_ITS_OWN),
        ({}, A, back("a", by="eve"), NOT_ITS_OWN),
    ],
)
def test_each_change_of_a_protected_device(
    before: dict[str, ModelDesired], after: dict[str, ModelDesired], warrant: Warrant, reason: str
) -> None:
    assert refusal(before, after, warrant, ["pci"]) == reason
    assert refusal(before, after, warrant, []) == "", "nothing is refused to a device under no rule"


def test_a_person_must_have_set_aside_every_rule_of_the_device() -> None:
    person = PersonWarrant("t-1")
    assert refusal(A, B, person, ["pci", "ward"], {"pci"}) == NO_WARRANT
    assert refusal(A, B, person, ["pci", "ward"], {"pci", "ward", "more"}) == ""


REFS = st.builds(ref, st.sampled_from("abc"), st.sampled_from([None, "r-1", "r-2"]), st.integers(1, 2))
DOCUMENTS = st.dictionaries(
    st.sampled_from(["m", "n"]),
    st.builds(
        ModelDesired,
        active=st.none() | REFS,
        candidate=st.none() | REFS,
        mode=st.sampled_from(["shadow", "split", "measure"]),
        share_pct=st.integers(0, 2),
    ),
)


@given(DOCUMENTS, DOCUMENTS)
def test_whoever_shows_nothing_brings_a_device_no_bundle_that_it_did_not_have(
    before: dict[str, ModelDesired], after: dict[str, ModelDesired]
) -> None:
    def bundles(document: dict[str, ModelDesired]) -> set[tuple[str, str]]:
        return {
            (m, one.sha256) for m, desired in document.items() for one in (desired.active, desired.candidate) if one
        }

    if refusal(before, after, None, ["pci"]) == "":
        assert bundles(after) <= bundles(before)
        assert gained(before, after) == []
    for warrant in (OFFER, PersonWarrant("t-1")):
        assert refusal(before, after, warrant, ["pci"], {"pci"}) == ""


@pytest.mark.parametrize(
    "text", ["status=online", "health=ok", "model.m=1", "free_mb>5", "suspect", "arch=x86_64", "a=1,!suspect"]
)
def test_no_rule_asks_for_what_devices_say_of_themselves(text: str) -> None:
    assert unsteady_keys([parse_selector(text)])


@pytest.mark.parametrize("text", ["", "env=prod", "id=d-1", "profile in (a,b)", "group=shops,!lab"])
def test_a_rule_may_ask_for_what_people_set(text: str) -> None:
    assert unsteady_keys([parse_selector(text)]) == []


# ---- no way past the guard in code

SERVER = ROOT / "server" / "edgefleet_server"
WRITES_DOCUMENTS = re.compile(
    r"\b(?:FleetDesired\(|insert_into\(\w+, FleetDesired|(?:update|insert)\(FleetDesired\)|write_documents\(|_DESIRED\.(?:update|insert)\()"
)
CHANGES_MEMBERSHIP = re.compile(r"\bFleetDevice\(|\.(?:labels|profile) = |values\((?:labels|profile)=")


def modules_with(pattern: re.Pattern[str]) -> dict[str, str]:
    """Return the modules of the server, with their text, in which a pattern is found outside of the migrations and tables."""
    found = {}
    for path in sorted(SERVER.rglob("*.py")):
        text, name = path.read_text("utf-8"), path.relative_to(SERVER).as_posix()
        if pattern.search(text) and not name.startswith("migrations/") and path.name != "tables.py":
            found[name] = text
    return found


def test_no_code_writes_models_of_devices_past_the_guard() -> None:
    """A new writer of documents has to become a method of `DesiredBook`, whose changes all go through the guard."""
    found = modules_with(WRITES_DOCUMENTS)
    assert set(found) == {
        "fleet/desired/documents.py",  # asks the guard
        "fleet/desired/store.py",  # is called by it
        "fleet/desired/capture_key.py",  # makes documents due for signing, and changes nothing else of them
    }
    assert re.findall(r"\.values\((.*)\)", found["fleet/desired/capture_key.py"]) == ["resign_at=now"]
    book = ast.parse(found["fleet/desired/documents.py"])
    writers = {one.name for one in ast.walk(book) if isinstance(one, ast.FunctionDef) and _signs_models(one)}
    assert writers == {"_put", "_sign_many", "_write"}, (
        "only these bring new models, and what calls them has asked the guard"
    )

    def callers(name: str) -> set[str]:
        functions = [one for one in ast.walk(book) if isinstance(one, ast.FunctionDef)]
        return {one.name for one in functions if f"self.{name}(" in ast.unparse(one)}

    assert callers("_put") == {"set_active", "set_candidates"}
    assert callers("_sign_many") == {"set_models", "_sign_again"}
    (again,) = (one for one in ast.walk(book) if isinstance(one, ast.FunctionDef) and one.name == "_sign_again")
    assert re.findall(r"contents\.(\w+)\(", ast.unparse(again)) == ["again"], "it signs what is there, and nothing else"
    for name in ("set_active", "set_candidates", "set_models"):
        (method,) = (one for one in ast.walk(book) if isinstance(one, ast.FunctionDef) and one.name == name)
        assert re.search(r"_allowed\(|_warranted\(", ast.unparse(method)), name


def _signs_models(function: ast.FunctionDef) -> bool:
    """Whether a function gives `_write` models, or signs content itself."""
    for call in (one for one in ast.walk(function) if isinstance(one, ast.Call)):
        text = ast.unparse(call.func)
        named = {keyword.arg for keyword in call.keywords}
        signs = text in {"self._sign", "self._signing.sign_all_desired"}
        if (text == "self._write" and (len(call.args) > 2 or "models" in named)) or signs:
            return True
    return False


def test_whatever_changes_what_selectors_of_rules_compare_notes_who_matches_now() -> None:
    found = {name for name, text in modules_with(CHANGES_MEMBERSHIP).items() if "note_members(" not in text}
    assert found <= {"fleet/enrolment/store.py"}, found


def test_only_a_deployment_and_rollouts_change_what_a_document_says() -> None:
    callers = modules_with(re.compile(r"\.(?:set_active|set_candidates|set_models)\("))
    assert set(callers) == {"fleet/desired/deploy.py", "rollout/controller/executor.py"}
