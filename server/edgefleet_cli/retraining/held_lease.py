"""The lease of a retraining while it is trained: renewed from a thread of its own, so that nothing slow lets it run out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import ApiError, CliError
from edgefleet_cli.core.structs import UNSET
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.core.transport.server_retry import is_passing
from edgefleet_protocol.errors import EdgefleetError

RENEWALS: Final = 3
"""How often a lease is renewed in the time that it lasts."""
LEAST_S: Final = 0.5
_STOP_S: Final = 30.0
_GONE: Final = frozenset({404, 409})


class LeaseLostError(CliError):
    """Another runner has the retraining, or it has ended."""

    code = "retraining.lease_conflict"


class HeldLease:
    """Says how far a training is, and so keeps its lease. Use `kept`."""

    def __init__(
        self, client: ApiClient, retraining_id: str, lease: str, lease_s: float, note: Callable[[str], None]
    ) -> None:
        self._client = client
        self.path = f"/retrainings/{part(retraining_id)}"
        self.lease = lease
        self._pause_s = max(LEAST_S, lease_s / RENEWALS)
        self._note = note
        self._wake = threading.Event()
        self._is_over = False
        self._lost: ApiError | None = None
        self._progress = ""
        self._data_set: api.experiment.DataSetIn | None = None

    def say(self, progress: str, data_set: api.experiment.DataSetIn | None = None) -> None:
        """Say how far it is, and once what it is trained on. Raises LeaseLostError."""
        self.check()
        is_new = data_set is not None
        self._progress = progress
        if is_new:
            self._data_set = data_set
            self._wake.set()

    def check(self) -> None:
        """Raise LeaseLostError when it is another's, or of no use any more."""
        if self._lost is not None:
            raise LeaseLostError(
                "this retraining is no longer ours", why=self._lost.message, next_step="nothing; this runner goes on"
            )

    @contextmanager
    def kept(self) -> Iterator[HeldLease]:
        """Renew it until the block is left."""
        thread = threading.Thread(target=self._keep, name="retraining-lease", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._is_over = True
            self._wake.set()
            thread.join(_STOP_S)

    def give_back(self) -> None:
        """Let another runner take it, as far as the server can be reached."""
        body = api.experiment.RenewIn(lease=self.lease, progress="given back by its runner", gives_back=True)
        try:
            self._client.post(f"{self.path}:renew", body, api.experiment.Retraining)
        except EdgefleetError as error:
            self._note(f"could not give the retraining back ({error.message}); its lease runs out by itself")

    def _keep(self) -> None:
        while not self._is_over and self._lost is None:
            self._renew()
            self._wake.wait(self._pause_s)
            self._wake.clear()

    def _renew(self) -> None:
        data_set = self._data_set
        body = api.experiment.RenewIn(
            lease=self.lease, progress=self._progress[:400], data_set=UNSET if data_set is None else data_set
        )
        try:
            self._client.post(f"{self.path}:renew", body, api.experiment.Retraining)
        except ApiError as error:
            if error.status in _GONE:
                self._lost = error
            elif not is_passing(error):
                self._note(f"the lease was not renewed: {error.message}")
            return
        except EdgefleetError:
            return  # the server is away: what is trained is worth keeping until it says otherwise
        if self._data_set is data_set:
            self._data_set = None
