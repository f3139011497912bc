"""Which columns can name a blob: the roots of garbage collection (ADR 0159).

Every column that could hold a digest or a document stands here, as a root or as none. A test walks all tables and fails at a column that is
in neither list: read what the column holds, and put it into ROOTS if a blob could be named by it alone. In doubt it is a root.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from sqlalchemy import JSON, LargeBinary, MetaData, Table

DIGEST_CHARACTERS: Final = 64
_DIGEST: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_DIGEST_BYTES: Final = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_SUGGESTIVE: Final = re.compile(r"sha256|digest|hash|blob|leaves|fingerprint|file|report")

ROOTS: Final[Mapping[str, str]] = {
    "bundles": "sha256 leaves report",
    "conversion_jobs": "report spec",
    "fleet_agent_package": "sha256",
    "fleet_desired": "models",
    "model_cards": "stated",
    "prediction_file": "sha256",
    "prediction_part": "file",
    "release_attempts": "source data options lineage jobs",
    "releases": "source data options lineage",
    "retraining_run": "cause plan fetches collected data_set",
    "rollout": "spec",
    "rollout_assignment": "previous",
    "signing_request": "document",
    "signing_team_request": "document",
    "signing_tuf_metadata": "data",
    "unsigned_bundles": "sha256 leaves report",
}
"""Table: columns. Every digest anywhere in their values is a name, also in the middle of a document."""

NO_ROOTS: Final[Mapping[str, str]] = {
    "access_accounts": "password_hash",
    "access_guesses": "key",
    "access_invitations": "secret_sha256",
    "access_login_links": "secret_sha256",
    "access_people": "grants",
    "access_pipeline_tokens": "id_token_sha256",
    "access_pipelines": "repository_id roles grants",
    "access_repeats": "key_sha256 request_sha256 sealed",
    "access_second_factors": "recovery_sha256",
    "access_sessions": "secret_sha256",
    "access_sign_ins": "state_sha256",
    "access_tokens": "secret_sha256 roles grants",
    "alert": "evidence devices labels",
    "alert_drift_verdict": "signals",
    "alert_group": "sent reminded",
    "alert_model_record": "looks",
    "alert_receiver": "secret_sha256 matchers",
    "alert_seen": "group_sha256 fingerprint starts_at",
    "alert_silence": "matchers",
    "alert_window": "tz",
    "audit": "request_id hash",
    "audit_check": "hash",
    "audit_head": "chain root",
    "audit_node": "hash",
    "audit_tail": "hash",
    "blobs": "sha256",
    "conversion_jobs": "key",
    "cost_group_set": "digest groups",
    "cost_prices": "document",
    "cost_traffic": "bundle",
    "data_set": "digest",
    "drift_baseline": "signals",
    "drift_bucket": "sha256 signals",
    "feedback_part": "items",
    "feedback_upload": "bad",
    "fleet_break_glass": "principal",
    "fleet_ca_rotation": "old_ca new_ca",
    "fleet_capture_key": "public_key",
    "fleet_claim": "secret_sha256 root_sha256 labels display_name",
    "fleet_desired": "telemetry tasks envelope key_id",
    "fleet_device": "labels facts conn_id boot_id reported display_name absences drift cert_ca",
    "fleet_enrolment": "key_sha256",
    "fleet_event": "boot_id detail",
    "fleet_hold": "rollouts digests envelope",
    "fleet_key": "public",
    "fleet_model_state": "active_sha256",
    "fleet_move": "before after",
    "fleet_pending": "key_sha256 facts",
    "fleet_prediction_log": "subject_key erased",
    "fleet_recovery_word": "roles",
    "fleet_task": "args code result_type result_sha256",
    "fleet_task_result": "data",
    "model_cards": "source_sha256",
    "objective": "document",
    "prediction_erasure": "unwritten",
    "prediction_part": "hash head body",
    "profiles": "facts",
    "release_attempts": "source_sha256",
    "release_policy": "models require change",
    "releases": "source_sha256 identity",
    "retraining_run": "lease_sha256 error makers",
    "retraining_trigger": "terms makers",
    "rollout": "salt makers",
    "rollout_cell": "digest",
    "rollout_confirmation": "body proof",
    "rollout_decision": "figures evidence",
    "rollout_gate_call": "answer",
    "rollout_quality": "spans",
    "signing_certificate": "subject key_sha256 issuer",
    "telemetry_batch": "boot_id system",
    "telemetry_capture": "sha256 trace_id sealed",
    "telemetry_cohort": "digest groups",
    "telemetry_rollup": "sums",
    "telemetry_series": "sha256",
    "telemetry_watched": "boot_id lines",
    "telemetry_window": "sha256 latency classes shadow",
    "truth_bucket": "sha256 detail",
    "webhook": "types",
    "webhook_delivery": "body",
}
"""Table: columns. Digests of secrets, of documents, of chains and of what devices say they have; counts, labels and letters. What a device
has or had is no name: a release names it, or nobody gets it any more."""


def roots(metadata: MetaData) -> Iterator[tuple[Table, list[str]]]:
    """Yield each table that has roots, with the names of their columns."""
    for name, columns in ROOTS.items():
        yield metadata.tables[name], columns.split()


def could_name(metadata: MetaData) -> set[tuple[str, str]]:
    """Return (table, column) of all columns that could hold a digest of a blob or a document with one."""
    return {
        (table.name, column.name)
        for table in metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, JSON | LargeBinary)
        or _could_be_digest(column.name, getattr(column.type, "length", None))
        or any(key.column.table.name == "blobs" for key in column.foreign_keys)
    }


def classified() -> dict[tuple[str, str], bool]:
    """Return whether each column of the lists is a root."""
    return {
        (table, column): is_root
        for listed, is_root in ((NO_ROOTS, False), (ROOTS, True))
        for table, columns in listed.items()
        for column in columns.split()
    }


def digests_in(value: str | bytes) -> set[str]:
    """Return all digests in a text, or in a document as bytes."""
    if isinstance(value, str):
        return set(_DIGEST.findall(value))
    return {found.decode() for found in _DIGEST_BYTES.findall(value)}


def _could_be_digest(name: str, length: int | None) -> bool:
    if length is None or length < DIGEST_CHARACTERS:
        return False
    return length == DIGEST_CHARACTERS or _SUGGESTIVE.search(name) is not None
