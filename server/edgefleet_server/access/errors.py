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
    """The token was right but its time is over."""

    code = "access.token_expired"


class ForbiddenError(AccessError):
    """The caller is known but lacks the role."""

    code = "access.forbidden"


class UnknownTokenError(AccessError):
    """No token has this id."""

    code = "access.token_unknown"


class BadTokenRequestError(AccessError):
    """A new token cannot be made as asked."""

    code = "access.bad_token_request"
