"""Tables of the fleet feature.

Only modules named `store`, and SQL conditions in `selectors` and `inventory`, read and write them.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary, Text, false, text
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class FleetDevice(SQLModel, table=True):
    """One enrolled device: identity, labels, facts, and the newest of what it said."""

    __tablename__ = "fleet_device"
    # what lists are sorted by and counted by, each with the id that ends the order
    __table_args__ = (
        Index("ix_fleet_device_profile", "profile", "id"),
        Index("ix_fleet_device_presence", "revoked_at", "is_online", "id"),
        Index("ix_fleet_device_last_seen", "last_seen", "id"),
        Index("ix_fleet_device_live_profile", "revoked_at", "profile"),
        # the few that are suspect, which every look at a rollout reads
        Index(
            "ix_fleet_device_suspect",
            "id",
            sqlite_where=text("suspect_since IS NOT NULL"),
            postgresql_where=text("suspect_since IS NOT NULL"),
        ),
        # certificates that end and disks that fill, which every look at alerts asks for
        Index("ix_fleet_device_cert_not_after", "cert_not_after", "id"),
        Index("ix_fleet_device_free_mb", "free_mb", "id"),
        # the few on which a model drifts, which every look at alerts reads
        Index(
            "ix_fleet_device_drift",
            "id",
            sqlite_where=text("drift IS NOT NULL"),
            postgresql_where=text("drift IS NOT NULL"),
        ),
    )

    id: str = Field(primary_key=True, max_length=63)
    profile: str = Field(max_length=63)
    arch: str = Field(max_length=32)
    public_key: str = Field(sa_column=Column(Text, nullable=False))
    labels: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    facts: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    enrolled_at: datetime = Field(sa_type=UtcDateTime)
    cert_not_after: datetime = Field(sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    next_public_key: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    """Key of a renewal that has not been used yet; the old one stays valid until it is."""
    is_online: bool | None = Field(default=None)
    """None: not heard of since the server started."""
    conn_id: str = Field(default="", max_length=64)
    last_seen: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    boot_id: str = Field(default="", max_length=64)
    state_seq: int = Field(default=0, sa_type=BigInteger)
    reported_gen: int = Field(default=0, sa_type=BigInteger)
    reported: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    free_mb: int | None = Field(default=None, sa_type=BigInteger, nullable=True)
    display_name: str = Field(default="", max_length=64, sa_column_kwargs={"server_default": ""})
    """What people call it; not unique, and decides nothing. "": it has none."""
    suspect_since: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    """Since when its words are not trusted; None: they are. Only a person clears it (docs/operate/suspect-devices.md)."""
    suspect_reason: str = Field(default="", sa_column=Column(Text, nullable=False, server_default=""))
    cert_serial: str = Field(default="", max_length=48, sa_column_kwargs={"server_default": ""})
    """Serial of the certificate that it connected with last, as it says; "": it does not say so."""
    cut_off_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    """When the broker had ended the session of the revoked device and refused its certificate; None: not yet."""
    offline_since: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    """Since when it is away: its session ended, or the server started and has not heard of it yet. None: it is there, or never was."""
    absences: list[int] = Field(default_factory=list, sa_column=Column(JSON, nullable=False, server_default="[]"))
    """How long it was away before, counted in bins (`reported.absence`)."""
    drift: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))
    """By model the signals that drift, as its newest state says; None: none, or it does not say."""
    absence_day: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """The day on which its newest absence ended, in days since 1970, …"""
    absence_count: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """… and how many ended on that day."""
    place_told: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": "0"})
    """Number of the newest announcement of the server's place that it knows, …"""
    place_used: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": "0"})
    """… and of the one whose first place it uses, 0 while it uses another."""
    cert_ca: str = Field(default="", max_length=64, sa_column_kwargs={"server_default": ""})
    """SHA-256 of the CA that issued the certificate that it connected with last; "": one of before that was noted."""


class FleetLabel(SQLModel, table=True):
    """One label of one device, for selectors. The database keeps it like `FleetDevice.labels` by triggers (ADR 0054): never written."""

    __tablename__ = "fleet_label"
    __table_args__ = (
        Index("ix_fleet_label_key", "key", "value", "device_id"),
        Index("ix_fleet_label_value", "value", "device_id"),
    )

    device_id: str = Field(primary_key=True, max_length=63)
    key: str = Field(primary_key=True, max_length=255)
    value: str = Field(max_length=127)


