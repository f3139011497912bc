"""What is written in the form of a new rollout: carried in the address, and the same spec as a file, a command and a request."""

from __future__ import annotations

import contextlib
import shlex
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from edgefleet_cli.rollout.spec import OnFail, Promote, RolloutFlags, from_flags
from edgefleet_server.dashboard.rollouts.draft import (
    OWN,
    STAGE_FIELDS,
    TEXTS,
    StageDraft,
    command_of,
    document_of,
    read_draft,
    stages_of,
    strategy_of,
    yaml_of,
)
from edgefleet_server.rollout.errors import BadSpecError
from edgefleet_server.rollout.spec.parser import dump_spec, parse_spec
from edgefleet_server.rollout.spec.strategies import STRATEGIES

WHO = [("release", "digits@1.1.0"), ("selector", "site=lab")]


def spec_of(*pairs: tuple[str, str]) -> dict[str, Any]:
    """Return the spec, in normal form, that a form with these fields stands for."""
    return dump_spec(parse_spec(document_of(read_draft([*WHO, *pairs]))))


def test_nobody_is_meant_until_somebody_says_so() -> None:
    with pytest.raises(BadSpecError) as caught:
        parse_spec(document_of(read_draft([("release", "digits@1.1.0")])))
    assert [one["path"] for one in caught.value.errors] == ["$.spec.selector"]
    assert document_of(read_draft([("release", "digits@1.1.0"), ("who", "all")]))["spec"]["selector"] == ""


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_strategy_whose_stages_are_written_out_is_the_same_rollout(name: str) -> None:
    by_name = spec_of(("strategy", name))
    written = read_draft([*WHO, ("edit", name)])
    assert written.is_own
    assert dump_spec(parse_spec(document_of(written))) == by_name
    assert strategy_of(by_name["stages"]) == name
    again = read_draft(written.pairs())
    assert again == written


def test_a_stage_can_be_added_before_the_last_and_taken_away() -> None:
    pairs = read_draft([*WHO, ("edit", "canary")]).pairs()
    more = read_draft([*pairs, ("add", "stage")])
    assert [one.name for one in more.stages] == ["canary", "half", "stage-1", "rest"]
    parse_spec(document_of(more))
    less = read_draft([*more.pairs(), ("drop", "1")])
    assert [one.name for one in less.stages] == ["canary", "stage-1", "rest"]
    one_left = read_draft([("strategy", OWN), ("stage.size", "100%"), ("drop", "0")])
    assert len(one_left.stages) == 1


def test_every_field_means_what_the_spec_calls_it() -> None:
    made = spec_of(
        *[("stage.name", "first"), ("stage.size", "2"), ("stage.min", ""), ("stage.soak", "5m"), ("stage.rate", "50")],
        *[
            ("stage.name", "rest"),
            ("stage.size", "100%"),
            ("stage.min", "3"),
            ("stage.approval", ""),
            ("stage.rate", ""),
        ],
        *[("max_failure", "2"), ("promote_below", "4 %"), ("latency", "10"), ("errors", "0.2"), ("drift", "yes")],
        *[("downloads", "500"), ("bandwidth", "200Mbps"), ("cron", "0 1 * * *"), ("lasts", "4h"), ("tz", "UTC")],
        *[
            ("on_fail", "pause"),
            ("after", "4d"),
            ("do", "rollback"),
            ("supersede", "queue"),
            ("strata", "profile, site"),
        ],
    )
    assert [(one["name"], one["size"], one["soak"]) for one in made["stages"]] == [
        ("first", {"count": 2}, "5m"),
        ("rest", {"percent": 100.0, "min": 3}, "0s"),
    ]
    assert made["stages"][0]["rate"]["start"] == "50/min"
    assert (made["gates"]["install"]["max_failure"], made["gates"]["install"]["promote_below"]) == (0.02, 0.04)
    metrics = {one["name"]: one for one in made["gates"]["quality"]["metrics"]}
    assert metrics["latency_p95_ms"]["non_inferior_rel"] == 0.1
    assert metrics["inference_error_rate"]["non_inferior_abs"] == 0.002
    assert metrics["drift"]["on_breach"] == "hold"
    assert made["limits"] == {"concurrent_downloads": 500, "per_site": None, "bandwidth": "200Mbps"}
    assert made["windows"] == [{"cron": "0 1 * * *", "duration": "4h", "tz": "UTC"}]
    assert (made["on_fail"], made["on_inconclusive"]) == ("pause", {"after": "4d", "do": "rollback"})
    assert (made["supersede"], made["strata"]) == ("queue", ["profile", "site"])


