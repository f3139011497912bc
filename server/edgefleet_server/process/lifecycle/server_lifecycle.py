"""What a running server consists of, and in which order it starts and stops. `main.py` is the process around it.

Start: claim, schema, keys, broker, gateway, engine thread, workers, listeners, `run/server.json`. Stop: backwards.
"""

import logging
import math
import os
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from sqlalchemy.exc import SQLAlchemyError
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.api_app import create_app, refresh_gauges
from edgefleet_server.composition.container import Parts, build_parts
from edgefleet_server.composition.dashboard_app import first_look
from edgefleet_server.composition.sealed_columns import SEALED_COLUMNS
from edgefleet_server.conversion.sandbox import LAYERS, active_layers
from edgefleet_server.fleet.enrolment.agent_packages import take_over_or_warn
from edgefleet_server.fleet.moves.rules import ports_besides
from edgefleet_server.observability.health import Recent, disk_line
from edgefleet_server.process.file_limit import raise_file_limit, share_of
from edgefleet_server.process.lifecycle.claim import Claim
from edgefleet_server.process.lifecycle.engine_work import build_engine, build_webhook_sender
from edgefleet_server.process.lifecycle.listener_certificate import CertificateFollower, ensure_certificate
from edgefleet_server.process.lifecycle.readiness_checks import database_line, keys_line, refuse_to_be_ready
from edgefleet_server.process.lifecycle.run_file import RunFile
from edgefleet_server.process.lifecycle.systemd_notice import notify_systemd
from edgefleet_server.process.listener import (
    ConnectionGuard,
    Listener,
    ListenerDiedError,
    ListeningSocket,
    further_sockets,
)
from edgefleet_server.process.memory import settle
from edgefleet_server.process.schema_upgrade import prepare_schema
from edgefleet_server.process.signer_child import SignerChild, wait_for_signer, watch_signer
from edgefleet_server.process.worker_pool import WorkerPool
from edgefleet_server.rollout.controller.gate_caller import GateCaller
from edgefleet_server.rollout.controller.proof_caller import ProofCaller
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import ServerRole, ServerSettings
from edgefleet_server.web.connection_budget import NO_CAP, Budget

if TYPE_CHECKING:
    from fastapi import FastAPI

    from edgefleet_server.gateway.broker.model import BrokerEndpoint
    from edgefleet_server.gateway.broker.supervisor import BrokerSupervisor
    from edgefleet_server.gateway.service import Gateway
    from edgefleet_server.observability.otlp.exporter import OtlpExporter

_log = logging.getLogger(__name__)
_PARTS_STOP_S = 20.0


