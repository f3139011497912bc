"""Where devices reach this server: the device listener and the broker. Both are known for sure once the process listens."""

from edgefleet_server.db.database import Database
from edgefleet_server.fleet import store
from edgefleet_server.fleet.enrolment.enrolment import external_broker
from edgefleet_server.fleet.enrolment.model import BrokerAddress
from edgefleet_server.settings import ServerSettings
from edgefleet_server.signing.service import SigningService


class ServerAddresses:
    """What new devices are given to reach and to name this server."""

    def __init__(self, settings: ServerSettings, signing: SigningService, db: Database) -> None:
        """Begin with what the settings say."""
        self._db = db
        self._server_id = ""
        self._host = settings.device_public_host
        self._port = settings.device_port
        self._signing = signing
        self.broker = external_broker(settings.broker)
        """Where the broker is; None until a gateway says so."""

    def announce_broker(self, host: str, port: int, mqtt: str) -> None:
        """Name the broker to new devices from now on; mqtt: "5" or "3.1.1"."""
        self.broker = BrokerAddress(host, port, mqtt)

    def announce_device_port(self, port: int) -> None:
        """Name the port of the device listener when the settings left it free (0)."""
        self._port = port

    @property
    def device_url(self) -> str:
        """The base URL of the device listener, as devices reach it."""
        return f"https://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    @property
    def server_id(self) -> str:
        """The `aud` of device tokens: bound to the first device CA, so that a token for one server is worth nothing at another.

        It stays when the CA is rotated: devices keep what they were given at their enrolment.
        """
        if not self._server_id:
            with self._db.read() as session:
                self._server_id = f"edgefleet-{(store.first_ca(session) or self._signing.ca_sha256())[:32]}"
        return self._server_id
