"""One server as a notebook sees it: a thin layer over what `edgectl` does."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

from edgefleet_cli.core.api.device import Device, DeviceExplanation
from edgefleet_cli.core.api.rollout import Rollout
from edgefleet_cli.core.errors import explained
from edgefleet_cli.core.options import resolve
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.flat_rows import device_row, frame, rollout_row
from edgefleet_cli.importing.release_names import pinned
from edgefleet_cli.importing.resolver import resolved
from edgefleet_cli.release.conversion.conversion_options import ImportFlags, Precision, make_request
from edgefleet_cli.release.deployment.deployer import Deployer
from edgefleet_cli.release.publisher import Publisher
from edgefleet_cli.release.render import is_over
from edgefleet_cli.rollout.client import Rollouts
from edgefleet_cli.rollout.spec import RolloutFlags, from_flags
from edgefleet_sdk.model_export import save_model, write_samples
from edgefleet_sdk.notebook_answers import Answer, deployed, device_explained, published, rolled_out

T = TypeVar("T")


class Fleet:
    """One server. Nothing is opened before the first call. Calls block; progress goes to stderr."""

    @cached_property
    def _session(self) -> Session:
        return Session(resolve({}))

    def connect(
        self, url: str | None = None, token: str | None = None, *, context: str | None = None, progress: bool = True
    ) -> Self:
        """Talk to this server from now on; what is not given comes from the environment or the saved contexts."""
        self._session = Session(resolve({"server": url, "token": token, "context": context, "quiet": not progress}))
        return self

    def publish(  # noqa: PLR0913 - fewer than `edgectl publish` has
        self,
        model: Any,
        *,
        name: str,
        version: str | None = None,
        x: Any = None,
        y: Any = None,
        profiles: Sequence[str] = (),
        labels: Sequence[str] | None = None,
        metric: str | Sequence[str] | None = None,
        precision: str = "auto",
        max_drop: float = 0.01,
        shapes: Mapping[str, Sequence[int]] | None = None,
        wait_s: float = 1800.0,
    ) -> Answer:
        """Convert a model for every profile, prove each result, sign it; return the release, also where profiles were refused.

        model: a scikit-learn, PyTorch, Keras or ONNX object, or what `edgectl publish` takes. x: samples (array, data frame,
        tensor, or a dict of them by input), y: their right answers. version: else the present time. Raises EdgefleetError.
        """
        with explained(), tempfile.TemporaryDirectory(prefix="edgefleet-") as folder, ExitStack() as stack:
            session, given = self._session, save_model(model, Path(folder), x)
            source = stack.enter_context(resolved(session, given, pinned(session, given, None)))
            request = make_request(
                model=str(source.path),
                name=name,
                version=version or f"{session.clock.now():%Y%m%d.%H%M%S}",
                profiles=list(profiles),
                data=write_samples(Path(folder), x, y, labels, getattr(model, "classes_", None)),
                precision=Precision(precision),
                metric=metric,
                max_drop=max_drop,
                reading=ImportFlags({key: list(shape) for key, shape in (shapes or {}).items()}),
                lineage=source.lineage,
            )
            publisher = Publisher(session.api, session.out, session.clock)
            release = publisher.publish(request)
            return published(release if is_over(release.value) else publisher.follow(release, wait_s=wait_s))

    def deploy(
        self, release: Answer | str, *, to: str, strategy: str = "all", wait: bool = False, wait_s: float = 3600.0
    ) -> Answer:
        """Set a release on the devices that a selector matches, and with `wait` see how each, or the rollout, ends.

        strategy: `all` (at once), or one of the server's, such as `canary`. Raises EdgefleetError.
        """
        with explained():
            session, ref = self._session, str(release)
            if strategy == "all":
                deployer = Deployer(session.api, session.out, session.clock)
                answer = deployer.deploy(ref, selector=to)
                outcomes = deployer.wait(ref, answer.value, selector=to, wait_s=wait_s) if wait else []
                return deployed(answer, outcomes)
            rollouts = Rollouts(session.api, session.out, session.clock)
            started = rollouts.create(from_flags(RolloutFlags(ref, to, strategy=strategy)))
            return rolled_out(rollouts.await_end(started, wait_s=wait_s) if wait else started)

    def devices(self, selector: str | None = None) -> Any:
        """Return the devices, one row each: a `pandas.DataFrame` where pandas is installed, else a list of dicts."""
        return frame(map(device_row, self._all("/devices", Device, selector=selector)))

    def rollouts(self, model: str | None = None) -> Any:
        """Return the rollouts, newest first, one row each: a `pandas.DataFrame`, or a list of dicts."""
        return frame(map(rollout_row, self._all("/rollouts", Rollout, model=model)))

    def rollout(self, rollout: Answer | str) -> Answer:
        """Return a rollout as it stands now."""
        with explained():
            return rolled_out(self._session.api.get(f"/rollouts/{part(str(rollout))}", Rollout))

    def explain(self, device: str) -> Answer:
        """Return why a device does not run what it should, one row a model."""
        with explained():
            return device_explained(self._session.api.get(f"/devices/{part(device)}/explain", DeviceExplanation))

    def _all(self, path: str, kind: type[T], **wanted: Any) -> list[T]:
        with explained():
            return list(self._session.api.pages(path, kind, **wanted))
