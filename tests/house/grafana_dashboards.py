"""Dashboards of Grafana from one table of panels, by Grafana's own SDK: `python -m tests.house.grafana_dashboards FOLDER` writes them.

A panel is one line: title, unit, and queries with their legends. Figures of fleet and models are the same from every server process, so
`max` takes one of them; those of a process are added up. Models report every 15 minutes by default: their rates are over an hour.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement

from tests.house.tree import ROOT

FOLDER: Final = ROOT / "server" / "edgefleet_server" / "observability" / "monitoring_files"
DATASOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH: Final = 24


@dataclass(frozen=True)
class Panel:
    """A panel. queries: (expression, legend). stat: one figure instead of lines. per_row: how many of its kind stand side by side."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    stat: bool = False

    @property
    def per_row(self) -> int:
        """How many of its kind stand side by side."""
        return 6 if self.stat else 2


def _of_model(metric: str, by: str = "model, version", where: str = 'model=~"$model"') -> str:
    return f"max by ({by}) (rate({metric}{{{where}}}[1h]))"


def _quantile(q: float, by: str = "model, version", metric: str = "edgefleet_model_latency_seconds") -> str:
    return f"histogram_quantile({q}, {_of_model(f'{metric}_bucket', f'{by}, le')})"


def _share(metric: str, by: str = "model, version", family: str = "edgefleet_model") -> str:
    """Return a share of requests: a timeout is no answer, so it is not among the predictions."""
    answered, unanswered = (_of_model(f"{family}_{one}_total", by) for one in ("predictions", "timeouts"))
    return f"{_of_model(f'{family}_{metric}_total', by)} / ({answered} + {unanswered} > 0)"


def _p95(metric: str, by: str) -> str:
    return f"histogram_quantile(0.95, sum by (le, {by}) (rate({metric}_bucket[$__rate_interval])))"


