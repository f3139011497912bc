"""Keeps one broker process running: starts it, starts it again when it ends, stops it with the server.

1. The first start fails loudly (`start` raises). Later ends are answered by a new start on the same port, after 0.2, 1, 5, then
   every 30 s; a minute of quiet running begins the row again.
2. A restarted broker is empty: the gateway, whose connection ended with the old one, publishes on its next connect what must
   be retained.
3. One thread starts the child and waits for it; whatever way the server ends, the child ends with it (`child`).
4. `external` starts nothing and always answers with the configured endpoint.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.gateway.broker.broker_process import BrokerChild, start_embedded
from edgefleet_server.gateway.broker.errors import BrokerStartError
from edgefleet_server.gateway.broker.model import BrokerConfig, BrokerEndpoint, BrokerKind
from edgefleet_server.gateway.broker.mosquitto import (
    check_revocation_list,
    start_mosquitto,
    write_files,
    write_revocation_list,
    write_trusted,
)
from edgefleet_server.signing.trust import RefusedCertificates

logger = logging.getLogger(__name__)

BACKOFF_S = (0.2, 1.0, 5.0, 30.0)
QUIET_S = 60.0


class BrokerState(StrEnum):
    """Where the supervised broker is."""

    STOPPED = "stopped"
    RUNNING = "running"
    RESTARTING = "restarting"
    EXTERNAL = "external"


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """The broker at one moment. `since` is when the state was entered, `last_error` why a start failed, however long ago."""

    kind: BrokerKind
    state: BrokerState
    pid: int | None
    port: int
    restarts: int
    since: datetime | None
    last_error: str


class BrokerSupervisor:
    """Runs the broker of one server. Thread-safe."""

    def __init__(self, config: BrokerConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._first = threading.Event()
        self._thread: threading.Thread | None = None
        self._child: BrokerChild | None = None
        self._shown = b""
        self._endpoint: BrokerEndpoint | None = None
        self._state = BrokerState.STOPPED
        self._since: datetime | None = None
        self._restarts = 0
        self._error: EdgefleetError | None = None

    def start(self) -> BrokerEndpoint:
        """Start the broker and return where it serves. Blocks until it does. Raises BrokerStartError."""
        if self._config.kind is BrokerKind.EXTERNAL:
            self._endpoint = self._endpoint_at(self._config.port)
            self._enter(BrokerState.EXTERNAL)
            return self._endpoint
        if self._thread is not None:
            raise RuntimeError("the broker supervisor was started twice")
        self._thread = threading.Thread(target=self._run, name="broker-supervisor", daemon=True)
        self._thread.start()
        self._first.wait()
        if self._endpoint is None:
            self._thread.join()
            self._thread = None
            self._first.clear()
            raise self._error or BrokerStartError("the broker was stopped while it started")
        return self._endpoint

    def stop(self) -> None:
        """Stop the broker. Blocks at most about 5 s; harmless when it never ran."""
        with self._lock:
            self._stopping.set()
            child = self._child
        if child is not None:
            child.stop()
        if self._thread is not None:
            self._thread.join()
        if self._state is not BrokerState.STOPPED:
            self._enter(BrokerState.STOPPED)

    @property
    def endpoint(self) -> BrokerEndpoint:
        """Return where clients connect; the same for the life of this object. RuntimeError before `start`."""
        if self._endpoint is None:
            raise RuntimeError("the broker was not started")
        return self._endpoint

    @property
    def pid(self) -> int | None:
        """Return the process id of the running broker; None for external, or between two lives."""
        with self._lock:
            return self._child.pid if self._child is not None else None

    def status(self) -> BrokerStatus:
        """Return the present state."""
        with self._lock:
            return BrokerStatus(
                kind=self._config.kind,
                state=self._state,
                pid=self._child.pid if self._child is not None else None,
                port=self._endpoint.port if self._endpoint is not None else 0,
                restarts=self._restarts,
                since=self._since,
                last_error=self._error.message if self._error is not None else "",
            )

    def set_servers(self, servers: tuple[str, ...]) -> None:
        """Let these server accounts (`srv-…`) in, and no others, from now on. Only mosquitto needs telling."""
        self._config = dataclasses.replace(self._config, servers=servers)
        with self._lock:
            if self._config.kind is BrokerKind.MOSQUITTO and self._child is not None:
                write_files(self._config, self._child.port)
                self._child.reload()

    def refuse(self, refused: RefusedCertificates) -> bool:
        """Let these certificates in no more; return False while no broker runs that could be given them (the next one will be).

        A broker that is to trust other CAs is started again: mosquitto takes none back, and open sessions of a CA that has gone must end.
        So is an embedded one whose certificate was issued again; mosquitto reads its own again with the list.
        An external broker is given nothing: its operator fetches the list, which is kept in `run_dir`. Raises RevocationListError, OSError.
        """
        # first: what is taken into the configuration here is what a broker that is started again must read
        wanted = dataclasses.replace(self._config, refused=refused)
        check_revocation_list(refused.crl, wanted.trusted(), refused)
        is_same = self._config.trusted() == wanted.trusted()
        if wanted.kind is BrokerKind.EMBEDDED:
            is_same = is_same and self._shown == wanted.cert_file.read_bytes()
        self._config = wanted
        with self._lock:
            if self._config.kind is BrokerKind.EXTERNAL:
                self._config.run_dir.mkdir(parents=True, exist_ok=True)
                write_revocation_list(self._config)
                return True
            child = self._child
            if is_same and child is not None and self._config.kind is BrokerKind.MOSQUITTO:
                write_files(self._config, child.port)
                child.reload()
        if child is not None and not is_same:
            logger.info("the broker is started again, with other CAs or another certificate")
            child.stop()  # `_run` starts it with the new configuration
            return True
        if child is not None and self._config.kind is BrokerKind.EMBEDDED:
            child.refuse(refused)  # without the lock: one that hangs reads nothing, and must still be stopped
        return child is not None

    def _run(self) -> None:
        try:
            self._adopt(self._launch(self._config.port))
        except EdgefleetError as error:
            self._error = error
            return
        finally:
            self._first.set()
        failures = 0
        while not self._stopping.is_set():
            ran_s = self._wait_for_end()
            failures = 0 if ran_s > QUIET_S else failures
            while not self._stopping.wait(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]):
                failures += 1
                if self._restart():
                    break

    def _wait_for_end(self) -> float:
        child = self._child
        if child is None:  # stop() came while it started
            return 0.0
        began_s = self._clock.monotonic_s()
        code = child.wait()
        with self._lock:
            self._child = None
        if not self._stopping.is_set():
            self._enter(BrokerState.RESTARTING)
            logger.warning("the %s broker ended (exit code %s) and is started again", self._config.kind, code)
        return self._clock.monotonic_s() - began_s

    def _restart(self) -> bool:
        try:
            self._adopt(self._launch(self.endpoint.port))
        except EdgefleetError as error:
            self._error = error
            logger.warning("the broker could not be started again: %s", error.message)
            return False
        self._restarts += 1
        return True

    def _launch(self, port: int) -> BrokerChild:
        if self._config.kind is BrokerKind.MOSQUITTO:
            return start_mosquitto(self._config, port)
        write_trusted(self._config)
        self._shown = self._config.cert_file.read_bytes()
        return start_embedded(self._config, port)

    def _adopt(self, child: BrokerChild) -> None:
        with self._lock:
            is_late = self._stopping.is_set()
            self._child = None if is_late else child
        if is_late:
            child.stop()
            return
        self._endpoint = self._endpoint or self._endpoint_at(child.port)
        self._enter(BrokerState.RUNNING)

    def _endpoint_at(self, port: int) -> BrokerEndpoint:
        config = self._config
        return BrokerEndpoint(config.kind, config.host, port, config.kind.mqtt, config.ca_file)

    def _enter(self, state: BrokerState) -> None:
        with self._lock:
            self._state = state
            self._since = self._clock.now()
