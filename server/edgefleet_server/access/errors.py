"""Refusals of the access feature."""

from edgefleet_protocol.errors import EdgefleetError


class AccessError(EdgefleetError):
    """Base of all refusals of access."""

    code = "access.error"


class MissingTokenError(AccessError):
    """The request carries no bearer token."""

    code = "access.no_token"


class BadTokenError(AccessError):
    """The token is unknown, revoked or malformed. Says no more, so that nothing can be learned by guessing."""

    code = "access.bad_token"


class ExpiredTokenError(AccessError):
    """The token has expired. The message says whose it was and since when."""

    code = "access.token_expired"


class ForbiddenError(AccessError):
    """The caller is known but lacks the role."""

    code = "access.forbidden"


class UnknownTokenError(AccessError):
    """No token has this id."""

    code = "access.token_unknown"


class UnknownPersonError(AccessError):
    """No person or service has this id or name, or it is disabled and can have no token."""

    code = "access.person_unknown"


class PersonExistsError(AccessError):
    """A person or a service has this name already."""

    code = "access.person_exists"


class OwnAccountError(AccessError):
    """An admin is about to disable themselves."""

    code = "access.own_account_conflict"


class BadIdTokenError(AccessError):
    """An ID token is not valid: malformed, of another issuer, signed by another key, for another server, or not for now."""

    code = "access.bad_id_token"


class UsedIdTokenError(AccessError):
    """An ID token was exchanged before."""

    code = "access.id_token_used"
    default_next_step = (
        "exchange each ID token once: `edgectl login URL` at the start of a job keeps what it gets for later commands"
    )


class IssuerUnavailableError(AccessError):
    """An identity provider does not answer, or what it answers cannot be used. `retry_after_s`: when to try again."""

    code = "access.issuer_unavailable"
    retry_after_s = 60


class IdentityRefusedError(AccessError):
    """An identity provider knows somebody whom this server does not let in: no role, not allowed, or nobody has said yet who it is."""

    code = "access.identity_forbidden"


class UnknownIdentityError(AccessError):
    """There is no such identity, or no such identity provider in the settings."""

    code = "access.identity_unknown"


class BadIdentityError(AccessError):
    """An identity cannot be linked like this."""

    code = "access.bad_identity"


class UntrustedPipelineError(AccessError):
    """An ID token is valid, but no trusted pipeline is the one it speaks of."""

    code = "access.pipeline_forbidden"


class UnknownPipelineError(AccessError):
    """No trusted pipeline has this name."""

    code = "access.pipeline_unknown"


class PipelineExistsError(AccessError):
    """A trusted pipeline has this name already."""

    code = "access.pipeline_exists"


class BadPipelineError(AccessError):
    """A trusted pipeline cannot be made of what was given."""

    code = "access.pipeline_bad"


class UnknownEntryError(AccessError):
    """The audit trail has no such entry, or no such head."""

    code = "access.audit_unknown"


class BrokenTrailError(AccessError):
    """The audit trail is not whole: an entry does not follow the one before it."""

    code = "access.audit_broken"


class BadTokenRequestError(AccessError):
    """The request for a new token is not valid."""

    code = "access.bad_token_request"


class BadGrantError(AccessError):
    """A role cannot be granted in this scope."""

    code = "access.bad_grant"


class UnknownGrantError(AccessError):
    """A person or a service has no such grant."""

    code = "access.grant_unknown"


class LoginRefusedError(AccessError):
    """A login link, a session or a pasted token is not valid. Says no more, so that nothing can be learned by guessing."""

    code = "access.login_unauthorized"


class BadInvitationError(AccessError):
    """A one-time code cannot be made like this."""

    code = "access.bad_invitation"


class BadPasswordError(AccessError):
    """A new password is too short, too long or easily guessed."""

    code = "access.bad_password"


class WrongPasswordError(AccessError):
    """The current password, which changing it asks for, is wrong."""

    code = "access.password_forbidden"


class NoAccountError(AccessError):
    """The signed-in person has no password here, so there is nothing to change."""

    code = "access.account_missing"


class WrongCodeError(AccessError):
    """A code of an app is wrong, too old or used already."""

    code = "access.bad_code"


class SecondFactorError(AccessError):
    """Codes are turned on twice, or confirmed before they were turned on."""

    code = "access.second_factor_conflict"


class SignInBusyError(AccessError):
    """Too many passwords are checked at this moment. `retry_after_s`: when to try again."""

    code = "access.sign_in_unavailable"
    retry_after_s = 5


class ForgedFormError(AccessError):
    """A form was not sent by the page that shows it."""

    code = "access.form_forbidden"


class TooManyRequestsError(AccessError):
    """A token has sent more requests in a minute than it is allowed to. `retry_after_s`: when to try again."""

    code = "access.too_many_requests"

    def __init__(self, message: str, *, next_step: str, retry_after_s: int) -> None:
        super().__init__(message, next_step=next_step)
        self.retry_after_s = retry_after_s


class BadIdempotencyKeyError(AccessError):
    """An `Idempotency-Key` is empty or too long."""

    code = "request.bad_idempotency_key"
    default_next_step = "send 1 to 255 characters, such as a UUID"


class KeyReusedError(AccessError):
    """An `Idempotency-Key` was sent before with another request."""

    code = "request.idempotency_key_conflict"
    default_next_step = "send another key for another request"


class StillRunningError(AccessError):
    """The first request with this `Idempotency-Key` has not been answered yet."""

    code = "request.idempotency_running_conflict"
    default_next_step = "send it again in a second"
    retry_after_s = 1


class AnswerLostError(AccessError):
    """The first request with this `Idempotency-Key` was cut off, or its answer was too large to keep."""

    code = "request.idempotency_answer_conflict"
    default_next_step = "check whether it was done; if not, send it again with a new key"