FAILED: Final = 'max by (model, status) (edgefleet_model_updates{status=~"failed|rolled_back"})'
FLEET: Final = (
    Panel("Devices online", "none", [('max(edgefleet_devices{status="online"})', "")], stat=True),
    Panel("Devices away", "none", [("max(edgefleet_devices_away)", "")], stat=True),
    Panel("Alerts firing", "none", [('sum(max by (rule, severity) (edgefleet_alerts{status="firing"}))', "")], stat=True),
    Panel("Certificates ending", "none", [("max(edgefleet_devices_certificate_ends)", "")], stat=True),
    Panel("Low disks", "none", [("max(edgefleet_devices_low_disk)", "")], stat=True),
    Panel("Suspect devices", "none", [("max(edgefleet_suspect_devices)", "")], stat=True),
    Panel("Devices by status", "none", [("max by (status) (edgefleet_devices)", "{{status}}")]),
    Panel("Devices by profile", "none", [("max by (profile) (edgefleet_profile_devices)", "{{profile}}")]),
    Panel(
        "Share of a group that is away", "percentunit",
        [("max by (group) (edgefleet_group_devices_away) / (max by (group) (edgefleet_group_devices) > 0)", "{{group}}")],
    ),
    Panel("Alerts that fire", "none", [('max by (rule) (edgefleet_alerts{status="firing"})', "{{rule}}")]),
    Panel(
        "Requests a second by model", "reqps",
        [("sum by (model) (max by (model, version) (rate(edgefleet_model_predictions_total[1h])))", "{{model}}")],
    ),
    Panel("Devices that report drift", "none", [("max by (model) (edgefleet_model_drifting_devices)", "{{model}}")]),
    Panel(
        "Failed updates", "none",
        [(FAILED, "{{model}} {{status}}")],
    ),
    Panel("Devices that run a version", "none", [("max by (model, version) (edgefleet_model_devices)", "{{model}} {{version}}")]),
)  # fmt: skip
MODEL: Final = (
    Panel("Requests a second", "reqps", [(_of_model("edgefleet_model_predictions_total"), "{{model}} {{version}}")]),
    Panel(
        "Failed", "percentunit",
        [(_share("errors"), "{{model}} {{version}} errors"), (_share("timeouts"), "{{model}} {{version}} timeouts")],
    ),
    Panel("p95 latency", "s", [(_quantile(0.95), "{{model}} {{version}}")]),
    Panel("p50 and p99 latency", "s", [(_quantile(0.5), "{{model}} {{version}} p50"), (_quantile(0.99), "{{model}} {{version}} p99")]),
    Panel("Not finite", "percentunit", [(_share("not_finite"), "{{model}} {{version}}")]),
    Panel(
        "Crashes of workers an hour", "none",
        [('max by (model, version) (increase(edgefleet_model_crashes_total{model=~"$model"}[1h]))', "{{model}} {{version}}")],
    ),
    Panel(
        "Devices that run a version", "none",
        [('max by (model, version) (edgefleet_model_devices{model=~"$model"})', "{{model}} {{version}}")],
    ),
    Panel(
        "Drift: devices that report it, and its largest effect (PSI)", "none",
        [('max by (model) (edgefleet_model_drifting_devices{model=~"$model"})', "{{model}} devices"),
         ('max by (model) (edgefleet_model_drift_effect_ratio{model=~"$model"})', "{{model}} PSI")],
    ),
    Panel(
        "Error budget left", "percentunit",
        [('max by (model, slo) (edgefleet_slo_budget_left_ratio{model=~"$model"})', "{{model}} {{slo}}")],
    ),
    Panel(
        "Requests a second by group", "reqps",
        [(_of_model("edgefleet_group_model_predictions_total", "group, model"), "{{group}} {{model}}")],
    ),
    Panel("Errors by group", "percentunit", [(_share("errors", "group, model", "edgefleet_group_model"), "{{group}} {{model}}")]),
    Panel(
        "p95 latency by group", "s",
        [(_quantile(0.95, "group, model", "edgefleet_group_model_latency_seconds"), "{{group}} {{model}}")],
    ),
    Panel(
        "Updates by state", "none",
        [('max by (model, status) (edgefleet_model_updates{model=~"$model"})', "{{model}} {{status}}")],
    ),
)  # fmt: skip
ROLLOUT: Final = (
    Panel("Running", "none", [('max(edgefleet_rollouts{state="running"})', "")], stat=True),
    Panel("Paused", "none", [('max(edgefleet_rollouts{state="paused"})', "")], stat=True),
    Panel("Rolled back", "none", [('max(edgefleet_rollouts{state="rolled_back"})', "")], stat=True),
    Panel("Finished", "none", [('max(edgefleet_rollouts{state="finished"})', "")], stat=True),
    Panel("Failed updates", "none", [(f"sum({FAILED})", "")], stat=True),
    Panel("Suspect devices", "none", [("max(edgefleet_suspect_devices)", "")], stat=True),
    Panel("Rollouts by state", "none", [("max by (state) (edgefleet_rollouts)", "{{state}}")]),
    Panel(
        "Devices that reach a state, a second", "none",
        [('sum by (to) (rate(edgefleet_rollout_transitions_total{kind="assignment"}[$__rate_interval]))', "{{to}}")],
    ),
    Panel("Documents signed a second", "none", [("sum by (what) (rate(edgefleet_rollout_documents_total[$__rate_interval]))", "{{what}}")]),
    Panel(
        "Lateness of looks at rollouts (p95)", "s",
        [(_p95("edgefleet_rollout_evaluation_lag_seconds", "look"), "{{look}}")],
    ),
    Panel("Updates by state", "none", [("max by (model, status) (edgefleet_model_updates)", "{{model}} {{status}}")]),
    Panel("Devices that run a version", "none", [("max by (model, version) (edgefleet_model_devices)", "{{model}} {{version}}")]),
)  # fmt: skip
SERVER: Final = (
    Panel("Processes up", "none", [('sum(up{job="edgefleet"})', "")], stat=True),
    Panel("Free disk", "percentunit", [("min(edgefleet_data_disk_free_bytes / edgefleet_data_disk_size_bytes)", "")], stat=True),
    Panel("Root metadata ends in", "s", [('min(edgefleet_metadata_end_timestamp_seconds{role="root"}) - time()', "")], stat=True),
    Panel("Revocation list is valid for", "s", [("min(edgefleet_revocation_list_seconds)", "")], stat=True),
    Panel("Open connections", "none", [("sum(edgefleet_connections)", "")], stat=True),
    Panel("Version", "none", [("max by (version) (edgefleet_build_info)", "{{version}}")], stat=True),
    Panel(
        "API requests a second by status", "reqps",
        [("sum by (status) (rate(edgefleet_http_requests_total[$__rate_interval]))", "{{status}}")],
    ),
    Panel(
        "API latency, p95 by operation", "s",
        [(_p95("edgefleet_http_request_seconds", "operation"), "{{operation}}")],
    ),
    Panel("Engine ticks a second", "none", [("sum by (result) (rate(edgefleet_engine_ticks_total[$__rate_interval]))", "{{result}}")]),
    Panel("Conversion jobs", "none", [("max by (state) (edgefleet_conversion_jobs)", "{{state}}")]),
    Panel("Gateway, a second", "none", [("sum by (what) (rate(edgefleet_gateway_total[$__rate_interval]))", "{{what}}")]),
    Panel(
        "Dropped by quota, a second", "none",
        [("sum by (reason) (rate(edgefleet_gateway_dropped_total[$__rate_interval]))", "{{reason}}")],
    ),
    Panel("Connections", "none", [("sum by (listener) (edgefleet_connections)", "{{listener}}")]),
    Panel(
        "Requests refused without a valid token, a second", "reqps",
        [("sum(rate(edgefleet_anonymous_refusals_total[$__rate_interval]))", "")],
    ),
    Panel("Metadata ends in", "s", [("min by (role) (edgefleet_metadata_end_timestamp_seconds) - time()", "{{role}}")]),
)  # fmt: skip
DASHBOARDS: Final = {"fleet": FLEET, "model": MODEL, "rollout": ROLLOUT, "server": SERVER}


