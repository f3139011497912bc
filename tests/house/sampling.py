"""pytest plugin that a whole `./dev test` loads: of floods of alike cases, each commit runs one part.

- A flood says one thing of very many cases. Its cases are split into a fixed number of parts, and the number of commits up to this one
  chooses the part: so many commits in a row run every case. In a shallow clone the commit's hash chooses.
- A slow story crosses parts of the product that have tests of their own, which every commit runs. Its tests are run together, in one of
  so many commits in a row.
- The number is printed; `EDGEFLEET_SAMPLE=NUMBER ./dev test` repeats a run, and `EDGEFLEET_SAMPLE=all` leaves nothing out.
- The PostgreSQL cases of tests whose SQL is the same for both databases are a flood too: on SQLite each of them runs every time.
- `./dev test ARGS` and pytest itself run every case, and so does `./dev soak floods`.
- What the last commit or the working tree changed is run in any case: a page of the docs, a benchmark, and every test of a file of tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from tests.house.tree import ROOT

ENVIRONMENT: Final = "EDGEFLEET_SAMPLE"
ALL: Final = "all"
FLOODS: Final[Mapping[str, int]] = {
    "tests/cli/test_contract.py::test_a_server_with_a_fleet": 5,
    "tests/cli/test_contract.py::test_an_empty_server": 5,
    "tests/cli/test_rollout_commands.py::test_every_command_has_every_format_and_its_tables_fit": 3,
    "tests/cli/test_sdk_tools.py::test_an_object_of_a_framework_answers_as_it_did": 4,
    "tests/cli/test_server_commands.py::test_every_list_has_every_format": 3,
    "tests/converters/test_planted_faults.py::test_a_planted_fault_is_refused_by_name": 3,
    "tests/converters/test_real_models.py": 6,
    "tests/converters/test_silent_wrong.py::test_a_planted_fault_is_refused_for_its_reason": 3,
    "tests/converters/test_tool_sources.py": 6,
    "tests/converters/tflite/test_against_onnxruntime.py::test_broadcasting_of_any_rank": 3,
    "tests/converters/tflite/test_against_onnxruntime.py::test_convolutions": 3,
    "tests/converters/tflite/test_against_onnxruntime.py::test_pads": 3,
    "tests/converters/tflite/test_against_onnxruntime.py::test_pools": 3,
    "tests/converters/tflite/test_against_onnxruntime.py::test_reductions": 3,
    "tests/converters/tflite/test_against_onnxruntime.py::test_resizes": 3,
    "tests/converters/tflite/test_against_onnxruntime.py::test_slices": 3,
    "tests/converters/tflite/test_against_onnxruntime.py::test_transposed_convolutions": 3,
    "tests/converters/tflite/test_quantize.py::test_activations_may_have_16_bits_in_litert": 3,
    "tests/converters/tflite/test_quantize.py::test_an_operator_answers_within_two_steps": 3,
    "tests/hostile/device/test_fuzz.py::test_a_parser_survives_random_inputs": 8,
    "tests/hostile/device/test_vectors.py::test_a_hostile_vector_is_refused": 3,
    "tests/hostile/test_one_device.py::test_a_forged_failure_takes_nothing_back_and_makes_its_device_suspect": 2,
    "tests/house/test_benches.py": 6,
    "tests/house/test_docs.py::test_shell_blocks_run": 9,
    "tests/house/test_docs.py::test_shell_blocks_with_a_server_run": 12,
    "tests/server/conversion/test_files.py::test_a_real_conversion_gives_the_same_bundles_as_without_the_rules": 3,
    "tests/server/dashboard/test_axe.py::test_every_page_fits_a_phone": 12,
    "tests/server/dashboard/test_axe.py::test_every_page_is_there_without_scripts": 12,
    "tests/server/dashboard/test_axe.py::test_no_busy_page_shuts_anybody_out": 12,
    "tests/server/dashboard/test_axe.py::test_no_page_shuts_anybody_out": 12,
    "tests/server/fleet/test_listing.py::test_a_search_is_walked_whole_whichever_way_it_is_found": 3,
    "tests/server/rest/test_lists.py::test_each_order_is_walked_whole_and_the_other_way_round": 3,
    "tests/server/rollout/test_simulation.py::test_every_spec_of_the_corpus_ends_with_a_reason": 6,
    "tests/sim/test_many.py::test_no_stage_is_skipped_or_doubled_on_a_bad_wire_with_crashing_replicas": 24,
}
"""Number of parts, by test, or by file where each test of it says the same of another model or benchmark."""
STORIES: Final[Mapping[str, int]] = {
    "tests/cli/importing/test_dvc.py": 3,
    "tests/cli/importing/test_mlflow.py": 3,
    "tests/cli/test_ci_templates.py": 3,
    "tests/house/test_dev.py::test_a_fresh_copy_is_entered_and_the_second_time_nothing_is_installed": 6,  # CI is one itself
    "tests/journeys/test_costs.py": 3,
    "tests/journeys/test_demo.py::test_a_failing_step_says_why_cleans_up_and_keeps_the_logs": 2,
    "tests/journeys/test_demo.py::test_once_on_one_device_with_the_embedded_broker_exits_0_and_leaves_no_file": 3,
    "tests/journeys/test_following.py": 3,
    "tests/journeys/test_install_line.py": 3,
    "tests/journeys/test_notebook.py": 3,
    "tests/journeys/test_page_stories.py": 3,
    "tests/journeys/test_prediction_log.py": 2,
    "tests/journeys/test_real_models.py": 3,
    "tests/journeys/test_replaced_files.py": 3,
    "tests/release/test_cut.py": 2,
    "tests/server/dashboard/test_tabs.py": 3,
    "tests/server/rollout/test_benches.py": 3,
    "tests/server/rollout/test_montecarlo.py": 3,
    "tests/sim/test_pace.py": 3,
}
"""In one of how many commits a slow story runs, by test or file."""
SAME_SQL: Final = (
    "tests/server/access/test_accounts.py",
    "tests/server/access/test_logins.py",
    "tests/server/access/test_second_factor.py",
    "tests/server/access/test_tokens.py",
    "tests/server/conversion/test_known.py",
    "tests/server/fleet/test_approval.py",
    "tests/server/fleet/test_groups.py",
    "tests/server/fleet/test_holding.py",
    "tests/server/fleet/test_offering.py",
    "tests/server/registry/test_publish.py",
    "tests/server/rollout/test_confirmation.py",
    "tests/server/rollout/test_confirmation_rollouts.py",
    "tests/server/rollout/test_confirmation_services.py",
    "tests/server/rollout/test_duty_separation.py",
    "tests/server/rollout/test_form_and_the_rest.py",
    "tests/server/rollout/test_glancing.py",
    "tests/server/rollout/test_midway.py",
    "tests/server/rollout/test_overlaps.py",
    "tests/server/rollout/test_pace.py",
    "tests/server/rollout/test_portions.py",
    "tests/server/rollout/test_protection.py",
    "tests/server/rollout/test_second_try.py",
    "tests/server/rollout/test_shape_routes.py",
    "tests/server/rollout/test_skipping.py",
    "tests/server/rollout/test_suspects.py",
    "tests/server/rollout/test_undo.py",
    "tests/server/rollout/test_withdrawals.py",
    "tests/server/signing/test_trust.py",
    "tests/server/telemetry/test_captures.py",
    "tests/server/telemetry/test_latency_explained.py",
    "tests/server/telemetry/test_timelines.py",
    "tests/server/webhook/test_sending.py",
)
"""Files of which no statement is written for one database; locks, bulk writes, searches and the feed are tested elsewhere, on both."""
TWIN_PARTS: Final = 3


def pytest_report_header() -> str:
    """Say which part is run."""
    wanted = number()
    if wanted is None:
        return "floods: every case"
    return (
        f"floods: part {wanted} of each ({ENVIRONMENT}={wanted}; every case: {ENVIRONMENT}={ALL} or ./dev soak floods)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the cases of other parts."""
    wanted = number()
    if wanted is None:
        return
    cases: dict[str, list[str]] = defaultdict(list)
    for item in items:
        cases[flood_of(item)].append(item.nodeid)
    chosen = {one for flood, ids in cases.items() for one in part(ids, parts_of(flood), wanted)}
    out = [
        item
        for item in items
        if not (item.nodeid in chosen and is_told(item.nodeid, wanted)) and not is_changed(item, changed_files())
    ]
    if out:
        config.hook.pytest_deselected(items=out)
        left_out = set(out)
        items[:] = [item for item in items if item not in left_out]