class FleetSearchText(SQLModel, table=True):
    """What a search looks through of a device, in small letters. The database keeps it by triggers (ADR 0164): never written.

    names: its id and its display name. labels: the values of its labels. One a line.
    """

    __tablename__ = "fleet_search_text"
    __table_args__ = ({"sqlite_with_rowid": False},)

    device_id: str = Field(primary_key=True, max_length=63)
    names: str = Field(sa_column=Column(Text, nullable=False))
    labels: str = Field(sa_column=Column(Text, nullable=False))


class FleetClaim(SQLModel, table=True):
    """A claim token; only the SHA-256 of its secret is here."""

    __tablename__ = "fleet_claim"

    id: str = Field(primary_key=True, max_length=32)
    secret_sha256: str = Field(max_length=64)
    root_sha256: str = Field(max_length=64)
    uses: int
    uses_left: int
    expires_at: datetime = Field(sa_type=UtcDateTime)
    profile: str | None = Field(default=None, max_length=63)
    labels: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    name_prefix: str | None = Field(default=None, max_length=32)
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)
    approval: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    """A key that asks with it waits until an operator approves it."""
    display_name: str = Field(default="", max_length=64, sa_column_kwargs={"server_default": ""})
    """What its devices are called; "": what they call themselves."""


class FleetPending(SQLModel, table=True):
    """A key that asked to be let in and waits for an operator's word, or got it. id: its fingerprint; `state` is a `PendingState`."""

    __tablename__ = "fleet_pending"

    id: str = Field(primary_key=True, max_length=32)
    key_sha256: str = Field(max_length=64)
    claim_id: str = Field(max_length=32, index=True)
    state: str = Field(max_length=16, index=True)
    csr: str = Field(sa_column=Column(Text, nullable=False))
    facts: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    profile: str = Field(max_length=63)
    asked_at: datetime = Field(sa_type=UtcDateTime)
    heard_at: datetime = Field(sa_type=UtcDateTime)
    """When it last asked, within a minute."""
    expires_at: datetime = Field(sa_type=UtcDateTime)
    decided_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    decided_by: str = Field(default="", max_length=80)
    reason: str = Field(default="", sa_column=Column(Text, nullable=False))
    device_id: str = Field(default="", max_length=63)


class FleetReadmission(SQLModel, table=True):
    """What a device last asked for whose certificate had ended. state: a `ReadmissionState`; by_rule: no person let it in."""

    __tablename__ = "fleet_readmission"
    __table_args__ = (Index("ix_fleet_readmission_state", "state", "device_id"),)

    device_id: str = Field(primary_key=True, max_length=63)
    ended_at: datetime = Field(sa_type=UtcDateTime)
    asked_at: datetime = Field(sa_type=UtcDateTime)
    heard_at: datetime = Field(sa_type=UtcDateTime)
    """When it last asked, within a minute."""
    state: str = Field(max_length=16)
    why: str = Field(default="", sa_column=Column(Text, nullable=False))
    decided_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    decided_by: str = Field(default="", max_length=120)
    readmitted_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True, index=True)
    by_rule: bool = Field(default=False)


class FleetEnrolment(SQLModel, table=True):
    """One use of a claim by one key: a lost answer asked for again gets the same device."""

    __tablename__ = "fleet_enrolment"

    claim_id: str = Field(primary_key=True, max_length=32)
    key_sha256: str = Field(primary_key=True, max_length=64)
    device_id: str = Field(max_length=63)
    cert: str = Field(sa_column=Column(Text, nullable=False))
    at: datetime = Field(sa_type=UtcDateTime)


class FleetDesired(SQLModel, table=True):
    """The signed desired document of one device; `models` is its content in plain data."""

    __tablename__ = "fleet_desired"

    device_id: str = Field(primary_key=True, max_length=63)
    gen: int = Field(sa_type=BigInteger)
    models: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    telemetry: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    tasks: list[dict[str, Any]] = Field(
        default_factory=list, sa_column=Column(JSON, nullable=False, server_default="[]")
    )
    """Tasks that are not over, as they stand in the document."""
    envelope: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    issued_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    resign_at: datetime = Field(sa_type=UtcDateTime, index=True)
    changed_at: datetime = Field(sa_type=UtcDateTime, index=True)
    key_id: str = Field(default="", max_length=64, index=True, sa_column_kwargs={"server_default": ""})
    """The director's key that signed it."""


