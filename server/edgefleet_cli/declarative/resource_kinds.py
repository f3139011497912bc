"""The kinds that files may declare: how each is listed, found, compared, made, changed and removed through the API."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from edgefleet_cli.core import api as structs
from edgefleet_cli.core.errors import ApiError
from edgefleet_cli.core.structs import UNSET, convert
from edgefleet_cli.core.transport.request import NOTHING, part, written
from edgefleet_cli.declarative.document import AmbiguousNameError, Document, DocumentError, Form, Spec
from edgefleet_cli.release.downgrade import warning_in

if TYPE_CHECKING:
    from edgefleet_cli.core.transport.api_client import ApiClient

T = TypeVar("T")
_NOT_FOUND = 404


@dataclass(frozen=True)
class Found:
    """An object of the server as a document. id: what its routes take; made_by: the name of the token that made it."""

    document: Document
    id: str
    made_by: str = ""


@dataclass(frozen=True)
class Made:
    """What came of making an object. secret: what the server sends this once, "" for nothing; ending: of the file it belongs in.

    rollout: id of a rollout that has begun.
    """

    detail: str = ""
    secret: str = ""
    ending: str = ""
    rollout: str = ""


@dataclass(frozen=True)
class Kind:
    """One kind. can_change: another spec changes the object; else it would have to be made again, or never changes.

    can_prune: what this identity made and no file declares may be removed. has_secret: making one sends something once.
    """

    name: str
    form: Form
    can_create: bool = True
    can_change: bool = True
    can_replace: bool = False
    can_delete: bool = True
    can_prune: bool = True
    has_secret: bool = False
    why_fixed: str = ""

    def objects(self, api: ApiClient) -> Iterator[Found]:
        """Yield every object of the server."""
        raise NotImplementedError

    def find(self, api: ApiClient, document: Document) -> Found | None:
        """Return the object that a document names. Raises AmbiguousNameError."""
        found = [one for one in self.objects(api) if one.document.name == document.name]
        if len(found) > 1:
            raise AmbiguousNameError(
                f"{len(found)} objects are called {document.title}",
                why=f"their ids: {', '.join(one.id for one in found)}",
                next_step="delete all but one of them, or give them names of their own",
            )
        return found[0] if found else None

    def warning(self, api: ApiClient, document: Document) -> str:
        """Return what to say before an object is made, "" for nothing."""
        del api, document
        return ""

    def normal(self, api: ApiClient, document: Document) -> Spec:
        """Return a document's spec as the server would write it."""
        del api
        return document.spec

    def create(self, api: ApiClient, document: Document) -> Made:
        """Make the object."""
        raise NotImplementedError

    def change(self, api: ApiClient, found: Found, wanted: Spec) -> None:
        """Give the object the spec."""
        raise NotImplementedError

    def delete(self, api: ApiClient, found: Found) -> None:
        """Remove the object."""
        raise NotImplementedError


@dataclass(frozen=True)
class Groups(Kind):
    """Saved selectors."""

    name: str = "Group"
    form: Form = field(default=Form(texts=("selector",), required=("selector",)))

    def objects(self, api: ApiClient) -> Iterator[Found]:
        for one in api.pages("/groups", structs.fleet.Group):
            yield self._found(one)

    def find(self, api: ApiClient, document: Document) -> Found | None:
        one = _get(api, f"/groups/{part(document.name)}", structs.fleet.Group)
        return None if one is None else self._found(one)

    def _found(self, one: structs.fleet.Group) -> Found:
        return Found(Document(self.name, one.name, {"selector": one.selector}), one.name, one.created_by)

    def normal(self, api: ApiClient, document: Document) -> Spec:
        return {"selector": plain_selector(document.spec["selector"])}

    def create(self, api: ApiClient, document: Document) -> Made:
        made = api.post("/groups", _body(document, structs.fleet.GroupIn), structs.fleet.Group).value
        return Made(f"{made.devices} devices now")

    def change(self, api: ApiClient, found: Found, wanted: Spec) -> None:
        api.patch(f"/groups/{part(found.id)}", convert(wanted, structs.fleet.GroupChangeIn), structs.fleet.Group)

    def delete(self, api: ApiClient, found: Found) -> None:
        api.delete(f"/groups/{part(found.id)}")


