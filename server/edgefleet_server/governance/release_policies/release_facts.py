"""What policies ask of a release, read where the server has it: registry, report, card, and who signs the model."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.conversion.errors import ReportUnknownError
from edgefleet_server.conversion.reports import report_of
from edgefleet_server.governance.release_policies.model import ReleaseFacts
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.signing.service import SigningService

_PARTS: Final = ("summary", "intended_use", "limits", "data")
"""Parts of a model card that the rule `card` asks for."""


class Stated(Protocol):
    """What people state of a release."""

    @property
    def owner(self) -> str: ...
    @property
    def licence(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def intended_use(self) -> str: ...
    @property
    def limits(self) -> Sequence[str]: ...
    @property
    def data(self) -> str: ...


StatedOf = Callable[[ReleaseRef], Stated]


class ReleaseFactsReader:
    """Reads facts of releases. stated: what their cards say."""

    def __init__(self, registry: RegistryService, signing: SigningService, stated: StatedOf) -> None:
        """Wire the parts."""
        self._registry, self._signing, self._stated = registry, signing, stated

    def __call__(self, ref: ReleaseRef) -> ReleaseFacts:
        """Return the facts of a release. Raises ReleaseUnknownError, and what reading raises: then nothing is let through."""
        release, said = self._registry.release(ref), self._stated(ref)
        report: Mapping[str, Any] = {}
        with suppress(ReportUnknownError):  # then nothing was measured, and rules that ask for it are not met
            report = report_of(self._registry, ref)
        data = report.get("data")
        hold_out = data.get("hold_out_samples") if isinstance(data, dict) else None
        return ReleaseFacts(
            ref=str(ref),
            model=ref.model,
            created_at=release.created_at,
            owner=said.owner,
            licence=said.licence,
            missing_parts=[name.replace("_", " ") for name in _PARTS if not getattr(said, name)],
            hold_out=hold_out if type(hold_out) is int else 0,
            has_importance=bool(report.get("importance")),
            is_sealed=bool(release.bundles) and all(one.is_sealed for one in release.bundles),
            signers=self._signing.teams.threshold(ref.model),
        )
