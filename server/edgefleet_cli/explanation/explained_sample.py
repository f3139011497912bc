"""What `edgectl explain` does, step by step: find the record, open it, fetch its model, ask that in a child, and say what differs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgefleet_cli.core.subprocesses import ended_by_sigterm
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.datasets.model import NO_CLASS, Record
from edgefleet_cli.datasets.record_source import open_one
from edgefleet_cli.device.captures.capture_files import read_key
from edgefleet_cli.explanation.captured_sample import find_record, inputs_of
from edgefleet_cli.explanation.explained_model import ExplainedModel, fetch_model
from edgefleet_cli.explanation.explanation_child import SampleExplanation, explained
from edgefleet_cli.explanation.render import CLASS, class_name
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import visible
from edgefleet_protocol.hpke import SealedError


@dataclass(frozen=True)
class ExplainedSample:
    """An answer and what made it. answer: class that the device gave, -1 where it is none or not kept."""

    record: Record
    model: ExplainedModel
    answer: int
    raw: dict[str, Any]
    result: SampleExplanation

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.record.facts.labels

    @property
    def is_same(self) -> bool | None:
        """Whether the model answers here as the device did; None where that is not known."""
        compared = self.result.device
        if self.result.kind == CLASS and self.answer not in {NO_CLASS, self.result.here}:
            return False
        return None if compared is None else compared.is_same

    @property
    def document(self) -> dict[str, Any]:
        """All of it, as `-o json` prints it."""
        record = self.record
        return {
            "device": record.device, "trace_id": record.trace_id, "record": record.id, "release": record.facts.release,
            "taken_at": record.taken_at, "reason": record.reason, "model": self.model.of, "compared_with": self.model.compared_with,
            "answer": None if self.answer == NO_CLASS else self.answer, "is_same": self.is_same, "labels": list(self.names),
            "explanation": self.raw,
        }  # fmt: skip

    def facts(self) -> list[tuple[str, str]]:
        """Return what was answered, there and here."""
        return [
            (
                "record",
                f"{self.record.id} of {self.record.device}, {text(self.record.reason)}, {moment(self.record.taken_at)}",
            ),
            ("release", text(self.record.facts.release)),
            ("answered", self._there()),
            ("here", self._here()),
        ]

    def remarks(self) -> list[str]:
        """Return how it was measured, and what to know of it."""
        found = self.result
        of = f" of {found.given}" if found.given > found.n else ""
        lines = [
            visible(
                f"each input replaced by those of {found.n}{of} samples ({self.model.compared_with}), in {self.model.of}, {found.runtime}"
            )
        ]
        if self.is_same is False:
            lines.append(f"the device answered otherwise than the model does here{self._why_other()}")
        return lines

    def _why_other(self) -> str:
        if self.result.not_kept:
            return ": not all that it saw is kept"
        if any(rule.get("do") != "keep" for rules in self.record.facts.policy.fields.values() for rule in rules):
            return ": the policy keeps less exact values than it saw"
        return (
            ": another runtime or processor rounds otherwise, or the model answers by chance or from what came before"
        )

    def _there(self) -> str:
        if self.answer != NO_CLASS:
            return visible(class_name(self.answer, self.names))
        compared = self.result.device
        return (
            visible(_numbers(compared.outputs[0].there)) if compared is not None else "not kept by the privacy policy"
        )

    def _here(self) -> str:
        same = {True: "the same", False: "another answer", None: ""}[self.is_same]
        if self.result.kind == CLASS:
            said = class_name(self.result.here, self.names)
        elif self.result.device is not None:
            said = _numbers(self.result.device.outputs[0].here)
        else:
            said = f"{self.result.score:.4g}"
        return visible(f"{said}, {same}" if same else said)


def explain_sample(
    client: ApiClient, device: str, trace: str, key: Path, own_data: Path | None, *, shap: bool = False
) -> ExplainedSample:
    """Return what made an answer. shap: by SHAP values too.

    The opened sample lies in a folder that only this account reads, and is removed at the end.

    Raises UsageError, NotCapturedError, OtherKeyError, NotExplainableError, ExplanationError, SealedError, ApiError.
    """
    private_key = read_key(key)
    raw = find_record(client, device, trace, private_key)
    with ended_by_sigterm(), TemporaryDirectory(prefix="ef-explain-") as name:
        folder = Path(name)
        model = fetch_model(client, str(raw.get("sha256")), folder, own_data)
        record = open_one(raw, private_key, model.facts)
        if record.trace_id != trace:
            raise SealedError("the record is of another trace than the server says", next_step="check the server")
        sample, inputs = inputs_of(record)
        is_class = sample.answer != NO_CLASS or bool(model.facts.labels)
        found, result = explained(folder, model, inputs, answer=sample.answer, is_class=is_class, shap=shap)
    return ExplainedSample(record, model, sample.answer, found, result)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{one:.4g}" for one in values[:6]) + (", …" if len(values) > 6 else "")
