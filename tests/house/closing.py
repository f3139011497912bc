"""pytest plugin that `./dev test` loads: names every skipped test with its reason, and hands the three counts to the script.

- The counts go to the file named by EDGEFLEET_TEST_COUNTS as `passed failed skipped`; errors count as failed, an expected
  failure as passed, an unexpected pass as failed.
- Works with and without xdist: only the controlling process reports.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

ENVIRONMENT = "EDGEFLEET_TEST_COUNTS"


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why a test was skipped, in its own words."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)


def counts(reporter: TerminalReporter) -> tuple[int, int, int]:
    """Return (passed, failed, skipped) of the run."""

    def n(*kinds: str) -> int:
        return sum(len(reporter.stats.get(kind, [])) for kind in kinds)

    return n("passed", "xfailed"), n("failed", "error", "xpassed"), n("skipped")


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Name the skipped tests."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section("not run, and why")
    for report in skipped:
        terminalreporter.write_line(f"{report.nodeid}: {skip_reason(report)}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Write the counts once the run is over."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    path = os.environ.get(ENVIRONMENT)
    if path and isinstance(reporter, TerminalReporter) and not hasattr(config, "workerinput"):
        Path(path).write_text(" ".join(str(n) for n in counts(reporter)))
