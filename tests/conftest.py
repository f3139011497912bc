"""For all tests: nothing of the terminal they were started from; files of real processes, and of much work, are `slow` as a whole.

`./dev test --fast` leaves `slow` out and stays below two minutes; `./dev test` and CI run everything. Of a property with no number of
its own it tries fewer examples.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.device_python import PATIENCE
from tests.support.processes import clean_up

ROOT = Path(__file__).parent
SLOW = (
    "agent/inputs/",
    "agent/test_beginning.py",
    "agent/test_candidate_way.py",
    "agent/test_candidates.py",
    "agent/test_capture.py",
    "agent/test_code_files.py",
    "agent/test_drain.py",
    "agent/test_enroll_approval.py",
    "agent/test_feedback_way.py",
    "agent/test_going_back.py",
    "agent/test_install_child.py",
    "agent/test_installed_check.py",
    "agent/test_intake.py",
    "agent/test_offline.py",
    "agent/test_refusals.py",
    "agent/test_renew.py",
    "agent/test_replacing.py",
    "agent/test_side_by_side.py",
    "agent/test_signals.py",
    "agent/test_stops.py",
    "agent/test_whole_way.py",
    "agent/test_withdrawing.py",
    "agent/worker/test_exposition.py",
    "agent/worker/test_feedback.py",
    "agent/worker/test_gentle.py",
    "agent/worker/test_life.py",
    "agent/worker/test_memory.py",
    "agent/worker/test_neighbours.py",
    "agent/worker/test_shadow.py",
    "agent/worker/test_signals.py",
    "agent/worker/test_supervised.py",
    "broker/test_contract.py",
    "broker/test_lifecycle.py",
    "broker/test_links.py",
    "cli/importing/",
    "cli/test_ci_templates.py",
    "cli/test_contract.py",
    "cli/test_convert.py",
    "cli/test_demo_guard.py",
    "cli/test_drift_commands.py",
    "cli/test_events.py",
    "cli/test_interrupted.py",
    "cli/test_release_commands.py",
    "cli/test_rollout_power.py",
    "cli/test_rollout_watch.py",
    "cli/test_sdk.py",
    "cli/test_server_commands.py",
    "cli/test_server_up.py",
    "cli/test_sim.py",
    "cli/test_top.py",
    "cli/test_webhook_commands.py",
    "converters/test_choice.py",
    "converters/test_data_questions.py",
    "converters/test_drift_corruptions.py",
    "converters/test_encoder_decoder.py",
    "converters/test_fuzz.py",
    "converters/test_importers.py",
    "converters/test_job.py",
    "converters/test_kept.py",
    "converters/test_open_dimensions.py",
    "converters/test_ort_format.py",
    "converters/test_pipeline.py",
    "converters/test_planted_faults.py",
    "converters/test_sandbox.py",
    "converters/test_search_budget.py",
    "converters/test_sensitivity.py",
    "converters/test_silent_wrong.py",
    "converters/test_tflite.py",
    "converters/test_tool_sources.py",
    "converters/test_unmeasured.py",
    "converters/test_zipmap.py",
    "converters/test_zoo.py",
    "converters/tflite/test_bundles.py",
    "converters/tflite/test_carried.py",
    "converters/tflite/test_command.py",
    "converters/tflite/test_float_sources.py",
    "converters/tflite/test_held.py",
    "converters/tflite/test_int8_board.py",
    "converters/tflite/test_quantize.py",
    "crash/",
    "deploy/",
    "examples/test_digits_haze.py",
    "hostile/test_full_server.py",
    "hostile/test_listeners.py",
    "hostile/test_retained.py",
    "hostile/test_revocation.py",
    "hostile/test_sandbox.py",
    "hostile/test_uplink.py",
    "house/test_benches.py",
    "house/test_dev.py",
    "house/test_docs.py",
    "house/test_docs_site.py",
    "house/test_error_page.py",
    "journeys/",
    "profiles/test_cost.py",
    "protocol/test_drift_montecarlo.py",
    "server/alerting/test_messages.py",
    "server/alerting/test_rules.py",
    "server/alerting/test_suppression.py",
    "server/conversion/test_engine.py",
    "server/conversion/test_files.py",
    "server/conversion/test_known.py",
    "server/dashboard/test_browser.py",
    "server/dashboard/test_command_lines.py",
    "server/dashboard/test_live.py",
    "server/fleet/test_listing.py",
    "server/gateway/test_poison.py",
    "server/gateway/test_whole_way.py",
    "server/observability/test_live_dashboards.py",
    "server/observability/test_otlp.py",
    "server/observability/test_rules.py",
    "server/registry/test_blobs.py",
    "server/rest/test_client.py",
    "server/rest/test_lists.py",
    "server/rest/test_reach.py",
    "server/rollout/test_admitting.py",
    "server/rollout/test_any_facts.py",
    "server/rollout/test_benches.py",
    "server/rollout/test_engine.py",
    "server/rollout/test_explorer.py",
    "server/rollout/test_measuring.py",
    "server/rollout/test_midway.py",
    "server/rollout/test_montecarlo.py",
    "server/rollout/test_pace_replicas.py",
    "server/rollout/test_routes.py",
    "server/rollout/test_shaped_simulation.py",
    "server/rollout/test_simulation.py",
    "server/telemetry/test_costs.py",
    "server/telemetry/test_latency_explained.py",
    "server/test_db.py",
    "server/test_light.py",
    "server/test_main.py",
    "server/test_shared_clock.py",
    "server/webhook/test_killed.py",
    "sim/",
)
WITH_A_DATABASE = frozenset(
    {"database_url", "house", "world", "fleet", "empty_fleet", "sending", "visitor", "visited", "visit"}
)
"""Fixtures that make a server's database, each for one test or for a file: there are thousands of them."""
LONGEST = (
    "journeys/test_rollouts.py",
    "house/test_docs.py",
    "journeys/test_demo.py",
    "crash/",
    "agent/test_going_back.py",
    "converters/test_real_models.py",
    "sim/test_many.py",
)
"""Begun first, so that at the end no single file is waited for."""

