"""Whether something with the server's own certificate answers at a place, asked from the server itself."""

import socket
import ssl
from typing import Final

LIMIT_S: Final = 5.0


def why_not(host: str, port: int, ca_pem: bytes) -> str:
    """Return why no TLS connection comes about, "" when one does. Blocks at most about 10 s.

    A broker that asks for a client certificate ends the connection after that: it was proven by then who it is.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    try:
        with socket.create_connection((host, port), LIMIT_S) as plain:
            plain.settimeout(LIMIT_S)
            with context.wrap_socket(plain, server_hostname=host):
                return ""
    except ssl.SSLCertVerificationError as error:
        return f"{host}:{port} shows another certificate: {error.verify_message}"
    except (OSError, ValueError) as error:
        return f"{host}:{port} does not answer: {error}"
