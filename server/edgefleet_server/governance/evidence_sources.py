"""Which evidence there is of a model, and at which addresses of the API it stands."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from edgefleet_server.governance.api_reader import ApiReader
from edgefleet_server.governance.archive_stream import Member
from edgefleet_terms.evidence.audit_objects import ModelObjects
from edgefleet_terms.evidence.evidence_manifest import LeftOut

_OF_MODEL: Final = (
    ("model.json", "/models/{model}"),
    ("drift/now.json", "/models/{model}/drift"),
    ("accuracy.json", "/models/{model}/accuracy"),
    ("prediction-log.json", "/prediction-logs/{model}"),
    ("prediction-log-check.json", "/prediction-logs/{model}/verification"),
)
_OF_RELEASE: Final = (
    ("release.json", "/releases/{ref}"),
    ("report.json", "/releases/{ref}/report"),
    ("card.json", "/releases/{ref}/card"),
    ("card.md", "/releases/{ref}/card.md"),
    ("policy-check.json", "/releases/{ref}/policy-check"),
    ("performance.json", "/releases/{ref}/performance"),
    ("drift-baseline.json", "/releases/{ref}/drift-baseline"),
)
_OF_ROLLOUT: Final = (("rollout.json", "/rollouts/{id}"),)
_EVENTS: Final = "drift,drift_over,drift_baseline,release,withdrawn"


@dataclass
class Collected:
    """What is known once the files of a model were read. made: when something was made and by whom, by operation."""

    rollouts: list[str] = field(default_factory=list)
    retrainings: list[str] = field(default_factory=list)
    triggers: list[str] = field(default_factory=list)
    made: dict[str, list[tuple[datetime, str]]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    def note_made(self, operation: str, one: dict[str, Any]) -> None:
        """Remember when something was made, and by whom."""
        at, by = one.get("created_at"), one.get("created_by")
        if isinstance(at, str) and isinstance(by, str) and by:
            self.made.setdefault(operation, []).append((datetime.fromisoformat(at), by))


class EvidenceSources:
    """Reads the evidence of a model, or of one release of it (REF, "" = all), since a time."""

    def __init__(self, api: ApiReader, model: str, release: str = "", since: datetime | None = None) -> None:
        self._api, self._model, self._release, self._since = api, model, release, since
        self.collected = Collected()

    def members(self) -> Iterator[Member]:
        """Yield the files, always in the same order. Raises EvidenceIncompleteError, EvidenceTooLargeError."""
        yield from self._each("", _OF_MODEL, model=self._model)
        yield self._list("bundles.json", "/bundles", self._ours(self._api.items("/bundles", model=self._model)))
        for release in list(self._api.items("/releases", model=self._model)):
            if self._release in {"", release["ref"]}:
                self.collected.note_made("create_release", release)
                yield from self._each(f"releases/{release['version']}/", _OF_RELEASE, ref=release["ref"])
        yield from self._rollouts()
        yield self._list("drift/events.json", "/events", self._events())
        yield self._list("alerts.json", "/alerts", self._alerts())
        objectives = (one for one in self._api.items("/slos", model=self._model))
        yield self._list("objectives.json", "/slos", objectives)
        yield from self._retrainings()
        yield self._list("erasures.json", "/erasures", self._erasures())
        yield from self._optional("release-policies.json", "/release-policies")
        yield from self._optional("alert-rules.json", "/alert-rules")
        yield from self._each("", (("keys.json", "/trust"),))

    def objects(self) -> ModelObjects:
        """Return what belongs to the model, for the audit trail. Complete when all files were read."""
        known = self.collected
        return ModelObjects(
            self._model, self._release, set(known.rollouts), set(known.retrainings), set(known.triggers), known.made
        )

    def _each(self, folder: str, wanted: Iterable[tuple[str, str]], **names: str) -> Iterator[Member]:
        for name, address in wanted:
            path = address.format(**names)
            found = self._api.get(path)
            if found.is_ok:
                yield Member(
                    folder + name, f"/api/v1{path}", [_pretty(found.body) if name.endswith("json") else found.body]
                )
            else:
                self._leave(folder + name, f"/api/v1{path} answered {found.why()}")

    def _rollouts(self) -> Iterator[Member]:
        for rollout in list(self._api.items("/rollouts", model=self._model)):
            name = rollout["id"]
            if self._release not in {"", rollout["release"]} or self._is_before(rollout.get("finished_at")):
                continue
            self.collected.rollouts.append(name)
            for operation in ("create_rollout", "undo_model"):
                self.collected.note_made(operation, rollout)
            yield from self._each(f"rollouts/{name}/", _OF_ROLLOUT, id=name)
            path = f"/rollouts/{name}/decisions"
            yield self._list(f"rollouts/{name}/decisions.json", path, self._api.items(path))

    def _retrainings(self) -> Iterator[Member]:
        """Yield triggers and their runs, where the server has them."""
        for name, key in (("triggers", "name"), ("retrainings", "id")):
            found = list(self._known(name))
            getattr(self.collected, name).extend(str(one[key]) for one in found)
            if found:
                yield self._list(f"{name}.json", f"/{name}", found)

    def _known(self, name: str) -> Iterator[dict[str, Any]]:
        if self._api.get(f"/{name}", limit=1).is_ok:
            yield from (one for one in self._api.items(f"/{name}") if one.get("model") == self._model)
        else:
            self._leave(f"{name}.json", f"this server has no /api/v1/{name}")

    def _optional(self, path: str, address: str) -> Iterator[Member]:
        if self._api.get(address, limit=1).is_ok:
            yield self._list(path, address, self._api.items(address))
        else:
            self._leave(path, f"this server has no /api/v1{address}")

    def _ours(self, items: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        version = self._release.partition("@")[2]
        return (one for one in items if version in {"", one.get("version")})

    def _events(self) -> Iterator[dict[str, Any]]:
        since = {} if self._since is None else {"since": self._since.isoformat()}
        for one in self._api.items("/events", kind=_EVENTS, **since):
            if one["model"] == self._model or one["detail"].get("model") == self._model:
                yield one

    def _alerts(self) -> Iterator[dict[str, Any]]:
        for one in self._api.items("/alerts"):
            ours = {one["labels"].get("model"), one["subject"].partition("@")[0], one["subject"].partition("/")[0]}
            is_rollout = any(name in one["subject"] for name in self.collected.rollouts)
            if (self._model in ours or is_rollout) and not self._is_before(one.get("resolved_at")):
                yield one

    def _erasures(self) -> Iterator[dict[str, Any]]:
        for one in self._api.items("/erasures"):
            if not one["models"] or self._model in one["models"]:
                yield one

    def _is_before(self, text: str | None) -> bool:
        return self._since is not None and text is not None and datetime.fromisoformat(text) < self._since

    def _leave(self, what: str, why: str) -> None:
        self.collected.left_out.append(LeftOut(what=what, why=why))

    def _list(self, path: str, address: str, items: Iterable[dict[str, Any]]) -> Member:
        return Member(path, f"/api/v1{address}", listed(items))


def listed(items: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """Yield a JSON list in pieces, one item a line."""
    lead = b"[\n"
    for one in items:
        yield lead + json.dumps(one, sort_keys=True, ensure_ascii=False).encode()
        lead = b",\n"
    yield b"[]\n" if lead == b"[\n" else b"\n]\n"


def _pretty(body: bytes) -> bytes:
    return json.dumps(json.loads(body), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
