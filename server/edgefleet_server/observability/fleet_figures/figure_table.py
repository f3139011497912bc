"""The figures of fleet and models at `/metrics`: name, kind, labels, text. Pure.

They are read from the database, so every server process says the same. No label names a device: the number of series depends on
releases, groups, profiles and rules alone (docs/operate/monitoring.md). Names are public: never renamed. A new figure is one line here
and one value in the composition's loader.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """Kinds of Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. name: with its ending, `_total` of a counter included."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    text: str


def _gauge(name: str, text: str, *labels: str) -> Figure:
    return Figure(f"edgefleet_{name}", Kind.GAUGE, labels, text)


def _counter(name: str, text: str, *labels: str) -> Figure:
    return Figure(f"edgefleet_{name}_total", Kind.COUNTER, labels, text)


def _histogram(name: str, text: str, *labels: str) -> Figure:
    return Figure(f"edgefleet_{name}", Kind.HISTOGRAM, labels, text)


BUILD: Final = _gauge("build_info", "Always 1; the version of the server is a label", "version")

DEVICES: Final = _gauge(
    "devices", "Devices by status: online, offline, unknown (not heard of since a start) or revoked", "status"
)
AWAY: Final = _gauge("devices_away", "Live devices that are away: offline, or not heard of since the server started")
PROFILES: Final = _gauge("profile_devices", "Live devices of a hardware profile", "profile")
GROUPS: Final = _gauge("group_devices", "Live devices of a group", "group")
GROUPS_AWAY: Final = _gauge("group_devices_away", "Live devices of a group that are away", "group")
LOW_DISK: Final = _gauge("devices_low_disk", "Live devices with less than 200 MiB of free disk space")
CERTIFICATES: Final = _gauge(
    "devices_certificate_ends", "Live devices whose certificate ends within 14 days and was not renewed"
)
FIRST_CERTIFICATE: Final = _gauge(
    "device_certificate_first_end_timestamp_seconds", "When the first certificate of a live device ends, Unix time"
)
RUNNING: Final = _gauge("model_devices", "Live devices that run a version of a model", "model", "version")
UPDATES: Final = _gauge("model_updates", "Devices by the state of their newest update of a model", "model", "status")
BUNDLES: Final = _gauge("bundles", "Signed bundles of a release", "model", "version")

PREDICTIONS: Final = _counter(
    "model_predictions", "Answers of a version, those that were errors included", "model", "version"
)
ERRORS: Final = _counter("model_errors", "Answers of a version that were errors", "model", "version")
TIMEOUTS: Final = _counter("model_timeouts", "Requests that a version did not answer in time", "model", "version")
NOT_FINITE: Final = _counter("model_not_finite", "Answers of a version that were NaN or infinite", "model", "version")
CRASHES: Final = _counter("model_crashes", "Crashes of workers of a version", "model", "version")
LATENCY: Final = _histogram(
    "model_latency_seconds", "Latency of a version's answers, off by at most 1 %", "model", "version"
)
GROUP_PREDICTIONS: Final = _counter("group_model_predictions", "Answers of a model in a group", "group", "model")
GROUP_ERRORS: Final = _counter("group_model_errors", "Answers of a model in a group that were errors", "group", "model")
GROUP_TIMEOUTS: Final = _counter(
    "group_model_timeouts", "Requests that a model in a group did not answer in time", "group", "model"
)
GROUP_NOT_FINITE: Final = _counter(
    "group_model_not_finite", "Answers of a model in a group that were NaN or infinite", "group", "model"
)
GROUP_CRASHES: Final = _counter("group_model_crashes", "Crashes of workers of a model in a group", "group", "model")
GROUP_LATENCY: Final = _histogram(
    "group_model_latency_seconds", "Latency of a model's answers in a group, off by at most 1 %", "group", "model"
)

DRIFTING: Final = _gauge(
    "model_drifting_devices",
    "Devices that report drift of a model now, without suspect ones and those away for long",
    "model",
)
DRIFT_EFFECT: Final = _gauge(
    "model_drift_effect_ratio",
    "Largest effect (PSI) among the signals of a model of which devices report drift; 0 = none",
    "model",
)

SLO_TARGET: Final = _gauge("slo_target_ratio", "Share of events that an objective asks to be good", "model", "slo")
SLO_LEFT: Final = _gauge(
    "slo_budget_left_ratio",
    "Part of an objective's error budget that is left; below 0: more than all was used",
    "model",
    "slo",
)
SLO_STATE: Final = _gauge(
    "slo_state", "1 for the state that an objective is in, 0 for the others", "model", "slo", "status"
)

ALERTS: Final = _gauge(
    "alerts", "Alerts by rule, severity and status: pending, firing or suppressed", "rule", "severity", "status"
)
METADATA_END: Final = _gauge("metadata_end_timestamp_seconds", "When signed metadata of a role ends, Unix time", "role")
UNNAMED: Final = _gauge("unnamed_blobs", "Blobs that `server garbage-collect` marked and that nothing names since")
UNNAMED_SIZE: Final = _gauge("unnamed_blobs_bytes", "Bytes of the blobs that are marked")
DISK_FREE: Final = _gauge("data_disk_free_bytes", "Free space of the disk of the server's data folder")
DISK_SIZE: Final = _gauge("data_disk_size_bytes", "Size of the disk of the server's data folder")

FIGURES: Final = (
    BUILD, DEVICES, AWAY, PROFILES, GROUPS, GROUPS_AWAY, LOW_DISK, CERTIFICATES, FIRST_CERTIFICATE, RUNNING, UPDATES, BUNDLES,
    PREDICTIONS, ERRORS, TIMEOUTS, NOT_FINITE, CRASHES, LATENCY,
    GROUP_PREDICTIONS, GROUP_ERRORS, GROUP_TIMEOUTS, GROUP_NOT_FINITE, GROUP_CRASHES, GROUP_LATENCY,
    DRIFTING, DRIFT_EFFECT, SLO_TARGET, SLO_LEFT, SLO_STATE, ALERTS, METADATA_END, UNNAMED, UNNAMED_SIZE, DISK_FREE,
    DISK_SIZE,
)  # fmt: skip