def built(name: str) -> str:
    """Return a dashboard as JSON text."""
    made = (
        dashboard.Dashboard(f"edgefleet: {name}")
        .uid(f"edgefleet-{name}")
        .tags(["edgefleet"])
        .refresh("1m")
        .time("now-24h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .link(dashboard.DashboardLink("edgefleet").type(model.DashboardLinkType.DASHBOARDS).tags(["edgefleet"]).as_dropdown(True))
    )  # fmt: skip
    if name == "model":
        made = made.with_variable(
            dashboard.QueryVariable("model")
            .label("Model")
            .datasource(DATASOURCE)
            .query("label_values(edgefleet_bundles, model)")
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .multi(True)
        )
    for panel in DASHBOARDS[name]:
        made = made.with_panel(_built(panel))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def _built(panel: Panel) -> stat.Panel | timeseries.Panel:
    made: stat.Panel | timeseries.Panel
    if panel.stat:
        reduced = common.ReduceDataOptions().calcs(["lastNotNull"])
        made = stat.Panel().reduce_options(reduced).height(4)
    else:
        legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        made = timeseries.Panel().legend(legend).height(8).min(0)
    made = made.title(panel.title).unit(panel.unit).datasource(DATASOURCE).span(WIDTH // panel.per_row)
    for number, (expression, shown) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expression).ref_id("ABC"[number])
        made = made.with_target(query.legend_format(shown) if shown else query)
    return made


def main(folder: Path = FOLDER) -> None:
    """Write the dashboards to a folder."""
    for name in DASHBOARDS:
        (folder / f"{name}.dashboard.json").write_text(built(name), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
