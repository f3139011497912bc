"""What the agent refuses or fails at. Codes are stable: they are reported to the server and shown to people."""

from edgefleet_protocol.errors import EdgefleetError


class SettingsError(EdgefleetError):
    """`agent.toml` or an EDGEFLEET_AGENT_ variable has something that is not a setting."""

    code = "agent.settings"


class NotEnrolledError(EdgefleetError):
    """The state folder holds no identity."""

    code = "agent.not_enrolled"
    default_next_step = (
        "run `edge-agent enroll TOKEN` with a claim token from `edgectl device enroll`, or name the folder with --state"
    )


class AlreadyEnrolledError(EdgefleetError):
    """The state folder belongs to a device already."""

    code = "agent.already_enrolled"
    default_next_step = "use another --state folder, or remove this one to enrol again"


class FolderRefusedError(EdgefleetError):
    """The folder is not a safe place for a device's private key."""

    code = "agent.folder_refused"


class ClaimTokenError(EdgefleetError):
    """The text is not a claim token."""

    code = "enroll.bad_token"
    default_next_step = "copy the whole token as printed by `edgectl device enroll`, from `efc1.` to its end"


class ClaimFileError(EdgefleetError):
    """This machine is no device yet, and the file named by `--claim` or EDGEFLEET_AGENT_CLAIM_FILE cannot be read."""

    code = "enroll.claim_file"
    default_next_step = (
        "put the file of `edgectl device enroll --out FOLDER` there, readable by the user of this process"
    )


class PinMismatchError(EdgefleetError):
    """What the server showed is not what the claim token pinned."""

    code = "enroll.pin_mismatch"
    default_next_step = "do not retry on this network: ask for a fresh claim token and compare the server's address"


class EnrollRefusedError(EdgefleetError):
    """The server answered and refused."""

    code = "enroll.refused"


class EnrollRejectedError(EnrollRefusedError):
    """An operator rejected this device's key."""

    code = "enroll.rejected"
    default_next_step = (
        "ask the operator why; to ask again with another key, remove pending-key.pem from the state folder"
    )


class RenewRefusedError(EdgefleetError):
    """The server did not give a new certificate."""

    code = "renew.refused"
    default_next_step = "look at the server's log; when the device was revoked, enrol it again with a new claim token"


class IdentityBusyError(EdgefleetError):
    """Another process is using the identity."""

    code = "agent.identity_busy"
    default_next_step = "wait a moment: the running agent is renewing it"


class TpmError(EdgefleetError):
    """The TPM does not give back the secret that this device's keys are wrapped with."""

    code = "agent.tpm"
    default_next_step = "try again; then see docs/operate/tpm.md"


class ServerUnreachableError(EdgefleetError):
    """No answer from the server."""

    code = "agent.server_unreachable"
    default_next_step = "check that the server runs and that its address can be reached from this device"


class StateFileError(EdgefleetError):
    """A state file is torn or of an unknown version."""

    code = "agent.state_file"


class DeviceServesError(EdgefleetError):
    """The device serves, and a measurement was not asked for next to that."""

    code = "bench.device_serves"
    default_next_step = "stop the agent with `edge-agent stop`, or measure next to it with --while-serving"


class AgentRunningError(EdgefleetError):
    """Another agent uses this state folder."""

    code = "agent.already_running"
    default_next_step = "stop the other agent, or use another --state folder"


class AgentNotRunningError(EdgefleetError):
    """No agent is running on this state folder."""

    code = "agent.not_running"
    default_next_step = "start it with `edge-agent run`, or name its folder with --state"


class AgentStopError(EdgefleetError):
    """The agent could not be stopped."""

    code = "agent.stop"


class ServiceRunsAgentError(EdgefleetError):
    """The agent is a service: systemd starts and stops it."""

    code = "agent.service"


class PortTakenError(EdgefleetError):
    """The local inference port is taken."""

    code = "agent.port_taken"
    default_next_step = "stop what listens there, or choose another port: EDGEFLEET_AGENT_INFER_PORT (0 = any free one)"


class SocketError(EdgefleetError):
    """A unix socket of the agent or of a worker cannot be made."""

    code = "agent.socket"


class UnknownModelError(EdgefleetError):
    """No such model serves on this device."""

    code = "rollback.unknown_model"
    default_next_step = "`edge-agent status` names the models of this device"


class WhichModelError(EdgefleetError):
    """Several models serve, and none was named."""

    code = "rollback.which_model"


class NoPreviousVersionError(EdgefleetError):
    """There is no previous version."""

    code = "rollback.no_previous"
    default_next_step = "deploy the version you want: `edgectl deploy MODEL@VERSION --to id=DEVICE`"


class PreviousWithdrawnError(EdgefleetError):
    """The previous version was withdrawn, and what serves was not."""

    code = "rollback.withdrawn"
    default_next_step = (
        "leave the running version, or deploy one that was not withdrawn: `edgectl deploy MODEL@VERSION --to id=DEVICE`"
    )


class PreviousDamagedError(EdgefleetError):
    """The previous bundle is damaged."""

    code = "rollback.damaged"
    default_next_step = "leave the running version, and deploy the one you want: it is downloaded again"


class ControlError(EdgefleetError):
    """The running agent did not answer a command as it should."""

    code = "agent.control"
    default_next_step = "see the log of the agent; `edge-agent status` says what it does now"


class DiagTooBigError(EdgefleetError):
    """The diagnosis does not fit into the archive, even without the log."""

    code = "agent.diag_too_big"
    default_next_step = "ask for single parts: `edge-agent models -o json`, `edge-agent logs`"


class CheckLaterError(EdgefleetError):
    """A check could not be made now, which says nothing about what is checked."""

    code = "check.not_now"


class TaskRefusedError(EdgefleetError):
    """The server refused the result of a task."""

    code = "task.refused"