@dataclass(frozen=True)
class Devices(Kind):
    """Labels and profile of devices that have enrolled. `labels`, where given, are all labels that the device is to have."""

    name: str = "Device"
    form: Form = field(default=Form(texts=("profile",), maps=("labels",)))
    can_create: bool = False
    can_delete: bool = False
    can_prune: bool = False
    why_fixed: str = "a device enrols itself; see `edgectl device enroll`"

    def objects(self, api: ApiClient) -> Iterator[Found]:
        for one in api.pages("/devices", structs.device.Device, selector="status!=revoked"):
            yield self._found(one)

    def find(self, api: ApiClient, document: Document) -> Found | None:
        one = _get(api, f"/devices/{part(document.name)}", structs.device.Device)
        return None if one is None else self._found(one)

    def _found(self, one: structs.device.Device) -> Found:
        spec = {"profile": one.profile, "labels": dict(sorted(one.labels.items()))}
        return Found(Document(self.name, one.id, spec), one.id)

    def normal(self, api: ApiClient, document: Document) -> Spec:
        """Return the spec with what it leaves open as it is now."""
        now = self.find(api, document)
        labels = document.spec.get("labels")
        wanted = {**(now.document.spec if now else {}), **document.spec}
        return wanted if labels is None else {**wanted, "labels": dict(sorted(labels.items()))}

    def change(self, api: ApiClient, found: Found, wanted: Spec) -> None:
        before = found.document.spec
        gone: dict[str, str | None] = {key: None for key in before["labels"] if key not in wanted["labels"]}
        profile = wanted["profile"] if wanted["profile"] != before["profile"] else UNSET
        body = structs.device.DeviceIn(labels={**gone, **wanted["labels"]}, profile=profile)
        api.patch(f"/devices/{part(found.id)}", body, structs.device.Device)


@dataclass(frozen=True)
class Webhooks(Kind):
    """Where events are sent. The secret that signs them is sent when one is made."""

    name: str = "Webhook"
    form: Form = field(default=Form(texts=("url",), lists=("types",), required=("url",)))
    can_change: bool = False
    can_replace: bool = True
    has_secret: bool = True
    why_fixed: str = "a webhook cannot be changed; recreated, it gets a new secret and loses its log"

    def objects(self, api: ApiClient) -> Iterator[Found]:
        for one in api.pages("/webhooks", structs.webhook.Webhook):
            spec = {"url": one.url, "types": list(one.types)}
            yield Found(Document(self.name, one.name, spec), one.id, one.created_by)

    def normal(self, api: ApiClient, document: Document) -> Spec:
        return {"url": document.spec["url"], "types": sorted(set(document.spec.get("types") or []))}

    def create(self, api: ApiClient, document: Document) -> Made:
        made = api.post("/webhooks", _body(document, structs.webhook.WebhookIn), structs.webhook.NewSecret).value
        return Made(made.webhook.id, made.secret, ".secret")

    def delete(self, api: ApiClient, found: Found) -> None:
        api.delete(f"/webhooks/{part(found.id)}")


@dataclass(frozen=True)
class AlertReceivers(Kind):
    """Where a monitoring system may pause or roll back. The URL for it is sent when one is made."""

    name: str = "AlertReceiver"
    form: Form = field(default=Form(texts=("action", "model"), lists=("matchers",)))
    can_change: bool = False
    can_replace: bool = True
    has_secret: bool = True
    why_fixed: str = "an alert receiver cannot be changed; recreated, it gets a new URL"

    def objects(self, api: ApiClient) -> Iterator[Found]:
        for one in api.pages("/alert-receivers", structs.alert.Receiver):
            spec = {"action": one.action, "matchers": list(one.matchers), "model": one.model}
            document = Document(self.name, one.name, {key: value for key, value in spec.items() if value})
            yield Found(document, one.id, one.created_by)

    def normal(self, api: ApiClient, document: Document) -> Spec:
        spec = {"action": "pause", **document.spec}
        return {key: spec[key] for key in ("action", "matchers", "model") if spec.get(key)}

    def create(self, api: ApiClient, document: Document) -> Made:
        made = api.post("/alert-receivers", _body(document, structs.alert.ReceiverIn), structs.alert.NewReceiver).value
        return Made(made.receiver.id, f"{api.server}{made.url_path}", ".url")

    def delete(self, api: ApiClient, found: Found) -> None:
        api.delete(f"/alert-receivers/{part(found.id)}")


