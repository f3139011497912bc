"""`./dev soak theft`: for each thief what was tried, and that no unauthorized install followed, as one JSON object.

Each attempt is made on a device of its own. An install is unauthorized when the signers of the model did not sign the bundle, or have
withdrawn it. What a thief may still do is in `allowed`, with what closes it: it is measured like the rest, and must be so.
"""

import random
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.hostile.theft.after_ceremony import after_ceremony
from tests.hostile.theft.attempts import CONTROLS, THIEVES, Attempt
from tests.hostile.theft.device import Robbed
from tests.hostile.theft.online_keys import whole_key_folder
from tests.hostile.theft.with_team import with_team


def outcome(thief: str, attempt: Attempt, *, own_process: bool = False) -> dict[str, Any]:
    """Make one attempt on a device of its own. own_process: the child as agentd starts it, else in a thread."""
    with TemporaryDirectory(prefix="ef-theft-") as name:
        try:
            code = attempt.steal(Robbed(Path(name), own_process=own_process))
        except Exception as error:  # noqa: BLE001 - a crash is an outcome
            code = f"crash: {type(error).__name__}: {error}"[:200]
    row = {"thief": thief, "tried": attempt.what, "answer": code or "taken", "installed": not code}
    is_good = bool(code) and not code.startswith("crash") if not attempt.closes else not code
    return {**row, "closed_by": attempt.closes, "good": is_good}


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Make n attempts, all when there are fewer, in an order that the seed chooses, with processes as agentd starts them."""
    all_of_them = [(thief, attempt) for thief, attempts in THIEVES.items() for attempt in attempts]
    rows = []
    for thief, attempt in random.Random(seed).sample(all_of_them, min(n, len(all_of_them))):
        rows.append(outcome(thief, attempt, own_process=True))
        print(f"{thief}: {attempt.what}: {rows[-1]['answer']}", file=sys.stderr, flush=True)
    controls = {thief: outcome(thief, one, own_process=True) for thief, one in CONTROLS.items()}
    return report(rows, whole_key_folder(), after_ceremony(), with_team(), controls)


def report(
    rows: list[dict[str, Any]],
    today: Mapping[str, Any],
    after: Mapping[str, Any] | None = None,
    team: Mapping[str, Any] | None = None,
    controls: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return what came of all attempts. today: of a server with all its keys in one folder; after: of one after a key ceremony.

    team: of one whose models teams sign as well; controls: of the same with what each thief lacks, which must be taken.
    """
    unauthorized = [row for row in rows if row["installed"] and not row["closed_by"]]
    of_servers = sum((one or {}).get("unauthorized_installs", 0) for one in (after, team))
    is_proof = all(one["installed"] for one in (controls or {}).values())
    is_proof &= (team or {}).get("by_the_team", "taken") == "taken"
    is_proof &= (after or {}).get("control", {}).get("answer", "taken") == "taken"
    return {
        "ok": all(row["good"] for row in rows) and not of_servers and is_proof,
        "unauthorized_installs": len(unauthorized) + of_servers,
        "thieves": {
            thief: {
                "tried": [row["tried"] for row in rows if row["thief"] == thief],
                "answers": sorted({row["answer"] for row in rows if row["thief"] == thief}),
                "unauthorized_installs": sum(row["thief"] == thief for row in unauthorized),
                "allowed": [
                    {"what": row["tried"], "closed_by": row["closed_by"]}
                    for row in rows
                    if row["thief"] == thief and row["closed_by"] and row["installed"]
                ],
            }
            for thief in THIEVES
        },
        "whole_key_folder": today,
        "server_after_a_ceremony": after or {},
        "server_whose_models_teams_sign": team or {},
        "controls": {thief: {"what": one["tried"], "answer": one["answer"]} for thief, one in (controls or {}).items()},
        "rows": rows,
    }
