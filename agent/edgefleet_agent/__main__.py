"""`edge-agent`: enroll, renew, tpm, run, stop, status, rollback, shadow, predictions, infer, feedback, mqtt, and the commands of `care`.

Errors in four lines (what, why, next, code), exit codes as edgectl's:
0 ok, 1 failed, 2 usage, 3 cancelled, 4 refused, 5 not found, 6 conflict, 7 unreachable, 130 interrupted.
"""

import argparse
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

from edgefleet_agent import __version__, errors
from edgefleet_agent.core.logs import LOG_FORMAT, set_up_logging
from edgefleet_agent.paths import StatePaths, default_state, state_flag
from edgefleet_agent.settings import load_settings
from edgefleet_protocol.errors import EdgefleetError, error_lines

EXIT_CODES: dict[type[EdgefleetError], int] = {
    errors.SettingsError: 2,
    errors.ClaimTokenError: 2,
    errors.ClaimFileError: 2,
    errors.FolderRefusedError: 2,
    errors.WhichModelError: 2,
    errors.EnrollRefusedError: 4,
    errors.EnrollRejectedError: 4,
    errors.RenewRefusedError: 4,
    errors.PinMismatchError: 4,
    errors.NotEnrolledError: 5,
    errors.AgentNotRunningError: 5,
    errors.UnknownModelError: 5,
    errors.NoPreviousVersionError: 5,
    errors.PreviousWithdrawnError: 5,
    errors.AlreadyEnrolledError: 6,
    errors.AgentRunningError: 6,
    errors.DeviceServesError: 6,
    errors.IdentityBusyError: 6,
    errors.PortTakenError: 6,
    errors.ServiceRunsAgentError: 6,
    errors.ServerUnreachableError: 7,
}