class FleetModelState(SQLModel, table=True):
    """What one device last reported of one model."""

    __tablename__ = "fleet_model_state"
    __table_args__ = (
        Index("ix_fleet_model_state_version", "model", "version", "device_id", "assignment"),
        Index("ix_fleet_model_state_assignment", "assignment", "changed_at"),
    )

    device_id: str = Field(primary_key=True, max_length=63)
    model: str = Field(primary_key=True, max_length=63)
    version: str = Field(default="", max_length=63)
    active_target: str = Field(default="", max_length=255, index=True)
    active_sha256: str = Field(default="", max_length=64)
    phase: str = Field(max_length=16)
    assignment: str = Field(max_length=16)
    error_class: str | None = Field(default=None, max_length=16)
    changed_at: datetime = Field(sa_type=UtcDateTime)


class FleetGroup(SQLModel, table=True):
    """A named selector."""

    __tablename__ = "fleet_group"

    name: str = Field(primary_key=True, max_length=63)
    selector: str = Field(sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=80)


class FleetHold(SQLModel, table=True):
    """The newest hold document of the tenant and what it names; one row, id 1. Nothing is signed yet while `seq` is 0."""

    __tablename__ = "fleet_hold"

    id: int = Field(primary_key=True)
    seq: int = Field(sa_type=BigInteger)
    rollouts: list[str] = Field(sa_column=Column(JSON, nullable=False))
    digests: list[str] = Field(sa_column=Column(JSON, nullable=False))
    envelope: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    expires_at: datetime = Field(sa_type=UtcDateTime)


class FleetCaptureKey(SQLModel, table=True):
    """The public key that captured records are sealed to; one row, id 1. The private one is never here (ADR 0030)."""

    __tablename__ = "fleet_capture_key"

    id: int = Field(primary_key=True)
    public_key: str = Field(max_length=64)
    set_at: datetime = Field(sa_type=UtcDateTime)
    set_by: str = Field(max_length=120)


class FleetPredictionLog(SQLModel, table=True):
    """What is kept of one model's answers (ADR 0105). ratio: share, 0 = nothing any more. subject_key: what subjects are hashed with.

    erased: the newest erased subjects, each with until when (unix milliseconds), for devices that still have rows of them.
    """

    __tablename__ = "fleet_prediction_log"

    model: str = Field(primary_key=True, max_length=63)
    ratio: float
    inputs: bool
    keep_days: int
    subject_key: str = Field(max_length=64)
    erased: dict[str, int] = Field(sa_column=Column(JSON, nullable=False))
    set_at: datetime = Field(sa_type=UtcDateTime)
    set_by: str = Field(max_length=120)


class FleetTask(SQLModel, table=True):
    """A thing that one device was asked to do once, and how far it is. `state` is a `TaskState`; over when it is terminal."""

    __tablename__ = "fleet_task"

    id: str = Field(primary_key=True, max_length=32)
    device_id: str = Field(max_length=63, index=True)
    kind: str = Field(max_length=16)
    args: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    state: str = Field(max_length=16)
    code: str = Field(default="", max_length=64)
    reason: str = Field(default="", sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime, index=True)
    created_by: str = Field(max_length=80)
    until: datetime = Field(sa_type=UtcDateTime)
    changed_at: datetime = Field(sa_type=UtcDateTime)
    result_type: str = Field(default="", max_length=64)
    result_bytes: int = Field(default=0)
    result_sha256: str = Field(default="", max_length=64)


class FleetTaskResult(SQLModel, table=True):
    """What a device sent for a task. Its own table, so that lists of tasks never load it."""

    __tablename__ = "fleet_task_result"

    task_id: str = Field(primary_key=True, max_length=32)
    at: datetime = Field(sa_type=UtcDateTime, index=True)
    data: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class FleetRecoveryWord(SQLModel, table=True):
    """What a device says it has seen of the repository and this server has not, and whether the server asked it.

    version: the highest of any role, 0 when none went back. roles: versions by name, of those that our snapshot does not name.
    """

    __tablename__ = "fleet_recovery_word"

    device_id: str = Field(primary_key=True, max_length=63)
    version: int = Field(default=0, sa_type=BigInteger)
    roles: dict[str, int] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    first_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    said_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    asked_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class FleetAbsence(SQLModel, table=True):
    """When a device was away, written down when it came back. day: of its end, in days since 1970; place: 1 …, the last one: all others.

    is_heard: its session ended; else the server had not heard of it since a start. times: how many absences are in it.
    """

    __tablename__ = "fleet_absence"
    __table_args__ = (Index("ix_fleet_absence_day", "day"), {"sqlite_with_rowid": False})

    device_id: str = Field(primary_key=True, max_length=63)
    day: int = Field(primary_key=True)
    place: int = Field(primary_key=True)
    since: datetime = Field(sa_type=UtcDateTime)
    until: datetime = Field(sa_type=UtcDateTime)
    is_heard: bool
    times: int