def test_a_stage_may_be_judged_by_failures_alone() -> None:
    rows = [("stage.name", "few"), ("stage.size", "2"), ("stage.gates", "install")]
    rest = [("stage.name", "rest"), ("stage.size", "100%"), ("stage.gates", "")]
    draft = read_draft([*WHO, *rows, *rest, ("latency", "10")])
    document = document_of(draft)
    assert [one.get("gates") for one in document["spec"]["stages"]] == [["install"], None]
    assert document_of(read_draft([("yaml", yaml_of(document))])) == document
    made = dump_spec(parse_spec(document))
    assert [one.get("gates") for one in made["stages"]] == [["install"], None]
    assert strategy_of(made["stages"]) == ""
    assert read_draft(draft.pairs()) == draft


def test_energy_is_not_offered_while_devices_do_not_tell_it() -> None:
    draft = read_draft([*WHO, ("energy", "15"), ("latency", "10")])
    assert [one["name"] for one in document_of(draft)["spec"]["gates"]["quality"]["metrics"]] == ["latency_p95_ms"]


def test_what_cannot_be_is_told_at_its_place() -> None:
    with pytest.raises(BadSpecError) as caught:
        document_of(read_draft([*WHO, ("stage.size", "some"), ("downloads", "-1"), ("latency", "much")]))
    assert [one["path"] for one in caught.value.errors] == [
        "$.spec.stages[0].size",
        "$.spec.gates.quality.latency_p95_ms",
        "$.spec.limits.concurrent_downloads",
    ]


def test_the_command_and_the_file_are_the_same_rollout() -> None:
    draft = read_draft(
        [("release", "digits@1.1.0"), ("selector", "name in (it's,b)"), ("strategy", "ab"), ("name", "x")]
    )
    words = shlex.split(command_of(document_of(draft)))
    assert words[:4] == ["edgectl", "rollout", "create", "digits@1.1.0"]
    flags = dict(zip(words[4::2], words[5::2], strict=True))
    flagged = RolloutFlags(
        words[3],
        flags["--to"],
        strategy=flags["--strategy"],
        name=flags["--name"],
        promote=Promote(flags["--promote"]) if "--promote" in flags else None,
        on_fail=OnFail(flags["--on-fail"]) if "--on-fail" in flags else None,
    )
    assert from_flags(flagged) == document_of(draft)
    longer = document_of(read_draft([*WHO, ("downloads", "5")]))
    command = command_of(longer)
    assert command.startswith("edgectl rollout create -f - <<'EOF'\n")
    assert yaml.safe_load(command.partition("\n")[2].removesuffix("EOF")) == longer
    assert yaml.safe_load(yaml_of(longer)) == longer


@pytest.mark.parametrize(
    "text", ["a: &x [1]\nb: *x", "- 1", "a: [", "&a [*a]", "[" * 3000, "a: .nan", "just text", "? [1]\n: 2"]
)
def test_text_that_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(BadSpecError):
        parse_spec(document_of(read_draft([("yaml", text)])))


def test_a_spec_may_be_pasted_with_or_without_its_head() -> None:
    bare = "release: digits@1.1.0\nselector: ''\n"
    whole = yaml_of(document_of(read_draft([("yaml", bare)])))
    assert parse_spec(document_of(read_draft([("yaml", whole)]))) == parse_spec(yaml.safe_load(bare))


FIELDS = st.sampled_from([*TEXTS, *(f"stage.{one}" for one in STAGE_FIELDS), "edit", "add", "drop"])


@given(st.lists(st.tuples(FIELDS, st.text(max_size=12)), max_size=40))
@example([("drop", "²")])
def test_no_address_breaks_the_form(pairs: list[tuple[str, str]]) -> None:
    draft = read_draft(pairs)
    assert len(draft.stages) <= 32
    again = read_draft(draft.pairs())
    assert (again.texts, again.stages) == (draft.texts, draft.stages)
    with contextlib.suppress(BadSpecError):
        parse_spec(document_of(draft))


def test_stages_of_a_strategy_say_who_approves() -> None:
    assert stages_of("ab")[-1] == StageDraft(
        name="winner", size="100%", soak="0s", mode="active", approval="operator", timeout="7d"
    )


def test_one_report_is_enough_only_where_the_form_says_so() -> None:
    assert "on_unconfirmed" not in spec_of()
    assert spec_of(("on_unconfirmed", "rollback"))["on_unconfirmed"] == "rollback"
    document = document_of(read_draft([*WHO, ("on_unconfirmed", "rollback")]))
    assert command_of(document).startswith("edgectl rollout create -f -"), "there is no flag for it"