@dataclass(frozen=True)
class ReleasePolicies(Kind):
    """What a release has to have before it may be deployed. Without `since` one is about releases made from then on."""

    name: str = "ReleasePolicy"
    form: Form = field(default=Form(texts=("since",), lists=("models", "require"), required=("require",)))
    can_prune: bool = False  # a file that is gone must not loosen what releases have to have

    def objects(self, api: ApiClient) -> Iterator[Found]:
        for one in api.pages("/release-policies", structs.release.ReleasePolicy):
            asked = one.change  # what waits for its time or for a second person is in the file already
            if asked is not None and asked.ends:
                continue
            said = asked or one
            spec: Spec = {"since": _utc(said.since), "models": list(said.models), "require": list(said.require)}
            document = Document(self.name, one.name, {key: value for key, value in spec.items() if value})
            yield Found(document, one.name, one.created_by)

    def normal(self, api: ApiClient, document: Document) -> Spec:
        """Return the spec with the time that it leaves open as it is now."""
        found = self.find(api, document)
        since = document.spec.get("since") or (found.document.spec["since"] if found else None)
        spec = {**document.spec, "since": _utc(since) if since else ""}
        return {key: spec[key] for key in ("since", "models", "require") if spec.get(key)}

    def create(self, api: ApiClient, document: Document) -> Made:
        self._put(api, document.name, document.spec)
        return Made()

    def change(self, api: ApiClient, found: Found, wanted: Spec) -> None:
        self._put(api, found.id, wanted)

    def delete(self, api: ApiClient, found: Found) -> None:
        api.post(f"/release-policies/{part(found.id)}:end", NOTHING, structs.release.EndingPolicy)

    def _put(self, api: ApiClient, name: str, spec: Spec) -> None:
        body = convert(spec, structs.release.ReleasePolicyIn)
        api.put(f"/release-policies/{part(name)}", body, structs.release.ReleasePolicy)


@dataclass(frozen=True)
class Aliases(Kind):
    """Names of releases that move, written `model@alias`. What was rolled out does not follow one that is set again."""

    name: str = "Alias"
    form: Form = field(default=Form(texts=("version",), required=("version",)))

    def objects(self, api: ApiClient) -> Iterator[Found]:
        for model in api.each("/models", structs.model.Model):
            for one in _aliases_of(api, model.value.name):
                document = Document(self.name, f"{one.model}@{one.alias}", {"version": one.version})
                yield Found(document, document.name, one.set_by)

    def find(self, api: ApiClient, document: Document) -> Found | None:
        one = _get(api, _alias_path(document.name), structs.model.Alias)
        if one is None:
            return None
        return Found(Document(self.name, document.name, {"version": one.version}), document.name)

    def create(self, api: ApiClient, document: Document) -> Made:
        api.put(_alias_path(document.name), convert(document.spec, structs.model.AliasIn), structs.model.Alias)
        return Made()

    def change(self, api: ApiClient, found: Found, wanted: Spec) -> None:
        api.put(_alias_path(found.id), convert(wanted, structs.model.AliasIn), structs.model.Alias)

    def delete(self, api: ApiClient, found: Found) -> None:
        api.delete(_alias_path(found.id))


def _alias_path(name: str) -> str:
    model, at, alias = name.partition("@")
    if not (model and at and alias):
        raise DocumentError(
            f"an alias cannot be called {name!r}",
            why="its name is of a model and of itself",
            next_step="e.g. digits@stable",
        )
    return f"/models/{part(model)}/aliases/{part(alias)}"


