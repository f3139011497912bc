"""agentd: wiring and main loop. Light on purpose: no numpy, no tuf, no cryptography, no runtime is ever imported here.

1. One thread runs everything (`loop`); paho's threads only enqueue.
2. The order of a start: lock, records and slots, workers, resume, connection. Serving does not wait for the network.
3. On every connect: presence, state, then what waits in the outbox.
"""

import gc
import logging
import os
import queue
import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgefleet_agent import __version__
from edgefleet_agent.captures.service import CaptureDeps, CaptureRecorder
from edgefleet_agent.clock import SystemClock
from edgefleet_agent.composition import agent_parts
from edgefleet_agent.composition.agent_parts import late, public_listeners, url_of
from edgefleet_agent.composition.lazy_candidates import LazyCandidates
from edgefleet_agent.composition.lazy_feedback import LazyFeedback
from edgefleet_agent.connection.install_requests import InstallRequests
from edgefleet_agent.connection.metered import look
from edgefleet_agent.connection.mqtt import Answered, Connected, Disconnected, MqttLink, Received
from edgefleet_agent.connection.outbox import Kind
from edgefleet_agent.connection.sender import OutboxSender
from edgefleet_agent.connection.shared_topics import SharedTopics
from edgefleet_agent.control_socket import Control, obey
from edgefleet_agent.core.code_files import CodeFiles
from edgefleet_agent.core.durable import read_record
from edgefleet_agent.core.logs import Capture, LogFile
from edgefleet_agent.core.loop import Loop, Timer, guarded
from edgefleet_agent.core.systemd import Watchdog, notify
from edgefleet_agent.drift.watcher import DriftDeps, DriftWatcher
from edgefleet_agent.identity.renewal_timer import Calls, RenewalTimer
from edgefleet_agent.identity.store import load_identity
from edgefleet_agent.install.intake import Intake
from edgefleet_agent.install.journal import Journal
from edgefleet_agent.install.preflight import Room
from edgefleet_agent.install.records import DesiredOk, HoldOk
from edgefleet_agent.install.runner import Runner
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.install.verifier_protocol import Fetched, FetchFailed, FetchProgress, Notice, Refused, TaskKind
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.reporting.collector import SystemReader
from edgefleet_agent.reporting.device_facts import device_now, runtimes
from edgefleet_agent.reporting.reports import PROBATION_NEWS_S, Reports
from edgefleet_agent.reporting.schedule import Ticker
from edgefleet_agent.reporting.status import identity_fields, model_rows, write_status
from edgefleet_agent.serving.golden_schedule import GoldenSchedule
from edgefleet_agent.serving.ports import Listeners
from edgefleet_agent.serving.supervisor import Supervisor
from edgefleet_agent.settings import AgentSettings
from edgefleet_agent.tasks.task_runner import TaskDeps, TaskRunner
from edgefleet_protocol.errors import BadMessageError
from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.messages import Ack, Downlink, decode, encode
from edgefleet_protocol.topics import Topics

if TYPE_CHECKING:
    from edgefleet_agent.candidate.controller import CandidateController

STATE_DELAY_S = 0.15
PUMP_S = 5.0
BUSY_TICK_S = 0.5
SILENCE_S = 180.0
STOP_S = 5.0
"""How long a stop waits for requests in flight."""

log = logging.getLogger(__name__)


