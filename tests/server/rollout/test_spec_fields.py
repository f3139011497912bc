"""Reading a spec: equal normal forms for ever, no unknown field, no number for a text, no mistake behind another one."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.rollout.errors import BadSpecError
from edgefleet_server.rollout.spec.parser import dump_document, parse_spec
from tests.house.tree import ROOT
from tests.server.rollout.corpus import refused
from tests.server.rollout.normal_forms import FILE, committed, lines

Steps = tuple[str | int, ...]

KNOWN: dict[str, Any] = dict(map(json.loads, FILE.read_text("utf-8").splitlines()))
DOCUMENTS = st.sampled_from([form for _, form in sorted(KNOWN.items())]).map(copy.deepcopy)
COMMITTED = dict(committed())
SCHEMA = jsonschema_rs.validator_for(
    json.loads((ROOT / "docs" / "reference" / "rollout-spec.schema.json").read_text("utf-8"))
)
DURATION = re.compile(r"[0-9]+[smhd]")


def errors_of(document: Any) -> list[tuple[str, str]]:
    with pytest.raises(BadSpecError) as caught:
        parse_spec(document)
    return [(error["path"], error["message"]) for error in caught.value.errors]


def places(value: Any, at: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    yield at, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, one in inner:
        yield from places(one, (*at, step))


def put(document: Any, at: Steps, value: Any) -> None:
    for step in at[:-1]:
        document = document[step]
    document[at[-1]] = value


def path(at: Steps) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in at)


# ---- the normal form


def test_the_normal_form_of_every_committed_spec_is_what_it_was() -> None:
    assert lines() == FILE.read_text("utf-8").splitlines(keepends=True), (
        "read `normal_forms` before you write them again"
    )


@given(DOCUMENTS)
def test_a_normal_form_is_its_own_normal_form(document: Any) -> None:
    assert dump_document(parse_spec(document)) == document


# ---- strictness, on any spec of the repository


@given(DOCUMENTS, st.data())
def test_an_unknown_field_is_refused_wherever_it_stands(document: Any, data: st.DataObject) -> None:
    objects = [at for at, value in places(document) if isinstance(value, dict)]
    at = data.draw(st.sampled_from(objects))
    put(document, (*at, "surplus"), data.draw(st.none() | st.integers() | st.text() | st.just({})))
    ((where, message),) = errors_of(document)
    assert where == path((*at, "surplus"))
    assert message.startswith("is not a field here; ")


@given(DOCUMENTS, st.data())
def test_a_number_is_no_text_and_no_yes_or_no(document: Any, data: st.DataObject) -> None:
    numbers = [(at, value) for at, value in places(document) if type(value) in (int, float)]
    at, value = data.draw(st.sampled_from(numbers))
    put(document, at, data.draw(st.sampled_from([str(value), f"{value:g}", True, False, [value]])))
    assert path(at) in {where for where, _ in errors_of(document)}


@given(DOCUMENTS, st.data())
def test_a_text_is_no_number_and_no_yes_or_no(document: Any, data: st.DataObject) -> None:
    texts = [(at, value) for at, value in places(document) if isinstance(value, str) and not DURATION.fullmatch(value)]
    at, _ = data.draw(st.sampled_from(texts))
    put(document, at, data.draw(st.sampled_from([0, 1, 1.0, True, False, []])))
    assert path(at) in {where for where, _ in errors_of(document)}


@pytest.mark.parametrize("value", [1, 0, "true", "yes", None, []])
def test_yes_or_no_is_nothing_else(value: Any) -> None:
    size = {"count": 2, "count_total": value}
    document = {"release": "a@1", "selector": "", "stages": [{"size": size}, {"size": {"percent": 100}}]}
    ((where, message),) = errors_of(document)
    assert (where, message.partition(", got")[0]) == ("$.stages[0].size.count_total", "expected true or false")


def test_a_whole_number_is_a_number_and_is_written_as_one() -> None:
    spec = parse_spec({"release": "a@1", "selector": "", "stages": [{"size": {"percent": 100}}]})
    percent = spec.stages[0].size.percent
    assert (percent, type(percent)) == (100.0, float)


# ---- all at once


@given(DOCUMENTS, st.data())
def test_a_mistake_hides_no_other_one(document: Any, data: st.DataObject) -> None:
    spec = document["spec"]
    kept = data.draw(st.sampled_from(["membership", "supersede", "on_fail", "limits", "offline", "strata", "device"]))
    spec[kept] = 5
    spec["rollback_to"] = "some other@1.0.0"
    spec["stages"][-1] = {"name": spec["stages"][0]["name"], "size": {"percent": 99}, "mode": "shadow", "more": 1}
    found = {where for where, _ in errors_of(document)}
    last = f"$.spec.stages[{len(spec['stages']) - 1}]"
    assert {f"$.spec.{kept}", "$.spec.rollback_to", f"{last}.size", f"{last}.mode", f"{last}.more"} <= found


def test_mistakes_come_in_the_order_of_the_fields() -> None:
    stages = [{"soak": "x", "size": {"percent": 5}, "naem": 1}, {"size": {"percent": 4}}]
    document = {"strata": [], "sizes": 1, "stages": stages, "release": "a"}
    assert [where for where, _ in errors_of(document)] == [
        "$.sizes",
        "$.release",
        "$.selector",
        "$.stages[0].naem",
        "$.stages[0].soak",
        "$.stages[1].size",
        "$.stages[1].size",
        "$.strata",
    ]


def test_no_more_than_a_hundred_mistakes_are_listed() -> None:
    assert len(errors_of({"release": "a@1", "selector": "", **{f"field-{n}": n for n in range(150)}})) == 100


def test_a_key_that_yaml_reads_as_another_kind_is_named_as_text() -> None:
    document = yaml.safe_load("{release: a@1, selector: '', 5: x, yes: x}")
    assert [where for where, _ in errors_of(document)] == ["$['5']", "$.true"]


def test_a_wrong_class_is_found_whatever_yaml_made_of_the_key_on() -> None:
    for key in ("on", True, "true"):
        document = {"release": "a@1", "selector": "", "device": {"retries": {"on": ["disk"], key: ["wifi"]}}}
        assert [where for where, _ in errors_of(document)] == ["$.device.retries.on[0]"]


@pytest.mark.parametrize("field", ["release", "selector", "membership", "rollback_to"])
def test_text_that_no_encoding_holds_is_refused(field: str) -> None:
    document = {"release": "a@1", "selector": "", field: "\ud800"}
    told = errors_of(document)
    assert [where for where, _ in told] == [f"$.{field}"]
    json.dumps(told, ensure_ascii=False).encode()


# ---- what does without pydantic


def test_the_planner_is_imported_without_pydantic() -> None:
    """The explorer and the simulations of the tests start many processes that read no document."""
    code = "import sys, edgefleet_server.rollout.planner.tick; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- the schema for editors


@pytest.mark.parametrize("name", COMMITTED)
def test_the_published_schema_takes_every_committed_spec(name: str) -> None:
    written = json.dumps(COMMITTED[name])
    # what PyYAML makes of the key `on`; editors read YAML 1.2, where it is text
    SCHEMA.validate(json.loads(written.replace('"true": [', '"on": [')))
    SCHEMA.validate(KNOWN[name])


def test_the_published_schema_refuses_much_of_what_the_server_refuses() -> None:
    """It knows no rule that looks at two fields, nor the grammar of selectors and cron: an editor helps, the server judges."""
    found = [case.name for case in refused() if not SCHEMA.is_valid(case.document)]
    assert len(found) >= 18