@dataclass(frozen=True)
class Rollouts(Kind):
    """Rollouts, by name: one with the name of an older one is that one, and what happened does not change."""

    name: str = "Rollout"
    form: Form = field(default=Form(is_free=True))
    can_change: bool = False
    can_delete: bool = False
    can_prune: bool = False
    why_fixed: str = "a started rollout cannot be changed; give the new one another name"

    def objects(self, api: ApiClient) -> Iterator[Found]:
        yield from self._listed(api, None)

    def _listed(self, api: ApiClient, model: str | None) -> Iterator[Found]:
        for one in api.pages("/rollouts", structs.rollout.Rollout, model=model):
            yield self._found(one)

    def _found(self, one: structs.rollout.Rollout) -> Found:
        return Found(Document(self.name, one.name or one.id, one.spec), one.id, one.created_by)

    def find(self, api: ApiClient, document: Document) -> Found | None:
        """Return the newest rollout with the name, or the one with that id."""
        one = _get(api, f"/rollouts/{part(document.name)}", structs.rollout.Rollout)
        if one is not None:
            return self._found(one)
        model = str(document.spec.get("release") or "").partition("@")[0] or None
        return next((one for one in self._listed(api, model) if one.document.name == document.name), None)

    def warning(self, api: ApiClient, document: Document) -> str:
        try:
            plan = api.post("/rollouts:plan", written(document.as_json()), structs.rollout.Plan).value
        except ApiError:
            return ""  # it may name a group of the same file, which is not there yet
        older = warning_in(plan.findings)
        return f"warning: {older}" if older else ""

    def normal(self, api: ApiClient, document: Document) -> Spec:
        """Return the spec in normal form; one that leaves `liars` open may be that of a rollout which began before the field existed.

        Then one failure was enough, too, which is `on_unconfirmed: rollback` today.
        """
        spec = api.post("/rollouts:plan", written(document.as_json()), structs.rollout.Plan).value.spec
        now = self.find(api, document)
        if now is not None and _liars(document.spec) is None and _liars(now.document.spec) == 0:
            spec["gates"]["install"]["liars"] = 0
            began = now.document.spec.get("on_unconfirmed")
            if began is not None and "on_unconfirmed" not in document.spec:
                spec["on_unconfirmed"] = began
        return spec

    def create(self, api: ApiClient, document: Document) -> Made:
        made = api.post("/rollouts", written(document.as_json()), structs.rollout.Rollout).value
        return Made(f"`edgectl rollout watch {made.id}`", rollout=made.id)


def _liars(spec: Spec) -> Any:
    """Return what a rollout's spec says of liars, None where it says nothing."""
    gates = spec.get("gates")
    install = gates.get("install") if isinstance(gates, dict) else None
    return install.get("liars") if isinstance(install, dict) else None


def _body(document: Document, kind: type[T]) -> T:
    return convert({"name": document.name, **document.spec}, kind)


def _get(api: ApiClient, path: str, kind: type[T]) -> T | None:
    try:
        return api.get(path, kind).value
    except ApiError as error:
        if error.status != _NOT_FOUND:
            raise
        return None


def _aliases_of(api: ApiClient, model: str) -> list[structs.model.Alias]:
    try:
        return list(api.page(f"/models/{part(model)}/aliases", structs.model.Alias))
    except ApiError as error:
        if error.status != _NOT_FOUND:
            raise
        return []


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (Groups(), Devices(), Webhooks(), AlertReceivers(), ReleasePolicies(), Aliases(), Rollouts())
}
"""In the order in which they are applied: what others name comes first."""

FORMS: Mapping[str, Form] = {name: kind.form for name, kind in KINDS.items()}
_TOKEN = re.compile(r"\s*(==|!=|[=!<>(),]|[^\s=!<>(),]+)")
_WORDS = frozenset({"in", "notin"})


def _utc(text: str) -> str:
    """Return a time as the server writes it. Raises DocumentError."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).isoformat()
    except ValueError as error:
        raise DocumentError(
            f"`since` of a release policy is no time: {text!r}",
            why=str(error),
            next_step="write it like 2026-12-01T00:00:00Z",
        ) from error


def plain_selector(text: str) -> str:
    """Return a selector as the server writes it: `site=berlin,ring in (a,b)`."""
    words = ["=" if word == "==" else word for word in _TOKEN.findall(text)]
    selector = ""
    for at, word in enumerate(words):
        is_operator = word in _WORDS and at > 0 and words[at + 1 : at + 2] == ["("]
        selector += f" {word} " if is_operator else word
    return selector
