"""What goes over the API about retraining."""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from edgefleet_protocol.messages import CaptureReason
from edgefleet_server.retraining.model import DataSetView, LauncherKind, RunTrouble, TriggerOn
from edgefleet_server.telemetry.schemas import CaptureOut
from edgefleet_server.web.strict_types import Flag, Whole

NAME: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
_DAY: Final = 86_400
_CLOSED: JsonDict = {"additionalProperties": False}
"""Pydantic refuses keys of another pattern, and its schema does not say so."""
SettingName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
SettingValue = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=2000)]
CountName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=80)]
Line = Annotated[str, Field(pattern=r"^[^\x00]*$", max_length=500)]
Lease = Annotated[str, Field(max_length=100)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LauncherIn(_In):
    """What starts the training. settings: of its kind, none for a runner. secret: of the system that is called, never shown again.

    deadline_s: for how long it may train.
    """

    kind: LauncherKind = LauncherKind.RUNNER
    settings: dict[SettingName, SettingValue] = Field(default_factory=dict, max_length=24, json_schema_extra=_CLOSED)
    secret: str | None = Field(default=None, max_length=4000, pattern=r"^[^\x00]*$")
    deadline_s: Annotated[int, Whole(60, 30 * _DAY)] = 21_600

    def stored(self) -> dict[str, Any]:
        """Return all but the secret."""
        return {"kind": self.kind.value, "settings": dict(self.settings), "deadline_s": self.deadline_s}


class CollectIn(_In):
    """Which captured records are collected: at most `most`, from `devices` devices at most, for `wait_s` seconds at most.

    reasons: only those captured for one of these; none: for any.
    """

    most: Annotated[int, Whole(1, 10_000)] = 1000
    devices: Annotated[int, Whole(1, 200)] = 20
    reasons: list[CaptureReason] = Field(default_factory=list, max_length=8)
    wait_s: Annotated[int, Whole(0, 7 * _DAY)] = 600

    def stored(self) -> dict[str, Any]:
        """Return the fields."""
        return {**self.model_dump(), "reasons": sorted({one.value for one in self.reasons})}


class TriggerIn(_In):
    """A trigger to make. on: what it looks at; objective: which one, "" = any of the model; schedule: a cron line, on the clock of `tz`.

    lasting_s: for how long the cause must have been there; cool_down_s: between two retrainings that it starts by itself; budget: how many
    in `budget_period_s`, also by hand. approval: a second person agrees first. rollout: a rollout's spec without `release`, null: only
    publish.
    """

    name: str = Field(pattern=NAME)
    model: str = Field(max_length=63)
    on: TriggerOn
    objective: str = Field(default="", max_length=63, pattern=r"^[^\x00]*$")
    schedule: str = Field(default="", max_length=120, pattern=r"^[^\x00]*$")
    tz: str = Field(default="UTC", max_length=64, pattern=r"^[^\x00]*$")
    lasting_s: Annotated[int, Whole(0, 90 * _DAY)] = 0
    cool_down_s: Annotated[int, Whole(0, 365 * _DAY)] = _DAY
    budget: Annotated[int, Whole(0, 100)] = 4
    budget_period_s: Annotated[int, Whole(60, 365 * _DAY)] = 30 * _DAY
    approval: Flag = True
    launcher: LauncherIn = Field(default_factory=LauncherIn)
    data: CollectIn = Field(default_factory=CollectIn)
    rollout: dict[str, Any] | None = None
    enabled: Flag = True

    def terms(self) -> dict[str, Any]:
        """Return what it says, as it is stored."""
        plain = self.model_dump(exclude={"name", "model", "launcher", "data"})
        return {**plain, "on": self.on.value, "launcher": self.launcher.stored(), "data": self.data.stored()}


class TriggerChangeIn(_In):
    """What to change of a trigger; what is left out stays, and so does what is null, but for `rollout`: null is to publish only.

    launcher: all of it; its secret stays where it is null and settings and kind stay.
    """

    on: TriggerOn | None = None
    objective: str | None = Field(default=None, max_length=63, pattern=r"^[^\x00]*$")
    schedule: str | None = Field(default=None, max_length=120, pattern=r"^[^\x00]*$")
    tz: str | None = Field(default=None, max_length=64, pattern=r"^[^\x00]*$")
    lasting_s: Annotated[int, Whole(0, 90 * _DAY)] | None = None
    cool_down_s: Annotated[int, Whole(0, 365 * _DAY)] | None = None
    budget: Annotated[int, Whole(0, 100)] | None = None
    budget_period_s: Annotated[int, Whole(60, 365 * _DAY)] | None = None
    approval: Flag | None = None
    launcher: LauncherIn | None = None
    data: CollectIn | None = None
    rollout: dict[str, Any] | None = None
    enabled: Flag | None = None

    def changes(self) -> dict[str, Any]:
        """Return the fields that were sent, as they are stored."""
        found = {name: getattr(self, name) for name in self.model_fields_set}
        sent = {name: value for name, value in found.items() if value is not None or name == "rollout"}
        for name in ("launcher", "data"):
            if name in sent:
                sent[name] = sent[name].stored()
        if "on" in sent:
            sent["on"] = sent["on"].value
        return sent


class AnswerRetrainingIn(_In):
    """What a person says with an answer or a command."""

    reason: Line = ""


class LeaseIn(_In):
    """Who asks for a retraining of which model. holder: how the runner is called, such as its host's name."""

    model: str = Field(max_length=63)
    holder: str = Field(min_length=1, max_length=120, pattern=r"^[^\x00-\x1f\x7f]+$")


class DataSetIn(_In):
    """What is trained on. digest: SHA-256 of its `dataset.json`; counts: records by reason or label; where: an address or a folder."""

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    records: Annotated[int, Whole(0)]
    labelled: Annotated[int, Whole(0)] = 0
    counts: dict[CountName, Annotated[int, Whole(0)]] = Field(
        default_factory=dict, max_length=200, json_schema_extra=_CLOSED
    )
    where: str = Field(default="", max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")

    def view(self) -> DataSetView:
        """Return it as it is shown."""
        return DataSetView(self.digest, self.records, self.labelled, dict(self.counts), self.where)


class RenewIn(_In):
    """What a runner says while it trains. progress: its last line; data_set: once it is written. gives_back: another one may take it."""

    lease: Lease
    progress: Line = ""
    data_set: DataSetIn | None = None
    gives_back: Flag = False


class CompleteIn(_In):
    """The release that came of a training. lease: of a runner; a system that was called by a launcher has none."""

    lease: Lease = ""
    release: str = Field(max_length=127)


class FailIn(_In):
    """Why a training failed. code: a dotted word; why: its last lines; next_step: what a person could do."""

    lease: Lease = ""
    code: str = Field(default="training.failed", pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$", max_length=80)
    why: str = Field(min_length=1, max_length=4000, pattern=r"^[^\x00]*$")
    next_step: Line = ""

    def trouble(self) -> RunTrouble:
        """Return it as it is shown."""
        return RunTrouble(self.code, self.why, self.next_step)


@dataclass(frozen=True)
class RetrainingCaptureOut(CaptureOut):
    """One record that was collected for a retraining, as its device sealed it."""