def flood_of(item: pytest.Item) -> str:
    """Return the test of a case; the file where a whole one is a flood, and for the PostgreSQL cases of one with the same SQL."""
    file, _, _ = item.nodeid.partition("::")
    is_twin = file in SAME_SQL and item.get_closest_marker("postgres") is not None
    return file if is_twin or file in FLOODS else item.nodeid.partition("[")[0]


def is_told(nodeid: str, wanted: int) -> bool:
    """Return whether a run has the slow story of a test; True for a test of none."""
    file, _, _ = nodeid.partition("::")
    story = file if file in STORIES else nodeid.partition("[")[0]
    return (zlib.crc32(story.encode()) + wanted) % STORIES.get(story, 1) == 0


def parts_of(flood: str) -> int:
    """Return in how many parts the cases of a flood run, 1 for what is none."""
    return TWIN_PARTS if flood in SAME_SQL else FLOODS.get(flood, 1)


def part(cases: list[str], parts: int, wanted: int) -> list[str]:
    """Return the cases of one part: each is in one of `parts` successive numbers, and parts differ by one case at most."""
    mixed = sorted(cases, key=lambda one: (zlib.crc32(one.encode()), one))
    return mixed[wanted % parts :: parts]


@cache
def number() -> int | None:
    """Return the number of this run, None for every case: from the environment, else from git; 0 without either."""
    given = os.environ.get(ENVIRONMENT, "")
    if given:
        return None if given == ALL else int(given)
    if _git("rev-parse", "--is-shallow-repository") == "true":
        return int(_git("rev-parse", "HEAD")[:8] or "0", 16)
    return int(_git("rev-list", "--count", "HEAD") or "0")


