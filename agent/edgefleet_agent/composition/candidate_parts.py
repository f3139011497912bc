"""Settings and parts of agentd → its candidates."""

from collections.abc import Callable

from edgefleet_agent.candidate import sensors
from edgefleet_agent.candidate.controller import CandidateController, CandidateDeps
from edgefleet_agent.candidate.pressure import PressureLimits
from edgefleet_agent.candidate.process import CandidateContext, CandidateOptions
from edgefleet_agent.core.loop import Loop
from edgefleet_agent.install.intake import Intake
from edgefleet_agent.install.preflight import Room
from edgefleet_agent.install.runner import Runner
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.reporting.collector import SystemReader
from edgefleet_agent.reporting.reports import Reports
from edgefleet_agent.serving.ports import Listener
from edgefleet_agent.serving.supervisor import Supervisor
from edgefleet_agent.settings import AgentSettings
from edgefleet_protocol.clock import Clock


def options(settings: AgentSettings) -> CandidateOptions:
    """Return what candidates are held to."""
    limits = PressureLimits(
        memory_stall_pct=settings.shadow_memory_stall_pct,
        memory_available_bytes=settings.memory_reserve_bytes,
        temperature_celsius=settings.shadow_temperature_celsius,
        battery_pct=settings.shadow_battery_pct,
        resume_s=settings.shadow_resume_s,
    )
    return CandidateOptions(
        shadow=settings.shadow,
        keep_inputs=settings.shadow_keep_inputs,
        samples=settings.shadow_samples,
        max_bytes=settings.shadow_bytes,
        record_s=settings.shadow_record_s,
        rest_s=settings.shadow_rest_s,
        headroom_bytes=settings.candidate_headroom_bytes,
        measure_s=settings.measure_s,
        limits=limits,
    )


def candidates(  # noqa: PLR0913, PLR0917
    loop: Loop,
    paths: StatePaths,
    slots: Slots,
    intake: Intake,
    settings: AgentSettings,
    clock: Clock,
    runner: Runner,
    serving: Supervisor,
    reports: Reports,
    room: Callable[[], Room],
    listener: Listener,
) -> CandidateController:
    """Return the candidates of an agent. listener: hears of their answers."""
    system = SystemReader(paths.root)
    deps = CandidateDeps(
        records=lambda: runner.records,
        lend=runner.lend_idle_slot,
        event=reports.candidate,
        changed=reports.changed,
        windows=lambda windows: reports.telemetry(windows, system.read(())),
        room=room,
        readings=sensors.read,
    )
    context = CandidateContext(
        loop,
        paths,
        slots,
        serving.options,
        options(settings),
        clock.monotonic_s,
        lambda: clock.now().timestamp(),
        serving.write_routes,
        listener,
    )
    return CandidateController(context, intake, clock, deps)