os.environ.pop("COLUMNS", None)  # a parallel run sets it for its workers; edgectl's tables would be cut to it


def is_quick(config: pytest.Config) -> bool:
    """Return whether a run leaves out what is slow."""
    return "not slow" in config.option.markexpr


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Read no slow file in a quick run: each of its processes would import what all of them use."""
    is_below = collection_path.suffix == ".py" and collection_path.is_relative_to(ROOT)
    return (is_below and is_quick(config) and collection_path.relative_to(ROOT).as_posix().startswith(SLOW)) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of the files and with the fixtures above, and put the longest files first, then the other slow ones."""
    order: dict[Path, int] = {}
    names: dict[Path, str] = {}
    for item in items:
        name = names.get(item.path)
        if name is None:
            is_ours = item.path.is_relative_to(ROOT)
            name = names[item.path] = item.path.relative_to(ROOT).as_posix() if is_ours else ""
        if name.startswith(SLOW) or not WITH_A_DATABASE.isdisjoint(fixtures_of(item)):
            item.add_marker(pytest.mark.slow)
        place = next((i for i, long in enumerate(LONGEST) if name.startswith(long)), len(LONGEST))
        place += place == len(LONGEST) and item.get_closest_marker("slow") is None
        order[item.path] = min(place, order.get(item.path, place))
    items.sort(key=lambda item: order[item.path])


def fixtures_of(item: pytest.Item) -> set[str]:
    """Return the names of the fixtures of a test; its own parameters are none, whatever their names."""
    own = [mark.args[0] for mark in item.iter_markers("parametrize") if not mark.kwargs.get("indirect")]
    parameters = {name.strip() for names in own for name in (names.split(",") if isinstance(names, str) else names)}
    return {*getattr(item, "fixturenames", ())} - parameters


def pytest_collection_finish() -> None:
    """Search for no cycles in what thirteen thousand collected tests are made of, not even once: that takes most of a second."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Stop what the tests of this process share while it is still waited for."""
    clean_up()


def _flush_nothing(fd: Any) -> None:
    """Do as fsync does to a program that goes on: an error for what is no open file."""
    os.fstat(fd if isinstance(fd, int) else fd.fileno())


def pytest_configure(config: pytest.Config) -> None:
    """Let properties take their time; wait for no disk; search less often for cycles, which takes a twentieth of a run; take Ctrl-C
    again in the background of a script: what the tests start would ignore it too.
    """
    gc.set_threshold(50_000, 20, 50)
    if PATIENCE > 1:
        # the same properties with fewer examples: an emulator takes 20 times as long for each
        settings.register_profile("patient", max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
        settings.load_profile("patient")
    else:
        # the time that an example takes on a shared machine says nothing of what it is an example of
        examples = 25 if is_quick(config) else 100
        settings.register_profile(
            "untimed", max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        )
        settings.load_profile("untimed")
    # what lies on the disk after a power cut is seen by tests/crash, in processes of its own: here it is 5 ms of waiting for each file
    os.fsync = os.fdatasync = _flush_nothing
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