class Daemon:
    """One running agent."""

    _link: MqttLink
    _reports: Reports

    def __init__(self, state: Path, settings: AgentSettings) -> None:
        self._paths = StatePaths(state)
        self._settings = settings
        self._clock = SystemClock()
        identity = load_identity(self._paths.identity)
        self._topics = Topics(TenantId(identity.tenant))
        self._device = DeviceId(identity.device)
        self._boot_id = secrets.token_urlsafe(6)  # it is in each message
        self._lock = agent_parts.lock_state(self._paths.lock)
        self._code = CodeFiles()
        self._loop = Loop(self._clock)
        calls = Calls(late(lambda: self._link.recycle), late(lambda: self._reports.identity_renewed), self._report_soon)
        self._renewal = RenewalTimer(self._loop, state, self._paths.identity, self._clock, settings, calls)
        self._runtimes = runtimes()
        self._system = SystemReader(state)
        agent_parts.prepare_folders(self._paths)
        self._listeners = public_listeners(settings, self._paths.sockets() / "infer.sock", self._clock)
        self._infer_url = url_of(self._listeners[0])  # kept: status is written while the agent stops, too
        self._outbox = agent_parts.open_outbox(settings, self._paths)
        self._captures = self._capture_recorder()
        self._drift = self._drift_watcher()
        self._feedback = self._feedback_keeper()
        told = (late(lambda: self._reports.batch), self._report_soon, self._write_status)
        self._runs = agent_parts.batch_runs(self._loop, self._clock, self._paths, settings, *told)
        self._candidates = LazyCandidates(self._paths, self._candidate_controller)
        self._slots = Slots(self._paths.models)
        options = agent_parts.worker_options(settings, self._paths, self._listeners)
        watchers = Listeners(self._captures, self._drift, self._feedback, self._runs)
        deps = (self._slots, __version__, self._clock.monotonic_s, watchers, self._candidates)
        self._serving = Supervisor(self._loop, options, *deps)
        self._requests = self._install_requests()
        # block request ids rise over restarts if a device asks less than once a second on average
        first_req_id = int(self._clock.now().timestamp()) & 0x7FFFFFFF
        self._intake = Intake(self._loop, state, self._device, settings, self._requests, self, first_req_id)
        tells = (self._outbox, self._report_soon, self._candidates.states)
        self._reports = Reports(self._device, self._boot_id, self._clock, *tells)
        self._runner = self._install_runner()
        self._serving.attach(self._runner)
        self._golden = GoldenSchedule(self._serving.ask_golden, settings.golden_interval_s, settings.golden_trial_s)
        self._tasks = self._task_runner()
        self._control_socket = self._paths.sockets() / "control.sock"
        self._control = Control(self._loop, self._control_socket, partial(obey, self._runner, self._captures.write_out))
        link_deps = (self._boot_id, self._loop.wake, self._reports.unix_ms)
        self._link = agent_parts.open_link(settings, self._renewal, *link_deps)
        self._shared = SharedTopics(self._link, self._topics, self._device, self._loop, self._paths.shards_ok)
        self._sender = self._outbox_sender()
        self._ticker = Ticker(self._loop, self._clock, self._device, settings.telemetry_interval_s, self._close_window)
        self._state_timer_set = self._state_waits = self._is_leaving = self._starts_again = False
        self._tick_timer: Timer | None = None
        self._heard_s = self._clock.monotonic_s()

    # ---- parts; what they need of a later one is looked up when it is called

    def _capture_recorder(self) -> CaptureRecorder:
        deps = CaptureDeps(
            send_to_all=late(lambda: self._serving.send_to_all),
            pump=late(lambda: self._sender.pump),
            finish=late(lambda: self._tasks.finish),
            show=self._write_status,
        )
        where = (self._settings, self._paths, self._outbox)
        return CaptureRecorder(self._loop, self._clock, *where, self._device, self._boot_id, deps)

    def _drift_watcher(self) -> DriftWatcher:
        ask, digests = late(lambda: self._serving.ask_stats), late(lambda: self._runner.digests)
        deps = DriftDeps(ask, digests, late(lambda: self._reports.drift), self._write_status)
        return agent_parts.drift_watcher(self._loop, self._clock, self._paths.drift, self._device, deps)

    def _feedback_keeper(self) -> LazyFeedback:
        worker_of, finish = late(lambda: self._serving.worker_of), late(lambda: self._tasks.finish)
        parts = (self._loop, self._clock, self._paths, self._captures, worker_of, finish, self._write_status)
        return LazyFeedback(lambda: agent_parts.feedback_keeper(*parts))

    def _candidate_controller(self) -> "CandidateController":
        context = (self._loop, self._paths, self._slots, self._intake, self._settings, self._clock)
        deps = (self._runner, self._serving, self._reports, self._room, self._captures)
        return agent_parts.candidates(*context, *deps)

    def _install_requests(self) -> InstallRequests:
        publish, bytes_a_day = late(lambda: self._link.publish), self._settings.download_daily_bytes
        return InstallRequests(self._topics, self._device, publish, bytes_a_day, self._clock.monotonic_s)

    def _install_runner(self) -> Runner:
        limits = agent_parts.limits(self._settings)
        parts = (self._slots, self._intake, self._serving, self._reports)
        return Runner(Journal(self._paths.models), *parts, limits, self._room, self._clock)

    def _task_runner(self) -> TaskRunner:
        deps = TaskDeps(
            tell=self._reports.task,
            is_busy=lambda: self._runner.is_busy,
            is_installing=lambda: self._runner.is_installing,
            restart_agent=self._restart,
            restart_worker=partial(self._serving.recycle, reason="a task asks for it"),
            others={"capture": self._captures.begin_fetch, "feedback": self._feedback.begin_task},
        )
        return TaskRunner(self._loop, self._paths, self._clock, self._settings.python_command, deps)

    def _outbox_sender(self) -> OutboxSender:
        parts = (self._outbox, self._link, self._topics, self._device, self._loop, self._captures)
        return agent_parts.open_sender(self._settings, *parts)

    # ---- life

    def run(self) -> bool:
        """Run until SIGTERM or SIGINT; what is in flight is finished first. Leaves no process behind. True: start again."""
        self._log = Capture(LogFile(self._paths.log))
        self._loop.watch(self._log.fileno(), self._log.read)
        self._loop.on_wake(self._woken)
        self._loop.look_first(self._look_at_code)
        self._loop.count_stops()
        self._reports.boot()
        desired = self._known_desired()
        if desired is not None:
            self._runner.know_withdrawn(desired)
        self._runner.recover()
        if desired is not None:
            self._follow(desired)
        self._link.start()
        self._renewal.start()
        agent_parts.recycler(self._loop, self._serving, self._room).start(self._clock.monotonic_s)
        self._tick()
        self._ticker.start()
        self._drift.start()
        self._report_soon()
        Watchdog(self._loop.call_later, self._is_live).start()
        gc.collect()  # what the imports left behind is room for what comes
        try:
            self._loop.run()
        finally:
            self._close()
        return self._starts_again and not self._loop.stops_asked

    def _close(self) -> None:
        self._link.stop(encode(self._reports.presence(on=False)))
        self._feedback.close()
        self._ticker.finish()
        self._intake.close()
        self._renewal.close()
        self._control.close()
        self._tasks.close()
        self._runs.close()
        self._serving.close()
        self._runner.close()
        self._captures.close()
        self._drift.close()
        self._outbox.close()
        for listener in self._listeners:
            listener.close()
        agent_parts.remove_run_files(self._paths)
        self._loop.close()
        self._log.close()
        os.close(self._lock)

    def _woken(self) -> None:
        if self._loop.stops_asked > 1:
            log.info("stopping at once")
            self._loop.stop()
        elif self._loop.stops_asked and not self._is_leaving:
            self._leave()
        self._drain_inbox()

    def _leave(self) -> None:
        """Begin nothing any more, let workers finish what is in flight, at most STOP_S long."""
        log.info("stopping")
        self._is_leaving = True
        # after STOPPING systemd would end the process that goes on with the new files, too
        notify("STATUS=restarting" if self._starts_again else "STOPPING=1")
        self._control.close()
        self._tasks.close()
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        self._intake.close()
        self._loop.call_later(STOP_S, self._loop.stop)
        self._serving.leave(STOP_S, self._loop.stop)
        for listener in self._listeners:
            listener.close()

    def _restart(self) -> None:
        self._starts_again = True
        self._leave()

    def _look_at_code(self) -> bool:
        """Before each round of the loop: begin nothing with files that are not ours, and judge nothing that comes of them."""
        if self._is_leaving or not self._code.are_replaced():
            return False
        self._code.wait(lambda: self._loop.stops_asked > 0)
        self._candidates.close()
        self._restart()
        return True

    def _is_live(self) -> bool:
        return os.statvfs(self._paths.root).f_bsize > 0 and self._outbox.is_live()

    def _room(self) -> Room:
        return agent_parts.room(self._settings, self._paths.root, self._runtimes)

    def _known_desired(self) -> DesiredOk | None:
        """Return the document of the run before; a hold of it is in force at once, before anything is resumed."""
        desired, hold = agent_parts.known_documents(self._paths)
        if desired is not None:
            self._intake.settle("desired", desired.raw_sha256)
            self._reports.gen = desired.gen
        if hold is not None:
            self._intake.settle("hold", hold.raw_sha256)
            self._hold(hold)
        return desired

    def _hold(self, hold: HoldOk) -> None:
        self._runner.hold(hold)
        self._candidates.hold(hold)

    def _follow(self, desired: DesiredOk) -> None:
        self._ticker.desired = desired
        self._link.live_until(desired.live_until_s())
        self._captures.follow(desired)
        self._runner.apply(desired)
        self._candidates.apply(desired)
        self._tasks.apply(desired.tasks)

    # ---- intake's listener

    def on_accepted(self, kind: TaskKind, gen: int) -> None:
        """The install child wrote verified fields."""
        self._reports.accepted(kind, gen)
        if kind == "desired":
            desired = read_record(DesiredOk, self._paths.desired_ok)
            assert desired is not None
            self._follow(desired)
        elif kind == "hold":
            hold = read_record(HoldOk, self._paths.hold_ok)
            assert hold is not None
            self._hold(hold)
        self._renewal.proved(kind)
        log.info("document accepted", extra={"kind": kind, "gen": gen})

    def on_refused(self, kind: TaskKind, refused: Refused) -> None:
        """A document was refused, or could not be judged yet."""
        log.warning("document refused", extra={"kind": kind, "code": refused.code, "reason": refused.reason})
        self._reports.refused(kind, refused)

    def on_fetch(self, packet: FetchProgress | Fetched | FetchFailed) -> None:
        """How a fetch goes."""
        self._runner.on_fetch(packet)
        self._candidates.on_fetch(packet)

    def on_notice(self, notice: Notice) -> None:
        """Something the server should know."""
        self._reports.notice(notice)

    # ---- from the broker

    def _drain_inbox(self) -> None:
        while True:
            try:
                item = self._link.inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, Received):
                self._heard_s = self._clock.monotonic_s()
                if not self._is_leaving:  # not acknowledged either: the broker sends it to the next run
                    # acknowledged also when it failed, on a full disk say: a broker sends only so many that are not, then none
                    guarded(partial(self._on_message, item))
                    self._link.ack(item)
            elif isinstance(item, Connected):
                self._on_connected(item)
            elif isinstance(item, Answered):
                self._shared.answered(item)
            elif isinstance(item, Disconnected):
                log.info("disconnected", extra={"reason": item.reason})
                self._renewal.lost(item.reason)
                self._sender.relinked()
                self._write_status()
            else:
                self._sender.published(item.mid)
                if self._state_waits:
                    self._publish_state()
                else:
                    self._pump()

    def _on_connected(self, item: Connected) -> None:
        log.info("connected", extra={"conn_id": item.conn_id})
        self._shared.connected()
        self._heard_s = self._clock.monotonic_s()
        self._reports.conn_id = item.conn_id
        presence = encode(self._reports.presence(on=True, cert=self._renewal.connected(item.folder, item.number)))
        self._link.publish(self._topics.presence(self._device), presence, 1, retain=True)
        self._sender.relinked()
        look(self._settings.metered, self._metered)
        self._publish_state()
        self._intake.relink()
        self._pump()

    def _on_message(self, item: Received) -> None:
        if item.topic == self._topics.dn_blk(self._device):
            self._requests.took(len(item.payload))
            self._intake.blocks(item.payload)
        elif item.topic == self._topics.dn_meta(self._device):
            self._on_downlink(item.payload)
        elif item.topic == self._topics.desired(self._device):
            is_known = self._intake.offer("desired", item.payload)
            self._renewal.offered("desired", is_known)
            self._shared.took_document(item, is_known=is_known)
        elif self._shared.is_hold(item.topic):
            self._renewal.offered("hold", self._intake.offer("hold", item.payload))
        elif self._shared.took_head(item.topic):
            self._intake.head(item.payload)

    def _on_downlink(self, payload: bytes) -> None:
        try:
            message = decode(Downlink, payload)
        except BadMessageError as error:
            log.warning("downlink unreadable", extra={"reason": error.message})
            return
        if message.reply is not None:
            self._intake.meta(message.reply)
        if message.ack is not None:
            self._on_ack(message.ack)

    def _on_ack(self, ack: Ack) -> None:
        removed = self._outbox.ack(Kind.EVENT, ack.boot_id, ack.events)
        removed += self._outbox.ack(Kind.TELEMETRY, ack.boot_id, ack.telemetry)
        removed += self._outbox.ack(Kind.SAMPLE, ack.boot_id, ack.samples)
        self._captures.stored(ack.boot_id, ack.samples)
        self._ticker.stretch(ack.stretch)
        self._shared.acked(ack.shards)
        if removed:
            self._pump()

    # ---- to the broker

    def _pump(self) -> None:
        """Hand over what waits and may go."""
        self._sender.pump()

    def _report_soon(self) -> None:
        if not self._state_timer_set:
            self._state_timer_set = True
            self._loop.call_later(STATE_DELAY_S, self._publish_state)

    def _publish_state(self) -> None:
        self._state_timer_set = False
        self._write_status()
        timer = self._tick_timer
        if self._runner.is_busy and timer is not None and timer.due_s > self._clock.monotonic_s() + BUSY_TICK_S:
            self._tick_in(BUSY_TICK_S)
        if not self._link.is_connected:
            return
        facts = device_now(self._paths.root, self._runtimes, self._runner, self._drift.facts(), self._captures.heads())
        facts |= self._renewal.places.facts() | self._runs.facts()
        state = self._reports.state(self._runner, self._serving, facts)
        # without room it goes out when a place is free, or with the next connection
        self._state_waits = self._link.publish(self._topics.state(self._device), encode(state), 1, retain=True) is None
        self._pump()

    def _write_status(self) -> None:
        state = self._reports.state(self._runner, self._serving, {}, count=False)
        identity = self._renewal.identity
        status = {
            **identity_fields(identity),
            "agent_version": __version__,
            "connected": self._link.is_connected,
            "gen": self._reports.gen,
            "boot_id": self._boot_id,
            "infer_url": self._infer_url,
            "infer_socket": str(self._paths.sockets() / "infer.sock"),
            "control_socket": str(self._control_socket),
            "outbox": self._sender.status(),
            **agent_parts.observed(self._captures, self._drift, self._feedback, self._runs),
            "refused": {"gen": state.refused_gen, "code": state.refused_code, "reason": state.refused_reason},
            "workers": self._serving.pids(),
            "disk_error": self._runner.trouble,
            "candidates": self._candidates.pids(),
            "models": model_rows(state.models, self._runner.modes(), self._runner.withdrawn),
        }
        write_status(self._paths.status, status)

    # ---- time

    def _tick(self) -> None:
        # first of all the next look: whatever fails below, time goes on
        self._tick_in(PUMP_S)
        self._runner.tick()
        self._candidates.tick()
        self._runs.tick(self._runner.records)
        now = self._clock.monotonic_s()
        busy = self._runner.is_busy or self._candidates.is_busy
        self._golden.tick(self._runner.records, now)
        if busy or self._runner.is_watching or self._ticker.is_closing:
            self._serving.ask_stats()
        if self._link.is_connected and now - max(self._heard_s, self._outbox.awaits_since_s(now)) > SILENCE_S:
            # what we send is never confirmed though the client believes to be connected
            self._heard_s = now
            self._sender.relinked()
            self._link.recycle("nothing heard from the server")
        news_s = self._ticker.interval_s if self._ticker.is_metered else PROBATION_NEWS_S
        if self._link.is_connected and self._reports.has_probation_news(self._runner, news_s):
            self._report_soon()
        self._outbox.spill(now)
        self._pump()
        self._tick_in(BUSY_TICK_S if busy else 2.0 if self._ticker.interval_s <= 60 else PUMP_S)

    def _tick_in(self, delay_s: float) -> None:
        if self._is_leaving:
            return
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        self._tick_timer = self._loop.call_later(delay_s, self._tick)

    def _close_window(self, *when: int) -> None:
        windows = [sums.closed(model, "active", *when) for model, sums in self._serving.take_sums()]
        windows += self._candidates.take_windows(*when[:2])
        system = self._system.read([*self._serving.pids().values(), *self._candidates.pids().values()])
        self._reports.telemetry(self._feedback.told(windows, *when[:2]), system)
        self._pump()

    def _metered(self, is_metered: bool) -> None:
        """From any thread: plain values that the loop reads."""
        self._sender.is_metered = self._ticker.is_metered = is_metered