CLAIM_FILE = "EDGEFLEET_AGENT_CLAIM_FILE"
"""Names the file of `run --claim` where no command line can be given, as in a container."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    args = (_run_parser() if given[:1] == ["run"] else _parser()).parse_args(given)
    try:
        return int(args.run(args))
    except EdgefleetError as error:
        return _complain(args, error)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        wrapped = EdgefleetError(
            f"{error.filename or 'the system'}: {error.strerror or error}",
            next_step="check the state folder: it must exist and belong to this user",
        )
        return _complain(args, wrapped)


def _run_parser() -> argparse.ArgumentParser:
    """Return the parser of `run` alone: what all the others need would be a megabyte that agentd carries for good."""
    parser = argparse.ArgumentParser("edge-agent", description="Runs verified models on this device.")
    run = _add_run(parser.add_subparsers(required=True, metavar="COMMAND"))
    _add_common(run)
    return parser


def _add_run(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    run = sub.add_parser("run", help="run the agent until it is stopped")
    run.add_argument(
        "--background", action="store_true", help="start it, wait until it is connected, and leave it running"
    )
    run.add_argument(
        "--claim", metavar="FILE", help="first enrol with the claim token in FILE, if this machine is no device yet"
    )
    run.add_argument("--log-format", choices=("text", "json"), help="lines as text, or as JSON with the names of ECS")
    run.set_defaults(run=_run)
    return run


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--state", type=Path, default=default_state(), help="state folder (default: %(default)s)")
    command.add_argument("-o", "--output", choices=("text", "json"), default="text")


def _parser() -> argparse.ArgumentParser:
    from edgefleet_agent.cli.predictions import add_predictions_parser
    from edgefleet_agent.diagnostics.commands import add_care_parsers

    parser = argparse.ArgumentParser("edge-agent", description="Runs verified models on this device.")
    parser.add_argument("--version", action="version", version=f"edge-agent {__version__}")
    sub = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    enroll = sub.add_parser("enroll", help="enrol this machine as a device of a server")
    enroll.add_argument("token", help="claim token (efc1.…), or - to read it from standard input")
    enroll.add_argument("--profile", help="hardware profile to ask for; the server decides")
    enroll.add_argument("--name", default="", help="display name of this device")
    enroll.add_argument("--tpm", action="store_true", help="have the TPM of this board wrap the device's keys")
    enroll.add_argument("--run", dest="and_run", action="store_true", help="then run the agent in the background")
    enroll.set_defaults(run=_enroll)
    run = _add_run(sub)
    stop = sub.add_parser("stop", help="stop the running agent, and wait until it has stopped")
    stop.set_defaults(run=_stop)
    status = sub.add_parser("status", help="show what the running agent does")
    status.set_defaults(run=_status)
    renew = sub.add_parser(
        "renew", help="renew the certificate with a new key now; the agent also does so by itself, in time"
    )
    renew.set_defaults(run=_renew)
    keys = sub.add_parser(
        "tpm", help="have the TPM of this board wrap the device's keys, or make them plain files again"
    )
    keys.add_argument("--to-files", action="store_true", help="before a board is replaced or its TPM cleared")
    keys.set_defaults(run=_tpm)
    rollback = sub.add_parser("rollback", help="go back to the previous version, without the server")
    rollback.add_argument("model", nargs="?", default="", help="model; optional if there is only one")
    rollback.add_argument("--reason", default="", help="reason, recorded with the rollback")
    rollback.set_defaults(run=_rollback)
    shadow = sub.add_parser("shadow", help="show the candidates, and where they disagree most with the active version")
    shadow.add_argument("model", nargs="?", default="", help="only this model")
    shadow.set_defaults(run=_shadow)
    predictions = add_predictions_parser(sub)
    for command in (enroll, run, stop, status, renew, keys, rollback, shadow, predictions, *add_care_parsers(sub)):
        _add_common(command)
    _add_infer(sub)
    _add_feedback(sub)
    _add_mqtt(sub)
    return parser


def _add_infer(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from edgefleet_agent.cli.infer_args import add_infer_parser

    infer = add_infer_parser(sub)
    infer.add_argument("--state", type=Path, default=default_state(), help="state folder (default: %(default)s)")
    infer.set_defaults(run=_infer)


def _add_feedback(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from edgefleet_agent.cli.feedback_args import add_feedback_parser

    feedback = add_feedback_parser(sub)
    feedback.add_argument("--state", type=Path, default=default_state(), help="state folder (default: %(default)s)")
    feedback.set_defaults(run=_feedback)


def _add_mqtt(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    mqtt = sub.add_parser("mqtt", help="answer inference requests from a local MQTT broker until it is stopped")
    mqtt.add_argument(
        "--broker", default="mqtt://127.0.0.1:1883", help="mqtt://[USER:PASSWORD@]HOST[:PORT] (default: %(default)s)"
    )
    mqtt.add_argument("--rate", type=float, default=20.0, help="maximum requests per second (default: %(default)g)")
    mqtt.add_argument("--socket", help="unix socket of the inference API (default: this device's)")
    mqtt.add_argument("--state", type=Path, default=default_state(), help="state folder (default: %(default)s)")
    mqtt.set_defaults(run=_mqtt)


def _enroll(args: argparse.Namespace) -> int:
    from edgefleet_agent.enrolment.enroll import enroll

    def waits(fingerprint: str) -> None:
        message = json.dumps({"state": "pending", "fingerprint": fingerprint})
        if args.output != "json":
            message = f"waiting for approval; fingerprint {fingerprint}; compare it in the dashboard, or: edgectl device pending"
        sys.stderr.write(message + "\n")
        sys.stderr.flush()

    token = sys.stdin.readline() if args.token == "-" else args.token  # noqa: S105  # the name of standard input
    identity = enroll(token, args.state, profile=args.profile, name=args.name, waits=waits, tpm=args.tpm)
    answer: dict[str, str | int] = {
        "device": identity.device,
        "profile": identity.profile,
        "tenant": identity.tenant,
        "broker": f"{identity.broker_host}:{identity.broker_port}",
        "state": str(args.state),
    }
    flag = state_flag(args.state)
    step = f"`edge-agent run{flag}`"
    if args.and_run:
        from edgefleet_agent.cli.daemonize import start

        answer["pid"] = start(args.state)
        step = f"`edge-agent status{flag}`; `edge-agent stop{flag}` stops it"
    text = (
        f"enrolled as {identity.device} (profile {identity.profile})\n"
        f"state and private key: {args.state.absolute()}\nnext: {step}"
    )
    _print(args, answer, text)
    return 0


def _renew(args: argparse.Namespace) -> int:
    from edgefleet_agent.clock import SystemClock
    from edgefleet_agent.enrolment.renew import renew

    clock = SystemClock()
    identity = renew(args.state, clock)
    assert identity is not None
    days = int(identity.cert_until_s - clock.now().timestamp()) // 86_400
    answer = {"device": identity.device, "cert_until_s": identity.cert_until_s, "state": str(args.state)}
    text = f"renewed {identity.device}: a new key and a certificate for {days} days\nnext: nothing; the running agent picks it up by itself"
    _print(args, answer, text)
    return 0


def _tpm(args: argparse.Namespace) -> int:
    from edgefleet_agent.enrolment.key_move import move_keys

    moved = move_keys(args.state, to_tpm=not args.to_files)
    where, step = (
        "wrapped by the TPM of this board",
        f"`edge-agent renew{state_flag(args.state)}` makes a key that was never a plain file",
    )
    if args.to_files:
        where, step = "plain files", "`edge-agent tpm` wraps them again"
    files = [str(file.relative_to(args.state)) for file in moved]
    answer = {"key_storage": "file" if args.to_files else "tpm", "moved": files, "state": str(args.state)}
    _print(args, answer, f"the keys of this device are {where}; changed: {', '.join(files) or 'none'}\nnext: {step}")
    return 0


def _run(args: argparse.Namespace) -> int:
    if args.log_format:
        os.environ[LOG_FORMAT] = args.log_format
    if args.background:
        return _run_in_background(args)
    claim = args.claim or os.environ.get(CLAIM_FILE)
    if claim and not StatePaths(args.state).identity.exists() and (code := _enroll_apart(Path(claim), args.state)):
        return code
    settings = load_settings(StatePaths(args.state).settings)
    os.environ[LOG_FORMAT] = settings.log_format
    set_up_logging(settings.log_level, "agentd")
    gc.collect()  # the parser holds itself
    from edgefleet_agent.core.systemd import hand_on
    from edgefleet_agent.daemon import Daemon

    if Daemon(args.state, settings).run():
        # in place: the process id stays, so it works the same under systemd and without it
        hand_on()
        os.execv(sys.executable, [sys.executable, "-m", "edgefleet_agent", "run", "--state", str(args.state)])  # noqa: S606
    return 0


def _enroll_apart(claim: Path, state: Path) -> int:
    """Enrol in a process of its own, whose memory ends with it; return its exit code. Raises ClaimFileError."""
    import subprocess

    command = [sys.executable, "-m", "edgefleet_agent", "enroll", "-", "--state", str(state)]
    try:
        token = claim.open("rb")
    except OSError as error:
        raise errors.ClaimFileError(f"{claim}: {error.strerror or error}") from error
    with token:
        return subprocess.run(command, stdin=token, check=False).returncode


def _run_in_background(args: argparse.Namespace) -> int:
    from edgefleet_agent.cli.daemonize import start

    pid, flag = start(args.state), state_flag(args.state)
    text = f"the agent runs: process {pid}\nnext: `edge-agent status{flag}`; `edge-agent stop{flag}` stops it"
    _print(args, {"pid": pid, "state": str(args.state)}, text)
    return 0


def _stop(args: argparse.Namespace) -> int:
    from edgefleet_agent.cli.daemonize import stop

    done = stop(args.state)
    text = f"stopped {done['device']}: process {done['pid']} has ended\nnext: `edge-agent run{state_flag(args.state)}` starts it again"
    _print(args, done, text)
    return 0


def _infer(args: argparse.Namespace) -> int:
    from edgefleet_agent.cli.infer import run_infer
    from edgefleet_agent.reporting.status import read_status

    if args.url is None and args.socket is None:
        args.socket = str(read_status(args.state)["infer_socket"])
    return run_infer(args)


def _feedback(args: argparse.Namespace) -> int:
    from edgefleet_agent.cli.feedback_command import run_feedback
    from edgefleet_agent.reporting.status import read_status

    if args.url is None and args.socket is None:
        args.socket = str(read_status(args.state)["infer_socket"])
    return run_feedback(args)


def _mqtt(args: argparse.Namespace) -> int:
    from edgefleet_agent.client import Model
    from edgefleet_agent.inputs.mqtt_input import run
    from edgefleet_agent.reporting.status import read_status

    set_up_logging("INFO", "mqtt")
    socket = args.socket or str(read_status(args.state)["infer_socket"])

    def model(wanted: str) -> Model:
        name, _, version = wanted.partition("@")
        return Model(name, socket=socket, version=version or None)

    run(args.broker, model, args.rate)
    return 0


def _status(args: argparse.Namespace) -> int:
    from edgefleet_agent.cli.status_text import status_text
    from edgefleet_agent.reporting.status import read_status

    status = read_status(args.state)
    _print(args, status, status_text(status))
    return 0


def _rollback(args: argparse.Namespace) -> int:
    from edgefleet_agent.cli.rollback import roll_back, rollback_text

    answer = roll_back(args.state, args.model, args.reason)
    _print(args, answer, rollback_text(answer))
    return 0 if answer["serving"] else 1


def _shadow(args: argparse.Namespace) -> int:
    from edgefleet_agent.cli.status_text import read_shadow, shadow_text

    answer = read_shadow(args.state, args.model)
    _print(args, answer, shadow_text(answer))
    return 0


def _print(args: argparse.Namespace, data: Any, text: str) -> None:
    sys.stdout.write((json.dumps(data, indent=2) if args.output == "json" else text) + "\n")


def _complain(args: argparse.Namespace, error: EdgefleetError) -> int:
    if getattr(args, "output", "text") == "json":
        problem = {"error": {"code": error.code, "message": error.message, "next": error.next_step}}
        sys.stdout.write(json.dumps(problem) + "\n")
    next_step = error.next_step or "see the agent's log"
    lines = error_lines(error.message, why=error.reason(), next_step=next_step, code=error.code)
    sys.stderr.write("\n".join(lines) + "\n")
    return EXIT_CODES.get(type(error), 1)


if __name__ == "__main__":
    sys.exit(main())
