"""Whether a bundle's golden vectors hold in a runtime here: the other question that a job may be asked (`converters.job`).

A server asks it when a device says that a release answers other than it was proved (docs/explanation/rollouts.md). Only an answer that
is out of tolerance, or vectors that cannot be used, speak against a bundle; a runtime that is not here, or fails, says nothing of it.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec

from edgefleet_converters.check.run_model import loaded
from edgefleet_converters.errors import BadRequestError, RuntimeUnavailableError, TransformError
from edgefleet_converters.sandbox import Limits, Sandbox
from edgefleet_profiles.profile import profile_from_dict, same_version
from edgefleet_protocol.bundle import open_bundle
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_runtime.golden import GOLDEN_MEMBER, GoldenError, check_golden, load_golden

STEP_S = 60


class _Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bundle: str
    profile: dict[str, Any]


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    v: Literal[1]
    golden: _Question


def golden_answer(document: Any) -> dict[str, Any]:
    """Return `{runtime, version, ok, checked, reason}` for a request `{v, golden: {bundle: path, profile: its facts}}`. Blocks.

    Raises BadRequestError, RuntimeUnavailableError, and what running a model raises.
    """
    try:
        asked = msgspec.convert(document, _Document).golden
        wanted = profile_from_dict(asked.profile).runtime
    except (msgspec.ValidationError, EdgefleetError) as error:
        raise BadRequestError(
            f"the request is not valid: {error}", next_step="send a bundle and its profile"
        ) from error
    with Sandbox(Limits(cpu_s=STEP_S, wall_s=STEP_S)) as sandbox:
        what = f"importing {wanted.name}"
        here = str(sandbox.execute("probe_runtime", {"runtime": wanted.name}, what=what).answer["version"])
        if not same_version(wanted.version, here):
            raise RuntimeUnavailableError(
                f"the profile is served by {wanted.name} {wanted.version}; here is {here}, which may answer otherwise",
                next_step=f"install {wanted.name} {wanted.version} where the server's converters run",
            )
        args = {"bundle": asked.bundle, "runtime": wanted.name}
        answer = sandbox.execute("check_golden", args, what=f"running golden vectors in {wanted.name}").answer
    return {"runtime": wanted.name, "version": here, **answer}


def golden_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {bundle: path, runtime}. Returns `{ok, checked, reason}`.

    Raises BundleError, ManifestError, RuntimeUnavailableError, LoadFailedError, and TransformError when the model answers nothing.
    """
    with Path(args["bundle"]).open("rb") as file:
        bundle = open_bundle(file)
        model, golden_file = bundle.read(bundle.manifest.model_member), bundle.read(GOLDEN_MEMBER)
    try:
        golden = load_golden(golden_file)
        result = check_golden(loaded(args["runtime"], model, threads=1), golden, bundle.manifest.tolerances)
    except GoldenError as error:
        return {"ok": False, "checked": 0, "reason": error.message}
    if result.failures and all(failure.what == "error" for failure in result.failures):
        raise TransformError(f"the model answers no golden vector: {result.reason}", next_step="look at the log")
    return {"ok": result.ok, "checked": result.checked, "reason": result.reason}
