"""What contact points refuse."""

from edgefleet_server.alerting.errors import AlertError


class ContactUnknownError(AlertError):
    """No contact point has this id."""

    code = "alert.contact_unknown"


class BadContactError(AlertError):
    """The URL is none of Apprise's, or leads to where the server must not go."""

    code = "alert.bad_contact"


class ContactUnavailableError(AlertError):
    """A message could not be sent: the service did not take it, or Apprise is not installed."""

    code = "alert.contact_unavailable"