class Server:
    """One server process. `start` raises or leaves everything running; `stop` may be called at any time, once."""

    def __init__(self, settings: ServerSettings, claim: Claim) -> None:
        """Take over what was claimed; `stop` lets go of it."""
        self.settings = settings
        self._claim = claim
        self._stack = ExitStack()
        self._stack.callback(claim.close)
        self._listeners: list[Listener] = []
        self._endpoint: BrokerEndpoint | None = None
        self._otlp: OtlpExporter | None = None
        self._device_app: FastAPI | None = None
        self._also_device: list[int] = []
        self._also_broker: list[int] = []
        self.parts: Parts | None = None

    def start(self) -> None:
        """Start all parts of this process's roles; return when they answer. Raises EdgefleetError."""
        roles = set(self.settings.roles)
        settings = self.settings = self._with_signer(self.settings)
        parts = self.parts = build_parts(settings, SystemClock())
        self._stack.callback(parts.db.dispose)
        self._prepare(parts)
        self._also_device, self._also_broker = ports_besides(
            parts.fleet.moves.places(), settings.device_port, settings.broker_port
        )
        if settings.otlp_endpoint:
            self._start_otlp(parts)
        if ServerRole.GATEWAY in roles:
            self._start_gateway(parts)
        if ServerRole.ENGINE in roles:
            ticker = build_engine(parts)
            ticker.start()
            self._stack.callback(ticker.stop)
            parts.health.add("engine", ticker.check)
            self._start_callers(parts)
        if ServerRole.CONVERTER in roles:
            self._start_workers(parts)
        api_socket, device_socket = self._claim.api, self._claim.device
        if api_socket is not None and device_socket is not None:
            self._start_listeners(parts, api_socket, device_socket)
            settle()
            self._write_run_file(api_socket, device_socket)

    def drain(self, wait: Callable[[float], object] = time.sleep) -> None:
        """Tell load balancers that this server is about to stop, and go on serving for `drain_s`. Source: ADR 0145."""
        bound_s = self.settings.drain_s + self.settings.finish_s + _PARTS_STOP_S
        notify_systemd("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(bound_s * 1e6)}")
        if self.parts is not None:
            self.parts.health.add("stopping", refuse_to_be_ready)
        if self._device_app is not None:
            self._device_app.state.is_leaving = True
        if self.settings.drain_s and self._listeners:
            wait(self.settings.drain_s)

    def stop(self) -> None:
        """Stop everything in reverse order. Blocks: listeners for `finish_s`, a few seconds at most for each other part."""
        if self.parts is not None:
            self.parts.fleet.stream.close()  # before the listeners wait for open streams
        for listener in self._listeners:
            listener.leave()
        self._stack.close()
        _log.info("stopped")

    def check_threads(self) -> None:
        """Raise ListenerDiedError when a listener ended by itself."""
        for listener in self._listeners:
            if not listener.is_alive:
                raise ListenerDiedError(f"the {listener.name} listener ended by itself", next_step="see the log above")

    def _with_signer(self, settings: ServerSettings) -> ServerSettings:
        """Start the signing process, unless one is run apart; return the settings that name its socket."""
        if settings.signer_socket is not None or not settings.keys_dir.is_dir():
            return settings
        signer = SignerChild(settings)
        signer.start()
        self._stack.callback(signer.stop)
        return settings.model_copy(update={"signer_socket": settings.own_signer_socket})

    def _prepare(self, parts: Parts) -> None:
        settings = self.settings
        parts.db.ping()
        prepare_schema(parts.db, may_upgrade=settings.upgrade_schema_at_start)
        if settings.signer_socket is not None:
            wait_for_signer(settings.signer_socket)
        if not parts.signing.is_initialised():
            raise SettingsError(
                f"{self.settings.data_dir} lacks the keys or the root of trust",
                next_step=f"create a server: `edgectl server init {self.settings.data_dir}`",
            )
        parts.sealer.start(SEALED_COLUMNS)
        parts.signing.start()
        ensure_certificate(parts)
        take_over_or_warn(parts.fleet.packages, settings.agent_packages_dir)
        parts.health.add("database", Recent(lambda: database_line(parts), parts.clock))
        parts.health.add("disk", Recent(lambda: disk_line(settings.data_dir, settings.min_free_bytes), parts.clock))
        parts.health.add("keys", lambda: keys_line(parts))
        watch_signer(parts)

    def _start_otlp(self, parts: Parts) -> None:
        from edgefleet_server.observability.otlp.exporter import OtlpExporter

        def registries() -> list[CollectorRegistry]:
            refresh_gauges(parts)
            return [parts.metrics.registry, parts.metrics.fleet_registry]

        settings = self.settings
        self._otlp = OtlpExporter(
            settings.otlp_endpoint,
            instance=settings.instance,
            version=version("edgefleet"),
            every_s=settings.otlp_interval_s,
            registries=registries,
        )
        self._otlp.start()
        self._stack.callback(self._otlp.stop)

    def _start_gateway(self, parts: Parts) -> None:
        from edgefleet_server.gateway.broker.model import BrokerConfig, BrokerKind, choose_broker, memory_for
        from edgefleet_server.gateway.broker.supervisor import BrokerSupervisor
        from edgefleet_server.gateway.service import Gateway

        settings = self.settings
        choice = choose_broker(settings.broker)
        _log.info("broker chosen", extra={"kind": choice.kind.value, "why": choice.reason})
        config = BrokerConfig(
            kind=choice.kind,
            tenant=settings.tenant,
            ca_file=parts.signing.ca_file,
            cert_file=parts.signing.server_cert_file,
            key_file=parts.signing.server_key_file,
            run_dir=settings.broker_dir,
            host=choice.host or settings.broker_host,
            port=choice.port or settings.broker_port,
            servers=(f"srv-{settings.instance}",),
            memory_bytes=settings.broker_memory_bytes or memory_for(parts.fleet.reader.summary().devices),
            refused=parts.signing.refused_certificates(settings.instance)[0],
            also_ports=() if choice.kind is BrokerKind.EXTERNAL else self._free_ports(),
        )
        supervisor = BrokerSupervisor(config, parts.clock)
        endpoint = self._endpoint = supervisor.start()
        self._stack.callback(supervisor.stop)
        services = (parts.fleet, parts.telemetry, parts.registry, parts.signing, parts.clock, parts.costing.traffic)
        gateway = Gateway(settings, endpoint, *services)
        gateway.start()
        self._stack.callback(gateway.stop)
        self._start_cut_off(parts, supervisor, gateway)
        if choice.kind is not BrokerKind.EXTERNAL and endpoint.host != settings.device_public_host:
            public = settings.device_public_host if settings.public_host else endpoint.host
            parts.fleet.addresses.announce_broker(public, endpoint.port, endpoint.mqtt)
        parts.sampler.is_listening = lambda: gateway.is_connected
        parts.health.add("broker", gateway.check)
        parts.metrics.watch_gateway(gateway.counters, gateway.dropped, gateway.waiting)

    def _free_ports(self) -> tuple[int, ...]:
        """Return the broker's further ports that are to be had: with one that is not, it would not start at all."""
        found = further_sockets(self.settings.broker_host, self._also_broker)
        ports = tuple(one.getsockname()[1] for one in found)
        for one in found:
            one.close()
        return ports

    def _start_cut_off(self, parts: Parts, supervisor: "BrokerSupervisor", gateway: "Gateway") -> None:
        from edgefleet_server.gateway.cut_off import CutOff

        cut_off = CutOff(
            supervisor,
            parts.fleet,
            parts.signing,
            gateway.forget_devices,
            parts.clock,
            self.settings.instance,
        )
        cut_off.start()
        self._stack.callback(cut_off.stop)
        parts.health.add("revocation", cut_off.check)
        parts.metrics.watch_revocation(cut_off.in_force, cut_off.left_s)

    def _start_callers(self, parts: Parts) -> None:
        """Start what rollouts wait for and what others are told: webhooks, gates, and checks of bundles."""
        owner = self.settings.instance
        for caller in (
            build_webhook_sender(parts, owner),
            GateCaller(parts.db, parts.rollout.clock, parts.rollout.wake, parts.poster, owner),
            ProofCaller(parts.db, parts.rollout.clock, parts.rollout.wake, parts.prover, parts.fleet.documents),
        ):
            caller.start()
            self._stack.callback(caller.stop)

    def _start_workers(self, parts: Parts) -> None:
        layers = active_layers()
        missing = [name for name in LAYERS if name not in layers and (name != "own_uid" or os.geteuid() == 0)]
        if "files" not in layers:
            _log.warning("conversion children can read what the server can read, keys too: this kernel has no Landlock")
        elif missing:
            _log.warning("the sandbox of the conversion child lacks layers", extra={"missing": ",".join(missing)})
        _log.info("sandbox of the conversion child", extra={"layers": ",".join(layers)})
        lacking = f" (missing: {', '.join(missing)})" if missing else ""
        pool = WorkerPool(self.settings, self.settings.converter_workers, parts.conversion.has_work)
        pool.start()
        self._stack.callback(pool.stop)
        parts.health.add("converter", lambda: f"{pool.check()}; sandbox layers: {', '.join(layers)}{lacking}")

    def _start_listeners(self, parts: Parts, api_socket: ListeningSocket, device_socket: ListeningSocket) -> None:
        from edgefleet_server.composition.device_app import create_device_app

        settings = self.settings
        parts.fleet.addresses.announce_device_port(device_socket.getsockname()[1])
        api_tls: dict[str, Any] = {"timeout_graceful_shutdown": math.ceil(settings.finish_s)}
        if settings.api_tls_cert is not None:
            api_tls |= {"ssl_certfile": settings.api_tls_cert, "ssl_keyfile": settings.api_tls_key}
        device_tls: dict[str, Any] = {
            "timeout_graceful_shutdown": math.ceil(settings.finish_s),
            "ssl_certfile": parts.signing.server_cert_file,
            "ssl_keyfile": parts.signing.server_key_file,
            "ssl_version": ssl.PROTOCOL_TLS_SERVER,
        }
        app = create_app(parts)
        api: Any = app  # uvicorn and Starlette write the type of an app differently
        if self._otlp is not None:
            api = self._otlp.traced(api)
        if settings.behind_proxy:  # inside of the guard, which counts what really connects
            api = ProxyHeadersMiddleware(api, os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1"))
        device = self._device_app = create_device_app(parts.fleet, parts.signing, parts.registry)
        self._stack.callback(_write_last, parts)
        also = [self._stack.enter_context(one) for one in further_sockets(settings.device_host, self._also_device)]
        api_budget, device_budget = _budgets(settings, (api_socket, device_socket, *also))
        write_due, look = parts.access.refusals.write_due, first_look(parts, app)

        def each_second() -> None:
            write_due()
            parts.access.repeats.free_due()
            look.renew()

        follower = CertificateFollower(parts.signing, parts.clock)

        def each_second_of_devices() -> None:
            write_due()
            follower.follow()

        for name, app, listening, budget, tls, chore in (
            ("api", api, api_socket, api_budget, api_tls, each_second),
            ("device", device, device_socket, device_budget, device_tls, each_second_of_devices),
            *(("device-also", device, one, device_budget, device_tls, write_due) for one in also),
        ):
            guard = ConnectionGuard(name, budget, parts.metrics)
            listener = Listener(name, app, listening, guard, tls, chore)
            self._listeners.append(listener)
            self._stack.callback(listener.stop)
            listener.start()

    def _write_run_file(self, api_socket: ListeningSocket, device_socket: ListeningSocket) -> None:
        settings = self.settings
        scheme = "https" if settings.api_tls_cert is not None else "http"
        endpoint = self._endpoint
        document = {
            "api_url": f"{scheme}://{_url_host(settings.api_host)}:{api_socket.getsockname()[1]}",
            "device_url": f"https://{_url_host(settings.device_public_host)}:{device_socket.getsockname()[1]}",
            "broker": None
            if endpoint is None
            else {"kind": endpoint.kind.value, "host": endpoint.host, "port": endpoint.port},
        }
        file = RunFile(settings.run_dir)
        file.write(document)
        self._stack.callback(file.remove)
        _log.info("ready", extra={"api": document["api_url"], "device": document["device_url"]})


def _write_last(parts: Parts) -> None:
    try:
        parts.access.refusals.write_due(is_last=True)
    except SQLAlchemyError as error:
        _log.warning("refused requests of the last minute are not in the audit trail", extra={"error": repr(error)})


def _budgets(settings: ServerSettings, sockets: Sequence[ListeningSocket]) -> tuple[Budget, Budget]:
    """Raise the file limit, give each listener its own part of it, and return the budgets of API and devices."""
    limit = raise_file_limit()
    wanted = (settings.api_connections, settings.device_connections)
    floor, (api, device) = share_of(limit, wanted)
    if (api, device) != wanted:
        _log.warning(
            "the limit of open files is too low for the connections that the settings allow",
            extra={"files": limit, "api_connections": api, "device_connections": device},
        )
    for listening in sockets:
        listening.file_floor = floor
    api_each = NO_CAP if settings.behind_proxy else settings.api_connections_per_address
    return Budget(api, min(api_each, api)), Budget(device, min(settings.device_connections_per_address, device))


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
