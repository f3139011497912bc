"""One stolen key brings no unauthorized install: five proofs, a thief each. `./dev soak theft` makes them with real processes."""

import json

import pytest

from tests.hostile.theft.after_ceremony import ATTEMPTS, STILL_ALLOWED, after_ceremony
from tests.hostile.theft.attempts import CONTROLS, THIEVES
from tests.hostile.theft.online_keys import CLOSED_BY, whole_key_folder
from tests.hostile.theft.proofs import outcome, report
from tests.hostile.theft.with_team import NEW_MODEL, ONE_OF_TEAM, with_team


@pytest.mark.parametrize("thief", THIEVES)
def test_a_thief_of_one_thing_installs_nothing_that_nobody_allowed(thief: str) -> None:
    rows = [outcome(thief, attempt) for attempt in THIEVES[thief]]
    for row in rows:
        print(json.dumps(row))
    found = report(rows, {})["thieves"][thief]
    print(f"{thief}: {len(rows)} attempts, {found['unauthorized_installs']} unauthorized installs")
    assert outcome(thief, CONTROLS[thief])["installed"], (
        "with what it lacks the device takes it, so the refusals are a proof"
    )
    assert found["unauthorized_installs"] == 0
    assert [row for row in rows if not row["good"]] == []
    assert len(found["allowed"]) == (thief in {"server", "director"}), "an older release that nobody withdrew"


def test_a_folder_with_all_keys_is_all_that_a_thief_needs() -> None:
    found = whole_key_folder()
    print(json.dumps(found))
    assert (found["answer"], found["closed_by"]) == ("allowed", CLOSED_BY)


def test_a_stolen_server_makes_no_root_and_no_targets_after_a_ceremony() -> None:
    strongest = [what for what in ATTEMPTS if "one holder" in what]
    found = after_ceremony(strongest)  # all of them: `./dev soak theft`
    print(json.dumps(found))
    assert found["unauthorized_installs"] == 0
    assert set(found["tried"].values()) == {"tuf.unsigned"}, found["tried"]
    assert found["control"]["answer"] == "taken", "with two holders the device takes it"
    assert (found["allowed"]["answer"], found["allowed"]["closed_by"]) == ("allowed", STILL_ALLOWED)


def test_a_stolen_server_installs_nothing_where_teams_sign() -> None:
    found = with_team([ONE_OF_TEAM, NEW_MODEL])  # all of them: `./dev soak theft`
    print(json.dumps(found))
    assert (found["unauthorized_installs"], found["by_the_team"]) == (0, "taken"), found["tried"]