class FleetUnwatched(SQLModel, table=True):
    """When no server listened to devices. The first row has no length: from then on absences are written down."""

    __tablename__ = "fleet_unwatched"

    since: datetime = Field(sa_type=UtcDateTime, primary_key=True)
    until: datetime = Field(sa_type=UtcDateTime, primary_key=True, index=True)


class FleetSample(SQLModel, table=True):
    """What the samples of a step of time counted, added up. at: unix seconds; see `presence.model.FleetStep`."""

    __tablename__ = "fleet_sample"
    __table_args__ = ({"sqlite_with_rowid": False},)

    scale_s: int = Field(primary_key=True)
    at: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    samples: int
    online: int = Field(sa_type=BigInteger)
    devices: int = Field(sa_type=BigInteger)
    drifting: int = Field(sa_type=BigInteger)
    drift_devices: int = Field(sa_type=BigInteger)


class FleetProtectionRule(SQLModel, table=True):
    """A deployment protection rule. ends_at: when it ends, since somebody (`ending_by`) asked to remove it."""

    __tablename__ = "fleet_protection_rule"

    name: str = Field(primary_key=True, max_length=63)
    selector: str = Field(sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=120)
    ends_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    ending_by: str = Field(default="", max_length=120)


class FleetProtectedDevice(SQLModel, table=True):
    """A device that matched a rule once, and stays under it until the rule ends. Revoked devices too: one may enrol again."""

    __tablename__ = "fleet_protected_device"
    __table_args__ = ({"sqlite_with_rowid": False},)

    device_id: str = Field(primary_key=True, max_length=63)
    rule: str = Field(primary_key=True, max_length=63, index=True)


class FleetBreakGlass(SQLModel, table=True):
    """A rule that one person set aside until a time. Rows stay: they are part of the story. principal: id of a token."""

    __tablename__ = "fleet_break_glass"

    id: str = Field(primary_key=True, max_length=32)
    rule: str = Field(max_length=63)
    principal: str = Field(max_length=64)
    person: str = Field(max_length=120)
    reason: str = Field(sa_column=Column(Text, nullable=False))
    at: datetime = Field(sa_type=UtcDateTime)
    until: datetime = Field(sa_type=UtcDateTime, index=True)


class FleetMove(SQLModel, table=True):
    """A move of the server. before, after: a `ServerPlace`. number: of its newest announcement; told: of the one that devices were sent."""

    __tablename__ = "fleet_move"

    id: str = Field(primary_key=True, max_length=32)
    state: str = Field(max_length=16)
    before: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    after: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    planned_at: datetime = Field(sa_type=UtcDateTime)
    planned_by: str = Field(max_length=120)
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    number: int = Field(default=0, sa_type=BigInteger)
    told: int = Field(default=0, sa_type=BigInteger)
    left_behind: int = Field(default=0)


class FleetAgentPackage(SQLModel, table=True):
    """The package of the agent of one kind (wheel, deb) that new devices install; its bytes are the blob `sha256` (ADR 0168)."""

    __tablename__ = "fleet_agent_package"

    kind: str = Field(primary_key=True, max_length=16)
    name: str = Field(max_length=120)
    sha256: str = Field(max_length=64)
    length: int = Field(sa_type=BigInteger)
    added_at: datetime = Field(sa_type=UtcDateTime)


class FleetCaRotation(SQLModel, table=True):
    """A rotation of the device CA, never deleted: the first one says what server ids are made of.

    old_ca, new_ca: SHA-256 of the certificates. number: of its newest announcement; told: of the one that devices were sent. renew_from_s:
    certificates that begin before it are renewed.
    """

    __tablename__ = "fleet_ca_rotation"

    id: str = Field(primary_key=True, max_length=32)
    state: str = Field(max_length=16)
    old_ca: str = Field(max_length=64)
    new_ca: str = Field(max_length=64)
    started_at: datetime = Field(sa_type=UtcDateTime)
    started_by: str = Field(max_length=120)
    reason: str = Field(default="", max_length=200)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    number: int = Field(default=0, sa_type=BigInteger)
    told: int = Field(default=0, sa_type=BigInteger)
    renew_from_s: int = Field(default=0, sa_type=BigInteger)
    spread_s: int = Field(default=0)
    left_behind: int = Field(default=0)
    left_reason: str = Field(default="", max_length=200)