def is_changed(item: pytest.Item, changed: Collection[Path]) -> bool:
    """Return whether a case is to run because of what was changed (paths relative to the root)."""
    file, found = Path(item.nodeid.partition("::")[0]), getattr(item, "callspec", None)
    if file in changed or (found is not None and found.params.get("page") in changed):
        return True
    return file.name == "test_benches.py" and any(one.parts[0] == "bench" for one in changed)


@cache
def changed_files() -> frozenset[Path]:
    """Return the files that the last commit or the working tree changed, relative to the root."""
    return frozenset(Path(line) for line in _git("diff", "--name-only", "HEAD~1").splitlines())


def main(n: int, seed: int) -> dict[str, Any]:
    """Run every flood and story whole, `n` times: `./dev soak floods`. The cases are fixed, so the seed chooses nothing."""
    del seed
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"]
    runs = ([*command, *FLOODS, *STORIES], [*command, "-m", "postgres", *SAME_SQL])
    codes = [subprocess.run(run, cwd=ROOT, stdout=sys.stderr, check=False).returncode for _ in range(n) for run in runs]
    return {"ok": not any(codes), "exit_codes": codes, "floods": len(FLOODS), "stories": len(STORIES)}


def _git(*arguments: str) -> str:
    try:
        ran = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""
