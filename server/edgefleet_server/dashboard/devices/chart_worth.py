"""Which charts of a device are looked at first; the others are folded. Pure.

Rules:
1. How long its models take goes first, then its temperature; what goes wrong (a throttled clock, failed answers) where it ever did.
2. Requests and processor fill what room is left: they say whether it works at all.
"""

from collections.abc import Sequence
from typing import Final

from edgefleet_server.dashboard.timelines.charts import Chart

SHOWN: Final = 4
MODELS: Final = 2
"""Of more lines the latency is folded, too."""
TROUBLE: Final = ("throttled", "failed")
OF_CANDIDATES: Final = ", "
"""In the title of a chart of a lane that is not the active one."""
FILLING: Final = ("requests", "cpu", "memory", "disk", "network")


def by_worth(charts: Sequence[Chart]) -> list[Chart]:
    """Return the charts, the SHOWN first ones being those that are looked at; the others stay in their order."""
    ranked = sorted(enumerate(charts), key=lambda one: (_rank(one[1]), one[0]))
    first = {number for number, _ in ranked[:SHOWN]}
    return [one for _, one in ranked[:SHOWN]] + [one for number, one in enumerate(charts) if number not in first]


def _rank(chart: Chart) -> int:
    kind, _, place = chart.id.partition("-")
    if kind == "latency":
        return 0 if int(place) < MODELS and OF_CANDIDATES not in chart.title else 20
    if kind == "temperature":
        return 1
    if kind in TROUBLE and any(value for column in chart.data[1:] for value in column):
        return 2 + TROUBLE.index(kind)
    if kind in FILLING and place in {"", "0"}:
        return 10 + FILLING.index(kind)
    return 100
