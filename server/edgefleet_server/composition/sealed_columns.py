"""The columns of all features whose texts are sealed: what the start of a server, `server seal` and `server check` go through."""

from typing import Final

from edgefleet_server.access.accounts import store as accounts
from edgefleet_server.alerting.contact_points import store as contact_points
from edgefleet_server.encryption import fleet_key
from edgefleet_server.encryption.model import SealedColumn
from edgefleet_server.retraining import store as retraining
from edgefleet_server.webhook import store as webhook

SEALED_COLUMNS: Final[tuple[SealedColumn, ...]] = (
    webhook.SEALED,
    contact_points.SEALED,
    fleet_key.SEALED,
    accounts.SEALED,
    retraining.SEALED,
)
