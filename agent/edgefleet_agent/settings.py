"""Settings of the agent: defaults, then `STATE/agent.toml`, then EDGEFLEET_AGENT_… from the environment.

Read once in the entry point and passed down. Every limit is a named field with its unit.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgefleet_agent.errors import SettingsError

PREFIX = "EDGEFLEET_AGENT_"


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a device. Sizes are bytes, times are seconds.

    infer_host: must be loopback. infer_port: 0 picks a free port, shown in `status`. status_page: where `GET /` of the inference
    port shows the status page; loopback = off if systemd opened another address. metrics: the same for `GET /metrics`. keepalive_s:
    the longest silence on the broker connection (`connection.keepalive`), 0 = 1,200, or 3,900 if `metered` is yes.
    telemetry_interval_s: overrides the profile of
    the desired document, 0 = follow it. python_command: how workers and verifier children are started where Python needs a
    prefix, for example an emulator. replace_s: a healthy version on probation is committed after this time if another version
    waits to replace it. renew_look_s: how often the age of the certificate is checked.
    shadow: a shadow runs next to the active version (live), from a recording in a child that exits (sequential), or as memory allows.
    shadow_samples, shadow_bytes: limits of a recording; shadow_rest_s: from one replay to the next recording. shadow_keep_inputs:
    raw inputs may be kept with the worst disagreements. candidate_headroom_bytes: memory that must stay free next to a resident
    candidate. The other shadow_… limits suspend a candidate or a shadow (0: never). verify_rest_s, verify_rest_max_s: first and longest
    back-off for a document on which the verifier child died repeatedly. measure_s: length of each of the three rounds of a measurement.
    telemetry_daily_bytes: daily limit of telemetry and captured records on the wire, 0 = no limit; download_daily_bytes: the same
    for models. prediction_log_bytes: size of the prediction log, 0 = none; prediction_log_daily_bytes: its daily write limit.
    prediction_upload_bytes: room for answers that the server asked to keep and does not have yet, 0 = they never leave this device;
    prediction_part_s: how old they are at most when they are sent.
    watch_predictions: an operator may watch answers; watch_daily_bytes: daily traffic limit for that.
    capture_consent: inputs may be captured, as the bundle's privacy policy says and sealed to the tenant's key; capture_key: only
    to this one (64 hex digits), "" = to the one that the server names; capture_random_ratio: share captured at random;
    capture_window_s: length of one sampling window; capture_bytes, capture_days, capture_daily_bytes: size, retention and daily
    write limit. batch_folder: where inputs and answers of scheduled batches lie, by model; "" = `batch` of the state folder.
    metered: whether the link is metered; auto asks NetworkManager and looks at the default route.
    """

    infer_host: Literal["127.0.0.1", "::1"] = "127.0.0.1"
    infer_port: int = 8500
    status_page: Literal["loopback", "always", "off"] = "loopback"
    metrics: Literal["loopback", "always", "off"] = "loopback"
    infer_threads: int = 1
    infer_body_bytes: int = 32 * 1024 * 1024
    infer_timeout_s: float = 30.0
    keepalive_s: int = 0
    connect_timeout_s: float = 10.0
    reconnect_max_s: float = 300.0
    outbox_bytes: int = 16 * 1024 * 1024
    telemetry_interval_s: int = 0
    telemetry_daily_bytes: int = 20_000_000
    download_daily_bytes: int = 0
    metered: Literal["auto", "yes", "no"] = "auto"
    prediction_log_bytes: int = 4 * 1024 * 1024
    prediction_log_daily_bytes: int = 32 * 1024 * 1024
    prediction_upload_bytes: int = 16 * 1024 * 1024
    prediction_part_s: float = 900.0
    watch_predictions: bool = True
    watch_daily_bytes: int = 5_000_000
    capture_consent: bool = False
    capture_key: str = ""
    capture_random_ratio: float = 0.001
    capture_window_s: float = 60.0
    capture_bytes: int = 32 * 1024 * 1024
    capture_days: int = 7
    capture_daily_bytes: int = 5_000_000
    batch_folder: str = ""
    probation_s: float = 1800.0
    probation_inferences: int = 500
    probation_min_s: float = 2.0
    replace_s: float = 30.0
    golden_trial_s: float = 10.0
    golden_interval_s: float = 60.0
    crash_limit: int = 3
    crash_window_s: float = 300.0
    disk_reserve_bytes: int = 32 * 1024 * 1024
    memory_reserve_bytes: int = 24 * 1024 * 1024
    worker_memory_bytes: int = 0
    worker_start_s: float = 120.0
    slot_strategy: Literal["auto", "overlap", "stop_first"] = "auto"
    golden_timeout_s: float = 30.0
    leak_min_s: float = 120.0
    worker_steady_s: float = 60.0
    nonfinite_limit_ratio: float = 0.001
    error_limit_ratio: float = 0.01
    error_limit_min_n: int = 200
    slow_limit_factor: float = 2.0
    slow_limit_margin_ms: float = 5.0
    slow_limit_min_n: int = 200
    block_credit: int = 8
    meta_timeout_s: float = 10.0
    block_timeout_s: float = 1.0
    no_progress_s: float = 120.0
    verify_rest_s: float = 60.0
    verify_rest_max_s: float = 3600.0
    renew_look_s: float = 60.0
    shadow: Literal["auto", "live", "sequential"] = "auto"
    shadow_keep_inputs: bool = False
    shadow_samples: int = 256
    shadow_bytes: int = 16 * 1024 * 1024
    shadow_record_s: float = 600.0
    shadow_rest_s: float = 3600.0
    candidate_headroom_bytes: int = 48 * 1024 * 1024
    shadow_memory_stall_pct: float = 10.0
    shadow_temperature_celsius: float = 80.0
    shadow_battery_pct: float = 30.0
    shadow_resume_s: float = 60.0
    measure_s: float = 2.0
    python_command: list[str] = []
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"


def load_settings(file: Path, environment: Mapping[str, str] = os.environ) -> AgentSettings:
    """Return the settings of one state folder. Raises SettingsError naming the key that is wrong."""
    values: dict[str, Any] = {}
    try:
        values.update(tomllib.loads(file.read_text("utf-8")))
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}", next_step="correct the file, or remove it") from error
    known = {field.name for field in msgspec.structs.fields(AgentSettings)}
    for name, text in environment.items():
        key = name.removeprefix(PREFIX).lower()
        if name.startswith(PREFIX) and key in known:
            values[key] = text.split() if key == "python_command" else text
    try:
        return msgspec.convert(values, AgentSettings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(
            f"a setting of the agent is wrong: {error}",
            next_step=f"correct it in {file.name}, or the {PREFIX}… variable of that name",
        ) from error
