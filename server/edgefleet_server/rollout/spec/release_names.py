"""Releases in a spec by their real names: what `name@alias` means is looked up once, when the rollout is planned or made.

An alias that moves later does not move a rollout: what goes out is what was approved.
"""

from collections.abc import Callable
from dataclasses import replace

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.rollout.errors import BadSpecError
from edgefleet_server.rollout.spec.model import NO_WAY_BACK, PREVIOUS, Spec


def with_versions(spec: Spec, resolve: Callable[[str], ReleaseRef]) -> Spec:
    """Return a spec that names versions only. Raises BadSpecError when the way back turns out to be the release itself."""
    release, back = str(resolve(spec.release)), spec.shape.rollback_to
    if back not in (PREVIOUS, NO_WAY_BACK):
        back = str(resolve(back))
        if back == release:
            message = f"{spec.shape.rollback_to} is {release}, the release that goes out; name an earlier one"
            raise BadSpecError(errors=[{"path": "spec.rollback_to", "message": message}])
    return replace(spec, release=release, shape=replace(spec.shape, rollback_to=back))
